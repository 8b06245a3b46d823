"""A task's kind is one class: token labels and regression go through a whole run, with nothing edited for them."""

import numpy as np
import pytest
import torch

from kdexp import compose
from kdexp.cache import Cache
from kdexp.run import run
from kdexp.task.kinds.base import Answers, Labels
from kdexp.task.kinds.multi_label import MultiLabel
from kdexp.task.kinds.regression import Regression
from kdexp.task.load import load_task
from kdexp.tracking.store import Study


def write_csv(path, rows):
    lines = ["text,label", *(f"{text},{label}" for text, label in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def rated_rows(num_rows):
    """The rating counts good words against bad ones."""
    random = np.random.default_rng(0)
    rows = []
    for _ in range(num_rows):
        words = random.choice(["good", "fine", "bad", "poor", "so", "it"], size=8)
        rows.append(
            (" ".join(words), float(np.isin(words, ["good", "fine"]).sum() - np.isin(words, ["bad", "poor"]).sum()))
        )
    return rows


def topic_rows(num_rows):
    """Each topic has words of its own, and a text may have several topics, or none."""
    random = np.random.default_rng(0)
    topics = {"food": ["soup", "bread", "tasty"], "price": ["cheap", "cost", "coin"], "staff": ["waiter", "polite"]}
    rows = []
    for _ in range(num_rows):
        told = [name for name in topics if random.random() < 0.35]
        words = [word for name in told for word in random.choice(topics[name], 2)]
        words += random.choice(["so", "it", "the", "was"], 4).tolist()
        rows.append((" ".join(random.permutation(words)), "+".join(told)))
    return rows


def run_of(kind, rows, folder, *overrides):
    """A whole run: from a person's file to the verdict."""
    write_csv(folder / "rows.csv", rows)
    config = compose(
        *("task=file", f"task.train={folder}/rows.csv", "hardware=cpu", "hardware.num_threads=1"),
        *(f"cache_dir={folder}/cache", f"tracking.uri=sqlite:///{folder}/mlflow.db", "tracking.log_model=false"),
        *overrides,
    )
    return run(config, task=load_task(config.task, Cache(folder / "cache"), kind=kind))


@pytest.mark.slow
@pytest.mark.measured
@pytest.mark.usefixtures("own_folder")
def test_regression_goes_through_a_whole_run(tmp_path):
    record = run_of(Regression, rated_rows(900), tmp_path, "task.kind=regression", "loss=mse", "train.epochs=3")
    assert record.metric == "pearson"
    assert record.score("test", "teacher") > 0.8
    assert record.score("test") > 0.5
    assert record.gain.low <= record.gain.value <= record.gain.high


@pytest.mark.slow
@pytest.mark.measured
@pytest.mark.usefixtures("own_folder")
def test_several_labels_go_through_a_whole_run(tmp_path):
    overrides = ("task.kind=multi_label", "task.separator=+", "train.epochs=4", "train.class_weights=balanced")
    record = run_of(MultiLabel, topic_rows(900), tmp_path, *overrides)
    assert record.metric == "micro_f1"
    assert record.score("test", "teacher") > 0.9
    assert record.score("test") > 0.6
    assert {"macro_f1", "map", "nll"} < record.scores["student"].test.keys()
    assert record.gain.low <= record.gain.value <= record.gain.high
    study = Study(f"sqlite:///{tmp_path}/mlflow.db", "distillation")
    predictions = study.table_artifact(record.run_id, "predictions.parquet")
    assert set(predictions["gold"].explode().dropna()) == {"food", "price", "staff"}
    hits = sum(len({*gold} & {*told}) for gold, told in zip(predictions["gold"], predictions["student"], strict=True))
    both = sum(len(gold) + len(told) for gold, told in zip(predictions["gold"], predictions["student"], strict=True))
    assert 2 * hits / both == pytest.approx(record.score("test"))  # at the thresholds that validation chose


def test_resampled_rows_carry_their_units():
    answers = Answers(torch.arange(12.0).view(6, 2), np.array([1, 3, 2]))
    labels = Labels(np.arange(6), np.array([1, 3, 2]))
    rows = np.array([2, 0, 2])
    assert answers.take(rows).values[:, 0].tolist() == [8, 10, 0, 8, 10]
    assert labels.take(rows).values.tolist() == [4, 5, 0, 4, 5]
    assert labels.take(rows).lengths.tolist() == [2, 1, 2]
    assert [row.shape[0] for row in answers.by_row()] == [1, 3, 2]
