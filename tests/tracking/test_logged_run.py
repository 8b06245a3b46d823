"""What a run leaves in MLflow beside its numbers: which data it read, its predictions, a model that can be found."""

import json
from pathlib import Path
from typing import Any

import mlflow.data
import pandas as pd
import pytest
from mlflow import MlflowClient

from kdexp import compose, distil
from kdexp.results.record import RunRecord
from kdexp.task.config import PublicTaskConfig
from kdexp.task.kinds.base import TaskKind
from kdexp.task.kinds.single_label import SingleLabel
from kdexp.task.load import Task
from kdexp.task.split import Split
from kdexp.tracking.data_sets import data_sets

QUICK = (
    *("hardware=cpu", "hardware.num_threads=1", "teacher.chance_check=false", "teacher.vocab_size=300"),
    *("student.vocab_size=300", "teacher.train.max_steps=1", "train.max_steps=1", "train.batch_size=16"),
)
ROWS = [(f"the {a} is {b}", f"it is {c}", str(b == c)) for a in ("cat", "dog") for b in "abcdef" for c in "abcdef"]


def quick_run(folder: Path, *overrides: str) -> RunRecord:
    store = f"sqlite:///{folder}/mlflow.db"
    return distil(compose(*QUICK, f"cache_dir={folder}/cache", f"tracking.uri={store}", *overrides))


def client(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder}/mlflow.db")


def predictions(folder: Path, record: RunRecord) -> pd.DataFrame:
    return pd.read_parquet(client(folder).download_artifacts(record.run_id, "predictions.parquet"))


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunRecord]:
    folder = tmp_path_factory.mktemp("reviews")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        sizes = ("task.train_size=64", "task.validation_size=40", "task.test_size=50", "task.transfer_size=10")
        return folder, quick_run(folder, *sizes, "loss.alpha=0.4")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunRecord]:
    """A person's own pairs, whose texts are to stay out of the store."""
    folder = tmp_path_factory.mktemp("pairs")
    pd.DataFrame(ROWS, columns=["premise", "hypothesis", "label"]).to_csv(folder / "my rows.csv", index=False)
    columns = ("task.text=[premise,hypothesis]", "task.label=label", "task.validation_size=16", "task.test_size=16")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        source = f"task.train='{folder}/my rows.csv'"
        return folder, quick_run(folder, "task=file", source, *columns, "tracking.log_text=false")


def data_of(folder: Path, record: RunRecord) -> dict[str, Any]:
    """What MLflow's own classes read of the run's data sets, by split."""
    inputs = client(folder).get_run(record.run_id).inputs.dataset_inputs
    return {each.tags[0].value: each.dataset for each in inputs if each.tags[0].key == "mlflow.data.context"}


def test_data_sets_say_name_digest_rows_and_split(reviews) -> None:
    found = data_of(*reviews)
    assert set(found) == {"train", "validation", "test", "transfer"}
    assert {each.name for each in found.values()} == {"reviews"}
    rows = {split: json.loads(each.profile)["num_rows"] for split, each in found.items()}
    assert rows == {"train": 64, "validation": 40, "test": 50, "transfer": 10}
    assert len({each.digest for each in found.values()}) == 4
    columns = json.loads(found["test"].schema)["mlflow_colspec"]
    assert [(each["name"], each["type"]) for each in columns] == [("text", "string"), ("label", "long")]
    assert mlflow.data.get_source(found["train"]).to_dict() == {"tags": {"task": "reviews"}}
    folder, record = reviews
    same_data = client(folder).search_runs(["1"], f"dataset.digest = '{found['test'].digest}'")
    assert [run.info.run_id for run in same_data] == [record.run_id]


def test_data_of_a_file_are_named_after_it(pairs) -> None:
    folder, record = pairs
    found = data_of(folder, record)
    assert {each.name for each in found.values()} == {"my rows.csv"}  # validation and test are held out of it
    assert mlflow.data.get_source(found["train"]).uri == str(folder / "my rows.csv")
    assert [each["name"] for each in json.loads(found["train"].schema)["mlflow_colspec"]] == [
        *("text", "text_pair", "label")
    ]


def a_task(*texts: str, kind: TaskKind | None = None) -> Task:
    split = Split.from_lists(list(texts), None, [0] * len(texts))
    return Task("mine", kind or SingleLabel(["no", "yes"]), split, split, split, None)


