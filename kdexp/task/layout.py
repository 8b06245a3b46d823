"""A local copy of a public data set, as its distributor lays it out or as the hub does."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]

from kdexp.arrow import BATCH_ROWS, TEXT, map_table, write_table
from kdexp.errors import UserError
from kdexp.task.config import KindName, PublicTaskConfig, Quoting
from kdexp.task.tables.columnar import is_saved_dataset
from kdexp.task.tables.delimited import delimited_rows
from kdexp.task.tables.file import SUFFIXES, Reading, read_table
from kdexp.task.tables.source import Source
from kdexp.task.tables.table import Table

_TEXT_LINES, _LABEL_LINES = "_text.txt", "_labels.txt"
"""Two files with a row on each line, as TweetEval and XLM-T have them."""


def split_files(folder: Path, config: PublicTaskConfig, split: str, names: Sequence[str]) -> list[Path]:
    """Find the file of a split, or its shards, in the folder itself or where the hub's layouts put them.

    Args:
        names: What the split may be called; the distributor's own names come first.

    Raises:
        UserError: There are several kinds of files, or shards are missing.
    """
    own = [folder / name for name in (config.files or {}).get(split, ())]
    for path in own:
        if path.is_file():
            return [path]
    for place in (folder, folder / "data", *([folder / config.subset] if config.subset else [])):
        for name in names:
            if is_saved_dataset(place / name):
                return [place / name]
            if (place / f"{name}{_TEXT_LINES}").is_file():
                return [place / f"{name}{_TEXT_LINES}"]
            paths = _shards(place, name)
            if paths:
                return paths
    return []


def _shards(place: Path, name: str) -> list[Path]:
    pattern = re.compile(rf"{re.escape(name)}(-\d+-of-(?P<shards>\d+))?\.(?P<suffix>\w+(\.\w+)?)")
    found = [(match, path) for path in place.glob(f"{name}*") if (match := pattern.fullmatch(path.name))]
    paths = sorted(path for match, path in found if f".{match['suffix'].lower()}" in SUFFIXES)
    shards = int(pattern.fullmatch(paths[0].name)["shards"] or 1) if paths else 0  # type: ignore[index]
    if len(paths) != shards:
        problem = f"{place} has {len(paths)} files for the split {name}, expected {shards}"
        raise UserError("task.path", problem, f"keep one kind of {', '.join(path.name for path in paths)}")
    return paths


def read_copy(path: Path, columns: Sequence[str], config: PublicTaskConfig, target: Path) -> Table:
    """Read the columns of a file, whatever its distributor calls them.

    Args:
        columns: The text columns, then those of labels, as the task calls them.
        target: Where the Arrow file is written that holds them.

    Raises:
        UserError: The file is unreadable.
    """
    if path.name.endswith(_TEXT_LINES):
        return _read_lines(path, columns, target)
    if config.kind == KindName.token_labels and path.is_file() and path.suffix not in SUFFIXES:
        return _read_words(path, columns, target)
    called = {column: [column, *(config.aliases or {}).get(column, ())] for column in columns}
    reading = _bare(path, columns, called, config)
    wanted = columns if reading else [name for names in called.values() for name in names]
    table = read_table(path, wanted, target, setting="task.path", reading=reading)
    found = {column: next((name for name in names if name in table.names), column) for column, names in called.items()}
    column_of = {name: column for column, name in found.items()}
    return replace(
        table,
        names=[column_of.get(name, name) for name in table.names],
        columns={column: table.columns[name] for column, name in found.items() if name in table.columns},
    )


def _read_words(path: Path, columns: Sequence[str], target: Path) -> Table:
    """Words and tags of a CoNLL file: the first column and the last."""
    column_of_name = dict(zip(("text", "label"), columns, strict=True))
    table = read_table(path, list(column_of_name), target, setting="task.path", reading=Reading(words=True))
    found = {column_of_name[name]: column for name, column in table.columns.items()}
    return replace(table, names=list(found), columns=found)


def _bare(
    path: Path, columns: Sequence[str], called: dict[str, list[str]], config: PublicTaskConfig
) -> Reading | None:
    """How a file without a header line is read; None of one that has names."""
    if not path.is_file() or not re.search(r"\.(csv|tsv|txt)(\.\w+)?$", path.name.lower()):
        return None
    first = _first_fields(path)
    named = {name for column in columns for name in called[column]}
    if named & {field.strip() for field in first}:
        return None
    # Files with a text and its label and nothing else need no description.
    labels = [*(config.labels or []), *(str(place) for place in range(len(config.labels or [])))]
    of_two = columns if len(columns) == len(first) == 2 and first[1] in labels else None
    names = config.columns if config.columns and len(first) >= len(config.columns) else of_two
    return Reading(header=False, names=tuple(names)) if names else None


def _first_fields(path: Path) -> list[str]:
    source = Source(path, "task.path")
    source.refuse_unreadable()
    kind = "csv" if ".csv" in path.name.lower() else "tsv"
    rows, _ = delimited_rows(source, kind, Quoting.quoted if kind == "csv" else Quoting.plain)
    return next((row for _, row in rows), [])


def files_read(path: Path) -> list[Path]:
    """Every file that `read_copy` opens for one of a split's files."""
    if not path.name.endswith(_TEXT_LINES):
        return [path]
    labels = path.with_name(path.name.removesuffix(_TEXT_LINES) + _LABEL_LINES)
    return [path, labels] if labels.is_file() else [path]


def _read_lines(path: Path, columns: Sequence[str], target: Path) -> Table:
    """Texts and labels, a row on each line of two files."""
    if len(columns) != 2:
        raise UserError("task.text", f"{path} holds one text a row", "name one column")
    files = files_read(path)
    values = [_lines(file) for file in files]
    if len({len(column) for column in values}) > 1:
        problem = f"{files[0]} has {len(values[0]):,} lines, {files[1].name} {len(values[1]):,}"
        raise UserError("task.path", problem, "each line is a row, in both files")
    names = list(columns[: len(values)])
    schema = pa.schema([(name, TEXT) for name in names])
    starts = range(0, len(values[0]), BATCH_ROWS)
    batches = ([pa.array(column[start : start + BATCH_ROWS], TEXT) for column in values] for start in starts)
    write_table(target, schema, (pa.record_batch(batch, schema=schema) for batch in batches))
    table = map_table(target)
    return Table(str(path), names, {name: table.column(name) for name in names}, range(1, len(values[0]) + 1))


def _lines(path: Path) -> list[str]:
    source = Source(path, "task.path")
    source.refuse_unreadable()
    return [line for _, line in source.numbered_lines()]
