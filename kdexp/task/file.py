"""Read texts and labels from tables on disk: CSV, TSV, JSON lines and Parquet.

Text formats are read by the standard library, because it alone is strict and knows the line that a row
begins on; a mistake in a file is told with the line number that an editor shows. TSV is read with quoting
off: a quote in a tab-separated file is part of the text, as in GLUE's files. CSV follows RFC 4180 (fields
may be quoted, and then hold commas, line breaks and doubled quotes). Blank lines are skipped.
"""

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdexp.errors import UserError

_TEXT_FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_WHOLE_FLOAT = re.compile(r"[+-]?\d+\.0+")
SUFFIXES = (*_TEXT_FORMATS, *(f"{suffix}.gz" for suffix in _TEXT_FORMATS), ".parquet")


@dataclass(frozen=True)
class Table:
    """Some columns of one table.

    Attributes:
        source: What messages call the table: its path.
        names: Every column that the table has.
        columns: Values of the columns that were asked for and exist. Text formats give strings
            (JSON lines and Parquet: their own types), and None for a missing value.
        lines: The line that each row begins on, as an editor shows it; None: rows are counted from 1.
    """

    source: str
    names: list[str]
    columns: dict[str, list[Any]]
    lines: Sequence[int] | None = None

    def column(self, name: str, setting: str) -> list[Any]:
        """Return the values of one column.

        Raises:
            UserError: There is no such column.
        """
        if name not in self.columns:
            names = shorten(self.names)
            # A comma-separated file whose only column has a semicolon in its name was not comma-separated.
            other = next((mark for mark in ";\t,|" if mark in self.names[0]), None)
            hint = f" (is it separated by {other!r}?)" if len(self.names) == 1 and other else ""
            raise UserError(setting, f"no column '{name}' in {self.source}", f"its columns are: {names}{hint}")
        return self.columns[name]

    def where(self, index: int) -> str:
        """Name a row, counted from 0, the way a person finds it."""
        place = f"row {index + 1}" if self.lines is None else f"line {self.lines[index]}"
        return f"{self.source}, {place}"


def shorten(names: Sequence[str], most: int = 20) -> str:
    """Join names for a message, which has to stay readable when there are hundreds or very long ones."""
    shown = [name if len(name) <= 60 else f"{name[:60]}..." for name in names[:most]]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def read_table(path: Path, columns: Sequence[str], *, setting: str, header: bool = True) -> Table:
    """Read the named columns of a file, in the format that its extension says.

    Args:
        columns: Columns to keep. One that the file lacks is left out: `Table.column` tells of it.
        setting: The setting that named the file, for messages.
        header: False: a CSV or TSV has no header line, and its columns are called "0", "1", ...

    Raises:
        UserError: The file is missing, unreadable, empty, or broken at a line that is then named.
    """
    suffixes = path.name.lower().removesuffix(".gz").rsplit(".", 1)
    kind = _TEXT_FORMATS.get(f".{suffixes[-1]}")
    if kind is None and not path.name.lower().endswith(".parquet"):
        raise UserError(setting, f"{path}: unknown kind of file", f"use one of {', '.join(SUFFIXES)}")
    if not header and kind not in ("csv", "tsv"):
        raise UserError("task.header", f"false, but the columns of {path} have names", "leave task.header out")
    if not path.is_file():
        raise _missing_file(path, setting)
    if kind is None:
        return _read_parquet(path, columns, setting)
    text = _read_text(path, setting)
    if kind == "jsonl":
        return _read_json_lines(path, text, columns, setting)
    rows, lines = _csv_rows(path, text, setting) if kind == "csv" else _tsv_rows(text)
    return _table_of_rows(path, rows, lines, columns, setting, header)


def _missing_file(path: Path, setting: str) -> UserError:
    if path.is_dir():
        return UserError(setting, f"{path} is a folder", "name a file in it")
    if not path.parent.is_dir():
        return UserError(setting, f"no file {path}", f"there is no folder {path.parent} either")
    return UserError(setting, f"no file {path}", list_folder(path.parent))


