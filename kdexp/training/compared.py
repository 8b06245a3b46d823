"""What of a batch a soft loss compares: one answer for each row, for each word, or for each token that counts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdexp.loss.base import LogitLoss, Outputs
from kdexp.model.alignment import NO_WORD
from kdexp.task.kinds.answers import is_read
from kdexp.task.kinds.base import NO_UNIT
from kdexp.training.collate import WORDS, Batch, attention_mask_of, counted_tokens

Compared = tuple[Tensor, Tensor, Tensor]
"""The student's logits and the teacher's, [units, outputs], and the labels, [units] or [units, outputs]."""


def compared(loss: LogitLoss, batch: Batch, student: Tensor, teacher: Tensor, outputs: Outputs) -> Compared:
    """Of all rows; of rows with several units, the units that both models read.

    Where tokens have labels, padding does not count, nor does a token with the label -100; of a row without any label
    all tokens count. A teacher with other tokens is compared word by word: the first token that counts of a word with
    the teacher's first token of it.

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
        counts = _counted(batch, student)
        own, taught = _places(batch, counts, teacher.shape)
        student, teacher, labels = student[own], teacher[taught], labels[own]
    _refuse_incomparable(loss, student, teacher, labels, outputs)
    return student, teacher, labels


def _counted(batch: Batch, student: Tensor) -> Tensor:
    """[batch, tokens], true where an answer for a token counts."""
    if batch.labels.shape != student.shape[:2]:
        raise ValueError(
            f"the student answers for each token ({list(student.shape)}), but the labels have shape "
            f"{list(batch.labels.shape)}: give each token a label, -100 where it has none"
        )
    return counted_tokens(batch.labels, attention_mask_of(batch.student))


_Places = tuple[Tensor, Tensor]
"""Row and token of each unit."""


def _places(batch: Batch, counts: Tensor, teacher_shape: Sequence[int]) -> tuple[_Places, _Places]:
    """Where student and teacher answer for the same thing."""
    if "input_ids" not in batch.teacher or "logits" in batch.teacher:  # the teacher read the student's tokens
        if tuple(teacher_shape[:2]) != tuple(counts.shape):
            raise ValueError(
                f"the teacher's logits have shape {list(teacher_shape)}, the student's labels {list(counts.shape)}: "
                "both must have one answer for each token"
            )
        rows, tokens = counts.nonzero(as_tuple=True)
        return (rows, tokens), (rows, tokens)
    if batch.words is None or WORDS not in batch.teacher:
        raise ValueError(
            "teacher and student answer for each token, and have other tokens: to compare words, let the "
            "train_dataset hold the text itself, and pass processing_class and teacher_processing_class"
        )
    num_words = int(batch.words.max()) + 1
    own = _first_of_words(batch.words.masked_fill(~counts, NO_WORD), num_words)
    taught = _first_of_words(batch.teacher[WORDS], num_words)
    rows, words = ((own >= 0) & (taught >= 0)).nonzero(as_tuple=True)
    return (rows, own[rows, words]), (rows, taught[rows, words])


def _first_of_words(token_words: Tensor, num_words: int) -> Tensor:
    """[batch, words], the first token of each word, -1 where there is none.

    Args:
        token_words: [batch, tokens]
    """
    num_tokens = token_words.shape[1]
    is_of_word = token_words.unsqueeze(-1) == torch.arange(num_words, device=token_words.device)
    numbers = torch.arange(num_tokens, device=token_words.device)[:, None]
    first = numbers.where(is_of_word, num_tokens).amin(dim=1)
    return first.where(first < num_tokens, -1)


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
