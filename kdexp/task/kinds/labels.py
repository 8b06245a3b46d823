"""Class labels as files hold them: which classes there are, and which one a row has."""

import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from kdexp.errors import UserError
from kdexp.task.tables.table import Column, shorten

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_WHOLE_FLOAT = re.compile(r"[+-]?\d+\.0+")
_SEPARATORS = (",", ";", "|", "/", "+", "&")


def class_names(column: Column, labels: Sequence[str] | None) -> list[str]:
    """List the classes of a label column: as given, as the file itself names them, or else as they occur.

    Numbers are then in their order, and names in alphabetical order.

    Raises:
        UserError: The column holds a single class, or does not look like classes at all.
    """
    if labels is not None:
        given = [spelled(label) for label in labels]
        if len(set(given)) < max(2, len(given)):
            raise UserError("task.labels", f"[{shorten(labels)}]", "name two classes or more, each once")
        return given
    names = set(_first_aliases(column))
    setting, where = "task.label", f"column '{column.name}' of {column.table.source}"
    if len(names) == 1:
        problem = f"every row has the same label '{names.pop()}' in {where}"
        raise UserError(setting, problem, "a classifier needs two classes or more")
    if column.class_names is not None:
        return list(column.class_names)
    ordered = in_order(names)
    if are_numbers(names) and len(names) > 10 and any("." in name for name in names):
        problem = f"{where} holds {len(names):,} different numbers such as {ordered[1]}: scores, not classes"
        remedy = "learn them as numbers with task.kind=regression, sort them into classes, or name another column"
        raise UserError(setting, problem, remedy)
    if len(names) > 20 and len(names) > len(column) / 2:
        problem = f"{where} holds {len(names):,} different values in {len(column):,} rows: not classes"
        raise UserError(setting, problem, f"name the label column; the columns are: {shorten(column.table.names)}")
    return ordered


def is_number(name: str) -> bool:
    """Whether a label is written as a number."""
    return _NUMBER.fullmatch(name) is not None


def are_numbers(names: Collection[str]) -> bool:
    """Whether all of them are."""
    return all(map(is_number, names))


def in_order(names: Collection[str]) -> list[str]:
    """Numbers in their order, names in alphabetical order."""
    return sorted(names, key=lambda name: (float(name), name)) if are_numbers(names) else sorted(names)


def with_meanings(known: Mapping[str, int]) -> dict[str, int]:
    """The same, found by what labels mean too: 1.50 is 1.5, and True is true."""
    return {meaning(name): index for name, index in known.items()} | dict(known)


def class_indices(column: Column, known: Mapping[str, int]) -> np.ndarray:
    """Turn a label column into class indices, int64.

    Args:
        known: Class index of each label.

    Raises:
        UserError: A row has no label or an unknown one.
    """
    values = with_meanings(known)

    def index(row: int, aliases: tuple[str, ...]) -> int:
        for alias in aliases:
            found = values.get(alias, values.get(meaning(alias)))
            if found is not None:
                return found
        problem = f"{column.where(row)}: unknown label '{aliases[0]:.60}'"
        raise UserError("task.label", problem, f"the classes are: {shorten(list(known))}")

    indices = (index(row, aliases) for row, aliases in enumerate(_aliases(column)))
    return np.fromiter(indices, dtype=np.int64, count=len(column))


def label_key(name: str) -> str:
    """What is equal of two labels that are spelled differently: case, blanks, hyphens and underscores do not count.

    A sign does, and 1.0 is 1.
    """
    text = unicodedata.normalize("NFKC", name).strip().casefold()
    if _NUMBER.fullmatch(text):
        return _canonical(text)
    return re.sub(r"[\s_]+|-(?!\d)|(?<=[^\s_])-", "", text)


def label_notices(names: Sequence[str]) -> list[str]:
    """What looks wrong about a set of classes, in one line each."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault("".join(unicodedata.normalize("NFKC", name).split()).casefold(), []).append(name)
    doubles = [group for group in alike.values() if len(group) > 1]
    notices = []
    if doubles:
        shown = "; ".join(" and ".join(f"'{name:.40}'" for name in group) for group in doubles[:3])
        more = f" and {len(doubles) - 3} more" if len(doubles) > 3 else ""
        notices.append(
            f"classes differ only by case or blanks: {shown}{more}; each is a class of its own, "
            "give them one spelling if they are one"
        )
    several = several_labels(names)
    if several:
        notices.append(
            f"labels such as '{several[0]:.40}' look like several in one row, in {len(several):,} of {len(names):,} "
            "classes: each combination is taken for a class of its own, as a row has one label "
            "(task.kind=multi_label takes them apart)"
        )
    return notices


def several_labels(names: Sequence[str]) -> list[str]:
    """The names that are made of several, where putting parts together explains more classes than there are parts."""
    for separator in _SEPARATORS:
        parts = {name: _parts(name, separator) for name in names}
        several = [name for name in names if len(parts[name]) > 1]
        if several and len(set().union(*parts.values())) < len(names):
            return several
    # A blank also stands inside of ordinary names: here the parts have to be classes, or numbers.
    parts = {name: _parts(name, None) for name in names}
    several = [name for name in names if len(parts[name]) > 1]
    used = {part for name in several for part in parts[name]}
    if several and (used <= set(names) or all(map(str.isdigit, used))):
        return several
    return []


def _parts(name: str, separator: str | None) -> list[str]:
    pieces = (piece.strip(" []()'\"") for piece in name.strip("[](){}").split(separator))
    return [piece for piece in pieces if piece]


def _first_aliases(column: Column) -> Iterator[str]:
    return (aliases[0] for aliases in _aliases(column))


def _aliases(column: Column) -> Iterator[tuple[str, ...]]:
    """Each row's label as it may be called: as it is spelled, or by its name in the file and then by its number."""
    _refuse_missing_labels(column)
    names = column.class_names
    for value in column:
        text = spelled(value)
        yield (text,) if names is None else (names[int(value)], text)


def spelled(value: Any) -> str:
    """A whole number is `1` even where a missing value elsewhere made it `1.0`; JSON's true and false stay so."""
    text = str(value).lower() if isinstance(value, bool) else str(value).strip()
    return text.split(".")[0] if _WHOLE_FLOAT.fullmatch(text) else text


def meaning(label: str) -> str:
    """Numbers and truth values count by what they mean: 1.50 is 1.5, and True is true."""
    if _NUMBER.fullmatch(label):
        return _canonical(label)
    return label.lower() if label.lower() in ("true", "false") else label


def _canonical(number: str) -> str:
    return f"{Decimal(number).normalize() + 0:f}"


def _refuse_missing_labels(column: Column) -> None:
    num_missing, first_missing, wrong = 0, None, None
    for row, value in enumerate(column):
        if _is_missing(value, column.class_names):
            num_missing += 1
            first_missing = row if first_missing is None else first_missing
        elif wrong is None and not isinstance(value, str | int | float):
            wrong = f"{column.where(row)}: column '{column.name}' holds {value!r:.60s}, not one label"
    if first_missing is not None:
        problem = f"{num_missing:,} rows have no label, the first is {column.where(first_missing)}"
        raise UserError("task.label", problem, f"fill or remove these rows (column '{column.name}')")
    if wrong is not None:
        raise UserError("task.label", wrong, "write one string or number in each row")


def _is_missing(value: Any, names: Sequence[str] | None) -> bool:
    if value is None or value != value or str(value).strip() == "":
        return True
    # Where a file names its classes, rows without a label have the number -1.
    return names is not None and not 0 <= int(value) < len(names)
