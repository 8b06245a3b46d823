"""Arrow files: written a batch of rows at a time, mapped into memory, and read through their buffers.

A million rows so cost disk, and not memory: what is mapped from a file belongs to the operating system, which takes
it back when it needs room.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import torch
from torch import Tensor

BATCH_ROWS = 1000
"""Rows that are in memory at a time where a whole column is read or written."""

TEXT = pa.large_string()
"""Offsets of 64 bits: a batch of long texts may have more than 2 GB."""


def write_table(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write record batches as an Arrow stream, which `datasets.Dataset.from_file` opens too."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def map_table(path: Path) -> pa.Table:
    """Open what `write_table` wrote, without reading it into memory."""
    return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()


def values_of(column: pa.ChunkedArray) -> Iterator[list[Any]]:
    """The values of a column as Python objects, at most `BATCH_ROWS` at a time."""
    for chunk in column.chunks:
        for start in range(0, len(chunk), BATCH_ROWS):
            yield chunk.slice(start, BATCH_ROWS).to_pylist()


class Ragged:
    """A column of lists, read through the Arrow buffers: `ragged[5]` is an array, a view of them."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column
        self._starts = [0, *accumulate(len(chunk) for chunk in column.chunks)]
        # Single numbers come out of a memoryview more quickly than out of an array.
        self._chunks = [(memoryview(chunk.offsets.to_numpy()), np.asarray(chunk.values)) for chunk in column.chunks]

    def __reduce__(self) -> tuple[type["Ragged"], tuple[pa.ChunkedArray]]:
        return Ragged, (self._column,)

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def lengths(self) -> np.ndarray:
        """[rows]"""
        return np.concatenate([np.empty(0, np.int32), *(np.diff(offsets) for offsets, _ in self._chunks)])

    @property
    def flat(self) -> np.ndarray:
        """The values of all rows, one row after another."""
        return np.concatenate([values[offsets[0] : offsets[-1]] for offsets, values in self._chunks])

    def __getitem__(self, row: int) -> np.ndarray:
        index = bisect_right(self._starts, row) - 1
        offsets, values = self._chunks[index]
        row -= self._starts[index]
        return values[offsets[row] : offsets[row + 1]]


def column_values(column: pa.ChunkedArray) -> np.ndarray | Ragged:
    """A column of numbers as one array, of lists of numbers as `Ragged`."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return Ragged(column)
    if column.num_chunks == 1:
        return np.asarray(column.chunk(0))
    return np.asarray(column)


Column = np.ndarray | Tensor | Ragged | Sequence[Any]
"""What has a value per row."""


class Rows:
    """Columns side by side, as a `torch` dataset of which each row is a dictionary.

    A row is made when it is asked for, of plain integers and lists, which is what a tokenizer pads, and of views of
    tensors.

    Args:
        parts: One after another, such as the training split and the transfer text; all with the same columns.
    """

    def __init__(self, *parts: Mapping[str, Column]) -> None:
        self._parts = [dict(part) for part in parts]
        self._starts = [0, *accumulate(_num_rows(part) for part in self._parts)]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, row: int) -> dict[str, Any]:
        # An IndexError ends a loop over the rows.
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Several rows at once, which is how a `DataLoader` asks for a batch."""
        if len(self._parts) == 1:
            return _dictionaries(self._parts[0], rows)
        found: list[dict[str, Any]] = [{} for _ in rows]
        for part, start, end in zip(self._parts, self._starts, self._starts[1:], strict=False):
            places = [place for place, row in enumerate(rows) if start <= row < end]
            for place, row in zip(places, _dictionaries(part, [rows[place] - start for place in places]), strict=True):
                found[place] = row
        return found

    @property
    def part_sizes(self) -> list[int]:
        """Rows of each part."""
        return [end - start for start, end in zip(self._starts, self._starts[1:], strict=False)]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, [rows]: of `input_ids`, which must be `Ragged`."""
        columns = [part["input_ids"] for part in self._parts]
        return np.concatenate([column.lengths for column in columns if isinstance(column, Ragged)])


def _num_rows(columns: Mapping[str, Column]) -> int:
    """
    Raises:
        ValueError: The columns are not of one length.
    """
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"columns of different lengths: {lengths}")
    return next(iter(lengths.values()))


def _dictionaries(columns: Mapping[str, Column], rows: Sequence[int]) -> list[dict[str, Any]]:
    values = zip(*(_take(column, rows) for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in values]


def _take(column: Column, rows: Sequence[int]) -> Sequence[Any]:
    if isinstance(column, Ragged):
        return [column[row].tolist() for row in rows]
    if isinstance(column, Tensor):
        return column.index_select(0, torch.tensor(rows, dtype=torch.long)).unbind()
    if isinstance(column, np.ndarray):
        return column[rows].tolist()
    return [column[row] for row in rows]
