"""A compact teacher that learned to say one thing only is trained once more, calmer, and that is announced."""

import pytest

from kdexp import compose
from kdexp.cache import Cache
from kdexp.config import teacher_settings
from kdexp.hardware import prepare_hardware
from kdexp.student.load import load_student
from kdexp.task.load import load_task
from kdexp.teacher.base import notices_of
from kdexp.teacher.load import open_teacher


def prepared(folder, *overrides):
    """The teacher of a file in which every seventh row is of the rare class."""
    rows = [f"{'win a prize' if place % 7 == 0 else 'see you'} at {place},{place % 7 == 0}" for place in range(140)]
    (folder / "rows.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    config = compose(
        *("task=file", f"task.train={folder}/rows.csv", "hardware=cpu", "hardware.num_threads=1", "tracking=none"),
        *(f"cache_dir={folder}/cache", "teacher.num_layers=1", "teacher.hidden_size=16", "teacher.num_heads=2"),
        *overrides,
    )
    cache, hardware = Cache(folder / "cache"), prepare_hardware(config.hardware)
    task = load_task(config.task, cache)
    student = load_student(config.student, task, cache, seed=0)
    teacher = open_teacher(teacher_settings(config), config.tokenization, task, student, cache, hardware)
    teacher.prepare()
    return teacher


STUCK = ("teacher.train.learning_rate=1e-6", "teacher.train.epochs=1")  # as it began: one class for all


def test_it_is_trained_again_at_a_quarter_of_the_rate_for_four_times_as_long(tmp_path):
    teacher = prepared(tmp_path, *STUCK)
    said = (
        "teacher bert: it gave one answer on every validation row, and was trained again: "
        "teacher.train.learning_rate=2.5e-07 teacher.train.epochs=4"
    )
    assert notices_of(teacher) == [said]
    assert max(step for step, _ in teacher.preparation.history) == 4 * 4
    again = prepared(tmp_path, *STUCK)  # from the cache, both of them
    assert (notices_of(again), again.preparation.from_cache) == ([said], True)
    assert again.digest == teacher.digest


@pytest.mark.parametrize(
    "settings",
    [
        (*STUCK, "teacher.chance_check=false"),  # whatever it says, it is to teach
        (*STUCK, "teacher.train.max_steps=2"),  # no longer than that
        ("teacher.train.epochs=20", "teacher.train.learning_rate=1e-2"),  # it learned the task
    ],
)
def test_otherwise_it_is_trained_once(tmp_path, settings):
    assert notices_of(prepared(tmp_path, *settings)) == []
    assert len(list((tmp_path / "cache" / "teachers").glob("*/manifest.json"))) == 1
