"""Columns of a table on disk, and what texts and class labels in them must look like."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from kdexp.arrow import values_of
from kdexp.errors import UserError

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_WHOLE_FLOAT = re.compile(r"[+-]?\d+\.0+")


@dataclass(frozen=True)
class Table:
    """Some columns of one table.

    Attributes:
        source: What messages call the table: its path.
        names: Every column that the table has.
        columns: Those that were asked for and exist, in Arrow.
        lines: The line that each row begins on, as an editor shows it; None: rows are counted from 1.
        is_json: Values are kept as JSON, because one column may hold strings, numbers and more.
    """

    source: str
    names: list[str]
    columns: dict[str, pa.ChunkedArray]
    lines: Sequence[int] | None = None
    is_json: bool = False

    def column(self, name: str, setting: str) -> "Column":
        """Return one column.

        Raises:
            UserError: There is no such column.
        """
        if name not in self.columns:
            names = shorten(self.names)
            # A comma-separated file whose only column has a semicolon in its name was not comma-separated.
            other = next((mark for mark in ";\t,|" if mark in self.names[0]), None)
            hint = f" (is it separated by {other!r}?)" if len(self.names) == 1 and other else ""
            raise UserError(setting, f"no column '{name}' in {self.source}", f"its columns are: {names}{hint}")
        return Column(name, self)

    def where(self, row: int) -> str:
        """Name a row, counted from 0, the way a person finds it."""
        place = f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}"
        return f"{self.source}, {place}"


@dataclass(frozen=True)
class Column:
    """One column of a table: its values, as often as wanted, and how messages name their places.

    Text formats give strings (JSON lines and Parquet: their own types), and None for a missing value.
    """

    name: str
    table: Table

    def __len__(self) -> int:
        return len(self.table.columns[self.name])

    def __iter__(self) -> Iterator[Any]:
        for values in self.batches():
            yield from values

    def batches(self) -> Iterator[list[Any]]:
        """The values, at most `BATCH_ROWS` at a time."""
        for values in values_of(self.table.columns[self.name]):
            yield list(map(json.loads, values)) if self.table.is_json else values

    def where(self, row: int) -> str:
        return self.table.where(row)


def shorten(names: Sequence[str], most: int = 20) -> str:
    """Join names for a message, which has to stay readable when there are hundreds or very long ones."""
    shown = [name if len(name) <= 60 else f"{name[:60]}..." for name in names[:most]]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def texts_of(table: Table, names: Sequence[str]) -> list[Column]:
    """Return the one or two text columns.

    Raises:
        UserError: A column is missing, or a row has no text in it.
    """
    columns = [table.column(name, "task.text") for name in names]
    for column in columns:
        _refuse_missing_texts(column)
    return columns


def _refuse_missing_texts(column: Column) -> None:
    num_empty, first_empty, half = 0, None, None
    for row, value in enumerate(column):
        if value is not None and not isinstance(value, str):
            problem = f"{column.where(row)}: column '{column.name}' holds {value!r:.60s}, not a text"
            raise UserError("task.text", problem, "write it as a string, or name another column")
        if value is None or not value.strip():
            num_empty += 1
            first_empty = row if first_empty is None else first_empty
        elif half is None and _is_broken(value):
            half = row
    if first_empty is not None:
        first = column.where(first_empty)
        problem = f"{num_empty:,} rows have no text in column '{column.name}', the first is {first}"
        raise UserError("task.text", problem, "fill or remove these rows")
    if half is not None:
        problem = f"{column.where(half)}: half of a surrogate pair, which is not a character"
        raise UserError("task.text", problem, "remove it, or write the whole pair")


def _is_broken(text: str) -> bool:
    """Whether a string is none that UTF-8 can write: only JSON can hold such."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def class_names(column: Column, labels: Sequence[str] | None) -> list[str]:
    """List the classes of a label column: as given, or numbers in order, or names in alphabetical order.

    Raises:
        UserError: The column holds a single class, or does not look like classes at all.
    """
    if labels is not None:
        if len(set(labels)) < max(2, len(labels)):
            raise UserError("task.labels", f"[{shorten(labels)}]", "name two classes or more, each once")
        return list(labels)
    names = set(_labels_of(column))
    setting, where = "task.label", f"column '{column.name}' of {column.table.source}"
    if len(names) == 1:
        problem = f"every row has the same label '{names.pop()}' in {where}"
        raise UserError(setting, problem, "a classifier needs two classes or more")
    if not all(_NUMBER.fullmatch(name) for name in names):
        ordered = sorted(names)
    else:
        ordered = sorted(names, key=lambda name: (float(name), name))
        if len(names) > 10 and any("." in name for name in names):
            problem = f"{where} holds {len(names):,} different numbers such as {ordered[1]}: scores, not classes"
            raise UserError(setting, problem, "sort the scores into classes, or name another column")
    if len(names) > 20 and len(names) > len(column) / 2:
        problem = f"{where} holds {len(names):,} different values in {len(column):,} rows: not classes"
        raise UserError(setting, problem, f"name the label column; the columns are: {shorten(column.table.names)}")
    return ordered


def class_indices(column: Column, known: Mapping[str, int]) -> np.ndarray:
    """Turn a label column into class indices, int64.

    Args:
        known: Class index of each label.

    Raises:
        UserError: A row has no label or an unknown one.
    """

    def index(row: int, label: str) -> int:
        if label not in known:
            problem = f"{column.where(row)}: unknown label '{label:.60}'"
            raise UserError("task.label", problem, f"the classes are: {shorten(list(known))}")
        return known[label]

    indices = (index(row, label) for row, label in enumerate(_labels_of(column)))
    return np.fromiter(indices, dtype=np.int64, count=len(column))


def _labels_of(column: Column) -> Iterator[str]:
    """Write labels as strings: a whole number is `1` even where a missing value elsewhere made it `1.0`."""
    _refuse_missing_labels(column)
    for value in column:
        # JSON's true and false keep their spelling.
        text = str(value).lower() if isinstance(value, bool) else str(value).strip()
        yield text.split(".")[0] if _WHOLE_FLOAT.fullmatch(text) else text


def _refuse_missing_labels(column: Column) -> None:
    num_missing, first_missing, wrong = 0, None, None
    for row, value in enumerate(column):
        if value is None or value != value or str(value).strip() == "":
            num_missing += 1
            first_missing = row if first_missing is None else first_missing
        elif wrong is None and not isinstance(value, str | int | float):
            wrong = f"{column.where(row)}: column '{column.name}' holds {value!r:.60s}, not one label"
    if first_missing is not None:
        problem = f"{num_missing:,} rows have no label, the first is {column.where(first_missing)}"
        raise UserError("task.label", problem, f"fill or remove these rows (column '{column.name}')")
    if wrong is not None:
        raise UserError("task.label", wrong, "write one string or number in each row")
