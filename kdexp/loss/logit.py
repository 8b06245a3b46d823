"""Losses on logits. Each is one class: settings, ranges, what it may be used for, and formula.

    loss = KD(temperature=4.0, alpha=0.5)
    soft = loss(student_logits, teacher_logits, labels)

A loss takes raw logits, computes in float32 whatever the autocast dtype (in float64 where that is what it is
given), and gives a scalar. `num_examples` is the number of rows in the whole optimizer step: with gradient
accumulation it is larger than the rows at hand, so that the micro-batches' losses add up to exactly the loss of the
one large batch. Nothing that comes from the teacher gets a gradient.

A new loss is a class here that writes `total`, its place in `LOSSES`, and a file in conf/loss; those that take the
gold class and the others apart stand in `decoupled.py`. Tensors are read through their methods alone: composing a run
loads no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from kdexp.errors import UserError
from kdexp.loss.base import CrossEntropy, LogitLoss, Loss, Outputs
from kdexp.loss.decoupled import DKD, NKD
from kdexp.loss.formulas import divergence, refuse_both_zero, softened
from kdexp.ranges import Positive, Range, Weight

if TYPE_CHECKING:
    from torch import Tensor

TeacherShare = Annotated[
    float,
    Range(
        "a number between 0 and 1; the limits themselves are kd and reverse_kl",
        low=0,
        high=1,
        open_low=True,
        open_high=True,
    ),
]


@dataclass(kw_only=True)
class KD(LogitLoss):
    """T^2 * KL(softmax(z_t / T) || softmax(z_s / T)).

    See Hinton et al. 2015, https://arxiv.org/abs/1503.02531, section 2: gradients of the softened targets scale as
    1 / T^2, so the factor T^2 keeps the two terms' relative weight when T changes.

    Both distributions enter as log-probabilities: softmax followed by log would underflow to log(0) for confident
    teachers. The sum over classes is divided by the number of rows ("batchmean"); torch's default `mean` would
    divide by the number of classes as well.
    """

    name: str = "kd"
    temperature: Positive

    def total(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        student, teacher = softened(student, self.temperature), softened(teacher, self.temperature)
        return self.temperature**2 * divergence(teacher, student)


@dataclass(kw_only=True)
class SoftCE(LogitLoss):
    """-sum softmax(z_t) * log_softmax(z_s): T = 1, and no factor.

    The prediction stage of TinyBERT (https://arxiv.org/abs/1909.10351, eq. 10) and FastFormers. It differs from
    KL by the teacher's entropy, which the student cannot change.
    """

    name: str = "soft_ce"

    def total(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return -(teacher.log_softmax(-1).exp() * student.log_softmax(-1)).sum()


@dataclass(kw_only=True)
class MSE(LogitLoss):
    """Squared difference of the logits, averaged over classes.

    See Ba & Caruana 2014, https://arxiv.org/abs/1312.6184, eq. 1.

    Attributes:
        centered: First remove each row's mean logit, which no softmax depends on, and sigmoids and numbers do.
            A run's None is true for classes of which one is right, and false otherwise.
    """

    name: str = "mse"
    centered: bool | None = None

    outputs: ClassVar[frozenset[Outputs]] = frozenset(Outputs)
    compares_outputs: ClassVar[bool] = True
    min_classes: ClassVar[int] = 1

    @property
    def reads_level(self) -> bool:
        return not self.centered

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.centered, bool | None):
            raise UserError("centered", f"got {self.centered!r}", "expected true or false")

    def total(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        difference = student - teacher
        if self.centered:
            difference = difference - difference.mean(-1, keepdim=True)
        return difference.square().mean(-1).sum()


@dataclass(kw_only=True)
class Huber(LogitLoss):
    """Half the squared difference where it is below delta, delta * (difference - delta / 2) above: mean over outputs.

    See Huber 1964, https://doi.org/10.1214/aoms/1177703732. Single absurd answers of the teacher weigh less than in
    `MSE`. A run's numbers are standardised: delta is in standard deviations of the training labels.

    Attributes:
        delta: Where it goes from squared to linear.
    """

    name: str = "huber"
    delta: Positive

    outputs: ClassVar[frozenset[Outputs]] = frozenset({Outputs.number})
    compares_outputs: ClassVar[bool] = True
    min_classes: ClassVar[int] = 1

    def total(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        difference = (student - teacher).abs()
        small = difference.clamp(max=self.delta)
        return (small * (difference - small / 2)).mean(-1).sum()


@dataclass(kw_only=True)
class ReverseKL(LogitLoss):
    """T^2 * KL(softmax(z_s / T) || softmax(z_t / T)).

    Seeks the teacher's modes rather than covering all it says: Gu et al. 2023, https://arxiv.org/abs/2306.08543,
    section 2.1.
    """

    name: str = "reverse_kl"
    temperature: Positive

    @property
    def one_hot_problem(self) -> str:
        return (
            "reverse_kl is infinite wherever the student leaves some probability to a class that the answer rules out"
        )

    def total(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        student, teacher = softened(student, self.temperature), softened(teacher, self.temperature)
        return self.temperature**2 * divergence(student, teacher)


@dataclass(kw_only=True)
class JSD(LogitLoss):
    """T^2 * (beta * KL(p_t || m) + (1 - beta) * KL(p_s || m)), m = beta * p_t + (1 - beta) * p_s.

    The generalised Jensen-Shannon divergence of Agarwal et al. 2023, https://arxiv.org/abs/2306.13649, eq. 1;
    beta = 0.5 is the symmetric one. The mixture is taken in log space, so that a class to which both give no
    probability has a finite gradient.

    Attributes:
        beta: Share of the teacher in the mixture, between 0 (towards kd) and 1 (towards reverse_kl).
    """

    name: str = "jsd"
    temperature: Positive
    beta: TeacherShare

    def total(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        student, teacher = softened(student, self.temperature), softened(teacher, self.temperature)
        mixture = (teacher + math.log(self.beta)).logaddexp(student + math.log(1 - self.beta))
        total = self.beta * divergence(teacher, mixture) + (1 - self.beta) * divergence(student, mixture)
        return self.temperature**2 * total


@dataclass(kw_only=True)
class TVD(LogitLoss):
    """T * 1/2 * sum |p_t - p_s|: total variation distance.

    See Wen et al. 2023, https://arxiv.org/abs/2307.15190, section 3. Its gradient scales as 1 / T, hence T.
    """

    name: str = "tvd"
    temperature: Positive

    def total(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        student, teacher = softened(student, self.temperature), softened(teacher, self.temperature)
        return self.temperature * 0.5 * (teacher.exp() - student.exp()).abs().sum()


@dataclass(kw_only=True)
class DIST(LogitLoss):
    """T^2 * (inter_weight * inter + intra_weight * intra), each 1 - mean Pearson correlation of probabilities.

    Huang et al. 2022, https://arxiv.org/abs/2205.10536, eq. 8: `inter` correlates the classes of each row, `intra`
    the rows of each class. `intra` relates the rows at hand to each other: with gradient accumulation those of the
    micro-batch, weighted by their share of the step.

    Attributes:
        inter_weight: The paper's beta, of each example's correlation over the classes.
        intra_weight: The paper's gamma, of each class's correlation over the batch.
    """

    name: str = "dist"
    temperature: Positive
    inter_weight: Weight
    intra_weight: Weight

    outputs: ClassVar[frozenset[Outputs]] = frozenset({Outputs.classes})
    min_classes: ClassVar[int] = 3
    reads_others: ClassVar[bool] = True
    degenerate: ClassVar[str] = (
        "the correlation over two classes is +1 or -1: it says which is ahead, and nothing of how far"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_both_zero(self, "inter_weight", "intra_weight")

    @property
    def relates_rows(self) -> bool:
        return self.intra_weight > 0

    def total(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        student, teacher = (student / self.temperature).softmax(-1), (teacher / self.temperature).softmax(-1)
        inter = (1 - _correlation(student, teacher, -1)).sum()
        intra = (1 - _correlation(student, teacher, 0)).mean() * len(student)
        return self.temperature**2 * (self.inter_weight * inter + self.intra_weight * intra)


@dataclass(kw_only=True)
class LogitStd(KD):
    """`KD` of logits standardised per row: the student need not copy the teacher's scale.

    Sun et al. 2024, https://arxiv.org/abs/2403.01427, eq. 9.
    """

    name: str = "logit_std"

    outputs: ClassVar[frozenset[Outputs]] = frozenset({Outputs.classes})
    min_classes: ClassVar[int] = 3
    degenerate: ClassVar[str] = "two logits standardise to the same two numbers whatever they are"

    @property
    def one_hot_problem(self) -> str:
        return "logit_std gives all answers the same spread, so that a one-hot one becomes a smoothed label"

    def total(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return super().total(_standardised(student), _standardised(teacher), labels)


LOSSES: dict[str, type[Loss]] = {
    "ce": CrossEntropy,
    "kd": KD,
    "soft_ce": SoftCE,
    "mse": MSE,
    "huber": Huber,
    "reverse_kl": ReverseKL,
    "jsd": JSD,
    "tvd": TVD,
    "dkd": DKD,
    "nkd": NKD,
    "dist": DIST,
    "logit_std": LogitStd,
}
"""The losses by name."""


def _correlation(left: Tensor, right: Tensor, dim: int) -> Tensor:
    """Pearson's, along `dim`; 0 where one of both is constant."""
    left, right = left - left.mean(dim, keepdim=True), right - right.mean(dim, keepdim=True)
    return (left * right).sum(dim) / (left.norm(dim=dim).clamp(min=1e-8) * right.norm(dim=dim).clamp(min=1e-8))


def _standardised(logits: Tensor) -> Tensor:
    # The square root of a variance of exactly zero has no finite gradient.
    deviation = (logits.var(dim=-1, keepdim=True) + 1e-14).sqrt()
    return (logits - logits.mean(-1, keepdim=True)) / deviation
