"""The soft loss of a batch, of which the teacher may have said nothing about some rows."""

import logging
from functools import lru_cache

from torch import Tensor

from kdexp.loss.base import LogitLoss
from kdexp.training import checks
from kdexp.training.collate import Batch

logger = logging.getLogger(__name__)


def soft_loss(
    loss: LogitLoss, student: Tensor, teacher: Tensor, batch: Batch, num_examples: Tensor | int | None
) -> Tensor:
    """The soft loss of the rows that the teacher answered.

    A dataset may hold nan for a row's `teacher_logits`: the teacher has said nothing about it. The sum is divided by
    all rows all the same, so that the others weigh what they weigh everywhere.
    """
    checks.refuse_incomparable(loss, student, teacher, batch.labels)
    silent = teacher.isnan().all(dim=-1)
    if "logits" not in batch.teacher or not silent.any():
        return loss(student, teacher, batch.labels, num_examples=num_examples)
    _tell_of_silence()
    if silent.all():
        return student.sum() * 0
    rows = ~silent
    num_examples = len(student) if num_examples is None else num_examples
    return loss(student[rows], teacher[rows], batch.labels[rows], num_examples=num_examples)


@lru_cache(maxsize=1)
def _tell_of_silence() -> None:
    logger.info("rows whose teacher_logits are nan throughout have no soft loss: the labels alone teach them")
