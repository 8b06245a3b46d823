"""Model cards: read by the hub's own reader, for every kind of task, and without anything that nobody knows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

from kdexp import compose
from kdexp.cache import Cache
from kdexp.naming import card_facts
from kdexp.results.card import model_card
from kdexp.results.measure import ModelAnswers, measure
from kdexp.task.kinds.base import Answers
from kdexp.task.load import load_task

LABELS = {
    "single_label": lambda number: ["no", "yes"][number % 2],
    "multi_label": lambda number: ["", "a", "b", "a|b"][number % 4],
    "regression": lambda number: number % 5,
    "token_labels": lambda number: "O B-place",
}
CHECKPOINT = "google/bert_uncased_L-2_H-128_A-2"


def config_of(kind, folder, *overrides):
    rows = [f"text {number},{label}" for number, label in enumerate(map(LABELS[kind], range(60)))]
    (folder / "rows.csv").write_text("\n".join(["text,label", *rows]))
    words = (f"task.train={folder}/rows.csv", f"task.kind={kind}", f"cache_dir={folder}/cache")
    loss = ["loss=mse"] if kind == "regression" else []
    separator = ["task.separator='|'"] if kind == "multi_label" else []
    return compose("task=file", *words, *loss, *separator, *overrides)


def card_of(config):
    """Of models that answer at random."""
    task = load_task(config.task, Cache(Path(config.cache_dir)))
    random = torch.Generator().manual_seed(0)

    def answers(split):
        labels = task.labels(split)
        size = (len(labels.values), task.kind.num_outputs)
        return Answers(torch.randn(size, generator=random), labels.lengths)

    roles = ("student", "teacher", "baseline")
    models = {role: ModelAnswers({split: answers(split) for split in ("validation", "test")}, 1234) for role in roles}
    record = measure(task, models, name="rows  bert -> bert", settings={"seed": 0, "loss.name": "kd"})
    return record, task, model_card(record, task, models, "student", card_facts(config, task, is_given=False))


@pytest.mark.parametrize("kind", LABELS)
def test_the_hub_reads_the_card_of_every_kind(kind, tmp_path):
    record, task, text = card_of(config_of(kind, tmp_path))
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    card = ModelCard.load(tmp_path / "README.md")
    wanted = "token-classification" if kind == "token_labels" else "text-classification"
    assert card.data.pipeline_tag == wanted
    assert {item.metric_type: item.metric_value for item in card.data.eval_results} == {
        name: round(value, 4) for name, value in record.scores["student"].test.items()
    }
    assert {(item.task_type, item.dataset_split) for item in card.data.eval_results} == {(wanted, "test")}
    assert card.data.license == "unknown"
    assert card.data.language is None
    assert card.data.base_model is None
    assert task.test.digest in text
    assert "on rows.csv." in text  # the task is called `file`, which says nothing
    unit = "hundredths of Pearson" if kind == "regression" else "points"
    assert f"{unit} over the same student without a teacher" in text.replace("\n", " ")


@pytest.mark.parametrize("kind", LABELS)
def test_the_interval_is_of_the_metric_on_resampled_rows(kind, tmp_path):
    record, task, text = card_of(config_of(kind, tmp_path))
    line = next(line for line in text.splitlines() if line.startswith("| this student"))
    value, low, high = (
        float(part.strip("[], ")) for part in line.split("|")[2].replace("[", " ").replace(",", " ").split()
    )
    assert low <= value <= high
    assert value == pytest.approx(record.score("test"), abs=1e-4)
    rows = np.random.default_rng(0).integers(0, len(task.test), (3, len(task.test)))
    labels, answers = task.labels("test"), Answers(torch.randn(len(task.labels("test").values), task.kind.num_outputs))
    answers = Answers(answers.values, labels.lengths)
    expected = [task.kind.metrics(answers.take(row), labels.take(row))[task.primary_metric] for row in rows]
    assert task.kind.resampled_scores(answers, labels, rows) == pytest.approx(expected)


def test_a_checkpoint_of_the_hub_is_the_base_model_and_a_folder_is_not(tmp_path):
    task = load_task(config_of("single_label", tmp_path).task, Cache(tmp_path / "cache"))

    def facts(*overrides):
        return card_facts(config_of("single_label", tmp_path, *overrides), task, is_given=False)

    assert facts(f"student.checkpoint={CHECKPOINT}").base_model == CHECKPOINT
    (tmp_path / "mine").mkdir()
    assert facts(f"student.checkpoint={tmp_path}/mine").base_model is None
    kept = ("student.init=teacher_layers", "student.num_layers=1")
    assert facts(f"teacher.checkpoint={CHECKPOINT}", *kept).base_model == CHECKPOINT
    assert facts(*kept).base_model is None
    assert facts("student=static").needs_kdexp


def test_what_is_generated_is_english_and_what_the_hub_has_is_named(tmp_path):
    config = compose(
        "task.train_size=40", "task.validation_size=40", "task.test_size=40", f"cache_dir={tmp_path}/cache"
    )
    assert "language: en\n" in card_of(config)[2]
