"""Regression: a number for each text, such as a rating or a similarity; ordinal scores are such numbers too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor

from kdexp.errors import UserError
from kdexp.loss.base import Outputs, precise
from kdexp.task.kinds import resampled
from kdexp.task.kinds.base import Answers, Labels
from kdexp.task.kinds.counts import ScoredByCounts
from kdexp.task.tables.table import Column, shorten

MEAN, SCALE = "label_mean", "label_scale"
"""Of a model's config: its output times the scale, plus the mean, is the number that is told."""

_FEWEST_ROWS = 46
"""That show a correlation of one half at a level of 1 % with a probability of 90 % (Fisher's z)."""


@dataclass(frozen=True)
class Regression(ScoredByCounts):
    """A number.

    Models learn and answer standardised numbers, (number - mean) / scale of the training labels, so that prices learn
    as well as ratings, and one learning rate does for both. What a person is told (decisions, MAE, the logged
    student's answers) is in the labels' own unit; each model's config holds its mean and scale.

    Attributes:
        mean, scale: Of the training labels; 0 and 1 until `fitted`.
    """

    label_names: Sequence[str] = ("number",)
    primary_metric: str = "pearson"
    mean: float = 0.0
    scale: float = 1.0
    name: ClassVar[str] = "regression"
    tells: ClassVar[str] = "a number of each text"
    outputs: ClassVar[Outputs] = Outputs.number
    smooths_labels: ClassVar[bool] = False
    primary_metrics: ClassVar[tuple[str, ...]] = ("pearson", "spearman")

    @classmethod
    def from_column(cls, column: Column, names: Sequence[str] | None) -> Self:
        if names is not None:
            problem = f"got [{shorten(names)}], but a regression task has no classes to name"
            raise UserError("task.labels", problem, "leave it out, or choose task.kind=single_label")
        return cls([column.name])

    def encode(self, column: Column, *, by_number: bool = False) -> np.ndarray:
        values = np.fromiter(
            (_number(value, column, row) for row, value in enumerate(column)), np.float64, len(column)
        )
        missing = np.flatnonzero(np.isnan(values))
        if len(missing):
            first = column.where(int(missing[0]))
            problem = f"{len(missing):,} rows have no number, the first is {first}"
            raise UserError("task.label", problem, f"fill or remove these rows (column '{column.name}')")
        return values

    def fitted(self, labels: Labels) -> Self:
        return replace(self, mean=float(labels.values.mean()), scale=float(labels.values.std()) or 1.0)

    def unlabelled(self, num_rows: int) -> np.ndarray:
        return np.full(num_rows, np.nan)

    def refuse_untrainable(self, labels: Labels) -> None:
        if labels.num_rows < 2 or not np.ptp(labels.values):
            problem = f"the {labels.num_rows} rows left to train on have one number, or none"
            raise UserError("task.train_size", problem, "there is nothing to learn: keep more rows for training")

    def announcements(self, labels: Labels) -> list[str]:
        low, middle, high = np.quantile(labels.values, [0, 0.5, 1])
        return [
            f"numbers in train: from {low:g} to {high:g}, median {middle:g}; standardised while learning "
            f"(mean {self.mean:g}, deviation {self.scale:g}), told in their own unit"
        ]

    def head_config(self) -> dict[str, object]:
        return super().head_config() | {"problem_type": "regression", MEAN: self.mean, SCALE: self.scale}

    def from_head(self, answers: Answers, config: Mapping[str, Any]) -> Answers:
        """Numbers of a model that learned on another scale; one without a scale tells numbers as they are."""
        mean, scale = config.get(MEAN, 0.0), config.get(SCALE, 1.0)
        if (mean, scale) == (self.mean, self.scale):
            return answers
        return replace(answers, values=((answers.values.double() * scale + mean - self.mean) / self.scale).float())

    def hard_loss(
        self, logits: Tensor, labels: Tensor, *, num_examples: Tensor | int | None, label_smoothing: float
    ) -> Tensor:
        """Squared error of the standardised numbers."""
        values = precise(logits)[:, 0]
        gold = ((labels.double() - self.mean) / self.scale).to(values.dtype)
        total = (values - gold).square().where(~labels.isnan(), 0.0).sum()
        return total / (len(logits) if num_examples is None else num_examples)

    def metrics(self, answers: Answers, labels: Labels) -> dict[str, float]:
        """Pearson's and Spearman's correlation, and the mean absolute error in the labels' unit."""
        everything = np.ones((1, labels.num_rows))
        found = {name: float(self.score(name, answers, labels, everything)[0]) for name in self.primary_metrics}
        return found | {"mae": float(np.abs(self._numbers(answers) - labels.values).mean())}

    def score(self, metric: str, answers: Answers, labels: Labels, counts: np.ndarray) -> np.ndarray:
        correlation = resampled.pearson if metric == "pearson" else resampled.spearman
        return correlation(answers.values[:, 0].double().numpy(), labels.values, counts)

    def refuse_chance(self, answers: Answers, labels: Labels, role: str) -> str | None:
        """It has to order the rows better than chance, and its numbers to lie nearer than always the mean."""
        score, numbers = self.metrics(answers, labels)[self.primary_metric], self._numbers(answers)
        remedy = f"set {role}.chance_check=false to go on all the same"
        trivial = replace(answers, values=answers.values.new_zeros(answers.values.shape))
        if not self.beats(answers, trivial, labels):
            found = f"has {self.primary_metric} {score:.3f} on {labels.num_rows:,} rows; always the mean has 0"
            if labels.num_rows < _FEWEST_ROWS:
                return f"{found}: too few rows to tell whether it is better than chance"
            raise UserError(role, f"{found}: it has not learned the task", remedy)
        error, spread = np.sqrt(np.mean((numbers - labels.values) ** 2)), labels.values.std()
        if error > spread:
            raise UserError(
                role,
                f"has numbers that are further from the gold ones (RMSE {error:.3g}, mean {numbers.mean():.3g}) than "
                f"their mean is (RMSE {spread:.3g}, mean {labels.values.mean():.3g}): are they on another scale?",
                remedy,
            )
        return None

    def agreement(self, student: Answers, teacher: Answers) -> float:
        """Pearson's correlation of the two, 0 where it is negative."""
        told, taught = (answers.values[:, 0].double().numpy() for answers in (student, teacher))
        return max(0.0, float(resampled.pearson(told, taught, np.ones((1, len(told))))[0]))

    def decisions(self, answers: Answers) -> list[float]:
        return self._numbers(answers).tolist()

    def gold(self, labels: Labels) -> list[float]:
        return labels.values.tolist()

    def _numbers(self, answers: Answers) -> np.ndarray:
        """[rows], in the labels' unit."""
        return answers.values[:, 0].double().numpy() * self.scale + self.mean


def _number(value: Any, column: Column, row: int) -> float:
    """A value as a number; nan where there is none.

    Raises:
        UserError: It is something else, or infinite.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return np.nan
    try:
        number = float("not a number" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        number = np.inf
    if np.isinf(number):
        problem = f"{column.where(row)}: column '{column.name}' holds {value!r:.60s}, not a number"
        raise UserError("task.label", problem, "write numbers such as 3.5, or choose task.kind=single_label")
    return number