def list_folder(folder: Path) -> str:
    """Say what a folder holds, for a message about what it lacks."""
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    return f"{folder.resolve()} holds: {shorten(names)}" if names else f"{folder.resolve()} is empty"


def _read_text(path: Path, setting: str) -> str:
    try:
        data = path.read_bytes()
        if path.suffix.lower() == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(setting, f"cannot read {path}: {error}", "check the file") from error
    try:
        return data.decode("utf-8").removeprefix("\ufeff")  # the byte order mark that Windows programs write
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "cp1252"
        raise UserError(
            setting,
            f"{path}, line {line} (byte {error.start}): not UTF-8",
            f"convert it, for example: iconv -f {encoding} -t utf-8 {path.name} > utf8_{path.name}",
        ) from error


def _csv_rows(path: Path, text: str, setting: str) -> tuple[list[list[str]], list[int]]:
    csv.field_size_limit(2**31 - 1)  # the default refuses texts of more than 131,072 characters
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows, lines, line = [], [], 1
    try:
        for row in reader:
            if row:
                rows.append(row)
                lines.append(line)
            line = reader.line_num + 1
    except csv.Error as error:
        remedy = "check the quotes of the row that begins there: a quote inside a quoted field is doubled"
        raise UserError(setting, f"{path}, line {line}: {error}", remedy) from error
    return rows, lines


def _tsv_rows(text: str) -> tuple[list[list[str]], list[int]]:
    # Never splitlines(): texts hold U+0085, U+2028 and form feeds, which it takes for line ends.
    numbered = ((number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), 1))
    filled = [(number, line) for number, line in numbered if line]
    return [line.split("\t") for _, line in filled], [number for number, _ in filled]


def _table_of_rows(
    path: Path, rows: list[list[str]], lines: list[int], columns: Sequence[str], setting: str, header: bool
) -> Table:
    if not rows:
        raise UserError(setting, f"{path} is empty", "name a file with rows")
    names = [name.strip() for name in rows[0]] if header else [str(i) for i in range(len(rows[0]))]
    _refuse_duplicates(path, names, setting)
    if header:
        rows, lines = rows[1:], lines[1:]
    if not rows:
        raise UserError(setting, f"{path} has a header but no rows", "name a file with rows")
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(names):
            problem = f"{path}, line {line}: {len(row)} columns where the first line has {len(names)}"
            remedy = "give every row the same columns; quotes count in CSV, and are plain text in TSV"
            raise UserError(setting, problem, remedy)
    wanted = {name: names.index(name) for name in columns if name in names}
    return Table(str(path), names, {name: [row[i] for row in rows] for name, i in wanted.items()}, lines)


