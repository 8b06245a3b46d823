"""The kind of a task: what it asks for, and everything that follows from that.

A task says its kind once. Head, label codec, hard loss, legal soft losses, metrics, the check against chance, what a
bootstrap resamples and what is shown of answers are the kind's; nobody else assumes classes.

A *unit* is what carries one label: a row, or of token labels a word. Answers and labels hold the units of all rows,
one row after another, so that losses and metrics see `[units, outputs]` whatever the kind is.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from kdexp.errors import UserError
from kdexp.loss.base import IGNORED_LABEL, Outputs
from kdexp.task.kinds.answers import Answers as Answers
from kdexp.task.kinds.answers import Labels as Labels
from kdexp.task.tables.table import texts_of

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import BatchEncoding, PreTrainedTokenizerBase

    from kdexp.arrow import Ragged
    from kdexp.task.config import ClassWeights
    from kdexp.task.tables.table import Column, Table, TextColumn

UNITS = "units"
"""Column of tokens, for kinds whose units are not rows: which unit of its row a token answers for, else `NO_UNIT`."""

NO_UNIT = -1

NUM_UNITS = "num_units"
"""Column of rows beside it: how many units a row has, those that no token answers for included."""


class TaskKind(ABC):
    """What a task asks for. It is made from its label names alone: `SingleLabel(["negative", "positive"])`.

    Attributes:
        name: Of the kind, as logged students and configs say it.
        tells: What it says of a text, in words: `one class of each text`.
        outputs: What a soft loss may assume of the outputs: `classes` of which one is right.
        has_units: A row has several units; `tokenize` then gives the columns `UNITS` and `NUM_UNITS`.
        head: Ending of the model classes of transformers that answer it: `AutoModel` + head.
        smooths_labels: `label_smoothing` means something.
        takes_columns: Its labels may stand in several columns of 0 and 1, one for each output.
        primary_metrics: Metrics that may be the primary one, because larger is better; the first is the default.
        label_names: A name for each output.
        primary_metric: The metric that selects checkpoints and that gains are told in.

    A kind may hold what it takes from the training labels, such as the scale of numbers: `fitted` gives it that.
    """

    name: ClassVar[str]
    tells: ClassVar[str]
    outputs: ClassVar[Outputs]
    head: ClassVar[str] = "ForSequenceClassification"
    has_units: ClassVar[bool] = False
    smooths_labels: ClassVar[bool] = True
    takes_columns: ClassVar[bool] = False
    primary_metrics: ClassVar[tuple[str, ...]] = ()
    label_names: Sequence[str]
    primary_metric: str

    @abstractmethod
    def __init__(self, label_names: Sequence[str]) -> None: ...

    @classmethod
    @abstractmethod
    def from_column(cls, column: "Column", names: Sequence[str] | None) -> Self:
        """The kind with the label names that the label column (or columns) of the training file holds.

        Args:
            names: The label names, where a person has set them.

        Raises:
            UserError: The column holds no such labels.
        """

    @classmethod
    def texts(cls, table: "Table", names: Sequence[str]) -> "Sequence[TextColumn]":
        """The columns of texts.

        Args:
            names: One, or two of pairs.

        Raises:
            UserError: A column is missing, or a row has no text in it.
        """
        return texts_of(table, names)

    @classmethod
    def reading_notes(cls, table: "Table", text: Sequence[str], column: "Column") -> list[str]:
        """What should be said of how the texts of a file and its column of labels are read, in one line each."""
        return []

    def refuse_unfit_rows(self, texts: "Sequence[TextColumn]", labels: Any, column: "Column") -> None:
        """Refuse rows whose texts and labels do not go together.

        Args:
            labels: The column, encoded.
            column: The same, as the file has it.

        Raises:
            UserError: At the first such row.
        """
        return

    @abstractmethod
    def encode(self, column: "Column", *, by_number: bool = False) -> Sequence[Any] | np.ndarray:
        """Turn a column of labels into what is stored: a number, or a list of numbers, per row.

        Args:
            by_number: A label may also be the number of its class, as public data sets have it.

        Raises:
            UserError: A row has no label or an unknown one.
        """

    def with_primary(self, metric: str | None) -> Self:
        """The kind with another primary metric; None leaves it.

        Raises:
            UserError: It is none of this kind's, or one of which less is better.
        """
        if metric is None or metric == self.primary_metric:
            return self
        if metric not in self.primary_metrics:
            raise UserError(
                "task.primary_metric",
                f"got {metric}, which is none of a {self.name} task's",
                f"expected one of {', '.join(self.primary_metrics) or self.primary_metric}",
            )
        return replace(self, primary_metric=metric)  # type: ignore[type-var]

    def fitted(self, labels: Labels) -> Self:
        """The kind with what it takes from the labels of the training split; most take nothing."""
        return self

    def weighted(self, weights: "ClassWeights", labels: Labels) -> Self:
        """The kind whose hard loss weights classes.

        Args:
            weights: `none`, `balanced`, or a number for each output.
            labels: Of the training split.

        Raises:
            UserError: With the setting `class_weights`.
        """
        if weights != "none":
            raise UserError("class_weights", f"got {weights}, but a {self.name} task has no classes", "expected none")
        return self

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

    def unlabelled(self, num_rows: int) -> Sequence[Any] | np.ndarray:
        """The encoded column of rows that have no gold label, each of one unit."""
        return np.full(num_rows, IGNORED_LABEL)

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

    def from_head(self, answers: Answers, config: Mapping[str, Any]) -> Answers:
        """A model's outputs in the units of this kind's own.

        Args:
            config: Of the model; what it lacks of `head_config` is as transformers has it.
        """
        return answers

    def tokenize(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        first: Sequence[str],
        second: Sequence[str] | None,
        max_length: int,
    ) -> "BatchEncoding":
        """Tokens of some texts or pairs; with the columns `UNITS` and `NUM_UNITS` where a row has several units."""
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

    def thresholds(self, answers: Answers, labels: Labels) -> np.ndarray | None:
        """What answers are decided at, chosen on validation: [outputs]; None where nothing is to be chosen."""
        return None

    def decided(self, answers: Answers, validation: Answers | None, labels: Labels) -> Answers:
        """Answers with the thresholds that the same model's answers on validation, and its labels, choose.

        Args:
            validation: None where the model has none there; rows without an answer choose nothing.
        """
        rows = np.empty(0, dtype=int) if validation is None else validation.answered_rows
        if validation is None or not len(rows):
            return answers
        if len(rows) < validation.num_rows:
            validation, labels = validation.take(rows), labels.take(rows)
        return replace(answers, thresholds=self.thresholds(validation, labels))

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

        return self.resampled_scores(student, labels, rows) - self.resampled_scores(baseline, labels, rows)

    def resampled_scores(self, answers: Answers, labels: Labels, rows: np.ndarray) -> np.ndarray:
        """The primary metric on resampled rows.

        Args:
            rows: [resamples, rows], row numbers.

        Returns:
            [resamples]
        """
        samples = ((answers.take(sample), labels.take(sample)) for sample in rows)
        return np.array([self.metrics(*sample)[self.primary_metric] for sample in samples])

    def beats(self, answers: Answers, trivial: Answers, labels: Labels) -> bool:
        """Whether the primary metric is above that of trivial answers on 99 % of 1,000 resamples of the rows."""
        rows = np.random.default_rng(0).integers(0, labels.num_rows, (1000, labels.num_rows))
        batch = max(1, 5_000_000 // labels.num_rows)
        gains = [self.gain(answers, trivial, labels, rows[start : start + batch]) for start in range(0, 1000, batch)]
        return float(np.quantile(np.concatenate(gains), 0.01)) > 0

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

    def served(self, answers: Answers) -> Mapping[str, Any]:
        """What a logged student needs beside its label names to tell the same decisions, as JSON values.

        Args:
            answers: The student's, with what was chosen on validation.
        """
        return {}

    def scores(self, answers: Answers) -> dict[str, list[float]]:
        """Columns that stand beside the decisions: `probability_<class>`, or none."""
        return {}
