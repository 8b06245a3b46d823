"""The students among which the study chooses, as they would be typed."""

import itertools
import logging
import re
from collections.abc import Iterator

from kdexp.config import Config
from kdexp.errors import UserError
from kdexp.student.config import STATIC
from kdexp.task.kinds.by_name import kind_class

logger = logging.getLogger(__name__)

_EXAMPLE = "'candidates=[\"student=bert student.num_layers=1,2\"]'"


def candidate_overrides(config: Config) -> dict[str, list[str]]:
    """What each candidate of the study overrides, by its name.

    One whose settings list several values (`student.num_layers=1,2 student.hidden_size=16,32`) is a grid of them.

    Raises:
        UserError: There is none, nothing is exported, or there is no baseline to say what distillation is worth.
    """
    if not config.candidates:
        raise UserError("candidates", "is empty", f"name students: {_EXAMPLE}")
    if not config.export:
        raise UserError("export", "is none, and the study chooses among files", "choose export=onnx, or a list")
    if not config.baseline:
        raise UserError("baseline", "is false, and the study says what distillation is worth", "remove baseline=false")
    found: dict[str, list[str]] = {}
    for candidate in config.candidates:
        words = candidate.split()
        if not words or (wrong := [word for word in words if not re.match(r"student(\.[\w.]+)?=.", word)]):
            got = repr(candidate) if not words else wrong[0]
            raise UserError("candidates", f"got {got}", "expected settings of the student: student=, student.<...>=")
        found |= {_name(chosen): chosen for chosen in _grid(words)}
    if kind_class(config.task).has_units:
        for name in [name for name, words in found.items() if f"student={STATIC}" in words]:
            logger.info("candidate %s is left out: it labels no single word", name)
            del found[name]
    return found


def _grid(words: list[str]) -> Iterator[list[str]]:
    """Every combination of the listed values; a comma between brackets belongs to one value."""
    settings = [
        (name, re.split(r",(?![^\[]*\])", values)) for name, _, values in (word.partition("=") for word in words)
    ]
    for chosen in itertools.product(*(values for _, values in settings)):
        yield [f"{name}={value}" for (name, _), value in zip(settings, chosen, strict=True)]


def _name(words: list[str]) -> str:
    """`bert 2 layers 64 wide` of what a person would type, read without the setting's path."""
    values = dict(word.partition("=")[::2] for word in words)
    parts = [values.pop("student", "")]
    if layers := values.pop("student.num_layers", ""):
        parts.append(f"{layers} {'layer' if layers == '1' else 'layers'}")
    if width := values.pop("student.hidden_size", ""):
        parts.append(f"{width} wide")
    parts += [f"{name.removeprefix('student.')}={value}" for name, value in values.items()]
    return " ".join(filter(None, parts))
