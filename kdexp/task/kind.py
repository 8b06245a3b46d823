"""The kind of a task: what it asks for, and everything that follows from that.

A task says its kind once. Head, label codec, hard loss, legal soft losses, metrics, the check against chance, what a
bootstrap resamples and what is shown of answers are the kind's; nobody else assumes classes.

A *unit* is what carries one label: a row, or of token labels a word. Answers and labels hold the units of all rows,
one row after another, so that losses and metrics see `[units, outputs]` whatever the kind is.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from kdexp.loss.base import IGNORED_LABEL, Outputs

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import BatchEncoding, PreTrainedTokenizerBase

    from kdexp.arrow import Ragged
    from kdexp.task.table import Column

UNITS = "units"
"""Column of tokens, for kinds whose units are not rows: 1 where a token answers for a unit, else 0."""


@dataclass(frozen=True)
class Labels:
    """The gold labels of a split.

    Attributes:
        values: [units] or [units, outputs]
        lengths: [rows], the number of units of each row; None where each row is one unit.
    """

    values: np.ndarray
    lengths: np.ndarray | None = None

    @property
    def num_rows(self) -> int:
        return len(self.values) if self.lengths is None else len(self.lengths)

    def take(self, rows: np.ndarray) -> "Labels":
        """The labels of these rows, which may repeat."""
        units, lengths = _units_of(rows, self.lengths)
        return Labels(self.values[units], lengths)


@dataclass(frozen=True)
class Answers:
    """What a model says about a split.

    Attributes:
        values: [units, outputs], float32, on the CPU: logits, or log-probabilities.
        lengths: [rows], the number of units of each row; None where each row is one unit.
    """

    values: Tensor
    lengths: np.ndarray | None = None

    @property
    def num_rows(self) -> int:
        return len(self.values) if self.lengths is None else len(self.lengths)

    @property
    def answered_rows(self) -> np.ndarray:
        """Numbers of the rows that have an answer: nan throughout says nothing."""
        rows = np.arange(self.num_rows)
        units = self.values.isnan().all(dim=-1).numpy()
        if not units.any():
            return rows
        return rows[~units] if self.lengths is None else np.setdiff1d(rows, np.repeat(rows, self.lengths)[units])

    def take(self, rows: np.ndarray) -> "Answers":
        """The answers about these rows, which may repeat."""
        units, lengths = _units_of(rows, self.lengths)
        return Answers(self.values[torch.from_numpy(units)], lengths)

    def in_order(self, outputs: Sequence[int]) -> "Answers":
        """The same, with the outputs in another order."""
        return Answers(self.values[:, list(outputs)], self.lengths)

    def by_row(self) -> "Tensor | UnitsByRow":
        """Row by row, views: [outputs], or [units, outputs] where a row may have several."""
        return self.values if self.lengths is None else UnitsByRow(self.values, self.lengths)


class UnitsByRow(Sequence[Tensor]):
    """Views of what the units of each row have: [units, outputs].

    Args:
        values: [units of all rows, outputs]
        lengths: [rows]
    """

    def __init__(self, values: Tensor, lengths: np.ndarray) -> None:
        self._values = values
        self._ends = np.cumsum(lengths)
        self._starts = self._ends - lengths

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: Any) -> Any:
        return self._values[self._starts[row] : self._ends[row]]


def _units_of(rows: np.ndarray, lengths: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Places of the units of some rows, and how many each has."""
    if lengths is None:
        return rows, None
    starts = np.cumsum(lengths) - lengths
    taken = lengths[rows]
    within = np.arange(taken.sum()) - np.repeat(np.cumsum(taken) - taken, taken)
    return np.repeat(starts[rows], taken) + within, taken


