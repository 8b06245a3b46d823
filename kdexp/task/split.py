"""One split of a task: texts and labels, in an Arrow table that is mapped from its file."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
from datasets import Dataset
from datasets.table import InMemoryTable

from kdexp.arrow import BATCH_ROWS, TEXT, column_values, values_of, write_table
from kdexp.fingerprint import texts_fingerprint

_TEXT, _PAIR, _LABEL, _ID = "text", "text_pair", "label", "id"


@dataclass(frozen=True)
class Texts(Collection[str]):
    """Columns of text, one after another: read a batch at a time, and as often as wanted."""

    columns: tuple[pa.ChunkedArray, ...]

    def __len__(self) -> int:
        return sum(len(column) for column in self.columns)

    def __iter__(self) -> Iterator[str]:
        for column in self.columns:
            for values in values_of(column):
                yield from values

    def __contains__(self, text: object) -> bool:
        return any(text == held for held in self)


@dataclass(frozen=True, eq=False)
class Split:
    """The rows of one split. Two splits are equal when they have the same content.

    Attributes:
        data: Columns `text`, `text_pair` (of pairs) and `label` (where labelled: class indices, int64, or what
            another kind of task has).
    """

    data: Dataset

    @classmethod
    def from_lists(
        cls, first: Sequence[str], second: Sequence[str] | None = None, labels: Sequence | np.ndarray | None = None
    ) -> "Split":
        """A small split, in memory."""
        columns = {_TEXT: pa.array(first, TEXT)}
        if second is not None:
            columns[_PAIR] = pa.array(second, TEXT)
        if labels is not None:
            columns[_LABEL] = pa.array(labels)
        return cls(Dataset(InMemoryTable.from_pydict(columns)))

    @classmethod
    def from_file(cls, path: Path) -> "Split":
        """A split that `write_split` or `write` wrote, mapped."""
        return cls(Dataset.from_file(str(path)))

    def __len__(self) -> int:
        return len(self.data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Split) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def is_pair(self) -> bool:
        return _PAIR in self.data.column_names

    @property
    def has_ids(self) -> bool:
        """Whether its rows have names of their own, by which answers from elsewhere can be joined."""
        return _ID in self.data.column_names

    @property
    def is_labelled(self) -> bool:
        return _LABEL in self.data.column_names

    @property
    def first(self) -> Texts:
        return Texts((self._column(_TEXT),))

    @property
    def second(self) -> Texts | None:
        """The other text of each pair; None when the task has single texts."""
        return Texts((self._column(_PAIR),)) if self.is_pair else None

    @property
    def texts(self) -> Texts:
        """All texts: of pairs the first of each, then the second of each."""
        return Texts(tuple(self._column(name) for name in self._text_names))

    @cached_property
    def labels(self) -> Any:
        """[rows], an array, or `Ragged` where each row has a list of labels; None when the rows are unlabelled."""
        return column_values(self._column(_LABEL)) if self.is_labelled else None

    @cached_property
    def text_digest(self) -> str:
        """SHA-256 of the texts, which does not depend on how they are stored."""
        return texts_fingerprint(self.first, self.second)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of texts and labels."""
        digest = hashlib.sha256(self.text_digest.encode())
        if self.is_labelled:
            column = self._column(_LABEL)
            digest.update(str(column.type).encode())
            # Of equal slices: how the file was cut into chunks must not count.
            for start in range(0, len(column), BATCH_ROWS):
                _add(digest, pa.concat_arrays(column.slice(start, BATCH_ROWS).chunks))
        return digest.hexdigest()

    @cached_property
    def text_keys(self) -> np.ndarray:
        """128 bits for each row, equal where the texts are equal up to the white space around them: [rows]."""
        # Copies of a data set differ in this white space.
        keys = (
            hashlib.blake2b("\0".join([str(len(row[0].strip())), *map(str.strip, row)]).encode(), digest_size=16)
            for batch in self._batches(self._text_names, BATCH_ROWS)
            for row in zip(*batch, strict=True)
        )
        return np.fromiter((key.digest() for key in keys), dtype="S16", count=len(self))

    @cached_property
    def id_keys(self) -> np.ndarray:
        """128 bits for each row's name: [rows]."""
        return id_keys(Texts((self._column(_ID),)))

    def text_batches(self, size: int = BATCH_ROWS) -> Iterator[tuple[list[str], list[str] | None]]:
        """First and second texts of `size` rows at a time; the second are None when the task has single texts."""
        for first, *second in self._batches(self._text_names, size):
            yield first, second[0] if second else None

    def head(self, count: int) -> list[str] | list[tuple[str, str]]:
        """A few examples, pairs as tuples."""
        first = list(islice(self.first, count))
        return first if self.second is None else list(zip(first, islice(self.second, count), strict=True))

    def sample(self, count: int) -> tuple[list[str], list[str] | None]:
        """First and second texts of at most `count` rows, from all over the split: a file may be sorted."""
        rows = np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int)).tolist()
        first, *second = ([self._column(name)[row].as_py() for row in rows] for name in self._text_names)
        return first, second[0] if second else None

    def write(self, path: Path, rows: np.ndarray, *, with_labels: bool = True) -> None:
        """Write some rows to a file of their own, where they lie together: reading them stays as quick as it was.

        Args:
            rows: Indices, ascending, each once.
        """
        table = self.data.data.table
        if not with_labels:
            table = table.select([*self._text_names, *([_ID] if self.has_ids else [])])
        write_table(path, table.schema, _selected(table, rows))

    @property
    def _text_names(self) -> list[str]:
        return [_TEXT, _PAIR] if self.is_pair else [_TEXT]

    def _column(self, name: str) -> pa.ChunkedArray:
        return self.data.data.column(name)

    def _batches(self, names: Sequence[str], size: int) -> Iterator[list[list[str]]]:
        columns = [self._column(name) for name in names]
        for start in range(0, len(self), size):
            yield [column.slice(start, size).to_pylist() for column in columns]


