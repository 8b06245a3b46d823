"""Texts from a file, from the command line or from the standard input, one row after another."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdexp.errors import UserError
from kdexp.task.tables.source import COMPRESSED_SUFFIXES, Source, separator_hint

CHUNK_ROWS = 512
_TEXT, _PAIR = "text", "text_pair"
_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".txt")


@dataclass(frozen=True)
class TextSource:
    """Rows to answer.

    Attributes:
        rows: Each with all the columns that came.
        columns: Which hold the text and, of pairs, the second text.
        num_rows: 0 where that is not known before.
    """

    rows: Iterable[dict[str, Any]]
    columns: Sequence[str]
    num_rows: int = 0

    def inputs(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What the student is asked of a row."""
        return {name: row.get(column) for name, column in zip((_TEXT, _PAIR), self.columns, strict=False)}


def open_texts(words: Sequence[str], columns: Sequence[str] | None) -> TextSource:
    """Where the texts come from: a file, if one word names one; else these words; else the standard input.

    Args:
        columns: Of a file; None takes `text` and, where there is one, `text_pair`.

    Raises:
        UserError: The file or a column is not there, or the file is of no known kind.
    """
    if columns is not None and not 1 <= len(columns) <= 2:
        raise UserError("--text", f"got {','.join(columns)}", "expected one column, or two of pairs: --text a,b")
    if len(words) == 1 and (_suffix(Path(words[0])) in _SUFFIXES or Path(words[0]).is_file()):
        return _from_file(Path(words[0]).expanduser(), columns)
    if columns is not None:
        raise UserError("--text", "names columns, but no file is read", "leave it out, or name a file")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # told with its row, not by a traceback
    lines: Iterable[str] = words or (line.rstrip("\r\n") for line in sys.stdin)
    if not words and sys.stdin.isatty():
        raise UserError("predict", "got no texts", "name a file, write texts, or pipe them in, one a line")
    return _from_lines(lines, len(words))


def _suffix(path: Path) -> str:
    """`.csv` of `a.csv`, and of `a.csv.gz`."""
    return Path(path.stem).suffix if path.suffix in COMPRESSED_SUFFIXES else path.suffix


def _from_lines(lines: Iterable[str], num_rows: int) -> TextSource:
    """A text a line; of pairs the two with a tab between them."""
    iterator = iter(lines)
    first = next(iterator, None)
    if first is None:
        raise UserError("predict", "got no texts", "name a file, write texts, or pipe them in, one a line")
    names = (_TEXT, _PAIR) if "\t" in first else (_TEXT,)

    def rows() -> Iterator[dict[str, Any]]:
        for line in (first, *iterator) if num_rows else _chain(first, iterator):
            yield dict(zip(names, line.split("\t", 1) if len(names) == 2 else [line], strict=False))

    return TextSource(rows(), names, num_rows)


def _chain(first: str, others: Iterator[str]) -> Iterator[str]:
    yield first
    yield from others


def _from_file(path: Path, columns: Sequence[str] | None) -> TextSource:
    if not path.is_file():
        raise UserError("predict", f"no file {path}", "name one that is there, or quote a text that ends like a file")
    readers: dict[str, Callable[[Source], tuple[Iterator[dict[str, Any]], int]]] = {
        ".csv": _delimited,
        ".tsv": _delimited,
        ".jsonl": _json_lines,
        ".txt": _plain,
    }
    source = Source(path, "predict", has_encoding_setting=False)
    if path.suffix == ".parquet":
        rows, num_rows = _parquet(path)
    elif _suffix(path) in readers:
        source.refuse_unreadable()
        rows, num_rows = readers[_suffix(path)](source)
    else:
        raise UserError("predict", f"{path.name} is no table", f"expected one of {', '.join(_SUFFIXES)}")
    first = next(rows, None)
    if first is None:
        raise UserError("predict", f"{path} has no rows", "expected a header, and a row for each text")
    found = columns or [name for name in (_TEXT, _PAIR) if name in first]
    missing = [name for name in found or [_TEXT] if name not in first]
    if missing:
        names = ", ".join(map(str, first))
        hint = separator_hint(names) if len(first) == 1 and _suffix(path) == ".csv" else ""
        known = f"expected one of {names}" + (f" ({hint})" if hint else "")
        raise UserError("--text", f"{path.name} has no column '{missing[0]}'", known)
    return TextSource(_rest(first, rows), found, num_rows)


def _rest(first: dict[str, Any], rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield first
    yield from rows


def _delimited(source: Source) -> tuple[Iterator[dict[str, Any]], int]:
    csv.field_size_limit(2**31 - 1)
    is_tsv = _suffix(source.path) == ".tsv"
    dialect: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if is_tsv else {}

    def lines() -> Iterator[list[str]]:
        with source.open_text(newline="") as file:
            yield from csv.reader(file, **dialect)

    def rows() -> Iterator[dict[str, Any]]:
        all_lines = lines()
        header = next(all_lines, None) or []
        for number, line in enumerate(all_lines, start=2):
            if not line:
                continue
            if len(line) != len(header):
                problem = f"row {number} of {source.path.name} has {len(line)} fields, and the header {len(header)}"
                raise UserError("predict", problem, "quote fields that hold the separator")
            yield dict(zip(header, line, strict=True))

    return rows(), max(sum(1 for line in lines() if line) - 1, 0)


def _json_lines(source: Source) -> tuple[Iterator[dict[str, Any]], int]:
    def rows() -> Iterator[dict[str, Any]]:
        with source.open_text(newline=None) as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError:
                    row = None
                if not isinstance(row, dict):
                    problem = f"line {number} of {source.path.name} is no JSON object"
                    raise UserError("predict", problem, "write one a line")
                yield row

    with source.open_bytes() as file:
        return rows(), sum(1 for line in file if line.strip())


def _parquet(path: Path) -> tuple[Iterator[dict[str, Any]], int]:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        table = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise UserError("predict", f"{path} is no Parquet file ({error})", "write it anew") from error

    def rows() -> Iterator[dict[str, Any]]:
        for batch in table.iter_batches(batch_size=CHUNK_ROWS):
            yield from batch.to_pylist()

    return rows(), table.metadata.num_rows


def _plain(source: Source) -> tuple[Iterator[dict[str, Any]], int]:
    def rows() -> Iterator[dict[str, Any]]:
        with source.open_text(newline=None) as file:
            for line in file:
                yield {_TEXT: line.rstrip("\r\n")}

    with source.open_bytes() as file:
        return rows(), sum(1 for _ in file)
