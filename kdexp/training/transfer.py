"""What text that only the teacher labels counts in the loss."""

from collections.abc import Callable

from torch import Tensor

from kdexp.loss.base import IGNORED_LABEL


def soft_loss(
    loss: Callable[..., Tensor],
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    num_examples: Tensor | int,
    transfer_weight: float,
) -> Tensor:
    """The soft loss of a batch in which a row without a gold label counts `transfer_weight` times.

    Args:
        student, teacher: [units, outputs], logits
        labels: [units], or [units, outputs]; -100 for none, or nan where labels are no whole numbers.
        num_examples: Units of the whole optimizer step.

    Returns:
        A scalar.
    """
    if transfer_weight == 1:
        return loss(student, teacher, labels, num_examples=num_examples)
    unlabelled = ((labels == IGNORED_LABEL) | labels.isnan()).reshape(len(labels), -1).all(dim=-1)
    total = student.sum() * 0
    for rows, weight in ((~unlabelled, 1.0), (unlabelled, transfer_weight)):
        if rows.any():
            total = total + weight * loss(student[rows], teacher[rows], labels[rows], num_examples=num_examples)
    return total