def rows_within(split: Split, whole: Split) -> np.ndarray:
    """[rows], where each row of a split lies in another one that has the same texts and more."""
    keys = whole.text_keys
    order = np.argsort(keys, kind="stable")
    return order[np.searchsorted(keys, split.text_keys, sorter=order)]


def id_keys(ids: Collection[str]) -> np.ndarray:
    """128 bits for each name of a row: [rows]."""
    keys = (hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest() for name in ids)
    return np.fromiter(keys, dtype="S16", count=len(ids))


Shard = tuple[Sequence[Iterable[list[str]]], Sequence | np.ndarray | pa.Array | None]
"""One or two columns of texts, as batches of values that begin and end at the same rows, and all their labels."""


def write_split(path: Path, shards: Sequence[Shard], ids: Sequence[str] | None = None) -> Split:
    """Write texts and labels to a file, one shard after another.

    Args:
        ids: Names of the rows, of one shard.
    """
    texts, labels = shards[0]
    fields = [(name, TEXT) for name, _ in zip((_TEXT, _PAIR), texts, strict=False)]
    if labels is not None:
        fields.append((_LABEL, labels.type if isinstance(labels, pa.Array) else pa.array(labels).type))
    if ids is not None:
        fields.append((_ID, TEXT))
    schema = pa.schema(fields)
    write_table(path, schema, (record for shard in shards for record in _records(shard, schema, ids)))
    return Split.from_file(path)


def _records(shard: Shard, schema: pa.Schema, ids: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    texts, labels = shard
    start = 0
    for batch in zip(*texts, strict=True):
        columns = [pa.array(values, TEXT) for values in batch]
        if labels is not None:
            part = labels[start : start + len(batch[0])]
            columns.append(part if isinstance(part, pa.Array) else pa.array(part, schema.field(_LABEL).type))
        if ids is not None:
            columns.append(pa.array(ids[start : start + len(batch[0])], TEXT))
        start += len(batch[0])
        yield pa.record_batch(columns, schema=schema)


def _selected(table: pa.Table, rows: np.ndarray) -> Iterator[pa.RecordBatch]:
    """Batches of these rows, each of about `BATCH_ROWS`."""
    pieces: list[pa.RecordBatch] = []
    start = 0
    for batch in table.to_batches():
        inside = rows[slice(*np.searchsorted(rows, [start, start + len(batch)]))] - start
        start += len(batch)
        pieces.append(batch.take(pa.array(inside)))
        if sum(map(len, pieces)) >= BATCH_ROWS:
            yield pa.concat_batches(pieces)
            pieces = []
    if pieces:
        yield pa.concat_batches(pieces)


def _add(digest: "hashlib._Hash", values: pa.Array) -> None:
    """Hash numbers, texts, or lists of them."""
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        digest.update(np.asarray(pc.list_value_length(values)).astype(np.int64).tobytes())
        _add(digest, values.flatten())
    elif pa.types.is_primitive(values.type):
        digest.update(np.asarray(values).tobytes())
    else:
        digest.update(texts_fingerprint([str(value) for value in values.to_pylist()]).encode())
