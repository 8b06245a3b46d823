"""A model with its own tokenizer: its tokens of a split, and what it answers."""

import copy
import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import DataCollatorWithPadding, PretrainedConfig, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from kdexp.cache import Cache
from kdexp.fingerprint import weights_fingerprint
from kdexp.hardware import Hardware
from kdexp.progress import progress
from kdexp.task.kind import UNITS, Answers, TaskKind
from kdexp.task.split import Split


@dataclass(frozen=True)
class Encoder:
    """A model, its tokenizer, and the number of tokens at which its texts are cut.

    Attributes:
        answers_task: The classification head came with the checkpoint; otherwise it is newly made.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    answers_task: bool

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def copy(self) -> "Encoder":
        """The same with weights of its own."""
        return replace(self, model=copy.deepcopy(self.model))

    def save(self, folder: Path) -> None:
        """Write model and tokenizer as `save_pretrained` does."""
        self.model.to("cpu").save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def fingerprint(self) -> str:
        """SHA-256 of all that decides how this model answers and learns, wherever it was loaded from."""
        config = self.model.config.to_dict()
        for provenance in ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"):
            config.pop(provenance, None)
        parts = [
            json.dumps(config, sort_keys=True, default=str),
            weights_fingerprint(self.model.state_dict()),
            tokenizer_fingerprint(self.tokenizer),
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def model_class(kind: TaskKind) -> Any:
    """The class of transformers that makes models with the kind's head."""
    return getattr(transformers, f"AutoModel{kind.head}")


def label_names(config: PretrainedConfig) -> list[str]:
    """Names of a model's outputs, in the order of its logits."""
    return [str(config.id2label[index]) for index in range(config.num_labels)]


def accepted_inputs(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs that the model's forward names; a DistilBERT, say, has no token_type_ids."""
    accepted = inspect.signature(model.forward).parameters
    return {name: value for name, value in inputs.items() if name in accepted}


@dataclass(frozen=True)
class Tokens:
    """The tokens of one split: a row per text or pair, as the tokenizer names its columns.

    Attributes:
        num_truncated: Rows that were longer than the model reads.
    """

    rows: list[dict[str, list[int]]]
    num_truncated: int

    def __len__(self) -> int:
        return len(self.rows)

    def largest(self, column: str) -> int:
        """The largest value of a column; 0 where there is no such column."""
        return max(max(row.get(column, [0])) for row in self.rows)

    def with_columns(self, **columns: Any) -> list[dict[str, Any]]:
        """Rows with further columns, such as `labels`, one value per row."""
        return [
            row | dict(zip(columns, values, strict=True))
            for row, *values in zip(self.rows, *columns.values(), strict=True)
        ]


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of a fast tokenizer's whole behaviour."""
    # The backend remembers the truncation and padding of its last call; they are not the tokenizer's own.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    own = [list(tokenizer.model_input_names), tokenizer.padding_side, tokenizer.truncation_side]
    return hashlib.sha256((tokenizer.backend_tokenizer.to_str() + json.dumps(own)).encode()).hexdigest()


def tokenize(reader: Encoder, split: Split, kind: TaskKind, cache: Cache) -> Tokens:
    """Tokenize a split with one model's own tokenizer, cutting what is longer than it reads.

    What was encoded last is remembered, because a sweep's jobs read the same text: never change rows in place.
    """
    if not len(split):
        return Tokens([], 0)
    second = None if split.second is None else tuple(split.second)
    tokenizer = _Tokenizer(tokenizer_fingerprint(reader.tokenizer), reader.tokenizer, kind)
    return _tokenize(tokenizer, tuple(split.first), second, reader.max_length)


@dataclass(frozen=True)
class _Tokenizer:
    """A tokenizer that equals another of the same behaviour."""

    fingerprint: str
    itself: PreTrainedTokenizerBase = field(compare=False)
    kind: TaskKind = field(compare=False)


@lru_cache(maxsize=8)
def _tokenize(
    tokenizer: _Tokenizer, first: tuple[str, ...], second: tuple[str, ...] | None, max_length: int
) -> Tokens:
    tokens = tokenizer.kind.tokenize(tokenizer.itself, first, second, max_length)
    names = list(tokens.keys())
    rows = [dict(zip(names, values, strict=True)) for values in zip(*tokens.values(), strict=True)]
    return Tokens(rows, sum(bool(encoding.overflowing) for encoding in getattr(tokens, "encodings", None) or []))


def predict(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tokens: Tokens,
    hardware: Hardware,
    *,
    batch_size: int,
    description: str,
) -> Answers:
    """What a model answers.

    Rows are sorted by length, so that little is padded, and come back in their own order.

    Returns:
        [units, outputs], float32, on the CPU.
    """
    collate = DataCollatorWithPadding(tokenizer)
    order = sorted(range(len(tokens)), key=lambda index: -len(tokens.rows[index]["input_ids"]))
    has_units = len(tokens) > 0 and UNITS in tokens.rows[0]
    by_row: list[Tensor] = [torch.empty(0)] * len(order)
    model.to(hardware.device).eval()
    with progress(description, len(order)) as advance, torch.inference_mode(), hardware.autocast():
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            rows = [dict(tokens.rows[index]) for index in indices]
            units = [torch.tensor(row.pop(UNITS), dtype=torch.bool) for row in rows] if has_units else []
            inputs = {name: value.to(hardware.device) for name, value in collate(rows).items()}
            logits = model(**accepted_inputs(model, inputs)).logits.float().cpu()
            for place, index in enumerate(indices):
                by_row[index] = _unit_logits(logits[place], units[place], tokenizer) if units else logits[place]
            advance(len(indices))
    if not has_units:
        return Answers(torch.stack(by_row) if by_row else torch.empty(0, model.config.num_labels))
    return Answers(torch.cat(by_row), np.array([len(row) for row in by_row]))


def _unit_logits(logits: Tensor, units: Tensor, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """[units, outputs] of one row's [tokens, outputs], padding included."""
    own = logits[-len(units) :] if tokenizer.padding_side == "left" else logits[: len(units)]
    return own[units]
