"""Distillation losses: pure functions of logits.

Every function takes raw logits, computes in float32 whatever the autocast dtype (in float64 where that
is what it is given), and returns a scalar. `num_examples` is the number of rows in the whole optimizer
step: with gradient accumulation it is larger than the rows at hand, so that the micro-batches' losses
add up to exactly the loss of the one large batch. Nothing that comes from the teacher gets a gradient.
"""

import torch
from torch import Tensor
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cosine_similarity,
    cross_entropy,
    kl_div,
    log_softmax,
    logsigmoid,
    softmax,
)

from kdexp.loss.config import (
    DISTConfig,
    DKDConfig,
    JSDConfig,
    KDConfig,
    LogitStdConfig,
    LossConfig,
    MSEConfig,
    NKDConfig,
    ReverseKLConfig,
    SoftCEConfig,
    TVDConfig,
)

IGNORED_LABEL = -100
"""Label of a row without a gold label (torch's own convention)."""

SMALLEST_BATCH = 3
"""Rows that a loss needs which relates the rows of a batch to each other: two always correlate perfectly."""

NumExamples = Tensor | int | None


def hard_loss(
    student_logits: Tensor,
    labels: Tensor,
    *,
    num_examples: NumExamples = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy with the gold labels.

    Rows labelled -100 (unlabelled transfer text) add nothing, but count in the mean: an unlabelled
    row has no hard loss, it does not make its neighbours' heavier.

    Args:
        student_logits: [batch, classes]
        labels: [batch], class indices
    """
    total = cross_entropy(
        _precise(student_logits),
        labels,
        reduction="sum",
        ignore_index=IGNORED_LABEL,
        label_smoothing=label_smoothing,
    )
    return total / _count(student_logits, num_examples)


def logit_loss(
    loss: LossConfig,
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    num_examples: NumExamples = None,
) -> Tensor:
    """The soft loss that a config describes.

    Args:
        student_logits, teacher_logits: [batch, classes]
        labels: [batch], gold classes, -100 where there is none
    """
    pair = (student_logits, teacher_logits)
    match loss:
        case KDConfig(temperature=temperature):
            return soft_loss(*pair, temperature, num_examples=num_examples)
        case SoftCEConfig():
            return soft_cross_entropy(*pair, num_examples=num_examples)
        case MSEConfig(centered=centered):
            return mse(*pair, centered=centered, num_examples=num_examples)
        case ReverseKLConfig(temperature=temperature):
            return reverse_kl(*pair, temperature, num_examples=num_examples)
        case JSDConfig(temperature=temperature, beta=beta):
            return jsd(*pair, temperature, beta, num_examples=num_examples)
        case TVDConfig(temperature=temperature):
            return tvd(*pair, temperature, num_examples=num_examples)
        case DKDConfig(temperature=temperature, target_weight=target, nontarget_weight=nontarget):
            return dkd(*pair, labels, temperature, target, nontarget, num_examples=num_examples)
        case NKDConfig(temperature=temperature, nontarget_weight=nontarget):
            return nkd(*pair, labels, temperature, nontarget, num_examples=num_examples)
        case DISTConfig(temperature=temperature, inter_weight=inter, intra_weight=intra):
            return dist(*pair, temperature, inter, intra, num_examples=num_examples)
        case LogitStdConfig(temperature=temperature):
            return logit_std(*pair, temperature, num_examples=num_examples)
        case _:
            raise TypeError(f"{type(loss).__name__} has no soft loss")


def soft_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, *, num_examples: NumExamples = None
) -> Tensor:
    """T^2 * KL(softmax(z_t / T) || softmax(z_s / T)), averaged over the batch.

    See Hinton et al. 2015, https://arxiv.org/abs/1503.02531, section 2: gradients of the softened
    targets scale as 1 / T^2, so the factor T^2 keeps the two terms' relative weight when T changes.

    Both distributions enter as log-probabilities (`log_target`): softmax followed by log would
    underflow to log(0) for confident teachers. The sum over classes is divided by the number of
    rows ("batchmean"); torch's default `mean` would divide by the number of classes as well.

    Args:
        student_logits, teacher_logits: [batch, classes]
    """
    student, teacher = _log_probabilities(student_logits, teacher_logits, temperature)
    total = kl_div(student, teacher, reduction="sum", log_target=True)
    return temperature**2 * total / _count(student_logits, num_examples)


def soft_cross_entropy(student_logits: Tensor, teacher_logits: Tensor, *, num_examples: NumExamples = None) -> Tensor:
    """-sum softmax(z_t) * log_softmax(z_s), averaged over the batch: T = 1, and no factor.

    The prediction stage of TinyBERT (https://arxiv.org/abs/1909.10351, eq. 10) and FastFormers. It
    differs from KL by the teacher's entropy, which the student cannot change.

    Args:
        student_logits, teacher_logits: [batch, classes]
    """
    student, teacher = _log_probabilities(student_logits, teacher_logits, 1.0)
    return -(teacher.exp() * student).sum() / _count(student_logits, num_examples)


def mse(
    student_logits: Tensor, teacher_logits: Tensor, *, centered: bool = False, num_examples: NumExamples = None
) -> Tensor:
    """Squared difference of the logits, averaged over classes and batch.

    See Ba & Caruana 2014, https://arxiv.org/abs/1312.6184, eq. 1.

    Args:
        student_logits, teacher_logits: [batch, classes]
        centered: First remove each row's mean, which no softmax depends on.
    """
    difference = _precise(student_logits) - _precise(teacher_logits.detach())
    if centered:
        difference = difference - difference.mean(dim=-1, keepdim=True)
    return difference.square().mean(dim=-1).sum() / _count(student_logits, num_examples)


def reverse_kl(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, *, num_examples: NumExamples = None
) -> Tensor:
    """T^2 * KL(softmax(z_s / T) || softmax(z_t / T)), averaged over the batch.

    Seeks the teacher's modes rather than covering all it says: Gu et al. 2023,
    https://arxiv.org/abs/2306.08543, section 2.1.

    Args:
        student_logits, teacher_logits: [batch, classes]
    """
    student, teacher = _log_probabilities(student_logits, teacher_logits, temperature)
    total = kl_div(teacher, student, reduction="sum", log_target=True)
    return temperature**2 * total / _count(student_logits, num_examples)


def jsd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float,
    beta: float,
    *,
    num_examples: NumExamples = None,
) -> Tensor:
    """T^2 * (beta * KL(p_t || m) + (1 - beta) * KL(p_s || m)), m = beta * p_t + (1 - beta) * p_s.

    The generalised Jensen-Shannon divergence of Agarwal et al. 2023, https://arxiv.org/abs/2306.13649,
    eq. 1; beta = 0.5 is the symmetric one. The mixture is taken in log space, so that a class to which both
    give no probability has a finite gradient.

    Args:
        student_logits, teacher_logits: [batch, classes]
        beta: Between 0 and 1, the teacher's share in the mixture.
    """
    student, teacher = _log_probabilities(student_logits, teacher_logits, temperature)
    shares = torch.tensor([beta, 1 - beta], dtype=student.dtype, device=student.device).log()
    mixture = torch.logaddexp(teacher + shares[0], student + shares[1])
    total = beta * kl_div(mixture, teacher, reduction="sum", log_target=True)
    total = total + (1 - beta) * kl_div(mixture, student, reduction="sum", log_target=True)
    return temperature**2 * total / _count(student_logits, num_examples)


def tvd(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, *, num_examples: NumExamples = None
) -> Tensor:
    """T * 1/2 * sum |p_t - p_s|: total variation distance, averaged over the batch.

    See Wen et al. 2023, https://arxiv.org/abs/2307.15190, section 3. Its gradient scales as 1 / T, hence T.

    Args:
        student_logits, teacher_logits: [batch, classes]
    """
    student, teacher = _log_probabilities(student_logits, teacher_logits, temperature)
    return temperature * 0.5 * (teacher.exp() - student.exp()).abs().sum() / _count(student_logits, num_examples)


def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float,
    target_weight: float,
    nontarget_weight: float,
    *,
    num_examples: NumExamples = None,
) -> Tensor:
    """T^2 * (target_weight * TCKD + nontarget_weight * NCKD), averaged over the batch.

    Zhao et al. 2022, https://arxiv.org/abs/2203.08679, eq. 7: TCKD is the KL of "the gold class or
    another", NCKD the KL among the other classes. With two classes NCKD is identically zero. A row
    without a gold label takes the teacher's class as its target.

    Args:
        student_logits, teacher_logits: [batch, classes]
        labels: [batch]
    """
    targets = _targets(labels, teacher_logits)
    student = _precise(student_logits) / temperature
    teacher = _precise(teacher_logits.detach()) / temperature
    binary = kl_div(
        _target_or_other(student, targets), _target_or_other(teacher, targets), reduction="sum", log_target=True
    )
    others = kl_div(
        log_softmax(_others(student, targets), dim=-1),
        log_softmax(_others(teacher, targets), dim=-1),
        reduction="sum",
        log_target=True,
    )
    total = target_weight * binary + nontarget_weight * others
    return temperature**2 * total / _count(student_logits, num_examples)


def nkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float,
    nontarget_weight: float,
    *,
    num_examples: NumExamples = None,
) -> Tensor:
    """-p_t[y] * log p_s[y] - nontarget_weight * T^2 * sum_{i != y} n(p_t)_i * log n(p_s)_i, averaged over the batch.

    Yang et al. 2023, https://arxiv.org/abs/2303.13005, eq. 7: the target term at temperature 1, the
    others normalised to sum to one and softened. Cross-entropies, so it is not zero where both agree. A
    row without a gold label takes the teacher's class as its target.

    Args:
        student_logits, teacher_logits: [batch, classes]
        labels: [batch]
    """
    targets = _targets(labels, teacher_logits)
    student, teacher = _precise(student_logits), _precise(teacher_logits.detach())
    chosen = targets.unsqueeze(-1)
    target_term = softmax(teacher, -1).gather(-1, chosen) * log_softmax(student, -1).gather(-1, chosen)
    others_term = softmax(_others(teacher, targets) / temperature, -1) * log_softmax(
        _others(student, targets) / temperature, -1
    )
    total = -target_term.sum() - nontarget_weight * temperature**2 * others_term.sum()
    return total / _count(student_logits, num_examples)


def dist(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float,
    inter_weight: float,
    intra_weight: float,
    *,
    num_examples: NumExamples = None,
) -> Tensor:
    """T^2 * (inter_weight * inter + intra_weight * intra), each 1 - mean Pearson correlation of probabilities.

    Huang et al. 2022, https://arxiv.org/abs/2205.10536, eq. 8: `inter` correlates the classes of each
    row, `intra` the rows of each class. With two classes `inter` says only which class is ahead. `intra` relates the
    rows at hand to each other: with gradient accumulation those of the micro-batch, weighted by
    their share of the step.

    Args:
        student_logits, teacher_logits: [batch, classes]
    """
    student = softmax(_precise(student_logits) / temperature, dim=-1)
    teacher = softmax(_precise(teacher_logits.detach()) / temperature, dim=-1)
    count = _count(student_logits, num_examples)
    inter = (1 - _correlation(student, teacher, dim=-1)).sum() / count
    intra = (1 - _correlation(student, teacher, dim=0)).mean() * len(student) / count
    return temperature**2 * (inter_weight * inter + intra_weight * intra)


def logit_std(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, *, num_examples: NumExamples = None
) -> Tensor:
    """`soft_loss` of logits standardised per row: the student need not copy the teacher's scale.

    Sun et al. 2024, https://arxiv.org/abs/2403.01427, eq. 9. With two classes every row standardises to the
    same two numbers, and only the order of the classes is left.

    Args:
        student_logits, teacher_logits: [batch, classes]
    """
    student, teacher = (_standardise(_precise(logits)) for logits in (student_logits, teacher_logits))
    return soft_loss(student, teacher, temperature, num_examples=num_examples)


def sigmoid_kd(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, *, num_examples: NumExamples = None
) -> Tensor:
    """T^2 * KL of every class's yes or no, summed over classes and averaged over the batch: for multi-label tasks.

    Args:
        student_logits, teacher_logits: [batch, classes]
    """
    student = _precise(student_logits) / temperature
    teacher = _precise(teacher_logits.detach()) / temperature
    probability = torch.sigmoid(teacher)
    entropy = -(probability * logsigmoid(teacher) + (1 - probability) * logsigmoid(-teacher)).sum()
    total = binary_cross_entropy_with_logits(student, probability, reduction="sum") - entropy
    return temperature**2 * total / _count(student_logits, num_examples)


def mixed_loss(hard: Tensor, soft: Tensor, alpha: float) -> Tensor:
    """alpha * hard + (1 - alpha) * soft: alpha weights the gold labels."""
    return alpha * hard + (1 - alpha) * soft


def ramp(start: float, end: float | None, progress: float) -> float:
    """A weight that moves linearly from `start` to `end` (None: stays) while `progress` goes from 0 to 1."""
    return start if end is None else start + (end - start) * min(max(progress, 0.0), 1.0)


def _precise(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _count(student_logits: Tensor, num_examples: NumExamples) -> Tensor | int:
    return len(student_logits) if num_examples is None else num_examples


def _log_probabilities(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    student = log_softmax(_precise(student_logits) / temperature, dim=-1)
    return student, log_softmax(_precise(teacher_logits.detach()) / temperature, dim=-1)


def _targets(labels: Tensor, teacher_logits: Tensor) -> Tensor:
    return torch.where(labels == IGNORED_LABEL, teacher_logits.argmax(dim=-1), labels)


def _others(logits: Tensor, targets: Tensor) -> Tensor:
    """Logits of all classes but the target: [batch, classes - 1]."""
    is_other = torch.arange(logits.shape[-1], device=logits.device) != targets.unsqueeze(-1)
    return logits[is_other].view(len(logits), -1)


def _target_or_other(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities of "the target" and "any other": [batch, 2], without a log of a difference."""
    target = logits.gather(-1, targets.unsqueeze(-1))
    other = _others(logits, targets).logsumexp(dim=-1, keepdim=True)
    return log_softmax(torch.cat([target, other], dim=-1), dim=-1)


def _correlation(left: Tensor, right: Tensor, dim: int) -> Tensor:
    """Pearson's, along `dim`."""
    return cosine_similarity(left - left.mean(dim, keepdim=True), right - right.mean(dim, keepdim=True), dim=dim)


def _standardise(logits: Tensor) -> Tensor:
    # The square root of a variance of exactly zero has no finite gradient.
    deviation = (logits.var(dim=-1, keepdim=True) + 1e-14).sqrt()
    return (logits - logits.mean(dim=-1, keepdim=True)) / deviation
