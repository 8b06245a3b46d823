"""How far a sweep is."""

import re

import pytest

from kdexp.study.pace import duration, progress_line


@pytest.mark.parametrize(
    ("place", "seconds", "line"),
    [
        (1, [], "job 1 of 8"),
        (2, [60.0], "job 2 of 8, about 7 min left"),
        (3, [600.0, 40.0], "job 3 of 8, about 4 min left"),  # the first one trained the teacher
        (8, [600.0, 1.0, 2.0, 300.0], "job 8 of 8, about 2 s left"),
    ],
)
def test_a_job_is_announced_with_the_time_that_is_left(place, seconds, line):
    assert progress_line(place, 8, seconds) == line


@pytest.mark.parametrize(("seconds", "text"), [(0.1, "1 s"), (80, "80 s"), (100, "2 min"), (7800, "2 h 10 min")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_sweep_says_where_it_is(command, log_only):
    answer = command("-m", "seed=0,1")
    assert answer.code == 0, answer.err
    lines = answer.err.splitlines()
    assert "job 1 of 2" in lines
    assert any(re.fullmatch(r"job 2 of 2, about \d+ (s|min) left", line) for line in lines)
    assert not any("Launching" in line for line in lines)
    assert sum("#" in line for line in lines) == 2
