"""What of a batch a soft loss compares: one answer for each row, for each word, or for each token that counts."""

from torch import Tensor

from kdexp.loss.base import LogitLoss, Outputs
from kdexp.task.answers import is_read
from kdexp.task.kind import NO_UNIT
from kdexp.training.collate import Batch, attention_mask_of, counted_tokens

Compared = tuple[Tensor, Tensor, Tensor]
"""The student's logits and the teacher's, [units, outputs], and the labels, [units] or [units, outputs]."""


def compared(loss: LogitLoss, batch: Batch, student: Tensor, teacher: Tensor, outputs: Outputs) -> Compared:
    """Of all rows; of rows with several units, the units that both models read.

    Where tokens have labels, padding does not count, nor does a token with the label -100; of a row without any label
    all tokens count.

    Args:
        student: [batch, outputs], or [batch, tokens, outputs]
        outputs: What they say.
        teacher: The same; of rows with several units [units, outputs] too, of those that the student reads.

    Raises:
        ValueError: These are logits of which a soft loss would make a number, but not the one that is meant.
    """
    labels = batch.labels
    if batch.units is not None:
        counts = batch.units != NO_UNIT
        student, teacher = student[counts], teacher[counts] if teacher.dim() == 3 else teacher
        read = is_read(teacher)
        student, teacher, labels = student[read], teacher[read], labels[read]
    elif student.dim() == 3:
        counts = _counted(batch, student, teacher)
        student, teacher, labels = student[counts], teacher[counts], labels[counts]
    _refuse_incomparable(loss, student, teacher, labels, outputs)
    return student, teacher, labels


def _counted(batch: Batch, student: Tensor, teacher: Tensor) -> Tensor:
    """[batch, tokens], true where an answer for a token counts."""
    if "input_ids" in batch.teacher and "logits" not in batch.teacher:
        raise ValueError(
            "teacher and student answer for each token, and have other tokens: an answer of one is none of the other; "
            "pass a teacher with the student's tokenizer, or distil words with task.kind=token_labels of kdexp"
        )
    if teacher.shape != student.shape:
        raise ValueError(
            f"the teacher's logits have shape {list(teacher.shape)}, the student's {list(student.shape)}: "
            "both must have one logit for each class of each token"
        )
    if batch.labels.shape != student.shape[:2]:
        raise ValueError(
            f"the student answers for each token ({list(student.shape)}), but the labels have shape "
            f"{list(batch.labels.shape)}: give each token a label, -100 where it has none"
        )
    return counted_tokens(batch.labels, attention_mask_of(batch.student))


def _refuse_incomparable(loss: LogitLoss, student: Tensor, teacher: Tensor, labels: Tensor, outputs: Outputs) -> None:
    if student.dim() != 2:
        raise ValueError(
            f"the student's logits have shape {list(student.shape)}: the soft loss compares one answer for each row, "
            "or for each token; train on the labels alone with alpha=1.0"
        )
    if teacher.shape != student.shape:
        raise ValueError(
            f"the teacher's logits have shape {list(teacher.shape)}, the student's {list(student.shape)}: "
            "both must have one logit for each class of each row"
        )
    if outputs == Outputs.classes and labels.numel() > len(labels):
        raise ValueError(
            f"the labels have shape {list(labels.shape)}, and {loss.name} compares one class of each row: for several "
            'labels set config.problem_type="multi_label_classification" of the student'
        )
