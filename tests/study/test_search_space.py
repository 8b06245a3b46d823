"""What a search may propose is checked before its first trial."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from kdexp.cli.sweeper import _searched
from kdexp.errors import UserError
from kdexp.study.launch import Job
from kdexp.study.search import Choice, Interval, refuse_illegal


def searched(line):
    (override,) = OverridesParser.create().parse_overrides([line])
    return _searched(override.get_key_element(), override)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("loss.alpha=interval(1,0)", r"^loss\.alpha: interval\(1,0\): 1 to 0 holds no numbers; expected two finite"),
        ("loss.alpha=interval(0,inf)", "0 to inf holds no numbers"),
        ("loss.alpha=interval(nan,1)", "nan to 1 holds no numbers"),
        ("train.epochs=range(3,3)", "3 to 2 holds no numbers"),
        ("train.epochs=range(5,2)", "5 to 1 holds no numbers"),
        ("train.learning_rate=tag(log,interval(0,1))", "0 to 1 has no orders of magnitude; begin above 0"),
        ("train.learning_rate=tag(log,interval(-1,1))", "-1 to 1 has no orders of magnitude"),
    ],
)
def test_an_empty_space_is_refused(line, message):
    with pytest.raises(UserError, match=message):
        searched(line)


def test_spaces_that_hold_something():
    assert searched("loss.alpha=interval(0,1)") == Interval(0, 1)
    assert searched("loss.alpha=interval(0.5,0.5)") == Interval(0.5, 0.5)
    assert searched("train.epochs=range(2,4)") == Interval(2, 3, integer=True)
    assert searched("loss=choice(kd,dkd)") == Choice(("kd", "dkd"))


def test_values_that_no_trial_could_set_are_refused_before_the_first():
    asked = []

    def compose(chosen):
        asked.extend(chosen)
        refusal = (
            UserError("loss.alpha", "got 2", "expected a number from 0 to 1") if "loss.alpha=2" in chosen else None
        )
        return Job(tuple(chosen), "", None, refusal)

    refuse_illegal({"loss.alpha": Interval(0, 1), "train.epochs": Interval(1, 9, integer=True)}, compose)
    assert asked == ["loss.alpha=0", "loss.alpha=1", "loss.alpha=0.3721"] + [
        f"train.epochs={epochs}" for epochs in (1, 9, 3)
    ]
    with pytest.raises(UserError, match=r"loss\.alpha: got 2"):
        refuse_illegal({"loss.alpha": Interval(0, 2)}, compose)
    with pytest.raises(UserError, match=r"loss\.alpha: got 2"):
        refuse_illegal({"loss.alpha": Choice((0.5, 2))}, compose)
