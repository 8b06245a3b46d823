"""The soft loss of a batch, of which the teacher may have said nothing about some rows."""

import logging
from functools import lru_cache, partial

from torch import Tensor

from kdexp.loss.base import LogitLoss, Outputs
from kdexp.training.collate import Batch
from kdexp.training.compared import compared
from kdexp.training.transfer import soft_loss

logger = logging.getLogger(__name__)


def answered_soft_loss(
    loss: LogitLoss,
    student: Tensor,
    teacher: Tensor,
    batch: Batch,
    outputs: Outputs,
    num_examples: Tensor | int,
    transfer_weight: float,
) -> Tensor:
    """The soft loss of the rows that the teacher answered; one without a gold label counts `transfer_weight` times.

    A dataset may hold nan for a row's `teacher_logits`: the teacher has said nothing about it. The sum is divided by
    all rows all the same, so that the others weigh what they weigh everywhere.

    Args:
        student, teacher: Logits, see `compared`.
        outputs: What they say.
        num_examples: Units of the whole optimizer step.

    Returns:
        A scalar.

    Raises:
        ValueError: They cannot be compared.
    """
    student, teacher, labels = compared(loss, batch, student, teacher, outputs)
    silent = teacher.isnan().all(dim=-1)
    if "logits" in batch.teacher and silent.any():
        _tell_of_silence()
        rows = ~silent
        student, teacher, labels = student[rows], teacher[rows], labels[rows]
    if not len(student):
        return student.sum() * 0
    return soft_loss(partial(loss, outputs=outputs), student, teacher, labels, num_examples, transfer_weight)


@lru_cache(maxsize=1)
def _tell_of_silence() -> None:
    logger.info("rows whose teacher_logits are nan throughout have no soft loss: the labels alone teach them")