class TaskKind(ABC):
    """What a task asks for. It is made from its label names alone: `SingleLabel(["negative", "positive"])`.

    Attributes:
        name: Of the kind, as logged students and configs say it.
        outputs: What a soft loss may assume of the outputs: `classes` of which one is right.
        has_units: A row has several units; `tokenize` then gives the column `UNITS`.
        head: Ending of the model classes of transformers that answer it: `AutoModel` + head.
        label_names: A name for each output.
        primary_metric: The metric that selects checkpoints and that gains are told in; larger is better.
    """

    name: ClassVar[str]
    outputs: ClassVar[Outputs]
    head: ClassVar[str] = "ForSequenceClassification"
    has_units: ClassVar[bool] = False
    label_names: Sequence[str]
    primary_metric: str

    @abstractmethod
    def __init__(self, label_names: Sequence[str]) -> None: ...

    @classmethod
    @abstractmethod
    def from_column(cls, column: "Column", names: Sequence[str] | None) -> Self:
        """The kind with the label names that the label column of the training file holds.

        Args:
            names: The label names, where a person has set them.

        Raises:
            UserError: The column holds no such labels.
        """

    @abstractmethod
    def encode(self, column: "Column", *, by_number: bool = False) -> Sequence[Any] | np.ndarray:
        """Turn a column of labels into what is stored: a number, or a list of numbers, per row.

        Args:
            by_number: A label may also be the number of its class, as public data sets have it.

        Raises:
            UserError: A row has no label or an unknown one.
        """

    def labels(self, column: "np.ndarray | Ragged") -> Labels:
        """The labels of a split, from its encoded column; one with a list per row has several units per row."""
        if isinstance(column, np.ndarray):
            return Labels(column)
        return Labels(column.flat, column.lengths.astype(np.int64))

    def units_of_rows(self, values: np.ndarray, labels: np.ndarray) -> tuple[Answers, Labels]:
        """Answers and labels of rows that the Trainer gathered.

        Args:
            values: [rows, outputs], or [rows, units, outputs] padded.
            labels: [rows], [rows, outputs], or [rows, units] with `IGNORED_LABEL` behind each row's own.
        """
        if not self.has_units:
            return Answers(torch.from_numpy(values)), Labels(labels)
        own = labels != IGNORED_LABEL
        lengths = own.sum(axis=1)
        return Answers(torch.from_numpy(values[own]), lengths), Labels(labels[own], lengths)

    def strata(self, labels: Labels) -> np.ndarray:
        """[rows], integers: rows of one stratum are shared out evenly when some are held out."""
        return np.zeros(labels.num_rows, dtype=np.int64)

    @abstractmethod
    def refuse_untrainable(self, labels: Labels) -> None:
        """Refuse training rows that nothing can be learned from.

        Raises:
            UserError: With the reason.
        """

    def announcements(self, labels: Labels) -> list[str]:
        """What every run says of the labels, in one line each.

        Args:
            labels: Of the training split.
        """
        return []

    @property
    def num_outputs(self) -> int:
        return len(self.label_names)

    def head_config(self) -> dict[str, object]:
        """What the config of a model says of its head."""
        return {
            "id2label": dict(enumerate(self.label_names)),
            "label2id": {name: index for index, name in enumerate(self.label_names)},
        }

    def output_order(self, teacher_names: Sequence[str], role: str) -> list[int]:
        """Where each of the task's outputs lies among a teacher's: `logits[:, order]` is in the task's order.

        Args:
            role: What the teacher's settings begin with, for errors.

        Raises:
            UserError: The teacher answers something else.
        """
        return list(range(self.num_outputs))

    def tokenize(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        first: Sequence[str],
        second: Sequence[str] | None,
        max_length: int,
    ) -> "BatchEncoding":
        """Tokens of some texts or pairs; with the column `UNITS` where a row has several units."""
        return tokenizer(list(first), None if second is None else list(second), truncation=True, max_length=max_length)

    @abstractmethod
    def hard_loss(
        self, logits: Tensor, labels: Tensor, *, num_examples: Tensor | int | None, label_smoothing: float
    ) -> Tensor:
        """Loss with the gold labels: the sum over units, divided by the units of the whole optimizer step.

        Args:
            logits: [units, outputs]
            labels: [units], or [units, outputs]
            num_examples: Units of the step; None means those at hand.
        """

    @abstractmethod
    def metrics(self, answers: Answers, labels: Labels) -> dict[str, float]:
        """Every metric by name; `primary_metric` is one of them."""

    def gain(self, student: Answers, baseline: Answers, labels: Labels, rows: np.ndarray) -> np.ndarray:
        """The primary metric of the student minus the baseline's, on resampled rows.

        Args:
            rows: [resamples, rows], row numbers.

        Returns:
            [resamples]
        """

        def score(answers: Answers, sample: np.ndarray) -> float:
            return self.metrics(answers.take(sample), labels.take(sample))[self.primary_metric]

        return np.array([score(student, sample) - score(baseline, sample) for sample in rows])

    @abstractmethod
    def refuse_chance(self, answers: Answers, labels: Labels, role: str) -> str | None:
        """Refuse a teacher that is not better than the trivial answer, where the rows are enough to tell.

        Returns:
            What to say of it where they are not, `answers ...`; None where it is better.

        Raises:
            UserError: With both scores, `answers ...`; how to mend it is added by who knows how it was made.
        """

    @abstractmethod
    def agreement(self, student: Answers, teacher: Answers) -> float:
        """How far two models answer alike, from 0 to 1."""

    @abstractmethod
    def decisions(self, answers: Answers) -> list[Any]:
        """What a person is told for each row: a class's name, a list of tags, a number."""

    @abstractmethod
    def gold(self, labels: Labels) -> list[Any]:
        """The same of the gold labels."""

    def row_scores(self, answers: Answers) -> np.ndarray | None:
        """How sure each row's answer is, from 0 to 1, [rows]; None of a kind whose answers have no probability."""
        return None

    def scores(self, answers: Answers) -> dict[str, list[float]]:
        """Columns that stand beside the decisions: `probability_<class>`, or none."""
        return {}
