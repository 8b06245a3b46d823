"""What can be set of the controls: one class each, and one file in conf/controls."""

from dataclasses import dataclass, replace

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
        unit = "epochs" if schedule.max_steps is None else "max_steps"
        lengths, rates = getattr(self, unit), self.learning_rates
        assert lengths
        assert rates
        return [
            replace(schedule, learning_rate=rate, **{unit: length})
            for length in sorted(lengths)
            for rate in sorted(rates)
        ]


CONTROLS: dict[str, type[Control]] = {"pseudo_labels": PseudoLabels, "tuned": Tuned}
"""The controls by name."""
