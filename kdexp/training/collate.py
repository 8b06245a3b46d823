"""Rows to batches: which columns are the teacher's, and how each model's tokens are padded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from torch import Tensor
from transformers import DataCollatorWithPadding
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from kdexp.loss.base import IGNORED_LABEL
from kdexp.loss.features import FeatureTerms
from kdexp.model.alignment import NO_WORD, align, pad_words
from kdexp.task.kind import UNITS

TEACHER_PREFIX = "teacher_"
"""Columns of a batch that belong to the teacher: `teacher_logits`, or `teacher_input_ids` and the like."""

WORDS = "word_ids"
"""Column of the word of each token, the student's; with `TEACHER_PREFIX` the teacher's."""

WORD_MASK = "word_mask"
"""Of a batch: [batch, words], true where a row has a word of that number."""

FEATURES = "features"
"""Column, with `TEACHER_PREFIX`, of the teacher's features of a row, computed beforehand."""


class DistillationCollator:
    """Pads the student's and the teacher's columns apart, each with its own tokenizer."""

    def __init__(
        self,
        student_collator: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
        teacher_tokenizer: PreTrainedTokenizerBase | None,
        student_padding_side: str = "right",
    ) -> None:
        self.student_collator = student_collator
        self.student_padding_side = student_padding_side
        self.teacher_tokenizer = teacher_tokenizer

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        student_rows, teacher_rows = zip(*(split_row(row) for row in rows), strict=True)
        words, units = _take(student_rows, WORDS), _take(student_rows, UNITS)
        labels = _take(student_rows, "labels") if units else []
        batch: dict[str, Any] = dict(self.student_collator(list(student_rows)))
        if units:
            num_tokens = batch["input_ids"].shape[1]
            batch[UNITS] = pad_words(units, num_tokens, self.student_padding_side, value=0).bool()
        if labels:
            batch["labels"] = pad_words(labels, max(map(len, labels)), "right", value=IGNORED_LABEL)
        if words:
            batch[WORDS] = pad_words(words, batch["input_ids"].shape[1], self.student_padding_side)
            # Here, on the CPU: on a GPU the number of words would have to be waited for.
            num_words = batch[WORDS].max(dim=1, keepdim=True).values + 1
            batch[WORD_MASK] = torch.arange(int(num_words.max())) < num_words
        logits = _take(teacher_rows, "logits")
        if logits:
            # Of rows with several units, one after another.
            join = torch.cat if units else torch.stack
            batch[TEACHER_PREFIX + "logits"] = join([torch.as_tensor(row) for row in logits])
        features = _take(teacher_rows, FEATURES)
        if features:
            batch[TEACHER_PREFIX + FEATURES] = {
                name: stack_padded([row[name] for row in features]) for name in features[0]
            }
        words = _take(teacher_rows, WORDS)
        if teacher_rows[0]:
            if self.teacher_tokenizer is None:
                raise ValueError("the dataset holds teacher tokens: pass teacher_processing_class to pad them")
            for name, value in DataCollatorWithPadding(self.teacher_tokenizer)(list(teacher_rows)).items():
                batch[TEACHER_PREFIX + name] = value
            if words:
                num_tokens = batch[TEACHER_PREFIX + "input_ids"].shape[1]
                batch[TEACHER_PREFIX + WORDS] = pad_words(words, num_tokens, self.teacher_tokenizer.padding_side)
        return batch


def _take(rows: Sequence[dict[str, Any]], column: str) -> list[Any]:
    """Take a column out of the rows; empty where they have none."""
    return [row.pop(column) for row in rows if column in row]


def stack_padded(tensors: Sequence[Tensor]) -> Tensor:
    """Stack tensors whose sizes differ, with zeros where one ends before another."""
    largest = [max(sizes) for sizes in zip(*(tensor.shape for tensor in tensors), strict=True)]
    stacked = tensors[0].new_zeros(len(tensors), *largest)
    for row, tensor in enumerate(tensors):
        stacked[row][tuple(slice(size) for size in tensor.shape)] = tensor
    return stacked


