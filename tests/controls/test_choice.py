"""How a schedule is chosen among several."""

from types import SimpleNamespace

import pytest
import torch

from kdexp import compose
from kdexp.config import flatten
from kdexp.controls.tuned import told, train_best
from kdexp.errors import UserError
from kdexp.identity import config_hash
from kdexp.task.kinds.base import Answers
from kdexp.task.kinds.single_label import SingleLabel
from kdexp.task.load import Task
from kdexp.task.split import Split
from kdexp.training.course import Course
from kdexp.training.loop import diverged

SPLIT = Split.from_lists(["a", "b", "c", "d"], None, [0, 1, 0, 1])
TASK = Task("letters", SingleLabel(["no", "yes"]), SPLIT, SPLIT, SPLIT, None)
RIGHT = [(place % 2, 1 - place % 2) for place in range(4)]


def chosen(scores, *settings):
    """What is told of the chosen schedule; of each its number of right answers is given, None where it diverges."""
    config = compose("train.learning_rate=0.01", "train.epochs=2", "controls=[tuned]", *settings)
    course = Course(None, TASK, config.train, None, None, 0, True)
    left = iter(scores)

    def train(course, description):
        score = next(left)
        if score is None:
            raise diverged("the loss became nan", "train")
        wrong = [RIGHT[place][::-1] if place < score else RIGHT[place] for place in range(4)]
        return SimpleNamespace(schedule=course.schedule, answers={"validation": Answers(torch.tensor(wrong).float())})

    return told(train_best(config.controls["tuned"], course, "student", train).schedule)


def test_the_best_on_validation_is_chosen():
    assert chosen([0, 1, 2, 4, 3, 1]) == "learning rate 0.0033, 4 epochs"
    assert chosen([4, 0, 0, 0, 0, 0]) == "learning rate 0.0033, 2 epochs"


def test_of_equally_good_ones_fewer_steps_then_the_lower_rate():
    assert chosen([1, 3, 3, 3, 3, 3]) == "learning rate 0.01, 2 epochs"
    assert chosen([1, 1, 1, 3, 3, 3]) == "learning rate 0.0033, 4 epochs"


def test_a_choice_on_the_edge_is_told(caplog):
    chosen([0, 0, 0, 0, 0, 4])
    assert (
        "student: this is the highest learning rate and the most epochs of the grid, and a better schedule may lie"
        in caplog.text
    )
    caplog.clear()
    chosen([0, 4, 0, 0, 0, 0])
    chosen([4], "controls.tuned.learning_rates=[0.02]", "controls.tuned.epochs=[3]")
    assert "beyond" not in caplog.text


def test_a_schedule_that_diverges_is_not_chosen(caplog):
    assert chosen([1, 1, None, 2, 1, None]) == "learning rate 0.0033, 4 epochs"
    assert "student, learning rate 0.03, 2 epochs: not chosen, since the loss became nan" in caplog.text
    with pytest.raises(UserError, match=r"train\.learning_rate: the loss became nan"):
        chosen([None] * 6)


def test_the_grid_follows_the_schedule():
    tuned = compose("controls=[tuned]", "train.max_steps=50", "train.learning_rate=5e-5").controls["tuned"]
    assert (tuned.learning_rates, tuned.epochs, tuned.max_steps) == ([1.7e-5, 5e-5, 1.5e-4], None, [50, 100])
    assert flatten(compose("controls=[tuned]"))["controls.tuned.epochs"] == [8, 16]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (["controls.tuned.epochs=[1,0]"], r"^controls\.tuned\.epochs: got 0; expected a whole number of at least 1"),
        (["controls.tuned.learning_rates=[]"], r"^controls\.tuned\.learning_rates: got \[\]; expected one or more"),
        (["controls.tuned.learning_rates=[1e-3,1e-3]"], r"learning_rates: got .*; expected one or more different"),
        (["controls.tuned.max_steps=[9]"], r"max_steps: has no effect: the schedule's length is train\.epochs=8; set"),
        (["controls.tuned.epochs=[9]", "train.max_steps=7"], r"epochs: has no effect: .* is train\.max_steps=7"),
        (["controls.tuned.epoch=[9]"], r"^controls\.tuned\.epoch: no such setting; expected one of learning_rates"),
        (["baseline=false"], r"^controls: got tuned, which compare with the baseline, but baseline=false; remove"),
        (
            ["controls.pseudo_labels.ceiling=true"],
            r"pseudo_labels: the run has no such control; add it with 'controls=",
        ),
        (["+controls.noise.weight=1"], r"^controls\.noise: no such control; expected one of pseudo_labels, tuned"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, line):
    with pytest.raises(UserError, match=line):
        compose("controls=[tuned]", *settings)


def test_trials_of_a_search_have_no_controls():
    trial = ("baseline=false", f"trial={'0' * 32}-1")
    assert compose("controls=[tuned]", *trial).controls == {}


def test_a_run_without_controls_is_the_computation_that_it_was():
    plain, tuned = compose(), compose("controls=[tuned]")
    assert config_hash(plain) == config_hash(compose("controls=[]")) != config_hash(tuned)
    assert config_hash(tuned) != config_hash(compose("controls=[tuned]", "controls.tuned.epochs=[1]"))
