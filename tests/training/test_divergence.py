"""A training that leaves the numbers is told in one line, which names the setting of the model that was trained."""

import pytest
import torch

from kdexp import compose, distil
from kdexp.errors import UserError
from kdexp.hardware import Hardware
from kdexp.task.kinds.base import Answers
from kdexp.teacher.base import TeacherAnswers
from kdexp.teacher.logits import _refuse_nan
from kdexp.training.config import TrainConfig
from kdexp.training.loop import rows_per_process

TINY = (
    *("task.train_size=64", "task.validation_size=32", "task.test_size=32", "task.transfer_size=0"),
    *("teacher.train.max_steps=2", "train.max_steps=2", "teacher.chance_check=false", "baseline=false"),
    *("train.warmup_ratio=0", "teacher.train.warmup_ratio=0"),
    *("hardware=cpu", "hardware.num_threads=1", "tracking=none"),
)


@pytest.mark.parametrize(
    ("overrides", "setting"),
    [
        (["teacher.train.learning_rate=1e30", "teacher.train.max_steps=5"], "teacher.train.learning_rate"),
        # The loss of the only step is computed before its weights are lost.
        (["teacher.train.learning_rate=1e30", "teacher.train.max_steps=1"], "teacher.train.learning_rate"),
        (["train.learning_rate=1e30", "train.max_steps=1"], "train.learning_rate"),
        (["train.learning_rate=1e30", "train.max_steps=1", "train.select=last"], "train.learning_rate"),
        (
            [
                *("more_teachers=[roberta]", "more_teachers.roberta.train.learning_rate=1e30"),
                *("more_teachers.roberta.train.max_steps=1", "more_teachers.roberta.chance_check=false"),
                "more_teachers.roberta.train.warmup_ratio=0",
            ],
            "more_teachers.roberta.train.learning_rate",
        ),
    ],
)
def test_what_diverged_is_named(tmp_path, overrides, setting):
    with pytest.raises(UserError, match=r"nan|infinity|became inf") as refusal:
        distil(compose(*TINY, f"cache_dir={tmp_path}", *overrides))
    assert refusal.value.setting == setting


class Known:
    name, role, members = "known", "teacher", {}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_answers_that_are_no_numbers_are_refused(value):
    answers = TeacherAnswers(Answers(torch.tensor([[0.0, 1.0], [value, 1.0]])), "key", 2, 0.0)
    with pytest.raises(UserError, match=r"^teacher: answers nan or infinity on 1 of 2 units of test"):
        _refuse_nan(Known(), answers, "test")


def test_a_class_that_is_ruled_out_is_an_answer():
    _refuse_nan(Known(), TeacherAnswers(Answers(torch.tensor([[0.0, -float("inf")]])), "key", 1, 0.0), "test")


def test_a_batch_that_cannot_be_shared_names_its_setting():
    four = Hardware(torch.device("cpu"), bfloat16=False, num_threads=1, num_workers=0, num_processes=4)
    with pytest.raises(UserError, match=r"^teacher\.train\.batch_size: 30 rows"):
        rows_per_process(TrainConfig(batch_size=30), four, "teacher.train")
