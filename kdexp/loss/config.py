"""What can be set of a loss."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from omegaconf import MISSING


class Alignment(StrEnum):
    """Which tokens of teacher and student a token-level term compares."""

    words = "words"
    position = "position"


class Pooling(StrEnum):
    """How a representation term makes one vector of a text."""

    cls = "cls"
    mean = "mean"


@dataclass
class TermConfig:
    """A representation or token-level term: weight * term is added to the loss.

    Attributes:
        weight: At the first step.
        weight_end: At the last step, with a linear ramp between; None keeps `weight`.
        layers: Which layers are compared: `uniform`, `last`, or a list of layer numbers.
    """

    weight: float = 1.0
    weight_end: float | None = None
    layers: Any = "uniform"
    alignment: Alignment = Alignment.words
    pooling: Pooling = Pooling.cls


TERMS = ("pkd", "rkd", "cka", "hidden", "attention", "minilm")
"""Names under which `loss.terms` can hold a term."""


@dataclass
class LossConfig:
    """loss = alpha * hard + (1 - alpha) * soft + sum of weight * term."""

    name: str = MISSING
    terms: dict[str, TermConfig] = field(default_factory=dict)


@dataclass
class CrossEntropyConfig(LossConfig):
    """Gold labels only (alpha = 1): without `terms`, no teacher."""


@dataclass
class SoftLossConfig(LossConfig):
    """What all losses share that compare the student's logits with the teacher's.

    Attributes:
        alpha: Weight of the gold labels at the first step: 1 = no teacher, 0 = teacher only.
        alpha_end: At the last step, with a linear ramp between; None keeps `alpha`.
    """

    alpha: float = MISSING
    alpha_end: float | None = None


@dataclass
class KDConfig(SoftLossConfig):
    """soft = T^2 * KL(teacher || student)."""

    temperature: float = MISSING


@dataclass
class SoftCEConfig(SoftLossConfig):
    """soft = cross-entropy with the teacher's probabilities, at T = 1."""


@dataclass
class MSEConfig(SoftLossConfig):
    """soft = mean squared difference of logits.

    Attributes:
        centered: First remove each example's mean logit, which no prediction depends on.
    """

    centered: bool = MISSING


@dataclass
class ReverseKLConfig(SoftLossConfig):
    """soft = T^2 * KL(student || teacher)."""

    temperature: float = MISSING


@dataclass
class JSDConfig(SoftLossConfig):
    """soft = T^2 * generalised Jensen-Shannon divergence.

    Attributes:
        beta: Share of the teacher in the mixture, between 0 (towards kd) and 1 (towards reverse_kl).
    """

    temperature: float = MISSING
    beta: float = MISSING


@dataclass
class TVDConfig(SoftLossConfig):
    """soft = T * total variation distance."""

    temperature: float = MISSING


@dataclass
class DKDConfig(SoftLossConfig):
    """soft = decoupled knowledge distillation.

    Attributes:
        target_weight: The paper's alpha, of the gold class against all others.
        nontarget_weight: The paper's beta, of the distribution among the other classes.
    """

    temperature: float = MISSING
    target_weight: float = MISSING
    nontarget_weight: float = MISSING


@dataclass
class NKDConfig(SoftLossConfig):
    """soft = normalised knowledge distillation.

    Attributes:
        temperature: The paper's lambda; softens the non-target classes only.
        nontarget_weight: The paper's gamma.
    """

    temperature: float = MISSING
    nontarget_weight: float = MISSING


@dataclass
class DISTConfig(SoftLossConfig):
    """soft = 1 - Pearson correlation, within examples and within classes.

    Attributes:
        inter_weight: The paper's beta, of each example's correlation over the classes.
        intra_weight: The paper's gamma, of each class's correlation over the batch.
    """

    temperature: float = MISSING
    inter_weight: float = MISSING
    intra_weight: float = MISSING


@dataclass
class LogitStdConfig(SoftLossConfig):
    """soft = T^2 * KL(teacher || student) of logits standardised per example."""

    temperature: float = MISSING


LOSSES: dict[str, type[LossConfig]] = {
    "ce": CrossEntropyConfig,
    "kd": KDConfig,
    "soft_ce": SoftCEConfig,
    "mse": MSEConfig,
    "reverse_kl": ReverseKLConfig,
    "jsd": JSDConfig,
    "tvd": TVDConfig,
    "dkd": DKDConfig,
    "nkd": NKDConfig,
    "dist": DISTConfig,
    "logit_std": LogitStdConfig,
}
"""The losses by name, and what can be set in each."""


def is_without_teacher(loss: LossConfig) -> bool:
    """Whether nothing of the teacher enters the loss: its other settings then have no effect."""
    return not loss.terms and not has_soft_part(loss)


def has_soft_part(loss: LossConfig) -> bool:
    """Whether the student is compared with the teacher's logits at any step."""
    return isinstance(loss, SoftLossConfig) and (loss.alpha < 1 or loss.alpha_end not in (None, 1))
