"""Kinds of task of whose classes one is right, for each row or each word: what they have in common."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Self

import numpy as np
from torch import Tensor

from kdexp.errors import UserError
from kdexp.loss.base import Outputs
from kdexp.loss.hard import hard_loss
from kdexp.task.config import ClassWeights
from kdexp.task.kinds.base import Labels, TaskKind
from kdexp.task.kinds.labels import label_key
from kdexp.task.tables.table import shorten

_NUM_NAMED = 6


class OneOfClasses(TaskKind):
    """One of the classes `label_names` is right for each unit; subclasses are dataclasses with these fields.

    Attributes:
        class_weights: [classes], what a unit of each weighs in the hard loss; None is 1 each.
    """

    outputs: ClassVar[Outputs] = Outputs.classes
    class_weights: tuple[float, ...] | None

    def weighted(self, weights: ClassWeights, labels: Labels) -> Self:
        weight = class_weights(weights, labels, self.label_names)
        return replace(self, class_weights=weight)  # type: ignore[type-var]

    def output_order(self, teacher_names: Sequence[str], role: str) -> list[int]:
        return class_order(teacher_names, self.label_names, role)

    def hard_loss(
        self, logits: Tensor, labels: Tensor, *, num_examples: Tensor | int | None, label_smoothing: float
    ) -> Tensor:
        return hard_loss(
            logits,
            labels,
            num_examples=num_examples,
            label_smoothing=label_smoothing,
            class_weights=self.class_weights,
        )


def class_weights(weights: ClassWeights, labels: Labels, names: Sequence[str]) -> tuple[float, ...] | None:
    """`balanced` is units / (classes * units of the class), which is 1 in the mean over units (scikit-learn's)."""
    if weights == "none":
        return None
    if weights != "balanced":
        return read_weights(weights, names)
    counts = np.bincount(labels.values, minlength=len(names))
    return tuple((counts.sum() / ((counts > 0).sum() * np.maximum(counts, 1))).tolist())


def read_weights(weights: ClassWeights, names: Sequence[str]) -> tuple[float, ...]:
    """
    Raises:
        UserError: They are no number for each of the classes.
    """
    if isinstance(weights, str) or len(weights) != len(names):
        got = weights if isinstance(weights, str) else f"{len(weights)} numbers for {len(names)} classes"
        raise UserError("class_weights", f"got {got}", f"expected none, balanced, or one each of {shorten(names)}")
    return tuple(map(float, weights))


def class_order(teacher_names: Sequence[str], task_names: Sequence[str], role: str = "teacher") -> list[int]:
    """Where each of the task's classes lies among the teacher's: `teacher_logits[:, order]` is in the task's order.

    Names are the same where they are equal; where that does not pair all of them, without regard to case, spaces,
    hyphens (which are no signs) and underscores; and where that does not either, a head's `LABEL_2` is the class 2.

    Args:
        role: What the teacher's settings begin with, for errors.

    Raises:
        UserError: The names are not the same set; both lists are shown.
    """

    for key in (str, label_key, _numbered_key):
        position = {key(name): index for index, name in enumerate(teacher_names)}
        wanted = [key(name) for name in task_names]
        if len(position) == len(teacher_names) and sorted(position) == sorted(wanted):
            return [position[name] for name in wanted]
    raise UserError(
        f"{role}.labels",
        f"the teacher's classes [{shorten(teacher_names)}] are not the task's [{shorten(task_names)}]",
        f"name the teacher's classes in its own order with {role}.labels=[...], "
        f"say which class of the task each of them is with {role}.label_map={{its class: the task's}}, "
        f"or give it a new head with {role}.finetune=true",
    )


def _numbered_key(name: str) -> str:
    """`LABEL_2`, as transformers names the outputs of a head that was given no names, is the class 2."""
    key = label_key(name)
    return re.sub(r"^label(?=\d+$)", "", key)


def classes_line(names: Sequence[str], counts: np.ndarray, what: str, units: str = "rows") -> str:
    """How many classes (or labels: `what`) there are, the most frequent and the rarest, with their rows in train."""
    order = np.argsort(-counts, kind="stable").tolist()
    told = [f"{names[index]:.40}: {counts[index]:,}" for index in order]
    if len(told) > _NUM_NAMED:
        told[_NUM_NAMED:] = [f"... the rarest of {len(told) - _NUM_NAMED:,} more {told[-1]}"]
    return f"{what}: {len(names):,}, with {units} in train: {', '.join(told)}"


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, num_bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over equally wide bins of confidence.

    See Guo et al. 2017, https://arxiv.org/abs/1706.04599, eq. 3.

    Args:
        probabilities: [rows, classes]
        labels: [rows]
    """
    confidence = probabilities.max(axis=-1)
    correct = probabilities.argmax(axis=-1) == labels
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    gap_sums = np.bincount(bins, weights=correct - confidence, minlength=num_bins)
    return float(np.abs(gap_sums).sum() / len(labels))
