"""Rows to batches: which columns are the teacher's, and how each model's tokens are padded."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DataCollatorWithPadding
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from kdexp.loss.base import IGNORED_LABEL
from kdexp.model.alignment import NO_WORD, pad_words
from kdexp.task.kinds.answers import UNREAD
from kdexp.task.kinds.base import NO_UNIT, UNITS

TEACHER_PREFIX = "teacher_"
"""Columns of a batch that belong to the teacher: `teacher_logits`, or `teacher_input_ids` and the like."""

WORDS = "word_ids"
"""Column of the word of each token, the student's; with `TEACHER_PREFIX` the teacher's."""

WORD_MASK = "word_mask"
"""Of a batch: [batch, words], true where a row has a word of that number."""

FEATURES = "features"
"""Column, with `TEACHER_PREFIX`, of the teacher's features of a row, computed beforehand."""


TEACHER_COLUMNS = tuple(
    TEACHER_PREFIX + name for name in ("logits", "input_ids", "attention_mask", "token_type_ids", WORDS, FEATURES)
)
"""All that a dataset may hold for the teacher."""


class DistillationCollator:
    """Pads the student's and the teacher's columns apart, each with its own tokenizer."""

    def __init__(
        self,
        student_collator: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
        teacher_tokenizer: PreTrainedTokenizerBase | None,
        student_padding_side: str = "right",
    ) -> None:
        self.student_collator = student_collator
        # The Trainer saves it where it was given no tokenizer itself.
        self.tokenizer = getattr(student_collator, "tokenizer", None)
        self.student_padding_side = student_padding_side
        self.teacher_tokenizer = teacher_tokenizer

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        if not all(isinstance(row, Mapping) for row in rows):  # none of ours: a collator of one's own takes it apart
            return self.student_collator(rows)
        student_rows, teacher_rows = zip(*(split_row(row) for row in rows), strict=True)
        words, units = _take(student_rows, WORDS), _take(student_rows, UNITS)
        labels = _take(student_rows, "labels") if units else []
        batch: dict[str, Any] = dict(self.student_collator(list(student_rows)))
        if units:
            num_tokens = batch["input_ids"].shape[1]
            batch[UNITS] = pad_words(units, num_tokens, self.student_padding_side, value=NO_UNIT)
        if labels:
            batch["labels"] = pad_words(labels, max(map(len, labels)), "right", value=IGNORED_LABEL)
        if words:
            batch[WORDS] = pad_words(words, batch["input_ids"].shape[1], self.student_padding_side)
            # Here, on the CPU: on a GPU the number of words would have to be waited for.
            num_words = batch[WORDS].max(dim=1, keepdim=True).values + 1
            batch[WORD_MASK] = torch.arange(int(num_words.max())) < num_words
        logits = _take(teacher_rows, "logits")
        if logits:
            rows_logits = [torch.as_tensor(row) for row in logits]
            batch[TEACHER_PREFIX + "logits"] = _joined(rows_logits, units, self.student_padding_side)
        features = _take(teacher_rows, FEATURES)
        if features:
            batch[TEACHER_PREFIX + FEATURES] = {
                name: stack_padded([row[name] for row in features]) for name in features[0]
            }
        batch |= self._teachers_tokens(teacher_rows)
        return batch

    def _teachers_tokens(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        words = _take(rows, WORDS)
        batch: dict[str, Any] = {}
        if rows[0]:
            if self.teacher_tokenizer is None:
                raise ValueError("the dataset holds teacher tokens: pass teacher_processing_class to pad them")
            for name, value in DataCollatorWithPadding(self.teacher_tokenizer)(list(rows)).items():
                batch[TEACHER_PREFIX + name] = value
            if words:
                num_tokens = batch[TEACHER_PREFIX + "input_ids"].shape[1]
                batch[TEACHER_PREFIX + WORDS] = pad_words(words, num_tokens, self.teacher_tokenizer.padding_side)
        return batch


def distillation_collator(
    student_collator: Callable[[list[dict[str, Any]]], dict[str, Tensor]] | None,
    tokenizer: PreTrainedTokenizerBase | None,
    teacher_tokenizer: PreTrainedTokenizerBase | None,
) -> DistillationCollator | None:
    """One that pads the teacher's columns too; None leaves the Trainer its default."""
    if student_collator is None and tokenizer is not None:
        student_collator = DataCollatorWithPadding(tokenizer)
    if student_collator is None:
        return None
    padding_side = "right" if tokenizer is None else tokenizer.padding_side
    return DistillationCollator(student_collator, teacher_tokenizer, padding_side)


def _joined(rows: list[Tensor], units: Sequence[Sequence[int]], padding_side: str) -> Tensor:
    """[batch, outputs], or [batch, tokens, outputs] padded as the student's tokens are.

    Of rows with several units [units, outputs], of those that the student reads, in its order.
    """
    if not units:
        return torch.stack(rows) if rows[0].dim() < 2 else pad_sequence(rows, True, padding_side=padding_side)
    read = [[unit for unit in row if unit != NO_UNIT] for row in units]
    return torch.cat([row[own] for row, own in zip(rows, read, strict=True)])


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


def split_row(row: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The student's columns and the teacher's, whose names lose the prefix."""
    student = {name: value for name, value in row.items() if not name.startswith(TEACHER_PREFIX)}
    teacher = {
        name.removeprefix(TEACHER_PREFIX): value for name, value in row.items() if name.startswith(TEACHER_PREFIX)
    }
    return student, teacher


def num_rows(batch: Mapping[str, Any]) -> int:
    """Rows of a collated batch, whatever its columns are called."""
    return next(len(value) for value in batch.values() if isinstance(value, Tensor) and value.dim())


@dataclass
class Batch:
    """What the collator made of some rows, by who reads it.

    Attributes:
        student: What the student's forward takes, but for the labels.
        teacher: What the teacher's forward takes, and its `logits` and `FEATURES` where they were computed beforehand.
        label_columns: The labels as the student's forward takes them.
        labels: [units], -100 where there is none; a unit is a row unless `units` says otherwise: then those that the
            student reads.
        words: [batch, tokens], the word of each of the student's tokens; None where the rows do not say.
        word_mask: [batch, words], true where a row has a word of that number.
        units: [batch, tokens], which unit of its row a token answers for, `NO_UNIT` for none; None where a row is one.
        teachers_share: Columns of the student's tokens that only a teacher who is fed them takes.
    """

    student: dict[str, Tensor]
    teacher: dict[str, Any]
    label_columns: dict[str, Tensor]
    labels: Tensor
    words: Tensor | None
    word_mask: Tensor | None
    units: Tensor | None
    teachers_share: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls, inputs: Mapping[str, Any], label_names: Sequence[str] = ("labels",), teachers_own: Iterable[str] = ()
    ) -> "Batch":
        """Take a collated batch apart.

        Args:
            label_names: Columns that hold labels; the first is the one that a soft loss reads.
            teachers_own: Columns of the student's tokens that its own forward does not take.
        """
        rows = num_rows(inputs)
        student, teacher = split_row(inputs)
        words, word_mask, units = (student.pop(column, None) for column in (WORDS, WORD_MASK, UNITS))
        label_columns = {name: student.pop(name) for name in label_names if student.get(name) is not None}
        share = {name: student.pop(name) for name in teachers_own if name in student}
        labels = next(iter(label_columns.values()), None)
        if labels is None:
            number = rows if units is None else int((units != NO_UNIT).sum())
            labels = torch.full((number,), IGNORED_LABEL, device=next(iter(student.values())).device)
        elif units is not None:
            labels = labels[_places(units)]
        return cls(student, teacher, label_columns, labels, words, word_mask, units, share)

    def unit_values(self, values: Tensor) -> Tensor:
        """[units, outputs] of what a model says: [batch, outputs], or [batch, tokens, outputs]."""
        return values if self.units is None else values[self.units != NO_UNIT]

    def by_row(self, values: Tensor) -> Tensor:
        """The same as [batch, outputs], or [batch, units, outputs] padded: the Trainer gathers whole rows."""
        if self.units is None:
            return values
        labels = next(iter(self.label_columns.values()), None)
        most = int(self.units.max()) + 1 if labels is None else labels.shape[1]
        padded = values.new_full((len(values), most, values.shape[-1]), UNREAD)
        padded[_places(self.units)] = self.unit_values(values)
        return padded

    def gold_labels(self) -> Tensor:
        """[batch], for a loss that nothing can take the place of.

        Raises:
            ValueError: The rows have no labels at all.
        """
        if not self.label_columns:
            raise ValueError(
                "the dataset has no column `labels`, which every alpha above 0 needs "
                f"(a batch holds {', '.join(self.student)}); rename the column, or name it in label_names of the "
                "training arguments"
            )
        return self.labels

    @property
    def num_units(self) -> Tensor | int:
        """See `num_units`."""
        if self.labels.dim() == 1:
            return len(self.labels)
        mask = self.student.get("attention_mask")
        is_of_tokens = mask is not None and mask.shape == self.labels.shape and not self.labels.is_floating_point()
        return counted_tokens(self.labels, mask).sum() if mask is not None and is_of_tokens else self.num_labelled

    @property
    def num_labelled(self) -> Tensor | int:
        """Labels at hand that count."""
        return len(self.labels) if self.labels.is_floating_point() else (self.labels != IGNORED_LABEL).sum()

    def without_empty_labels(self) -> dict[str, Tensor]:
        """`label_columns`; where no row has a label, some that are legal: a mean over no rows would be nan."""
        if self.labels.is_floating_point():
            return self.label_columns
        return {
            name: torch.where((column != IGNORED_LABEL).any(), column, torch.zeros_like(column))
            for name, column in self.label_columns.items()
        }

    @property
    def num_words(self) -> int:
        """Most words that a row has; 0 where no term needs words."""
        return 0 if self.word_mask is None else self.word_mask.shape[1]

    def number_tokens(self) -> None:
        """Where both models read the same ids, each token is a word."""
        attention_mask = attention_mask_of(self.student)
        self.words = torch.where(attention_mask.bool(), attention_mask.cumsum(-1) - 1, NO_WORD)
        positions = torch.arange(self.words.shape[1], device=self.words.device)
        self.word_mask = positions < attention_mask.sum(-1, keepdim=True)


def _places(units: Tensor) -> tuple[Tensor, Tensor]:
    """Row, and number within it, of each unit that a token of a batch answers for, in the order of the tokens."""
    rows, tokens = (units != NO_UNIT).nonzero(as_tuple=True)
    return rows, units[rows, tokens]


def attention_mask_of(inputs: Mapping[str, Tensor]) -> Tensor:
    """[batch, tokens]; without one, every token counts."""
    if "attention_mask" in inputs:
        return inputs["attention_mask"]
    first = inputs["input_ids"] if "input_ids" in inputs else inputs["inputs_embeds"]
    return first.new_ones(first.shape[:2], dtype=torch.long)


def num_units(batch: Mapping[str, Any], label_names: Sequence[str] = ("labels",)) -> Tensor | int:
    """Rows of a collated batch, or their units where a row may have several, or labels where tokens have them."""
    if UNITS in batch:
        return int((batch[UNITS] != NO_UNIT).sum())
    labels = next((batch[name] for name in label_names if isinstance(batch.get(name), Tensor)), None)
    if labels is None or labels.dim() == 1 or labels.is_floating_point():
        return num_rows(batch)
    mask = batch.get("attention_mask")
    if isinstance(mask, Tensor) and mask.shape == labels.shape:
        return counted_tokens(labels, mask).sum()
    return (labels != IGNORED_LABEL).sum()


def counted_tokens(labels: Tensor, attention_mask: Tensor) -> Tensor:
    """[batch, tokens], the tokens of which something is learned: those with a label, and all of a row without any."""
    labelled = labels != IGNORED_LABEL
    return labelled | (attention_mask.bool() & ~labelled.any(dim=-1, keepdim=True))


def first_row(dataset: Any) -> Mapping[str, Any]:
    """The first row of any dataset, streaming ones included."""
    is_stream = isinstance(dataset, datasets.IterableDataset | torch.utils.data.IterableDataset)
    return next(iter(dataset)) if is_stream else dataset[0]


def has_teacher(dataset: Any) -> bool:
    """Whether the rows hold teacher columns already."""
    return any(name.startswith(TEACHER_PREFIX) for name in first_row(dataset))
