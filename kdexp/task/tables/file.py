"""Read texts and labels from tables on disk: CSV, TSV, JSON, Parquet, and what `datasets` saved; compressed or not.

A mistake in a file is told with the line number that an editor shows.

No more than a batch of rows is in memory at a time: what is kept of a file goes into an Arrow file beside it. (A JSON
file that is one value is read whole.)
"""

import json
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]

from kdexp.arrow import BATCH_ROWS, TEXT, map_table, write_table
from kdexp.errors import UserError
from kdexp.task.config import Quoting
from kdexp.task.tables.columnar import is_saved_dataset, read_parquet, read_saved_dataset, refuse_ambiguous
from kdexp.task.tables.conll import SUFFIXES as CONLL_SUFFIXES
from kdexp.task.tables.conll import read_conll
from kdexp.task.tables.delimited import Row, delimited_rows
from kdexp.task.tables.json_rows import json_rows
from kdexp.task.tables.source import COMPRESSED_SUFFIXES, Source, only_member
from kdexp.task.tables.table import Table, shorten

_FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "tsv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".parquet": "parquet",
}
SUFFIXES = (*_FORMATS, *(suffix + packed for packed in COMPRESSED_SUFFIXES for suffix in _FORMATS))

# Each split under the names that distributors give it.
SPLIT_NAMES = {"train": ("train",), "validation": ("dev", "validation", "valid", "val"), "test": ("test",)}


@dataclass(frozen=True)
class Reading:
    """How the files of a task are read.

    Attributes:
        header: False: a CSV or TSV has no header line, and its columns are called "0", "1", ...
        encoding: Of text files, as Python calls it.
        names: What the columns of a CSV or TSV without a header line are called; rows may have more of them.
        words: Rows are words with tags: files that are no tables are read as CoNLL.
    """

    header: bool = True
    encoding: str = "utf-8"
    quoting: Quoting = Quoting.auto
    names: tuple[str, ...] = ()
    words: bool = False


def read_table(
    path: Path, columns: Sequence[str], target: Path, *, setting: str, reading: Reading | None = None
) -> Table:
    """Read the named columns of a file, in the format that its extension says, or of a folder that `datasets` saved.

    Args:
        columns: Columns to keep. One that the file lacks is left out: `Table.column` tells of it.
        target: Where the Arrow file is written that holds them.
        setting: The setting that named the file, for messages.

    Raises:
        UserError: The file is missing, unreadable, empty, or broken at a line that is then named.
    """
    reading = reading or Reading()
    source = Source(path, setting, reading.encoding)
    if is_saved_dataset(path):
        split = setting.rpartition(".")[2]
        return read_saved_dataset(source, columns, target, SPLIT_NAMES.get(split, (split,)))
    if path.name.lower().endswith(".zip") and path.is_file() and not only_member(path):
        raise UserError(setting, f"{path} is no archive of one file", "unpack it, and name a file in it")
    kind = _FORMATS.get(_suffix(path))
    if reading.words and path.is_file() and _is_conll(source, columns):
        return _read_conll(source, columns, target, reading)
    if kind is None and path.exists() and not path.is_dir():
        more = "" if _suffix(path) not in CONLL_SUFFIXES else "; CoNLL files are read with task.kind=token_labels"
        remedy = f"use one of {', '.join(_FORMATS)}, also compressed{more}"
        raise UserError(setting, f"{path}: unknown kind of file", remedy)
    if not reading.header and kind not in ("csv", "tsv"):
        raise UserError("task.header", f"false, but the columns of {path} have names", "leave task.header out")
    if not path.is_file():
        raise _missing_file(path, setting)
    if kind == "parquet":
        return read_parquet(source, columns, target)
    source.refuse_unreadable()
    if kind == "json":
        return _read_json(source, columns, target, reading.words)
    rows, notes = delimited_rows(source, str(kind), reading.quoting)
    return _read_rows(source, rows, columns, target, reading, notes)


def _is_conll(source: Source, columns: Sequence[str]) -> bool:
    """Whether a file is no table: neither by its name, nor, where that is a text file's, by its first line."""
    suffix = _suffix(source.path)
    if suffix not in (".tsv", ".txt"):
        return suffix in CONLL_SUFFIXES or suffix not in _FORMATS
    source.refuse_unreadable()
    first = next((line for _, line in source.numbered_lines()), "")
    return not set(columns) <= {name.strip(' "') for name in first.split("\t")}


def _read_conll(source: Source, columns: Sequence[str], target: Path, reading: Reading) -> Table:
    if not reading.header:
        raise UserError("task.header", f"false, but {source.path} is read as CoNLL", "leave task.header out")
    source.refuse_unreadable()
    return read_conll(source, columns, target)


