"""Losses that take the gold class and the others apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from kdexp.loss.base import LogitLoss, Outputs, targets
from kdexp.loss.formulas import divergence, refuse_both_zero, softened
from kdexp.ranges import Positive, Weight

if TYPE_CHECKING:
    from torch import Tensor

_NO_OTHERS = "its non-target term compares the shares of the other classes, of which a one-hot answer has none (0/0)"
_ONE_OTHER_CLASS = "with two classes there is one other class, and its non-target term is identically zero"


@dataclass(kw_only=True)
class DKD(LogitLoss):
    """T^2 * (target_weight * TCKD + nontarget_weight * NCKD): decoupled knowledge distillation.

    Zhao et al. 2022, https://arxiv.org/abs/2203.08679, eq. 7: TCKD is the KL of "the gold class or another", NCKD
    the KL among the other classes. A row without a gold label takes the teacher's class as its target.

    Attributes:
        target_weight: The paper's alpha, of the gold class against all others.
        nontarget_weight: The paper's beta, of the distribution among the other classes.
    """

    name: str = "dkd"
    temperature: Positive
    target_weight: Weight
    nontarget_weight: Weight

    outputs: ClassVar[frozenset[Outputs]] = frozenset({Outputs.classes})
    min_classes: ClassVar[int] = 3
    degenerate: ClassVar[str] = _ONE_OTHER_CLASS
    reads_others: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_both_zero(self, "target_weight", "nontarget_weight")

    @property
    def one_hot_problem(self) -> str:
        return _NO_OTHERS if self.nontarget_weight else ""

    def total(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        target = targets(labels, teacher)
        student, teacher = student / self.temperature, teacher / self.temperature
        student_others, teacher_others = _others(student, target), _others(teacher, target)
        student_target, student_other = _target_or_other(student.gather(-1, target), student_others)
        teacher_target, teacher_other = _target_or_other(teacher.gather(-1, target), teacher_others)
        target_kl = divergence(teacher_target, student_target) + divergence(teacher_other, student_other)
        nontarget_kl = divergence(teacher_others.log_softmax(-1), student_others.log_softmax(-1))
        return self.temperature**2 * (self.target_weight * target_kl + self.nontarget_weight * nontarget_kl)


@dataclass(kw_only=True)
class NKD(LogitLoss):
    """-p_t[y] * log p_s[y] - nontarget_weight * T^2 * sum_{i != y} n(p_t)_i * log n(p_s)_i.

    Normalised knowledge distillation, Yang et al. 2023, https://arxiv.org/abs/2303.13005, eq. 7: the target term
    at temperature 1, the others normalised to sum to one and softened. Cross-entropies, so it is not zero where
    both agree. A row without a gold label takes the teacher's class as its target.

    Attributes:
        temperature: The paper's lambda; softens the non-target classes only.
        nontarget_weight: The paper's gamma.
    """

    name: str = "nkd"
    temperature: Positive
    nontarget_weight: Weight

    outputs: ClassVar[frozenset[Outputs]] = frozenset({Outputs.classes})
    min_classes: ClassVar[int] = 3
    degenerate: ClassVar[str] = _ONE_OTHER_CLASS
    reads_others: ClassVar[bool] = True

    @property
    def one_hot_problem(self) -> str:
        return _NO_OTHERS if self.nontarget_weight else ""

    def total(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        target = targets(labels, teacher)
        target_term = teacher.softmax(-1).gather(-1, target) * student.log_softmax(-1).gather(-1, target)
        student_others = softened(_others(student, target), self.temperature)
        others_term = (_others(teacher, target) / self.temperature).softmax(-1) * student_others
        return -target_term.sum() - self.nontarget_weight * self.temperature**2 * others_term.sum()


def _others(logits: Tensor, target: Tensor) -> Tensor:
    """Logits of all classes but the target: [batch, classes - 1]."""
    # By index: as many are left of each row, which a mask does not say.
    others = target.new_ones(len(logits), logits.shape[-1] - 1).cumsum(-1) - 1
    return logits.gather(-1, others + (others >= target))


def _target_or_other(target: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of "the target" and of "any other": [batch, 1] each, without a log of a difference."""
    other = others.logsumexp(-1, keepdim=True)
    total = target.logaddexp(other)
    return target - total, other - total
