"""Distillation losses: pure functions of logits.

Every function takes raw logits, computes in float32 whatever the autocast dtype, and returns a
scalar. `num_examples` is the number of rows in the whole optimizer step: with gradient accumulation
it is larger than the rows at hand, so that the micro-batches' losses add up to exactly the loss of
the one large batch.
"""

from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

IGNORED_LABEL = -100
"""Label of a row without a gold label (torch's own convention)."""


def hard_loss(
    student_logits: Tensor,
    labels: Tensor,
    *,
    num_examples: Tensor | int | None = None,
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
        student_logits.float(),
        labels,
        reduction="sum",
        ignore_index=IGNORED_LABEL,
        label_smoothing=label_smoothing,
    )
    return total / (len(labels) if num_examples is None else num_examples)


def soft_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float,
    *,
    num_examples: Tensor | int | None = None,
) -> Tensor:
    """T^2 * KL(softmax(z_t / T) || softmax(z_s / T)), averaged over the batch.

    See Hinton et al. 2015, https://arxiv.org/abs/1503.02531, section 2: gradients of the softened
    targets scale as 1 / T^2, so the factor T^2 keeps the two terms' relative weight when T changes.

    Both distributions enter as log-probabilities (`log_target`): softmax followed by log would
    underflow to log(0) for confident teachers. The sum over classes is divided by the number of
    rows ("batchmean"); torch's default `mean` would divide by the number of classes as well.

    Args:
        student_logits: [batch, classes]
        teacher_logits: [batch, classes], never receives a gradient
    """
    student_log_probabilities = log_softmax(student_logits.float() / temperature, dim=-1)
    teacher_log_probabilities = log_softmax(teacher_logits.detach().float() / temperature, dim=-1)
    total = kl_div(student_log_probabilities, teacher_log_probabilities, reduction="sum", log_target=True)
    return temperature**2 * total / (len(student_logits) if num_examples is None else num_examples)


def mixed_loss(hard: Tensor, soft: Tensor, alpha: float) -> Tensor:
    """alpha * hard + (1 - alpha) * soft: alpha weights the gold labels."""
    return alpha * hard + (1 - alpha) * soft
