"""What can be set of the controls: one class each, and one file in conf/controls."""

from dataclasses import dataclass, replace
from typing import Any

from kdexp.errors import UserError
from kdexp.loss.base import LogitLoss, Loss
from kdexp.ranges import Checked, PositiveInt
from kdexp.training.config import LearningRate, StudentTrainConfig


@dataclass(kw_only=True)
class Control(Checked):
    """Something else than the teacher that a gain could come from, trained beside it and measured."""

    def refuse_unfit(self, loss: Loss) -> None:
        """Refuse a loss with which the control says nothing.

        Raises:
            UserError: With the reason.
        """

    def complete(self, schedule: StudentTrainConfig) -> "Control":
        """The same, with what depends on the student's schedule filled in."""
        return self

    def announcement(self, schedule: StudentTrainConfig) -> str:
        """What it costs, in one line; "" where that is one training."""
        return ""


@dataclass(kw_only=True)
class PseudoLabels(Control):
    """The same loss on the same text, with the teacher's one-hot answers in place of its probabilities.

    Attributes:
        ceiling: Also train on the gold labels of all text, where the transfer text has them.
    """

    ceiling: bool = True

    def refuse_unfit(self, loss: Loss) -> None:
        problem = loss.one_hot_problem if isinstance(loss, LogitLoss) else f"{loss.name} has no soft part"
        if problem:
            raise UserError("pseudo_labels", f"would compare nothing: {problem}", "choose another loss, such as kd")


@dataclass(kw_only=True)
class Tuned(Control):
    """Student and baseline each with the best of the same schedules, chosen on validation anew with every seed.

    Attributes:
        learning_rates: None means: a third of the schedule's own, itself, three times as much.
        epochs, max_steps: Lengths, in the unit that the schedule has; None means: its own and twice as long.
    """

    learning_rates: list[LearningRate] | None = None
    epochs: list[PositiveInt] | None = None
    max_steps: list[PositiveInt] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("learning_rates", "epochs", "max_steps"):
            values = getattr(self, name)
            if values is not None and (not values or len(set(values)) < len(values)):
                raise UserError(name, f"got {values}", "expected one or more different values")

    def complete(self, schedule: StudentTrainConfig) -> "Tuned":
        """
        Raises:
            UserError: Lengths are in another unit than the schedule's.
        """
        assert schedule.learning_rate is not None
        unit, other = ("epochs", "max_steps") if schedule.max_steps is None else ("max_steps", "epochs")
        if getattr(self, other) is not None:
            problem = f"has no effect: the schedule's length is train.{unit}={getattr(schedule, unit)}"
            raise UserError(other, problem, f"set controls.tuned.{unit}")
        own = getattr(schedule, unit)
        rates = [float(f"{schedule.learning_rate * factor:.2g}") for factor in (1 / 3, 1, 3)]
        rates[1] = schedule.learning_rate
        defaults = {"learning_rates": rates, unit: [own, 2 * own]}
        return replace(self, **{name: value for name, value in defaults.items() if getattr(self, name) is None})

    def schedules(self, schedule: StudentTrainConfig) -> list[StudentTrainConfig]:
        """Every schedule to choose among; those that are preferred where they are equally good come first.

        Args:
            schedule: What they have in common.
        """
        rates, (unit, lengths) = self._rates, self._lengths(schedule)
        settings: list[dict[str, Any]] = [
            {unit: length, "learning_rate": rate} for length in lengths for rate in rates
        ]
        return [replace(schedule, **chosen) for chosen in settings]

    def announcement(self, schedule: StudentTrainConfig) -> str:
        rates, (unit, lengths) = self._rates, self._lengths(schedule)
        grid = f"learning rate {', '.join(f'{rate:g}' for rate in rates)}; {unit} {', '.join(map(str, lengths))}"
        steps = len(rates) * sum(lengths) / getattr(schedule, unit)
        return (
            f"tuned: student and baseline each choose among {len(rates) * len(lengths)} schedules ({grid}) on "
            f"validation: {2 * len(rates) * len(lengths)} trainings, {steps:.3g} times the steps of student and "
            "baseline; alpha and temperature stay as they are"
        )

    def edge(self, chosen: StudentTrainConfig) -> str:
        """On which edges of the grid a schedule lies; "" where it lies inside.

        The shortest length is none: fewer steps are seldom better, and the best epoch is kept.
        """
        rates, (unit, lengths) = self._rates, self._lengths(chosen)
        edges = {
            "the lowest learning rate": len(rates) > 1 and chosen.learning_rate == rates[0],
            "the highest learning rate": len(rates) > 1 and chosen.learning_rate == rates[-1],
            f"the most {unit.removeprefix('max_')}": len(lengths) > 1 and getattr(chosen, unit) == lengths[-1],
        }
        return " and ".join(edge for edge, is_there in edges.items() if is_there)

    @property
    def _rates(self) -> list[float]:
        assert self.learning_rates
        return sorted(self.learning_rates)

    def _lengths(self, schedule: StudentTrainConfig) -> tuple[str, list[int]]:
        """The unit, and the lengths in it."""
        unit = "epochs" if schedule.max_steps is None else "max_steps"
        return unit, sorted(getattr(self, unit))


CONTROLS: dict[str, type[Control]] = {"pseudo_labels": PseudoLabels, "tuned": Tuned}
"""The controls by name."""