def split_row(row: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The student's columns and the teacher's, whose names lose the prefix."""
    student = {name: value for name, value in row.items() if not name.startswith(TEACHER_PREFIX)}
    teacher = {
        name.removeprefix(TEACHER_PREFIX): value for name, value in row.items() if name.startswith(TEACHER_PREFIX)
    }
    return student, teacher


@dataclass
class Batch:
    """What the collator made of some rows, by who reads it.

    Attributes:
        student: What the student's forward takes.
        teacher: What the teacher's forward takes, and its `logits` and `FEATURES` where they were computed beforehand.
        labels: [units], -100 where there is none; a unit is a row unless `units` says otherwise.
        has_labels: Whether the rows say which there are.
        words: [batch, tokens], the word of each of the student's tokens; None where the rows do not say.
        word_mask: [batch, words], true where a row has a word of that number.
        units: [batch, tokens], true for tokens that answer for a unit; None where a row is one.
    """

    student: dict[str, Tensor]
    teacher: dict[str, Any]
    labels: Tensor
    has_labels: bool
    words: Tensor | None
    word_mask: Tensor | None
    units: Tensor | None

    @classmethod
    def of(cls, inputs: dict[str, Any]) -> "Batch":
        """Take a collated batch apart."""
        student, teacher = split_row(inputs)
        columns = ("labels", WORDS, WORD_MASK, UNITS)
        labels, words, word_mask, units = (student.pop(column, None) for column in columns)
        has_labels = labels is not None
        if labels is None:
            labels = torch.full_like(student["input_ids"][:, 0], IGNORED_LABEL)
        elif units is not None:
            labels = labels[_first_of_each_row(units)]
        return cls(student, teacher, labels, has_labels, words, word_mask, units)

    def unit_values(self, values: Tensor) -> Tensor:
        """[units, outputs] of what a model says: [batch, outputs], or [batch, tokens, outputs]."""
        return values if self.units is None else values[self.units]

    def by_row(self, values: Tensor) -> Tensor:
        """The same as [batch, outputs], or [batch, units, outputs] padded: the Trainer gathers whole rows."""
        if self.units is None:
            return values
        places = _first_of_each_row(self.units)
        padded = values.new_zeros(*places.shape, values.shape[-1])
        padded[places] = values[self.units]
        return padded

    def gold_labels(self) -> Tensor:
        """[batch], for a loss that nothing can take the place of.

        Raises:
            ValueError: The rows have no labels at all.
        """
        if not self.has_labels:
            raise ValueError("the dataset has no column `labels`, which every alpha above 0 needs")
        return self.labels

    @property
    def num_words(self) -> int:
        """Most words that a row has; 0 where no term needs words."""
        return 0 if self.word_mask is None else self.word_mask.shape[1]

    def number_tokens(self) -> None:
        """Where both models read the same ids, each token is a word."""
        attention_mask = self.student["attention_mask"]
        self.words = torch.where(attention_mask.bool(), attention_mask.cumsum(-1) - 1, NO_WORD)
        positions = torch.arange(self.words.shape[1], device=self.words.device)
        self.word_mask = positions < attention_mask.sum(-1, keepdim=True)


def _first_of_each_row(units: Tensor) -> Tensor:
    """[batch, most units of a row], true at as many first places as a row has units."""
    counts = units.sum(-1, keepdim=True)
    return torch.arange(int(counts.max()), device=units.device) < counts


def num_units(batch: dict[str, Any]) -> int:
    """Rows of a collated batch, or their units where a row may have several."""
    return int(batch[UNITS].sum()) if UNITS in batch else len(batch["input_ids"])


def has_teacher(dataset: Any) -> bool:
    """Whether the rows hold teacher columns already."""
    return any(name.startswith(TEACHER_PREFIX) for name in dataset[0])


def with_teacher_tokens(
    dataset: Any,
    tokenizer: PreTrainedTokenizerBase,
    student_tokenizer: PreTrainedTokenizerBase | None,
    text_columns: Sequence[str],
    max_length: int | None,
    terms: FeatureTerms | None,
) -> Any:
    """Add the teacher's own tokens of the text to a `datasets.Dataset`, and the words of both models' tokens."""
    if not isinstance(dataset, datasets.Dataset):
        raise ValueError(
            f"teacher_processing_class needs train_dataset to be a datasets.Dataset, got {type(dataset).__name__}"
        )
    missing = [name for name in text_columns if name not in dataset.column_names]
    if missing:
        raise ValueError(
            f"teacher_processing_class needs the text itself, but train_dataset has no column "
            f"{', '.join(missing)} (it has {', '.join(dataset.column_names)}); "
            "set text_columns in the training arguments"
        )

    def tokenize(batch: dict[str, list[str]]) -> dict[str, Any]:
        tokens = tokenizer(*(batch[name] for name in text_columns), truncation=True, max_length=max_length)
        return {TEACHER_PREFIX + name: value for name, value in tokens.items()}

    dataset = dataset.map(tokenize, batched=True, desc="the teacher's tokens")
    if terms is None or not terms.needs_words:
        return dataset
    if student_tokenizer is None:
        raise ValueError("feature_terms compare tokens: pass processing_class=<the student's tokenizer>")
    lengths = [len(row) for row in dataset["input_ids"]]
    alignment = align(
        student_tokenizer,
        tokenizer,
        *(dataset[name] for name in text_columns),
        # Where texts were cut, that is where; where none was, nothing is cut here either.
        student_max_length=max(lengths),
        teacher_max_length=max_length,
        method=terms.alignment,
    )
    if [len(words) for words in alignment.student_words] != lengths:
        raise ValueError("the input_ids of train_dataset are not what processing_class makes of its text, unpadded")
    dataset = dataset.add_column(WORDS, alignment.student_words)
    return dataset.add_column(TEACHER_PREFIX + WORDS, alignment.teacher_words)
