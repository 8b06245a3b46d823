"""Checks that make a distillation trustworthy: who learns, whose classes, whose tokens, above chance.

Each raises before anything expensive, with the reason. They are used by every kdexp run and by
`DistillationTrainer` alike.
"""

import re
from collections.abc import Sequence

from torch import nn
from transformers import PretrainedConfig

from kdexp.errors import UserError
from kdexp.loss.config import (
    DISTConfig,
    DKDConfig,
    LogitStdConfig,
    LossConfig,
    MSEConfig,
    NKDConfig,
    SoftLossConfig,
)
from kdexp.loss.logit import SMALLEST_BATCH
from kdexp.model.encoder import accepted_inputs, label_names
from kdexp.task.single_label import class_order

__all__ = ["accepted_inputs", "class_order", "label_names"]


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


def refuse_unfit_loss(loss: LossConfig, num_classes: int, batch_size: int) -> None:
    """Refuse a soft loss that says nothing, or something else than meant, about so many classes.

    Raises:
        UserError: With the reason and the alternatives.
    """
    if not isinstance(loss, SoftLossConfig):
        return
    if num_classes == 1 and not isinstance(loss, MSEConfig):
        raise UserError("loss", f"{loss.name} compares classes, but there is one output", "use loss=mse or loss=ce")
    if num_classes == 2:
        reasons = {
            DKDConfig: "with two classes there is one other class, and its non-target term is identically zero",
            NKDConfig: "with two classes there is one other class, and its non-target term is identically zero",
            DISTConfig: "the correlation over two classes is +1 or -1: it says which is ahead, and nothing of how far",
            LogitStdConfig: "two logits standardise to the same two numbers whatever they are",
        }
        reason = reasons.get(type(loss))
        if reason:
            remedy = "use loss=kd, mse, reverse_kl, jsd or tvd"
            raise UserError("loss", f"{loss.name} is degenerate here: {reason}", remedy)
    if isinstance(loss, DISTConfig) and loss.intra_weight and batch_size < SMALLEST_BATCH:
        raise UserError(
            "train.batch_size",
            f"is {batch_size}, but the intra-class term of dist correlates the rows of a batch",
            f"use at least {SMALLEST_BATCH}, better 32, or loss.intra_weight=0",
        )