def split_file(path: Path, split: str) -> Path:
    """The file of a split in a folder, such as a data set that was cloned from the hub; others as they are.

    Raises:
        UserError: The folder has no file of this split, or several.
    """
    if not path.is_dir() or is_saved_dataset(path):
        return path
    names = SPLIT_NAMES.get(split, (split,))
    found = [
        file
        for file in sorted(path.rglob("*"))
        if _FORMATS.get(_suffix(file)) and file.is_file() and re.split(r"[-_.]", file.name.lower())[0] in names
    ]
    if len(found) == 1:
        return found[0]
    setting, shown = f"task.{split}", shorten([str(file.relative_to(path)) for file in found])
    if found:
        joined = f"datasets.load_dataset('{path}').save_to_disk('joined')"
        problem = f"{path} has {len(found)} files of this split: {shown}"
        raise UserError(setting, problem, f"name one; or join them: {joined}, then {setting}=joined")
    problem = f"{path} is a folder without a file of this split, such as {names[0]}.csv"
    raise UserError(setting, problem, f"name a file in it; {list_folder(path)}")


def _suffix(path: Path) -> str:
    name = path.name.lower()
    if name.endswith(".zip") and path.is_file():
        name = (only_member(path) or name).lower()
    for packed in COMPRESSED_SUFFIXES:
        name = name.removesuffix(packed)
    return f".{name.rpartition('.')[2]}"


def _missing_file(path: Path, setting: str) -> UserError:
    if path.is_dir():
        return UserError(setting, f"{path} is a folder", f"name a file in it; {list_folder(path)}")
    if not path.parent.is_dir():
        return UserError(setting, f"no file {path}", f"there is no folder {path.parent} either")
    return UserError(setting, f"no file {path}", list_folder(path.parent))


def list_folder(folder: Path) -> str:
    """Say what a folder holds, for a message about what it lacks."""
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    return f"{folder.resolve()} holds: {shorten(names)}" if names else f"{folder.resolve()} is empty"


def _read_rows(
    source: Source, rows: Iterator[Row], columns: Sequence[str], target: Path, reading: Reading, notes: list[str]
) -> Table:
    path = source.path
    first = next(rows, None)
    if first is None:
        raise source.refusal(f"{path} is empty", "name a file with rows")
    names = _names(first[1], reading)
    refuse_ambiguous(source, names, columns)
    if not reading.header:
        rows = chain([first], rows)
    wanted = {name: names.index(name) for name in columns if name in names}
    lines = array("q")

    def batches() -> Iterator[list[list[str]]]:
        while batch := list(islice(rows, BATCH_ROWS)):
            for line, row in batch:
                if len(row) < len(names) or (len(row) > len(names) and not reading.names):
                    problem = f"{path}, line {line}: {len(row)} columns where the first line has {len(names)}"
                    remedy = "give every row the same columns; quotes count in CSV, and are plain text in TSV"
                    raise source.refusal(problem, remedy)
                lines.append(line)
            yield [[row[place] for _, row in batch] for place in wanted.values()]

    kept = _keep_texts(list(wanted), batches(), target)
    if not lines:
        raise source.refusal(f"{path} has a header but no rows", "name a file with rows")
    return Table(str(path), names, kept, lines, notes=notes)


def _names(first: Sequence[str], reading: Reading) -> list[str]:
    """What the columns are called, of a file whose first row is given."""
    if reading.names:
        return list(reading.names)
    return [name.strip() for name in first] if reading.header else [str(place) for place in range(len(first))]


def _keep_texts(names: Sequence[str], batches: Iterator[list[list[str]]], target: Path) -> dict[str, pa.ChunkedArray]:
    """Write columns of strings to a file, and return them as they are there."""
    schema = pa.schema([(name, TEXT) for name in names])
    records = (pa.record_batch([pa.array(column, TEXT) for column in batch], schema=schema) for batch in batches)
    write_table(target, schema, records)
    table = map_table(target)
    return {name: table.column(name) for name in names}


def _read_json(source: Source, columns: Sequence[str], target: Path, words: bool) -> Table:
    columns = list(dict.fromkeys(columns))
    names: dict[str, None] = {}
    lines = array("q")  # 0: not known
    rows = json_rows(source, columns, words=words)

    def batches() -> Iterator[list[list[str]]]:
        while batch := list(islice(rows, BATCH_ROWS)):
            names.update(dict.fromkeys(name for _, row in batch for name in row))
            lines.extend(number or 0 for number, _ in batch)
            yield [[json.dumps(row.get(name)) for _, row in batch] for name in columns]

    kept = _keep_texts(columns, batches(), target)
    if not lines:
        raise source.refusal(f"{source.path} is empty", "name a file with rows")
    # Which columns there are is known at the end.
    return Table(
        str(source.path),
        list(names),
        {name: kept[name] for name in columns if name in names},
        lines if lines[0] else None,
        is_json=True,
    )
