"""Runs with controls: each is a training like the baseline, and the parts of the gain add up."""

import hashlib

import pytest
import torch

from kdexp import compose
from kdexp.results.record import RunRecord
from kdexp.run import run
from kdexp.task.kinds.base import Answers
from kdexp.task.kinds.single_label import SingleLabel
from kdexp.task.load import Task
from kdexp.task.split import Split
from kdexp.teacher.base import Preparation, Scale, TeacherAnswers
from kdexp.tracking.store import StoredRun, Study

LABELS = ["cold", "mild", "hot"]
WORDS = {"icy": 0, "freezing": 0, "mild": 1, "warm": 1, "scorching": 2, "boiling": 2}


class Sayer:
    """A teacher that knows every word, and is as sure as it is told to be; of some places it is wrong."""

    name, role, scale, num_parameters, checks_chance, members = "sayer", "teacher", Scale.logits, 0, True, {}
    preparation = Preparation()

    def __init__(self, sureness: float) -> None:
        self.sureness = sureness
        self.digest = hashlib.sha256(str(sureness).encode()).hexdigest()

    def prepare(self) -> None:
        pass

    def fingerprint(self) -> str:
        return self.digest

    def answer(self, split: Split, name: str) -> TeacherAnswers:
        classes = [(WORDS[text.split()[2]] + text.endswith("7")) % 3 for text in split.first]
        logits = self.sureness * torch.nn.functional.one_hot(torch.tensor(classes), 3).float()
        return TeacherAnswers(Answers(logits), f"{self.digest} {split.text_digest}", len(split), 0.0)

    def verify(self) -> None:
        pass


def split(start: int, num_rows: int, *, labelled: bool = True) -> Split:
    words = [list(WORDS)[place % len(WORDS)] for place in range(start, start + num_rows)]
    texts = [f"it is {word} at {place}" for place, word in enumerate(words, start)]
    return Split.from_lists(texts, None, [WORDS[word] for word in words] if labelled else None)


@pytest.fixture
def distilled(tmp_path, monkeypatch):
    """Distil a teacher of this sureness with these settings."""
    monkeypatch.chdir(tmp_path)
    task = Task("places", SingleLabel(LABELS), split(0, 60), split(100, 40), split(200, 50), None)

    def call(*settings: str, sureness: float = 1.0, task: Task = task) -> RunRecord:
        small = ("hardware=cpu", "hardware.num_threads=1", "train.epochs=2", "train.learning_rate=0.01")
        config = compose(
            *(*small, f"cache_dir={tmp_path}/cache", "tracking.log_model=false"),
            *("student.hidden_size=8", "train.batch_size=16", "train.warmup_ratio=0", *settings),
        )
        return run(config, task=task, teacher=Sayer(sureness))

    return call


def test_the_gain_is_the_sum_of_its_two_parts(distilled):
    record = distilled("tracking=none", "controls=[pseudo_labels]")
    parts = record.contrasts
    assert record.gain.value == pytest.approx(parts["text"].value + parts["soft"].value, abs=1e-9)
    assert record.score("test", "control/pseudo_labels") == pytest.approx(
        record.score("test", "baseline") + parts["text"].value
    )
    assert record.scores["control/pseudo_labels"].test["nll"] != record.scores["student"].test["nll"]


def test_a_teacher_whose_answers_are_one_hot_has_no_softness(distilled):
    record = distilled("tracking=none", "controls=[pseudo_labels]", sureness=1000.0)
    soft = record.contrasts["soft"]
    assert (soft.value, soft.low, soft.high) == (0.0, 0.0, 0.0)
    assert record.scores["control/pseudo_labels"].test == record.scores["student"].test


def test_gold_labels_on_all_text_are_the_ceiling(distilled):
    pool, rest = split(0, 90), split(60, 30, labelled=False)
    known = Task("places", SingleLabel(LABELS), split(0, 60), split(100, 40), split(200, 50), rest, pool)
    record = distilled("tracking=none", "controls=[pseudo_labels]", "train.use_transfer=true", task=known)
    assert record.score("test", "control/gold") is not None
    assert record.gain.value == pytest.approx(sum(gain.value for gain in record.contrasts.values()), abs=1e-9)
    without = ("controls.pseudo_labels.ceiling=false", "train.use_transfer=true")
    assert "control/gold" not in distilled("tracking=none", "controls=[pseudo_labels]", *without, task=known).scores


def test_a_control_is_cached_logged_and_read_back(distilled, tmp_path, empty_store, caplog):
    caplog.set_level("INFO")
    settings = (f"tracking.uri=sqlite:///{tmp_path}/mlflow.db", "controls=[pseudo_labels]")
    record = distilled(*settings)
    assert "student of pseudo-labels: trained in" in caplog.text
    distilled(*settings)
    assert "student of pseudo-labels: kept from an earlier run" in caplog.text
    first, second = Study(f"sqlite:///{tmp_path}/mlflow.db", "distillation").runs()
    assert first.params["controls"] == "pseudo_labels"
    assert first.metrics["control/pseudo_labels/test/accuracy"] == record.score("test", "control/pseudo_labels")
    assert first.metrics["kd/gain_soft_low"] == record.contrasts["soft"].low
    assert "cost/control_pseudo_labels_train_seconds" in first.metrics
    assert RunRecord.from_stored(second).contrasts == record.contrasts
    assert "| student of pseudo-labels |" in first.tags["mlflow.note.content"]


def test_best_against_best_of_the_same_schedules(distilled, caplog):
    caplog.set_level("INFO")
    grid = ("controls.tuned.learning_rates=[0.03,0.01]", "controls.tuned.epochs=[1,2]")
    record = distilled("tracking=none", "controls=[tuned]", *grid)
    cost = "8 trainings, 3 times the steps of student and baseline; alpha and temperature stay as they are"
    assert cost in caplog.text
    assert caplog.text.index(cost) < caplog.text.index("trained in")
    best, other = (record.score("test", role) for role in ("control/tuned", "control/tuned_baseline"))
    assert record.contrasts["tuned"].value == pytest.approx(best - other)
    for role, name in (("control/tuned", "student"), ("control/tuned_baseline", "baseline")):
        assert caplog.text.count(f"tuned {name}, learning rate") == 4
        choice = record.choices[role]
        assert choice.learning_rate in (0.01, 0.03)
        assert choice.num_steps in (4, 8)
        # Its own schedule is among them: it cannot choose a worse one.
        assert record.score("validation", role) >= record.score("validation", name)
    assert RunRecord.from_stored(stored(record)).choices == record.choices


def stored(record: RunRecord) -> StoredRun:
    return StoredRun(
        "id", record.name, "FINISHED", 0, record.settings, record.metrics(), {"kdexp.primary_metric": "accuracy"}
    )
