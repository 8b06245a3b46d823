"""Checks that make a distillation trustworthy: who learns, whose classes, whose tokens, above chance.

Each raises before anything expensive, with the reason. They are used by every kdexp run and by
`DistillationTrainer` alike.
"""

import logging
import re
from collections.abc import Mapping, Sequence

from torch import nn
from transformers import PretrainedConfig

from kdexp.errors import UserError, under
from kdexp.loss.base import Loss, Outputs
from kdexp.loss.logit import LOSSES
from kdexp.loss.terms import SMALLEST_BATCH, TERMS, FeatureTerm, WordTerm
from kdexp.model.encoder import label_names
from kdexp.task.single_label import class_order
from kdexp.training.config import Tokenization

logger = logging.getLogger(__name__)


def freeze(teacher: nn.Module) -> None:
    """Switch off dropout and gradients: the teacher answers, it does not learn."""
    teacher.eval()
    teacher.requires_grad_(False)


def refuse_shared_parameters(student: nn.Module, teacher: nn.Module) -> None:
    """Refuse a teacher that shares weights with the student: training one would change the other.

    Raises:
        ValueError: At least one parameter is the same memory in both models.
    """
    student_storages = {parameter.data_ptr() for parameter in student.parameters() if parameter.numel()}
    shared = [
        name
        for name, parameter in teacher.named_parameters()
        if parameter.numel() and parameter.data_ptr() in student_storages
    ]
    if shared:
        raise ValueError(
            f"teacher and student share {len(shared)} parameters (such as {shared[0]}), so the teacher "
            "would learn too; load the teacher as a model of its own, or pass copy.deepcopy(student)"
        )


def are_generic(names: Sequence[str]) -> bool:
    """Whether the names only number the classes (transformers' default LABEL_0, LABEL_1, ...)."""
    return all(re.fullmatch(r"(?i)(label[_ -]?)?\d+", name) for name in names)


def common_class_order(teacher: PretrainedConfig, student: PretrainedConfig) -> list[int] | None:
    """`class_order` of two models; None where one of them only numbers its classes: they are matched by index.

    Raises:
        ValueError: They do not have as many classes, or others.
    """
    if teacher.num_labels != student.num_labels:
        raise ValueError(
            f"teacher has {teacher.num_labels} classes, student has {student.num_labels}; "
            "both must answer the same question"
        )
    teacher_names, student_names = label_names(teacher), label_names(student)
    if are_generic(teacher_names) or are_generic(student_names):
        logger.warning("classes are matched by index: teacher %s, student %s", teacher_names, student_names)
        return None
    return class_order(teacher_names, student_names)


def refuse_foreign_vocabulary(teacher: PretrainedConfig, student: PretrainedConfig) -> None:
    """Refuse to feed a teacher the ids of a student with another vocabulary.

    Raises:
        ValueError: Their vocabularies differ in size.
    """
    if teacher.vocab_size != student.vocab_size:
        raise ValueError(
            f"teacher ({teacher.model_type}) has {teacher.vocab_size} tokens, student "
            f"({student.model_type}) has {student.vocab_size}: the student's ids mean nothing "
            "to the teacher; pass teacher_processing_class=<the teacher's tokenizer>, or ask for the "
            "ablation with tokenization='student_ids'"
        )


def refuse_foreign_ids(teacher_config: PretrainedConfig, *, largest_id: int, largest_token_type: int) -> None:
    """Explain ids that a teacher cannot read, in place of the IndexError from inside its embedding.

    Only `tokenization=student_ids` can bring them about.

    Raises:
        UserError: An id lies outside the teacher's vocabulary or token types.
    """
    remedy = "use tokenization=own, so that the teacher reads its own tokens"
    if largest_id >= teacher_config.vocab_size:
        raise UserError(
            "tokenization",
            f"student_ids feeds token id {largest_id} to a {teacher_config.model_type} teacher, whose "
            f"vocabulary ends at {teacher_config.vocab_size - 1}",
            remedy,
        )
    num_token_types = getattr(teacher_config, "type_vocab_size", 0)
    if num_token_types and largest_token_type >= num_token_types:
        raise UserError(
            "tokenization",
            f"student_ids feeds token_type_id {largest_token_type} (the second text of a pair) to a "
            f"{teacher_config.model_type} teacher, which has {num_token_types} token type(s)",
            remedy,
        )


def check_fit(loss: Loss, outputs: Outputs, num_outputs: int, tokenization: Tokenization, batch_size: int) -> None:
    """Refuse a loss that does not fit the run, before anything is written.

    Args:
        outputs: What the task's logits say, `num_outputs` of them a row.
        tokenization: Whose token ids the teacher reads.
        batch_size: Rows of a micro-batch.

    Raises:
        UserError: With the reason and the alternatives.
    """
    refuse_unfit_loss(loss, outputs, num_outputs)
    with under("loss"):
        refuse_unfit_terms(loss.terms, tokenization)
    with under("train"):
        refuse_small_batch(loss, batch_size)


def refuse_unfit_loss(loss: Loss, outputs: Outputs, num_outputs: int) -> None:
    """Refuse a loss that says nothing, or something else than meant, about such logits.

    Raises:
        UserError: With the reason and the losses that fit.
    """

    def fits(kind: Loss | type[Loss]) -> bool:
        return outputs in kind.outputs and (outputs != Outputs.classes or num_outputs >= kind.min_classes)

    if fits(loss):
        return
    if outputs not in loss.outputs:
        compared = " or ".join(sorted(loss.outputs))
        problem = f"{loss.name} compares {compared}, but here the logits say {outputs}"
    else:
        problem = f"{loss.name} is degenerate here: {loss.degenerate}"
    raise UserError(
        "loss", problem, f"expected one of {', '.join(name for name, kind in LOSSES.items() if fits(kind))}"
    )


def refuse_unfit_terms(terms: Mapping[str, FeatureTerm], tokenization: Tokenization) -> None:
    """Refuse terms that compare words where the teacher reads no words.

    Raises:
        UserError: With the terms that can be used.
    """
    if tokenization != Tokenization.student_ids:
        return
    for name, term in terms.items():
        if isinstance(term, WordTerm):
            wordless = [other for other, kind in TERMS.items() if not issubclass(kind, WordTerm)]
            raise UserError(
                f"terms.{name}",
                "compares tokens, but with tokenization=student_ids the teacher reads tokens that mean nothing to it",
                f"use tokenization=own, or terms that need no tokens: {', '.join(wordless)}",
            )


def refuse_small_batch(loss: Loss, batch_size: int) -> None:
    """Refuse batches too small for what relates their rows to each other.

    Raises:
        UserError: With the smallest batch.
    """
    relating = [name for name, term in loss.terms.items() if term.relates_rows]
    relating += [loss.name] if loss.relates_rows else []
    if relating and batch_size < SMALLEST_BATCH:
        raise UserError(
            "batch_size",
            f"is {batch_size}, but {relating[0]} relates the examples of a batch to each other",
            f"use at least {SMALLEST_BATCH}, better 32; gradient accumulation does not make up for it",
        )
