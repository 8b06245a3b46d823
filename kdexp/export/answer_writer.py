"""Answers as CSV, JSON lines or Parquet, a chunk of rows at a time; a file is there whole or not at all."""

import csv
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from kdexp.errors import UserError

_SUFFIXES = (".csv", ".jsonl", ".parquet")

Rows = Sequence[dict[str, Any]]


class AnswerWriter(Protocol):
    """What answers are written to."""

    def write(self, rows: Rows) -> None:
        """Write some rows behind those that are there; all have the columns of the first."""

    def close(self) -> None:
        """Write what is left."""


class _CsvWriter:
    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._writer: Any = None

    def write(self, rows: Rows) -> None:
        if self._writer is None:
            self._writer = csv.DictWriter(self._file, list(rows[0]), lineterminator="\n")
            self._writer.writeheader()
        for row in rows:
            self._writer.writerow({name: _cell(value) for name, value in row.items()})

    def close(self) -> None:
        self._file.flush()


def _cell(value: Any) -> Any:
    """Lists as JSON, truth values as people write them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value


class _JsonWriter:
    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, rows: Rows) -> None:
        for row in rows:
            self._file.write(json.dumps(row, ensure_ascii=False, default=float) + "\n")

    def close(self) -> None:
        self._file.flush()


class _ParquetWriter:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: Any = None

    def write(self, rows: Rows) -> None:
        import pyarrow as pa  # type: ignore[import-untyped]
        import pyarrow.parquet as pq  # type: ignore[import-untyped]

        table = pa.Table.from_pylist(list(rows), schema=self._writer.schema if self._writer else None)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema)
        self._writer.write_table(table)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


@contextmanager
def open_writer(out: str | None) -> Iterator[AnswerWriter]:
    """Open what answers are written to; without a file, CSV on the standard output.

    Raises:
        UserError: The file is of no known kind, or cannot be written.
    """
    if out is None:
        yield _CsvWriter(sys.stdout)
        sys.stdout.flush()
        return
    path = Path(out).expanduser()
    if path.suffix not in _SUFFIXES:
        raise UserError("--out", f"got {out}", f"expected a file that ends in one of {', '.join(_SUFFIXES)}")
    part = path.with_name(f"{path.name}.part")
    try:
        stream = part.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise UserError("--out", f"cannot write {path} ({error.strerror})", "name another file") from error
    try:
        with stream:
            writer: AnswerWriter
            match path.suffix:
                case ".csv":
                    writer = _CsvWriter(stream)
                case ".jsonl":
                    writer = _JsonWriter(stream)
                case _:
                    writer = _ParquetWriter(part)
            yield writer
            writer.close()
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
