"""Token labels through whole runs: across families, with words that one model cannot read, and as they are logged."""

import numpy as np
import pytest

from kdexp import compose
from kdexp.run import run
from kdexp.tracking.store import Study

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_folder", "empty_store")]

SMALL = (
    *("task=entities", "task.train_size=1000", "task.validation_size=300", "task.test_size=500", "task.label_noise=0"),
    *("hardware=cpu", "hardware.num_threads=1", "student.num_layers=2", "student.hidden_size=48", "train.epochs=6"),
    *("train.batch_size=16", "train.learning_rate=6e-3", "teacher.train.batch_size=16"),
    "teacher.train.learning_rate=4e-3",
)


@pytest.mark.parametrize(("teacher", "student"), [("bert", "roberta"), ("xlm_roberta", "bert")])
def test_the_teacher_alone_teaches_the_right_tags_across_families(tmp_path, teacher, student):
    """The student sees no gold label: if words were not the same in both models, it could learn nothing."""
    record = run(
        compose(
            *SMALL, f"teacher={teacher}", f"student={student}", f"cache_dir={tmp_path}/cache",
            "tracking.enabled=false", "loss.alpha=0", "baseline=false",
        )
    )  # fmt: skip
    assert record.metric == "f1"
    taught, learned = record.score("test", "teacher"), record.score("test")
    assert taught > 0.55
    assert learned > taught - 0.1
    assert record.agreement["student"] > 0.9


def test_words_that_a_model_cannot_read_count_and_are_told(tmp_path, caplog):
    caplog.set_level("INFO", logger="kdexp")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    record = run(
        compose(
            *SMALL, "teacher=bert", "student=roberta", f"cache_dir={tmp_path}/cache", f"tracking.uri={uri}",
            "teacher.max_length=24", "student.max_length=28", "train.epochs=2", "teacher.train.epochs=3",
            "task.train_size=600", "task.test_size=300",
            "terms=[hidden]", "train.use_transfer=true", "task.transfer_size=300",
        )
    )  # fmt: skip
    unread = {role: scores.test["unread"] for role, scores in record.scores.items()}
    assert 0.01 < unread["student"] == unread["baseline"] < 0.3
    assert 0.01 < unread["teacher"] < 0.3
    assert record.gain.low <= record.gain.value <= record.gain.high
    assert any("have no soft loss" in line for line in caplog.messages)

    predictions = Study(uri, "distillation").table_artifact(record.run_id, "predictions.parquet")
    for role in ("gold", "student", "baseline", "teacher"):
        told = [len(tags) for tags in predictions[role]]
        assert told == [len(text.split(" ")) for text in predictions["text"]]
    gold, said = (np.concatenate(predictions[role].to_numpy()) for role in ("gold", "student"))
    assert np.mean(gold == said) == pytest.approx(record.scores["student"].test["accuracy"])

    import mlflow.pyfunc

    mlflow.set_tracking_uri(uri)
    student = mlflow.pyfunc.load_model(f"runs:/{record.run_id}/student")
    answers = student.predict(predictions["text"].tolist()[:20])
    assert answers["tags"].tolist() == [list(tags) for tags in predictions["student"][:20]]
