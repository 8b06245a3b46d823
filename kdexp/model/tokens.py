"""The tokens of a split: made once for each text, tokenizer and length, and mapped from the cache."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
from datasets import Dataset
from transformers.tokenization_utils_base import BatchEncoding, PreTrainedTokenizerBase

from kdexp.arrow import Column, Ragged, Rows, column_values, write_table
from kdexp.cache import Cache
from kdexp.fingerprint import library_versions
from kdexp.task.kinds.base import NUM_UNITS, UNITS, TaskKind
from kdexp.task.split import Split

_TYPES = {
    "input_ids": pa.list_(pa.int32()),
    "token_type_ids": pa.list_(pa.int8()),
    UNITS: pa.list_(pa.int32()),
    NUM_UNITS: pa.int32(),
}


@dataclass(frozen=True)
class Tokens:
    """The tokens of one split: a row per text or pair.

    Attributes:
        data: Columns as the tokenizer names them: `input_ids`, and `token_type_ids` where it has them; `UNITS` and
            `NUM_UNITS` where a row has several units. The attention mask is all ones until a batch is padded, and is
            made then.
        num_truncated: Rows that were longer than the model reads.
    """

    data: Dataset
    num_truncated: int

    def __len__(self) -> int:
        return len(self.data)

    @cached_property
    def columns(self) -> dict[str, Column]:
        return {name: Ragged(self.data.data.column(name)) for name in self.data.column_names if name != NUM_UNITS}

    @property
    def inputs(self) -> dict[str, Column]:
        """What a model's forward takes."""
        return {name: values for name, values in self.columns.items() if name != UNITS}

    @cached_property
    def num_units(self) -> np.ndarray | None:
        """[rows], how many units each row has; None where each row is one."""
        if NUM_UNITS not in self.data.column_names:
            return None
        return np.asarray(column_values(self.data.data.column(NUM_UNITS))).astype(np.int64)

    @property
    def num_read(self) -> int:
        """Units that a token answers for."""
        return int((np.asarray(self.columns[UNITS].flat) >= 0).sum()) if UNITS in self.columns else len(self)  # type: ignore[union-attr]

    def rows(self, **columns: Column) -> Rows:
        """Rows with further columns, such as `labels`, one value per row."""
        return Rows(self.columns | columns)

    def largest(self, name: str) -> int:
        """The largest number in a column; 0 where there is none."""
        if name not in self.data.column_names:
            return 0
        return pc.max(pc.list_flatten(self.data.data.column(name))).as_py() or 0


def tokenize(
    tokenizer: PreTrainedTokenizerBase, split: Split, max_length: int, kind: TaskKind, cache: Cache
) -> Tokens:
    """Tokenize a split with one model's own tokenizer, cutting what is longer than it reads; each text only once.

    Raises:
        UserError: The cache cannot be used.
    """

    def build(target: Path, work: Path) -> None:
        own = {UNITS, NUM_UNITS} if kind.has_units else set()
        names = [name for name in _TYPES if name in {*tokenizer.model_input_names, *own}]
        num_truncated = 0

        def batches() -> Iterator[pa.RecordBatch]:
            nonlocal num_truncated
            for tokens in tokenized(tokenizer, split, max_length, kind):
                num_truncated += count_truncated(tokens)
                yield pa.record_batch({name: pa.array(tokens[name], _TYPES[name]) for name in names})

        write_table(target / "tokens.arrow", pa.schema([(name, _TYPES[name]) for name in names]), batches())
        (target / "facts.json").write_text(json.dumps({"num_truncated": num_truncated}), encoding="utf-8")

    parts = {
        "text": split.text_digest,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "max_length": max_length,
        "units": kind.name if kind.has_units else False,
        "versions": library_versions(),
    }

    def load(path: Path) -> Tokens:
        facts = json.loads((path / "facts.json").read_text(encoding="utf-8"))
        tokens = Tokens(Dataset.from_file(str(path / "tokens.arrow")), int(facts["num_truncated"]))
        if len(tokens) != len(split):
            raise ValueError(f"{len(tokens)} rows of {len(split)}")
        return tokens

    return cache.loaded("tokens", parts, build, load)[1]


def tokenized(
    tokenizer: PreTrainedTokenizerBase, split: Split, max_length: int, kind: TaskKind
) -> Iterator[BatchEncoding]:
    """What the tokenizer makes of a split, a batch of rows at a time."""
    for first, second in split.text_batches():
        yield kind.tokenize(tokenizer, first, second, max_length)


def count_truncated(tokens: BatchEncoding) -> int:
    """Rows that were cut."""
    return sum(bool(encoding.overflowing) for encoding in tokens.encodings or ())


def longest_first(rows: Rows) -> np.ndarray:
    """Order rows by falling length, so that little is padded; those of one length stay in their order."""
    return np.argsort(-rows.lengths, kind="stable")


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of a fast tokenizer's whole behaviour."""
    # The backend remembers the truncation and padding of its last call; they are not the tokenizer's own.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    own = [list(tokenizer.model_input_names), tokenizer.padding_side, tokenizer.truncation_side]
    return hashlib.sha256((tokenizer.backend_tokenizer.to_str() + json.dumps(own)).encode()).hexdigest()
