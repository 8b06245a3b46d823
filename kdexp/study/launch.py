"""What a sweep hands to a launcher, and gets back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from kdexp.config import Config, flatten
from kdexp.errors import UserError
from kdexp.identity import config_hash
from kdexp.naming import shown

_ABSENT = object()
"""Of a setting that a job's options do not have."""


@dataclass(frozen=True)
class Job:
    """One setting of a sweep.

    Attributes:
        overrides: What Hydra composes it from.
        name: The same for a person: `loss.alpha=0.5 seed=1`.
        config: None where `refusal` says why there is none.
    """

    overrides: tuple[str, ...]
    name: str
    config: Config | None
    refusal: UserError | None

    @cached_property
    def config_hash(self) -> str:
        return config_hash(self.config) if self.config else ""

    def label(self, swept: Sequence[str]) -> str:
        """Its values of what a sweep varies, however it was typed."""
        typed = dict(line.split("=", 1) for line in self.overrides if "=" in line)
        flat = flatten(self.config) if self.config else {}
        values = {name: flat.get(name, typed.get(name, flat.get(f"{name}.name", _ABSENT))) for name in swept}
        told = {name: "null" if value is None else shown(value) for name, value in values.items()}
        return " ".join(f"{name}={told[name]}" for name in values if values[name] is not _ABSENT) or self.name


@dataclass(frozen=True)
class Outcome:
    """What became of a job: its primary metric on validation, or what it raised."""

    job: Job
    validation: float | None
    error: BaseException | None


Launch = Callable[[Sequence[Job], Sequence[str]], list[Outcome]]
"""Runs jobs, each with further overrides (`parent_run=...`), and waits for all of them."""
