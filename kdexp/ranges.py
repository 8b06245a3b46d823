"""Ranges of settings: declared once, beside the field, and checked by every constructor.

@dataclass(kw_only=True)
class KD(Checked):
    temperature: Positive

KD(temperature=0)   # UserError: temperature: got 0; expected a finite number above 0
"""

import math
import typing
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from numbers import Real
from typing import Annotated, Any

from kdexp.errors import UserError
from kdexp.fingerprint import plain


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included unless said; never nan or infinite.

    Attributes:
        meaning: What is expected, as an error says it.
    """

    meaning: str
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def refuses(self, value: object) -> bool:
        if not isinstance(value, Real):  # a name, say
            return True
        number = float(value)
        above = number > self.low if self.open_low else number >= self.low
        below = number < self.high if self.open_high else number <= self.high
        return not (above and below and math.isfinite(number))  # also refuses nan


Positive = Annotated[float, Range("a finite number above 0", low=0, open_low=True)]
Weight = Annotated[float, Range("a finite number of at least 0", low=0)]
Share = Annotated[float, Range("a number from 0 to 1", low=0, high=1)]
NaturalNumber = Annotated[int, Range("a whole number of at least 0", low=0)]
PositiveInt = Annotated[int, Range("a whole number of at least 1", low=1)]
# NumPy takes no others.
Seed = Annotated[int, Range("a whole number from 0 to 4294967295", low=0, high=2**32 - 1)]


_LATER = "later"
"""In a field's metadata: the setting came after results were kept whose keys do not have it."""


def later(default: Any) -> Any:
    """The field of a setting that came later: it counts in hashes and keys only where it is set.

    What ran before is so the same computation: `config_hash` and cache keys stay (`established`).
    """
    return field(default=default, metadata={_LATER: True})


class Checked:
    """A dataclass whose constructor refuses what its ranges refuse.

    Raises:
        UserError: With the name of the field; whoever knows where the settings stand puts the path in front
            (`UserError.under`).
    """

    def __post_init__(self) -> None:
        settings: type = type(self)
        for name, range_ in _ranges(settings).items():
            value = getattr(self, name)
            if value is None and name in _optional(settings):
                continue
            for item in value if isinstance(value, list) else [value]:
                if range_.refuses(item):
                    raise UserError(name, f"got {item}", f"expected {range_.meaning}")


@cache
def _ranges(settings: type) -> dict[str, Range]:
    """The ranges of a class's fields; of an optional field, that of its value; of a list, that of each item."""
    return {
        name: extra
        for name, hint in typing.get_type_hints(settings, include_extras=True).items()
        for extra in _extras(hint)
        if isinstance(extra, Range)
    }


@cache
def _optional(settings: type) -> set[str]:
    """The fields that may be None."""
    return {name for name, hint in typing.get_type_hints(settings).items() if type(None) in typing.get_args(hint)}


def _extras(hint: Any) -> list[Any]:
    """What a hint is annotated with, or the value of an optional one, or each item of a list."""
    inner = [extra for part in typing.get_args(hint) for extra in _extras(part)]
    return [*getattr(hint, "__metadata__", ()), *inner]


def established(config: object) -> Any:
    """The same without the settings that came later and are not set: what hashes and keys are made of."""
    values = plain(config)
    _drop_later(config, values)
    return values


def _drop_later(settings: Any, values: Any) -> None:
    if isinstance(settings, dict):
        for name, part in settings.items():
            _drop_later(part, values[name])
    elif is_dataclass(settings):
        for item in fields(settings):
            value = getattr(settings, item.name)
            if item.metadata.get(_LATER) and value == item.default:
                del values[item.name]
            else:
                _drop_later(value, values[item.name])
