"""A task's kind is one class: token labels and regression go through a whole run, with nothing edited for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from kdexp import compose
from kdexp.cache import Cache
from kdexp.errors import UserError
from kdexp.run import run
from kdexp.task.kind import UNITS, Answers, Labels, TaskKind
from kdexp.task.load import load_task
from kdexp.task.multi_label import MultiLabel
from kdexp.task.regression import Regression
from kdexp.tracking.store import Study


@dataclass(frozen=True)
class Tags(TaskKind):
    """A tag for every word."""

    label_names: Sequence[str]
    primary_metric: str = "tag_accuracy"
    name: ClassVar[str] = "tags"
    outputs: ClassVar[str] = "classes"
    head: ClassVar[str] = "ForTokenClassification"
    has_units: ClassVar[bool] = True

    @classmethod
    def from_column(cls, column, names):
        return cls(names or sorted({tag for row in column for tag in row.split()}))

    def encode(self, column, *, by_number=False):
        return [[self.label_names.index(tag) for tag in row.split()] for row in column]

    def refuse_untrainable(self, labels):
        if not len(labels.values):
            raise UserError("task.label", "there are no tags", "write one for each word")

    def tokenize(self, tokenizer, first, second, max_length):
        words = [text.split() for text in first]
        tokens = tokenizer(words, is_split_into_words=True, truncation=True, max_length=max_length)
        places = [tokens.word_ids(row) for row in range(len(words))]
        units = [[int(here is not None and here != before) for before, here in zip([None, *row], row, strict=False)]
                 for row in places]  # fmt: skip
        tokens[UNITS] = units
        return tokens

    def hard_loss(self, logits, labels, *, num_examples, label_smoothing):
        return cross_entropy(logits, labels, reduction="sum") / (num_examples or len(labels))

    def metrics(self, answers, labels):
        right = answers.values.argmax(-1).numpy() == labels.values
        rows = np.split(right, np.cumsum(labels.lengths)[:-1])
        return {"tag_accuracy": float(right.mean()), "whole_rows": float(np.mean([row.all() for row in rows]))}

    def refuse_chance(self, answers, labels, role):
        trivial = np.bincount(labels.values).max() / len(labels.values)
        if self.metrics(answers, labels)["tag_accuracy"] <= trivial:
            raise UserError(role, "is no better than one tag for everything", "train it longer")

    def agreement(self, student, teacher):
        return float((student.values.argmax(-1) == teacher.values.argmax(-1)).float().mean())

    def decisions(self, answers):
        return self._rows(answers.values.argmax(-1).tolist(), answers.lengths)

    def gold(self, labels):
        return self._rows(labels.values.tolist(), labels.lengths)

    def _rows(self, tags, lengths):
        ends = np.cumsum(lengths)
        return [[self.label_names[tag] for tag in tags[end - size : end]]
                for end, size in zip(ends, lengths, strict=True)]  # fmt: skip


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
@pytest.mark.parametrize("teacher", ["bert", "roberta"])
@pytest.mark.usefixtures("own_folder")
def test_token_labels_go_through_a_whole_run(tmp_path, teacher):
    record = run_of(Tags, tagged_rows(900), tmp_path, f"teacher={teacher}", "train.epochs=2")
    assert record.metric == "tag_accuracy"
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
    record = run_of(Regression, rated_rows(900), tmp_path, "task.kind=regression", "loss=mse", "train.epochs=3")
    assert record.metric == "pearson"
    assert record.score("test", "teacher") > 0.8
    assert record.score("test") > 0.5
    assert record.gain.low <= record.gain.value <= record.gain.high


@pytest.mark.slow
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