def test_a_digest_follows_the_content() -> None:
    first, same, other = (data_sets(a_task(*texts), None)[0].digest for texts in (("a", "b"), ("a", "b"), ("a", "c")))
    assert first == same != other


def test_public_data_say_where_they_come_from() -> None:
    config = PublicTaskConfig(
        **{
            "name": "sst2",
            "dataset": "org/sst2",
            "revision": "abc",
            "text": "t",
            "label": "l",
            "labels": ["no", "yes"],
        },
        validation_size=1,
    )
    source = mlflow.data.get_source(data_sets(a_task("a"), config)[2].entity().dataset)
    assert (source.path, source.revision, source.split) == ("org/sst2", "abc", "test")


def test_predictions_hold_row_and_text(reviews) -> None:
    folder, record = reviews
    table = predictions(folder, record)
    assert list(table.columns[:4]) == ["row", "text", "gold", "teacher"]
    assert table["row"].tolist() == list(range(50))
    assert table["text"].str.len().min() > 10
    assert (table["student"] == table["gold"]).mean() == pytest.approx(record.score("test"))


def test_no_text_leaves_the_machine_where_it_is_not_to(pairs) -> None:
    folder, record = pairs
    assert list(predictions(folder, record).columns[:3]) == ["row", "gold", "teacher"]
    stored = [path for path in [folder / "mlflow.db", *folder.glob("mlruns/**/*")] if path.is_file()]
    assert len(stored) > 5
    leaks = [path for path in stored for text in (b"the cat is", b"it is a") if text in path.read_bytes()]
    assert not leaks
    (model,) = models(folder, "")
    answers = loaded(folder, record).predict({"text": ["the cat is a"], "text_pair": ["it is a"]})
    assert answers["label"].isin(["True", "False"]).all()
    example = json.loads((Path(model.artifact_location) / "serving_input_example.json").read_text())
    assert example["dataframe_split"]["columns"] == ["text", "text_pair"]


def test_the_texts_of_pairs_stand_beside_their_predictions() -> None:
    import torch

    from kdexp.results.measure import ModelAnswers, prediction_table
    from kdexp.task.kinds.base import Answers

    split = Split.from_lists(["a", "b"], ["x", "y"], [0, 1])
    task = Task("mine", SingleLabel(["no", "yes"]), split, split, split, None)
    table = prediction_table(task, {"student": ModelAnswers({"test": Answers(torch.eye(2))}, 1)})
    assert table[["row", "text", "text_pair", "gold"]].to_numpy().tolist() == [
        [0, "a", "x", "no"],
        [1, "b", "y", "yes"],
    ]


def models(folder: Path, condition: str) -> list[Any]:
    found = client(folder).get_experiment_by_name("distillation")
    return list(client(folder).search_logged_models([found.experiment_id], condition))


def loaded(folder: Path, record: RunRecord) -> Any:
    import mlflow.pyfunc

    try:
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        return mlflow.pyfunc.load_model(f"runs:/{record.run_id}/student")
    finally:
        mlflow.set_tracking_uri(None)  # what was set before is not asked: that would be set for good


def test_the_models_page_can_be_filtered(reviews) -> None:
    folder, record = reviews
    (model,) = models(folder, "params.`loss.alpha` = '0.4' AND metrics.`test/accuracy` >= 0")
    assert not models(folder, "params.`loss.alpha` = '0.5'")
    assert (model.name, model.tags["kdexp.run_name"]) == ("student", record.name)
    assert model.params["student.name"] == "bert"
    assert "None" not in model.params.values()
    metrics = {metric.key: metric for metric in model.metrics}
    assert metrics["test/accuracy"].value == record.score("test")
    assert metrics["kd/gain"].value == record.gain.value
    assert metrics["test/accuracy"].dataset_digest == data_of(folder, record)["test"].digest
    assert metrics["validation/nll"].dataset_digest == data_of(folder, record)["validation"].digest
    assert not any(key.startswith(("teacher/", "train/")) for key in metrics)


def test_what_a_model_is_told_is_told_of_the_run_once(reviews) -> None:
    folder, record = reviews
    assert len(client(folder).get_metric_history(record.run_id, "test/accuracy")) == 1
