"""The one exception that means "the person can fix this", as opposed to a bug in kdexp; and being asked to stop."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class UserError(ValueError):
    """A person's mistake, told in one line: what, got, and the legal choices or the next step.

    The command line prints it as `error: <setting>: <problem>; <remedy>` and exits with 2. Every
    other exception is a bug and keeps its traceback.

    Args:
        setting: Name that the person would change (`task.path`, `loss.alpha`, `teacher.checkpoint`).
        problem: What is wrong, with the value that was found.
        remedy: Legal choices, or the next step to take.

    Attributes:
        run_id: The MLflow run that had begun, and has failed; "" where nothing was written yet.
    """

    run_id = ""

    def __init__(self, setting: str, problem: str, remedy: str) -> None:
        self.setting, self.problem, self.remedy = setting, problem, remedy
        # All three reach BaseException.args, so that the exception survives pickling between
        # processes (launchers send it back to the parent that way).
        super().__init__(setting, problem, remedy)

    def under(self, prefix: str) -> "UserError":
        """The same, of a setting that stands below `prefix`: `weight` under `loss.terms.rkd`."""
        setting = f"{prefix}.{self.setting}" if prefix else self.setting
        return type(self)(setting, self.problem, self.remedy)

    def __str__(self) -> str:
        line = f"{self.setting}: {self.problem}; {self.remedy}"
        return " ".join(line.split())


@contextmanager
def under(prefix: str) -> Iterator[None]:
    """Put a path in front of the setting of every UserError that the body raises."""
    try:
        yield
    except UserError as error:
        raise error.under(prefix) from error.__cause__


class SweepError(Exception):
    """Some jobs of a sweep failed; the others are done."""


class PrunedError(Exception):
    """A trial of a search was stopped early: it was worse than the others."""


def interrupt(signal_number: int, frame: FrameType | None) -> NoReturn:
    """A handler of SIGTERM, by which schedulers end a job: as Ctrl-C, so that the run is closed properly."""
    raise KeyboardInterrupt