def _refuse_duplicates(path: Path, names: list[str], setting: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(setting, f"{path} has several columns called '{twice[0]}'", "rename or remove them")


def _read_json_lines(path: Path, text: str, columns: Sequence[str], setting: str) -> Table:
    rows, lines = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            problem = f"{path}, line {number}: not JSON ({error})"
            raise UserError(setting, problem, "write one whole JSON object on each line") from error
        if not isinstance(row, dict):
            problem = f"{path}, line {number}: a JSON {type(row).__name__}, not an object"
            raise UserError(setting, problem, 'write one object on each line, like {"text": "...", "label": "..."}')
        rows.append(row)
        lines.append(number)
    if not rows:
        raise UserError(setting, f"{path} is empty", "name a file with rows")
    names = list(dict.fromkeys(name for row in rows for name in row))
    values = {name: [row.get(name) for row in rows] for name in columns if name in names}
    return Table(str(path), names, values, lines)


def _read_parquet(path: Path, columns: Sequence[str], setting: str) -> Table:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _refuse_duplicates(path, names, setting)
            table = file.read(columns=[name for name in columns if name in names])
        values = {name: table.column(name).to_pylist() for name in table.column_names}
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(setting, f"cannot read {path}: {error}", "check that it is a whole Parquet file") from error
    if not table.num_rows:
        raise UserError(setting, f"{path} has no rows", "name a file with rows")
    return Table(str(path), names, values)


def texts_of(table: Table, columns: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """Return the one or two text columns.

    Raises:
        UserError: A column is missing, or a row has no text in it.
    """
    texts = [table.column(name, "task.text") for name in columns]
    for name, values in zip(columns, texts, strict=True):
        for index, value in enumerate(values):
            if value is not None and not isinstance(value, str):
                problem = f"{table.where(index)}: column '{name}' holds {value!r:.60s}, not a text"
                raise UserError("task.text", problem, "write it as a string, or name another column")
        empty = [index for index, value in enumerate(values) if value is None or not value.strip()]
        if empty:
            first = table.where(empty[0])
            problem = f"{len(empty):,} rows have no text in column '{name}', the first is {first}"
            raise UserError("task.text", problem, "fill or remove these rows")
        try:
            "".join(values).encode()
        except UnicodeEncodeError:  # only JSON can hold them
            half = next(i for i, value in enumerate(values) if value != value.encode("utf-8", "ignore").decode())
            problem = f"{table.where(half)}: half of a surrogate pair, which is not a character"
            raise UserError("task.text", problem, "remove it, or write the whole pair") from None
    return texts[0], texts[1] if len(texts) == 2 else None


def class_names(table: Table, column: str, labels: Sequence[str] | None) -> list[str]:
    """List the classes of a label column: as given, or numbers in order, or names in alphabetical order.

    Raises:
        UserError: The column is missing, holds a single class, or does not look like classes at all.
    """
    if labels is not None:
        if len(set(labels)) < max(2, len(labels)):
            raise UserError("task.labels", f"[{shorten(labels)}]", "name two classes or more, each once")
        return list(labels)
    values = _labels_of(table, column)
    names = set(values)
    setting, where = "task.label", f"column '{column}' of {table.source}"
    if len(names) == 1:
        problem = f"every row has the same label '{values[0]}' in {where}"
        raise UserError(setting, problem, "a classifier needs two classes or more")
    if not all(_NUMBER.fullmatch(name) for name in names):
        ordered = sorted(names)
    else:
        ordered = sorted(names, key=lambda name: (float(name), name))
        if len(names) > 10 and any("." in name for name in names):
            problem = f"{where} holds {len(names):,} different numbers such as {ordered[1]}: scores, not classes"
            raise UserError(setting, problem, "sort the scores into classes, or name another column")
    if len(names) > 20 and len(names) > len(values) / 2:
        problem = f"{where} holds {len(names):,} different values in {len(values):,} rows: not classes"
        raise UserError(setting, problem, f"name the label column; the columns are: {shorten(table.names)}")
    return ordered


def class_indices(table: Table, column: str, known: Mapping[str, int]) -> list[int]:
    """Turn a label column into class indices.

    Args:
        known: Class index of each label.

    Raises:
        UserError: The column is missing, or a row has no label or an unknown one.
    """
    labels = _labels_of(table, column)
    for index, label in enumerate(labels):
        if label not in known:
            problem = f"{table.where(index)}: unknown label '{label:.60}'"
            raise UserError("task.label", problem, f"the classes are: {shorten(list(known))}")
    return [known[label] for label in labels]


def _labels_of(table: Table, column: str) -> list[str]:
    """Write labels as strings: a whole number is `1` even where a missing value elsewhere made it `1.0`."""
    values = table.column(column, "task.label")
    missing = [i for i, value in enumerate(values) if value is None or value != value or str(value).strip() == ""]
    if missing:
        problem = f"{len(missing):,} rows have no label, the first is {table.where(missing[0])}"
        raise UserError("task.label", problem, f"fill or remove these rows (column '{column}')")
    for index, value in enumerate(values):
        if not isinstance(value, str | int | float):
            problem = f"{table.where(index)}: column '{column}' holds {value!r:.60s}, not one label"
            raise UserError("task.label", problem, "write one string or number in each row")
    # JSON's true and false keep their spelling.
    texts = [str(value).lower() if isinstance(value, bool) else str(value).strip() for value in values]
    return [text.split(".")[0] if _WHOLE_FLOAT.fullmatch(text) else text for text in texts]
