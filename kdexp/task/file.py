"""Read texts and labels from tables on disk: CSV, TSV, JSON lines and Parquet.

Text formats are read by the standard library, because it alone is strict and knows the line that a row
begins on; a mistake in a file is told with the line number that an editor shows. TSV is read with quoting
off: a quote in a tab-separated file is part of the text, as in GLUE's files. CSV follows RFC 4180 (fields
may be quoted, and then hold commas, line breaks and doubled quotes). Blank lines are skipped.

No more than a batch of rows is in memory at a time: what is kept of a file goes into an Arrow file beside it.
"""

import codecs
import csv
import gzip
import io
import json
import zlib
from array import array
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa  # type: ignore[import-untyped]

from kdexp.arrow import BATCH_ROWS, TEXT, map_table, write_table
from kdexp.errors import UserError
from kdexp.task.table import Table, shorten

_TEXT_FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
SUFFIXES = (*_TEXT_FORMATS, *(f"{suffix}.gz" for suffix in _TEXT_FORMATS), ".parquet")


def read_table(path: Path, columns: Sequence[str], target: Path, *, setting: str, header: bool = True) -> Table:
    """Read the named columns of a file, in the format that its extension says.

    Args:
        columns: Columns to keep. One that the file lacks is left out: `Table.column` tells of it.
        target: Where the Arrow file is written that holds them.
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
        return _read_parquet(path, columns, target, setting)
    _refuse_unreadable(path, setting)
    if kind == "jsonl":
        return _read_json_lines(path, columns, target, setting)
    rows = _csv_rows(path, setting) if kind == "csv" else _tsv_rows(path)
    return _read_rows(path, rows, columns, target, setting, header)


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


def _refuse_unreadable(path: Path, setting: str) -> None:
    """Go through a text file once, before its rows are read.

    Raises:
        UserError: It cannot be read to its end, or is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    num_bytes = num_lines = 0  # before what is decoded next
    pending = start = b""
    try:
        with _open_bytes(path) as file:
            while True:
                piece = file.read(2**20)
                start = start or piece[:2]
                try:
                    decoder.decode(piece, final=not piece)
                except UnicodeDecodeError as error:
                    line = num_lines + (pending + piece).count(b"\n", 0, error.start) + 1
                    encoding = "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "cp1252"
                    raise UserError(
                        setting,
                        f"{path}, line {line} (byte {num_bytes + error.start}): not UTF-8",
                        f"convert it, for example: iconv -f {encoding} -t utf-8 {path.name} > utf8_{path.name}",
                    ) from error
                if not piece:
                    return
                # A character that the next piece completes is decoded with it.
                whole, pending = pending + piece, decoder.getstate()[0]
                num_bytes += len(whole) - len(pending)
                num_lines += whole.count(b"\n")
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(setting, f"cannot read {path}: {error}", "check the file") from error


def _open_bytes(path: Path) -> Any:
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")


def _open_text(path: Path, newline: str) -> TextIO:
    """Without the byte order mark that Windows programs write."""
    return io.TextIOWrapper(_open_bytes(path), encoding="utf-8-sig", newline=newline)


