"""Single-label classification: one of several classes is right."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from torch import Tensor

from kdexp.errors import UserError
from kdexp.task.kinds import resampled
from kdexp.task.kinds.base import Answers, Labels
from kdexp.task.kinds.chance import POWER, chance_test, power
from kdexp.task.kinds.classes import OneOfClasses, classes_line, expected_calibration_error
from kdexp.task.kinds.labels import class_indices, class_names, label_notices
from kdexp.task.tables.table import Column

_LARGE_SHARE = 0.8
"""Of the largest class, above which accuracy alone says little."""


@dataclass(frozen=True)
class SingleLabel(OneOfClasses):
    """One of the classes `label_names` is right.

    Attributes:
        class_weights: [classes], what a row of each weighs in the hard loss; None is 1 each.
    """

    label_names: Sequence[str]
    primary_metric: str = "accuracy"
    class_weights: tuple[float, ...] | None = None
    name: ClassVar[str] = "single_label"
    tells: ClassVar[str] = "one class of each text"
    primary_metrics: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1", "matthews", "macro_recall")

    @classmethod
    def from_column(cls, column: Column, names: Sequence[str] | None) -> Self:
        return cls(class_names(column, names))

    def encode(self, column: Column, *, by_number: bool = False) -> np.ndarray:
        numbers = {str(index): index for index in range(self.num_outputs)} if by_number else {}
        return class_indices(column, numbers | {name: index for index, name in enumerate(self.label_names)})

    def strata(self, labels: Labels) -> np.ndarray:
        return labels.values

    def refuse_untrainable(self, labels: Labels) -> None:
        classes = np.unique(labels.values)
        if len(classes) < 2:
            left = f"all have the label '{self.label_names[classes[0]]}'" if len(classes) else "there are none"
            problem = f"of the {labels.num_rows} rows left to train on, {left}"
            raise UserError("task.train_size", problem, "a classifier needs two classes: keep more rows for training")

    def announcements(self, labels: Labels) -> list[str]:
        counts = np.bincount(labels.values, minlength=self.num_outputs)
        lines = [classes_line(self.label_names, counts, "classes"), *label_notices(self.label_names)]
        share, largest = counts.max() / max(counts.sum(), 1), self.label_names[int(counts.argmax())]
        if share > _LARGE_SHARE:
            lines.append(
                f"'{largest:.40}' is {share:.0%} of the training rows, and always answering it would be as accurate: "
                "look at macro-F1 (task.primary_metric=macro_f1, train.class_weights=balanced)"
            )
        return lines

    def head_config(self) -> dict[str, object]:
        return super().head_config() | {"problem_type": "single_label_classification"}

    def metrics(self, answers: Answers, labels: Labels) -> dict[str, float]:
        found = classification_metrics(answers.values, labels.values)
        if self.primary_metric in found:
            return found
        given = answers.values.argmax(-1).numpy()
        return found | {self.primary_metric: float(self._scores(given, labels.values, np.arange(len(given))[None])[0])}

    def gain(self, student: Answers, baseline: Answers, labels: Labels, rows: np.ndarray) -> np.ndarray:
        if self.primary_metric != "accuracy":
            return super().gain(student, baseline, labels, rows)
        # In whole numbers: a difference of nothing is exactly nothing, and no interval leaves zero by rounding.
        right, baseline_right = (
            (answers.values.argmax(-1).numpy() == labels.values).astype(float) for answers in (student, baseline)
        )
        return (right - baseline_right)[rows].mean(axis=-1)

    def resampled_scores(self, answers: Answers, labels: Labels, rows: np.ndarray) -> np.ndarray:
        told = answers.values.argmax(-1).numpy()
        if self.primary_metric == "accuracy":
            return np.asarray((told == labels.values)[rows].mean(axis=-1))
        return self._scores(told, labels.values, rows)

    def _scores(self, answers: np.ndarray, gold: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """[samples], the primary metric on rows [samples, rows]."""
        num_classes = self.num_outputs
        hits = resampled.class_counts(gold, num_classes, rows, answers == gold)
        labelled, told = (resampled.class_counts(classes, num_classes, rows) for classes in (gold, answers))
        if self.primary_metric == "matthews":
            return resampled.matthews(hits.sum(axis=-1), labelled, told)
        if self.primary_metric == "macro_recall":
            return resampled.mean_known(resampled.f1(hits, 2 * labelled))
        return resampled.mean_known(resampled.f1(hits, labelled + told))

    def refuse_chance(self, answers: Answers, labels: Labels, role: str) -> str | None:
        given = answers.values.argmax(-1).numpy()
        found = chance_test(given, labels.values, self.num_outputs)
        if found.is_better:
            return None
        if power(labels.values, self.num_outputs) < POWER:
            return f"{found}: too few rows to tell whether it is better than chance"
        if (given == given[0]).all():
            reason = f"it answers '{self.label_names[given[0]]}' on every row"
        elif found.is_worse:
            reason = "are its class names in the wrong order?"
        else:
            reason = "it has not learned the task"
        raise UserError(role, f"{found}: {reason}", f"set {role}.chance_check=false to go on all the same")

    def agreement(self, student: Answers, teacher: Answers) -> float:
        return float((student.values.argmax(-1) == teacher.values.argmax(-1)).float().mean())

    def decisions(self, answers: Answers) -> list[str]:
        return [self.label_names[index] for index in answers.values.argmax(-1).tolist()]

    def gold(self, labels: Labels) -> list[str]:
        return [self.label_names[label] for label in labels.values]

    def row_scores(self, answers: Answers) -> np.ndarray:
        return answers.values.float().softmax(dim=-1).amax(dim=-1).numpy()

    def scores(self, answers: Answers) -> dict[str, list[float]]:
        probabilities = answers.values.double().softmax(dim=-1).T.tolist()
        return {f"probability_{name}": column for name, column in zip(self.label_names, probabilities, strict=True)}


def classification_metrics(logits: Tensor, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, macro-F1, NLL and calibration error.

    Args:
        logits: [rows, classes]
        labels: [rows], class indices

    Returns:
        `accuracy`, `macro_f1` (over the classes that occur in labels or answers), `nll` (mean, nats)
        and `ece`.
    """
    from scipy.special import log_softmax, softmax

    scores = logits.float().numpy().astype(np.float64)
    gold = np.asarray(labels)
    answers = scores.argmax(axis=-1)
    return {
        "accuracy": float((answers == gold).mean()),
        "macro_f1": _macro_f1(answers, gold, scores.shape[-1]),
        "nll": float(-log_softmax(scores, axis=-1)[np.arange(len(gold)), gold].mean()),
        "ece": expected_calibration_error(softmax(scores, axis=-1), gold),
    }


def _macro_f1(answers: np.ndarray, gold: np.ndarray, num_classes: int) -> float:
    """Mean over the classes that occur of 2 TP / (2 TP + FP + FN); without scikit-learn, which is slow to import."""
    hits = np.bincount(gold[answers == gold], minlength=num_classes)
    counts = np.bincount(gold, minlength=num_classes) + np.bincount(answers, minlength=num_classes)
    occurs = counts > 0
    return float((2 * hits[occurs] / counts[occurs]).mean())
