"""Multi-label classification: each of several labels may be right of a row, or none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from kdexp.errors import UserError
from kdexp.loss.base import Outputs, precise
from kdexp.task.config import ClassWeights
from kdexp.task.kinds import resampled
from kdexp.task.kinds.base import Answers, Labels
from kdexp.task.kinds.chance import LEVEL, POWER
from kdexp.task.kinds.classes import class_order, classes_line, read_weights
from kdexp.task.kinds.counts import ScoredByCounts
from kdexp.task.kinds.label_sets import label_matrix, label_set_names
from kdexp.task.tables.table import Column

_MOST_WEIGHT = 100.0
"""Of a label that is balanced: one yes in 10,000 rows would else drown all others."""

_NUM_PERMUTED = 199
_NUM_TEACHERS = 10
"""That are simulated to tell whether a good one would be found."""
_MOST_ROWS = 1000
"""On which a teacher is compared with chance: more take long, and tell no more of one that knows something."""


@dataclass(frozen=True)
class MultiLabel(ScoredByCounts):
    """Any of the labels `label_names` may be right: each is a question of its own, answered by a sigmoid.

    A label is told where its logit is above a threshold that is chosen on validation, for each model its own: one
    for all labels, which is best for micro-F1; one for each label where the primary metric is macro-F1 (the best
    threshold of an F1 is half of that F1: Lipton et al. 2014, https://arxiv.org/abs/1402.1892).

    Attributes:
        yes_weights: [labels], what a yes weighs in the hard loss, where a no weighs 1.
    """

    label_names: Sequence[str]
    primary_metric: str = "micro_f1"
    yes_weights: tuple[float, ...] | None = None
    name: ClassVar[str] = "multi_label"
    tells: ClassVar[str] = "any number of labels of each text"
    outputs: ClassVar[Outputs] = Outputs.yes_no
    takes_columns: ClassVar[bool] = True
    primary_metrics: ClassVar[tuple[str, ...]] = ("micro_f1", "macro_f1", "map")

    @classmethod
    def from_column(cls, column: Column, names: Sequence[str] | None) -> Self:
        return cls(label_set_names(column, names))

    def encode(self, column: Column, *, by_number: bool = False) -> list[np.ndarray]:
        return list(label_matrix(column, self.label_names))

    def labels(self, column: Any) -> Labels:
        return Labels(np.asarray(column.flat).reshape(-1, self.num_outputs))

    def unlabelled(self, num_rows: int) -> np.ndarray:
        return np.full((num_rows, self.num_outputs), np.nan, dtype=np.float32)

    def weighted(self, weights: ClassWeights, labels: Labels) -> Self:
        if weights == "none":
            return self
        if weights == "balanced":
            num_yes = labels.values.sum(axis=0)
            balanced = (labels.num_rows - num_yes) / np.maximum(num_yes, 1)
            return replace(self, yes_weights=tuple(np.clip(balanced, 1 / _MOST_WEIGHT, _MOST_WEIGHT).tolist()))
        return replace(self, yes_weights=read_weights(weights, self.label_names))

    def strata(self, labels: Labels) -> np.ndarray:
        """The rarest label that a row has; rows without any are one more stratum."""
        counts = labels.values.sum(axis=0)
        rarest = np.where(labels.values > 0, counts, np.inf).argmin(axis=1)
        return np.where(labels.values.any(axis=1), rarest, self.num_outputs)

    def refuse_untrainable(self, labels: Labels) -> None:
        shares = labels.values.mean(axis=0) if labels.num_rows else np.zeros(self.num_outputs)
        if not ((shares > 0) & (shares < 1)).any():
            problem = f"in the {labels.num_rows} rows left to train on, no label is there in some and absent in others"
            raise UserError("task.train_size", problem, "keep more rows for training")

    def announcements(self, labels: Labels) -> list[str]:
        counts = labels.values.sum(axis=0).astype(int)
        num_empty = int((~labels.values.any(axis=1)).sum())
        mean = labels.values.sum() / labels.num_rows
        lines = [f"{classes_line(self.label_names, counts, 'labels')}; {mean:.2f} labels a row"]
        if num_empty:
            lines.append(
                f"train: {num_empty:,} of {labels.num_rows:,} rows have no label: all labels are taken as absent"
            )
        if (counts == 0).any():
            absent = [name for name, count in zip(self.label_names, counts, strict=True) if not count]
            lines.append(
                f"labels that no training row has: {', '.join(absent[:6])}{', ...' if len(absent) > 6 else ''}"
            )
        return lines

    def head_config(self) -> dict[str, object]:
        return super().head_config() | {"problem_type": "multi_label_classification"}

    def output_order(self, teacher_names: Sequence[str], role: str) -> list[int]:
        return class_order(teacher_names, self.label_names, role)

    def hard_loss(
        self, logits: Tensor, labels: Tensor, *, num_examples: Tensor | int | None, label_smoothing: float
    ) -> Tensor:
        """Binary cross-entropy, mean over labels; smoothing moves each target towards one half."""
        logits = precise(logits)
        known = ~labels.isnan()
        gold = labels.to(logits.dtype).nan_to_num() * (1 - label_smoothing) + label_smoothing / 2
        weights = None if self.yes_weights is None else logits.new_tensor(self.yes_weights)
        values = binary_cross_entropy_with_logits(logits, gold, reduction="none", pos_weight=weights)
        total = values.where(known, 0.0).sum() / self.num_outputs
        return total / (len(logits) if num_examples is None else num_examples)

    def thresholds(self, answers: Answers, labels: Labels) -> np.ndarray:
        scores, gold = _scores(answers), labels.values
        common = np.full(self.num_outputs, _best_threshold(scores.ravel(), gold.ravel()))
        if self.primary_metric != "macro_f1":
            return common
        own = [_best_threshold(scores[:, label], gold[:, label]) for label in range(self.num_outputs)]
        return np.where(gold.any(axis=0), own, common)

    def metrics(self, answers: Answers, labels: Labels) -> dict[str, float]:
        """Micro- and macro-F1 at the thresholds, mAP, and NLL.

        macro-F1 is the mean over the labels that occur in gold labels or answers, mAP (mean average precision) over
        those that occur in gold labels; NLL is the mean over rows and labels, in nats.
        """
        everything = np.ones((1, labels.num_rows))
        gold = torch.from_numpy(labels.values).double()
        logits = answers.values.double()
        nll = -(gold * logsigmoid(logits) + (1 - gold) * logsigmoid(-logits)).mean()
        found = {name: float(self.score(name, answers, labels, everything)[0]) for name in self.primary_metrics}
        return found | {"nll": float(nll)}

    def score(self, metric: str, answers: Answers, labels: Labels, counts: np.ndarray) -> np.ndarray:
        """[samples] of one metric.

        Args:
            counts: [samples, rows], how often each row is in each sample.
        """
        gold = labels.values.astype(np.float64)
        if metric == "map":
            scores, by_row = _scores(answers), np.ascontiguousarray(counts.T)
            areas = [resampled.average_precision(scores[:, k], gold[:, k], by_row) for k in range(self.num_outputs)]
            return resampled.mean_known(np.stack(areas, axis=-1))
        told = self._told(answers).astype(np.float64)
        if metric == "micro_f1":
            hits, both = counts @ (told * gold).sum(axis=1), counts @ (told + gold).sum(axis=1)
            return np.nan_to_num(resampled.f1(hits, both))
        return resampled.mean_known(resampled.f1(counts @ (told * gold), counts @ (told + gold)))

    def refuse_chance(self, answers: Answers, labels: Labels, role: str) -> str | None:
        """It has to do better than against the labels of other rows: a permutation test of the primary metric.

        On 1,000 rows, where there are more.
        """
        if labels.num_rows > _MOST_ROWS:
            rows = np.random.default_rng(0).choice(labels.num_rows, _MOST_ROWS, replace=False)
            answers, labels = answers.take(rows), labels.take(rows)
        score, by_chance, p_value = self._against_others(answers, labels)
        if p_value < LEVEL:
            return None
        found = (
            f"has {self.primary_metric} {score:.3f} on {labels.num_rows:,} rows, and against the labels of other rows "
            f"{by_chance:.3f} (p = {p_value:.2g})"
        )
        if self._power(labels) < POWER:
            return f"{found}: too few rows to tell whether it is better than chance"
        remedy = f"set {role}.chance_check=false to go on all the same"
        raise UserError(role, f"{found}: it has not learned the task, or its labels are in another order", remedy)

    def _against_others(self, answers: Answers, labels: Labels) -> tuple[float, float, float]:
        """The primary metric, its mean over permuted rows of labels, and the p-value of no knowledge of them.

        Thresholds are chosen anew for each permutation: on the rows that they are chosen on, any answers look good.
        """
        random, everything = np.random.default_rng(0), np.ones((1, labels.num_rows))

        def score(labels: Labels) -> float:
            decided = self.decided(answers, answers, labels)
            return float(self.score(self.primary_metric, decided, labels, everything)[0])

        found = score(labels)
        others = np.array([score(labels.take(random.permutation(labels.num_rows))) for _ in range(_NUM_PERMUTED)])
        return found, float(others.mean()), float((1 + (others >= found - 1e-12).sum()) / (1 + _NUM_PERMUTED))

    def _power(self, labels: Labels) -> float:
        """How often the test finds a teacher who makes half the errors of the same answer to every row."""
        random = np.random.default_rng(0)
        shares = np.clip(labels.values.mean(axis=0), 1e-6, 1 - 1e-6)
        same = Answers(torch.from_numpy(np.log(shares / (1 - shares))).float().repeat(labels.num_rows, 1))
        told, gold = self._told(self.decided(same, same, labels)), labels.values > 0
        teachers = (np.where(random.random(gold.shape) < 0.5, gold, told) for _ in range(_NUM_TEACHERS))
        found = [self._against_others(_yes_and_no(teacher), labels)[2] < LEVEL for teacher in teachers]
        return float(np.mean(found))

    def agreement(self, student: Answers, teacher: Answers) -> float:
        """Labels that both tell by labels that either tells, mean over rows; 1 where neither tells any."""
        told, taught = self._told(student), self._told(teacher)
        either = (told | taught).sum(axis=1)
        return float(np.where(either, (told & taught).sum(axis=1) / np.maximum(either, 1), 1.0).mean())

    def decisions(self, answers: Answers) -> list[list[str]]:
        return self._named(self._told(answers))

    def gold(self, labels: Labels) -> list[list[str]]:
        return self._named(labels.values > 0)

    def row_scores(self, answers: Answers) -> np.ndarray:
        """Of the label that is the least sure: its probability where it is told, else that it is not there."""
        probabilities = answers.values.float().sigmoid().numpy()
        return np.where(self._told(answers), probabilities, 1 - probabilities).min(axis=1)

    def scores(self, answers: Answers) -> dict[str, list[float]]:
        probabilities = answers.values.double().sigmoid().T.tolist()
        return {f"probability_{name}": column for name, column in zip(self.label_names, probabilities, strict=True)}

    def served(self, answers: Answers) -> Mapping[str, Any]:
        return {"thresholds": [0.0] * self.num_outputs if answers.thresholds is None else answers.thresholds.tolist()}

    def _told(self, answers: Answers) -> np.ndarray:
        """[rows, labels], truth values; without chosen thresholds what is more likely than not."""
        return _scores(answers) > (0.0 if answers.thresholds is None else answers.thresholds)

    def _named(self, told: np.ndarray) -> list[list[str]]:
        return [[self.label_names[place] for place in np.flatnonzero(row).tolist()] for row in told]


def _yes_and_no(told: np.ndarray) -> Answers:
    """Answers that tell just these labels.

    Args:
        told: [rows, labels], truth values.
    """
    return Answers(torch.from_numpy(np.where(told, 1.0, -1.0)).float())


def _scores(answers: Answers) -> np.ndarray:
    return answers.values.double().numpy()


def _best_threshold(scores: np.ndarray, gold: np.ndarray) -> float:
    """The threshold of the highest F1, half-way between two scores; 0 where there is no yes.

    Args:
        scores, gold: [questions]
    """
    if not gold.any():
        return 0.0
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    hits = gold[order].astype(np.float64).cumsum()[ends]
    best = ends[np.argmax(2 * hits / (ends + 1 + gold.sum(dtype=np.float64)))]
    below = ordered[best + 1] if best + 1 < len(ordered) else ordered[best] - 2
    return float((ordered[best] + below) / 2)
