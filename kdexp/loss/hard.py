"""The hard loss: what the gold labels say."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import cross_entropy

from kdexp.loss.base import IGNORED_LABEL, precise


def hard_loss(
    student_logits: Tensor,
    labels: Tensor,
    *,
    num_examples: Tensor | int | None = None,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
) -> Tensor:
    """Cross-entropy with the gold labels, in float32 (float64 where that is what it is given): a scalar.

    Rows labelled -100 (unlabelled transfer text) add nothing, but count in the mean: an unlabelled
    row has no hard loss, it does not make its neighbours' heavier.

    Args:
        student_logits: [batch, classes]
        labels: [batch], class indices
        class_weights: [classes], by which a row's loss is multiplied; the mean is over rows all the same.
        num_examples: Rows of the whole optimizer step, by which the sum is divided; None takes those at hand.
    """
    logits = precise(student_logits)
    total = cross_entropy(
        logits,
        labels,
        weight=None if class_weights is None else logits.new_tensor(class_weights),
        reduction="sum",
        ignore_index=IGNORED_LABEL,
        label_smoothing=label_smoothing,
    )
    return total / (len(student_logits) if num_examples is None else num_examples)
