"""A teacher is anything that answers a split: one that no encoder is inside of goes through a whole run."""

import hashlib

import pytest
import torch

from kdexp import compose
from kdexp.cache import Cache
from kdexp.errors import UserError
from kdexp.run import run
from kdexp.task.kinds.base import Answers
from kdexp.task.load import load_task
from kdexp.teacher.base import Preparation, Scale, TeacherAnswers, require_features
from kdexp.teacher.logits import Cached
from kdexp.tracking.store import Study


class Keywords:
    """Answers by words that it knows: no model, no tokenizer, no features."""

    name, role, scale, num_parameters, checks_chance, members = "keywords", "teacher", Scale.logits, 0, True, {}
    preparation = Preparation()

    def __init__(self, words_of_classes):
        self.words = words_of_classes
        self.digest = hashlib.sha256(repr(words_of_classes).encode()).hexdigest()
        self.num_asked = 0

    def prepare(self):
        pass

    def fingerprint(self):
        return self.digest

    def answer(self, split, name):
        self.num_asked += len(split)
        logits = [[2.0 * sum(word in text.split() for word in words) for words in self.words] for text in split.first]
        return TeacherAnswers(Answers(torch.tensor(logits)), self.digest, num_forwarded=len(split), seconds=0.0)

    def verify(self):
        pass


def settings(folder, *overrides):
    rows = [f"it is {word} at {place},{label}" for place in range(60) for word, label in WORDS.items()]
    (folder / "rows.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    return compose(
        *("task=file", f"task.train={folder}/rows.csv", "hardware=cpu", "hardware.num_threads=1", "train.epochs=1"),
        *(f"cache_dir={folder}/cache", f"tracking.uri=sqlite:///{folder}/mlflow.db", "tracking.log_model=false"),
        *overrides,
    )


WORDS = {"warm": "hot", "scorching": "hot", "icy": "cold", "freezing": "cold"}


@pytest.fixture
def teacher():
    return Keywords([["icy", "freezing"], ["warm", "scorching"]])


@pytest.mark.slow
@pytest.mark.usefixtures("own_folder")
def test_a_teacher_without_a_model_goes_through_a_whole_run(tmp_path, teacher):
    config = settings(tmp_path)
    record = run(config, teacher=Cached(teacher, Cache(tmp_path / "cache")))
    assert record.score("test", "teacher") == 1
    assert record.gain is not None
    num_rows = teacher.num_asked
    assert num_rows == 240  # each row once
    stored = Study(f"sqlite:///{tmp_path}/mlflow.db", "distillation").runs()[0]
    assert stored.tags["kdexp.teacher_sha256"] == teacher.digest
    again = run(config, teacher=Cached(teacher, Cache(tmp_path / "cache")))
    assert teacher.num_asked == num_rows
    assert again.score("test") == record.score("test")


def test_one_that_shows_no_features_is_refused_where_they_are_compared(tmp_path, teacher):
    with pytest.raises(UserError, match=r"loss\.terms: .* keywords shows only its answers"):
        run(settings(tmp_path, "terms=[rkd]"), teacher=teacher)
    with pytest.raises(UserError, match=r"loss\.terms: .* keywords shows only its answers"):
        require_features(Cached(teacher, Cache(tmp_path / "cache")), "loss.terms")
    assert not (tmp_path / "mlflow.db").exists()


def test_one_that_answers_by_chance_does_not_teach(tmp_path, teacher):
    teacher.words = [["at"], ["at"]]
    with pytest.raises(
        UserError, match=r"teacher: on validation it answers .* on every row; is it fine-tuned for this task\?"
    ):
        run(settings(tmp_path, "tracking=none", "task.validation_size=80"), teacher=teacher)


def test_answers_are_kept_by_teacher_and_text(tmp_path, teacher):
    task = load_task(settings(tmp_path).task, Cache(tmp_path / "cache"))
    cached = Cached(teacher, Cache(tmp_path / "cache"))
    cached.prepare()
    first, second = (cached.answer(task.test, "test") for _ in range(2))
    assert torch.equal(first.answers.values, second.answers.values)
    assert (first.num_forwarded, second.num_forwarded) == (len(task.test), 0)
    assert cached.answer(task.validation, "validation").num_forwarded == len(task.validation)
    other = Cached(Keywords([["warm"], ["icy"]]), Cache(tmp_path / "cache"))
    assert other.answer(task.test, "test").num_forwarded == len(task.test)
