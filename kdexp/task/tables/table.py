"""Columns of a table on disk, and what texts in them must look like."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa  # type: ignore[import-untyped]

from kdexp.arrow import values_of
from kdexp.errors import UserError
from kdexp.task.tables.source import separator_hint

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
        class_names: Of columns of class numbers whose classes the file names, by column.
        notes: What was found out about the file, and should be said.
    """

    source: str
    names: list[str]
    columns: dict[str, pa.ChunkedArray]
    lines: Sequence[int] | None = None
    is_json: bool = False
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def column(self, name: str, setting: str) -> "Column":
        """Return one column.

        Raises:
            UserError: There is no such column.
        """
        if name not in self.columns:
            names = shorten(self.names)
            # A comma-separated file whose only column has a semicolon in its name was not comma-separated.
            hint = separator_hint(self.names[0]) if len(self.names) == 1 else ""
            known = f"its columns are: {names}" + (f" ({hint})" if hint else "")
            raise UserError(setting, f"no column '{name}' in {self.source}", known)
        return Column(name, self)

    def where(self, row: int) -> str:
        """Name a row, counted from 0, the way a person finds it."""
        place = f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}"
        return f"{self.source}, {place}"


@dataclass(frozen=True)
class Column:
    """One column of a table: its values, as often as wanted, and how messages name their places.

    Text formats give strings (JSON lines and Parquet: their own types), and None for a missing value.

    Attributes:
        separator: Between the labels of one row, where a value is a text that holds several.
    """

    name: str
    table: Table
    separator: str = ","

    def __len__(self) -> int:
        return len(self.table.columns[self.name])

    @property
    def class_names(self) -> Sequence[str] | None:
        """What the file calls the classes whose numbers the column holds; None where it does not say."""
        return self.table.class_names.get(self.name)

    def __iter__(self) -> Iterator[Any]:
        for values in self.batches():
            yield from values

    def batches(self) -> Iterator[list[Any]]:
        """The values, at most `BATCH_ROWS` at a time."""
        for values in values_of(self.table.columns[self.name]):
            yield list(map(json.loads, values)) if self.table.is_json else values

    def where(self, row: int) -> str:
        return self.table.where(row)


class TextColumn(Protocol):
    """A column as texts, read a batch at a time."""

    def batches(self) -> Iterator[list[str]]:
        """The texts, at most `BATCH_ROWS` at a time."""


@dataclass(frozen=True)
class Columns(Column):
    """Several columns of one table, side by side: a row is a list with a value of each."""

    columns: Sequence[Column] = ()

    @classmethod
    def of(cls, columns: Sequence[Column]) -> "Columns":
        return cls(", ".join(column.name for column in columns), columns[0].table, columns=columns)

    def __len__(self) -> int:
        return len(self.columns[0])

    @property
    def class_names(self) -> None:
        return None

    def batches(self) -> Iterator[list[Any]]:
        for batches in zip(*(column.batches() for column in self.columns), strict=True):
            yield list(map(list, zip(*batches, strict=True)))


def shorten(names: Sequence[str], most: int = 20) -> str:
    """Join names for a message, which has to stay readable when there are hundreds or very long ones."""
    shown = [name if len(name) <= 60 else f"{name[:60]}..." for name in names[:most]]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def row_ids(column: Column, setting: str) -> list[str]:
    """The names of the rows: 1, 1.0 and "1" are one, because formats differ in how they keep numbers.

    Raises:
        UserError: A row has none.
    """
    names = []
    for row, value in enumerate(column):
        if value is None or value != value or str(value).strip() == "":
            raise UserError(setting, f"{column.where(row)}: column '{column.name}' is empty", "give each row a name")
        name = str(value).strip()
        names.append(name.partition(".")[0] if _WHOLE_FLOAT.fullmatch(name) else name)
    return names


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
        elif half is None and is_broken(value):
            half = row
    if first_empty is not None:
        first = column.where(first_empty)
        problem = f"{num_empty:,} rows have no text in column '{column.name}', the first is {first}"
        raise UserError("task.text", problem, "fill or remove these rows")
    if half is not None:
        problem = f"{column.where(half)}: half of a surrogate pair, which is not a character"
        raise UserError("task.text", problem, "remove it, or write the whole pair")


def is_broken(text: str) -> bool:
    """Whether a string is none that UTF-8 can write: only JSON can hold such."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