def _csv_rows(path: Path, setting: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, each with its line."""
    csv.field_size_limit(2**31 - 1)  # the default refuses texts of more than 131,072 characters
    with _open_text(path, newline="") as file:
        reader = csv.reader(file, strict=True)
        line = 1
        try:
            for row in reader:
                if row:
                    yield line, row
                line = reader.line_num + 1
        except csv.Error as error:
            remedy = "check the quotes of the row that begins there: a quote inside a quoted field is doubled"
            raise UserError(setting, f"{path}, line {line}: {error}", remedy) from error


def _numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    # Never splitlines(): texts hold U+0085, U+2028 and form feeds, which it takes for line ends.
    with _open_text(path, newline="\n") as file:
        for number, line in enumerate(file, 1):
            yield number, line.removesuffix("\n").removesuffix("\r")


def _tsv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in _numbered_lines(path):
        if line:
            yield number, line.split("\t")


def _read_rows(
    path: Path,
    rows: Iterator[tuple[int, list[str]]],
    columns: Sequence[str],
    target: Path,
    setting: str,
    header: bool,
) -> Table:
    first = next(rows, None)
    if first is None:
        raise UserError(setting, f"{path} is empty", "name a file with rows")
    names = [name.strip() for name in first[1]] if header else [str(i) for i in range(len(first[1]))]
    _refuse_duplicates(path, names, setting)
    if not header:
        rows = chain([first], rows)
    wanted = {name: names.index(name) for name in columns if name in names}
    lines = array("q")

    def batches() -> Iterator[list[list[str]]]:
        while batch := list(islice(rows, BATCH_ROWS)):
            for line, row in batch:
                if len(row) != len(names):
                    problem = f"{path}, line {line}: {len(row)} columns where the first line has {len(names)}"
                    remedy = "give every row the same columns; quotes count in CSV, and are plain text in TSV"
                    raise UserError(setting, problem, remedy)
                lines.append(line)
            yield [[row[place] for _, row in batch] for place in wanted.values()]

    kept = _keep_texts(list(wanted), batches(), target)
    if not lines:
        raise UserError(setting, f"{path} has a header but no rows", "name a file with rows")
    return Table(str(path), names, kept, lines)


def _keep_texts(names: Sequence[str], batches: Iterator[list[list[str]]], target: Path) -> dict[str, pa.ChunkedArray]:
    """Write columns of strings to a file, and return them as they are there."""
    schema = pa.schema([(name, TEXT) for name in names])
    records = (pa.record_batch([pa.array(column, TEXT) for column in batch], schema=schema) for batch in batches)
    write_table(target, schema, records)
    table = map_table(target)
    return {name: table.column(name) for name in names}


def _refuse_duplicates(path: Path, names: list[str], setting: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(setting, f"{path} has several columns called '{twice[0]}'", "rename or remove them")


def _read_json_lines(path: Path, columns: Sequence[str], target: Path, setting: str) -> Table:
    columns = list(dict.fromkeys(columns))
    names: dict[str, None] = {}
    lines = array("q")

    def batches() -> Iterator[list[list[str]]]:
        filled = ((number, line) for number, line in _numbered_lines(path) if line.strip())
        while batch := list(islice(filled, BATCH_ROWS)):
            rows = [_json_object(path, number, line, setting) for number, line in batch]
            names.update(dict.fromkeys(name for row in rows for name in row))
            lines.extend(number for number, _ in batch)
            yield [[json.dumps(row.get(name)) for row in rows] for name in columns]

    kept = _keep_texts(columns, batches(), target)
    if not lines:
        raise UserError(setting, f"{path} is empty", "name a file with rows")
    # Which columns there are is known at the end.
    return Table(str(path), list(names), {name: kept[name] for name in columns if name in names}, lines, is_json=True)


def _json_object(path: Path, number: int, line: str, setting: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        problem = f"{path}, line {number}: not JSON ({error})"
        raise UserError(setting, problem, "write one whole JSON object on each line") from error
    if not isinstance(row, dict):
        problem = f"{path}, line {number}: a JSON {type(row).__name__}, not an object"
        raise UserError(setting, problem, 'write one object on each line, like {"text": "...", "label": "..."}')
    return row


def _read_parquet(path: Path, columns: Sequence[str], target: Path, setting: str) -> Table:
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _refuse_duplicates(path, names, setting)
            num_rows = file.metadata.num_rows
            wanted = [name for name in columns if name in names]
            schema = pa.schema([file.schema_arrow.field(name) for name in wanted])
            batches = file.iter_batches(BATCH_ROWS, columns=wanted) if wanted else iter(())
            write_table(target, schema, (_valid(batch, schema) for batch in batches))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(setting, f"cannot read {path}: {error}", "check that it is a whole Parquet file") from error
    if not num_rows:
        raise UserError(setting, f"{path} has no rows", "name a file with rows")
    table = map_table(target)
    return Table(str(path), names, {name: table.column(name) for name in wanted})


def _valid(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """
    Raises:
        pa.ArrowInvalid: A string is not UTF-8.
    """
    batch.validate(full=True)
    return pa.record_batch([batch.column(field.name) for field in schema], schema=schema)
