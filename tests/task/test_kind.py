"""A task's kind is one class: token labels and regression go through a whole run, with nothing edited for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from kdexp import compose
from kdexp.cache import Cache
from kdexp.errors import UserError
from kdexp.run import run
from kdexp.task.kind import Answers, Labels, TaskKind
from kdexp.task.load import load_task
from kdexp.task.token_labels import TokenLabels
from kdexp.tracking.store import Study


@dataclass(frozen=True)
class Rating(TaskKind):
    """A number for every text."""

    label_names: Sequence[str] = ("rating",)
    primary_metric: str = "pearson"
    name: ClassVar[str] = "rating"
    outputs: ClassVar[str] = "number"

    @classmethod
    def from_column(cls, column, names):
        return cls()

    def encode(self, column, *, by_number=False):
        return [float(value) for value in column]

    def head_config(self):
        return super().head_config() | {"problem_type": "regression"}

    def refuse_untrainable(self, labels):
        if not np.ptp(labels.values):
            raise UserError("task.label", "all ratings are equal", "there is nothing to learn")

    def hard_loss(self, logits, labels, *, num_examples, label_smoothing):
        return (logits[:, 0] - labels).square().sum() / (num_examples or len(labels))

    def metrics(self, answers, labels):
        values = answers.values[:, 0].double().numpy()
        return {"pearson": float(np.corrcoef(values, labels.values)[0, 1]),
                "mae": float(np.abs(values - labels.values).mean())}  # fmt: skip

    def refuse_chance(self, answers, labels, role):
        if not self.metrics(answers, labels)["pearson"] > 0:
            raise UserError(role, "does not correlate with the ratings", "train it longer")

    def agreement(self, student, teacher):
        return float(np.corrcoef(student.values[:, 0], teacher.values[:, 0])[0, 1])

    def decisions(self, answers):
        return answers.values[:, 0].tolist()

    def gold(self, labels):
        return labels.values.tolist()


def write_csv(path, rows):
    lines = ["text,label", *(f"{text},{label}" for text, label in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def tagged_rows(num_rows):
    """Words whose tag is told by the word before: a place after `in`, a person after `mr`."""
    random = np.random.default_rng(0)
    names = ["berlin", "smith", "york", "jones", "paris", "brown"]
    rows = []
    for _ in range(num_rows):
        words, tags = [], []
        for _ in range(random.integers(2, 5)):
            kind = random.choice(["in", "mr", "the"])
            words += [kind, random.choice(names)]
            tags += ["O", {"in": "PLACE", "mr": "PERSON", "the": "O"}[kind]]
        rows.append((" ".join(words), " ".join(tags)))
    return rows


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
@pytest.mark.parametrize("teacher", ["bert", "roberta"])
@pytest.mark.usefixtures("own_folder")
def test_token_labels_go_through_a_whole_run(tmp_path, teacher):
    record = run_of(TokenLabels, tagged_rows(900), tmp_path, f"teacher={teacher}", "train.epochs=2")
    assert record.metric == "f1"
    assert record.score("test", "teacher") > 0.95
    assert record.score("test") > 0.6
    assert record.gain.low <= record.gain.value <= record.gain.high
    assert 0 < record.agreement["student"] <= 1
    predictions = Study(f"sqlite:///{tmp_path}/mlflow.db", "distillation").table_artifact(
        record.run_id, "predictions.parquet"
    )
    assert set(predictions["gold"].explode()) == {"O", "PLACE", "PERSON"}
    right = [
        np.mean(np.array(gold) == np.array(said))
        for gold, said in zip(predictions["gold"], predictions["teacher"], strict=True)
    ]
    assert np.mean(right) > 0.95


@pytest.mark.slow
@pytest.mark.usefixtures("own_folder")
def test_regression_goes_through_a_whole_run(tmp_path):
    record = run_of(Rating, rated_rows(900), tmp_path, "loss=mse", "loss.centered=false", "train.epochs=3")
    assert record.metric == "pearson"
    assert record.score("test", "teacher") > 0.8
    assert record.score("test") > 0.5
    assert record.gain.low <= record.gain.value <= record.gain.high


def test_resampled_rows_carry_their_units():
    answers = Answers(torch.arange(12.0).view(6, 2), np.array([1, 3, 2]))
    labels = Labels(np.arange(6), np.array([1, 3, 2]))
    rows = np.array([2, 0, 2])
    assert answers.take(rows).values[:, 0].tolist() == [8, 10, 0, 8, 10]
    assert labels.take(rows).values.tolist() == [4, 5, 0, 4, 5]
    assert labels.take(rows).lengths.tolist() == [2, 1, 2]
    assert [row.shape[0] for row in answers.by_row()] == [1, 3, 2]


def test_a_gain_is_that_of_the_metric_on_resampled_rows():
    """A correlation is no mean of rows: it is computed anew on every sample."""
    random = np.random.default_rng(0)
    labels = Labels(random.normal(size=40))
    student, baseline = (
        Answers(torch.tensor(labels.values + noise * random.normal(size=40)).float().unsqueeze(1))
        for noise in (0.1, 1)
    )
    rows = random.integers(0, 40, (5, 40))
    expected = [
        np.corrcoef(student.values[sample, 0], labels.values[sample])[0, 1]
        - np.corrcoef(baseline.values[sample, 0], labels.values[sample])[0, 1]
        for sample in rows
    ]
    assert Rating().gain(student, baseline, labels, rows) == pytest.approx(expected)
