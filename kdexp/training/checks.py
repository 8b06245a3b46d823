"""Checks that make a distillation trustworthy: who learns, whose classes, whose tokens, above chance.

Each raises before anything expensive, with the reason. They are used by every kdexp run and by
`DistillationTrainer` alike.
"""

import logging
import re
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from transformers import PretrainedConfig
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from kdexp.errors import UserError, under
from kdexp.fingerprint import weights_fingerprint
from kdexp.loss.base import LogitLoss, Loss, Outputs
from kdexp.loss.logit import LOSSES, MSE
from kdexp.loss.terms import SMALLEST_BATCH, TERMS, FeatureTerm, WordTerm
from kdexp.model.encoder import label_names
from kdexp.task.kinds.classes import class_order
from kdexp.training.config import Tokenization

logger = logging.getLogger(__name__)


def freeze(teacher: nn.Module) -> None:
    """Switch off dropout and gradients: the teacher answers, it does not learn."""
    teacher.eval()
    teacher.requires_grad_(False)


def refuse_no_model(teacher: object) -> None:
    """
    Raises:
        ValueError: It is something else, such as a name.
    """
    if not isinstance(teacher, nn.Module):
        how = f"AutoModelForSequenceClassification.from_pretrained({teacher!r})" if isinstance(teacher, str) else ""
        raise ValueError(f"teacher_model is a {type(teacher).__name__}; pass a model{how and f', such as {how}'}")


def placed(teacher: nn.Module, device: torch.device) -> nn.Module:
    """Put the teacher beside the student, unless it was placed already: over several devices, or quantized."""
    places = set((getattr(teacher, "hf_device_map", None) or {}).values())
    is_apart = len(places) > 1 or any(item.is_meta for item in teacher.parameters())
    if is_apart or getattr(teacher, "is_quantized", False):
        return teacher
    return teacher.to(device)


def frozen_digest(teacher: nn.Module) -> str:
    """Of all weights that can be seen: those that are moved in for each batch, out of memory, cannot."""
    tensors: dict[str, torch.Tensor] = {}
    for name, value in teacher.state_dict().items():
        # What is quantized dynamically is a tuple of packed weights and a bias.
        for place, item in enumerate(value if isinstance(value, tuple | list) else [value]):
            if isinstance(item, torch.Tensor) and not item.is_meta:
                tensors[f"{name}.{place}"] = item.int_repr() if item.is_quantized else item
    return weights_fingerprint(tensors)


def refuse_shared_parameters(student: nn.Module, teacher: nn.Module) -> None:
    """Refuse a teacher that shares weights with the student: training one would change the other.

    Raises:
        ValueError: At least one parameter that the student learns is the same memory in both models.
    """
    learned = {item.data_ptr() for item in student.parameters() if item.numel() and item.requires_grad}
    shared = [name for name, item in teacher.named_parameters() if item.numel() and item.data_ptr() in learned]
    if shared:
        raise ValueError(
            f"teacher and student share {len(shared)} parameters (such as {shared[0]}), so the teacher "
            "would learn too; load the teacher as a model of its own, or pass copy.deepcopy(student)"
        )


def are_generic(names: Sequence[str]) -> bool:
    """Whether the names only number the classes (transformers' default LABEL_0, LABEL_1, ...)."""
    return all(re.fullmatch(r"(?i)(label[_ -]?)?\d+", name) for name in names)


def common_class_order(teacher: PretrainedConfig | None, student: PretrainedConfig | None) -> list[int] | None:
    """`class_order` of two models; None where one of them only numbers its classes: they are matched by index.

    Raises:
        ValueError: They do not have as many classes, or others, or one says something else than the other.
    """
    if teacher is None or student is None:
        logger.warning("classes are matched by index: a model without a config does not name its own")
        return None
    if teacher.num_labels != student.num_labels:
        raise ValueError(
            f"teacher has {teacher.num_labels} classes, student has {student.num_labels}; "
            "both must answer the same question"
        )
    said = {outputs_of(config) for config in (teacher, student) if config.problem_type is not None}
    if len(said) > 1:
        raise UserError(
            "teacher_model",
            f"its problem_type is {teacher.problem_type}, the student's is {student.problem_type}",
            "both must answer the same question",
        )
    teacher_names, student_names = label_names(teacher), label_names(student)
    if are_generic(teacher_names) or are_generic(student_names):
        if teacher.num_labels > 1:
            logger.warning("classes are matched by index: teacher %s, student %s", teacher_names, student_names)
        return None
    try:
        return class_order(teacher_names, student_names)
    except UserError:
        raise UserError(
            "teacher_model",
            f"its classes [{', '.join(teacher_names)}] are not the student's [{', '.join(student_names)}]",
            "set config.id2label of one of both models, so that they name the same classes",
        ) from None


def outputs_of(config: PretrainedConfig) -> Outputs:
    """What a model's logits say, as its config and transformers' own losses have it."""
    match config.problem_type:
        case "multi_label_classification":
            return Outputs.yes_no
        case "single_label_classification":
            return Outputs.classes
        case "regression":
            return Outputs.number
    return Outputs.number if config.num_labels == 1 else Outputs.classes


_PADDING = 256
"""Rows that an embedding may have beyond its tokenizer's tokens: sizes are rounded up for the GPU's sake."""


def refuse_foreign_vocabulary(
    teacher: PretrainedConfig | None,
    student: PretrainedConfig | None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> None:
    """Refuse to feed a teacher the ids of a student with another vocabulary.

    Args:
        tokenizer: The student's; embeddings of one vocabulary may be padded to different sizes.

    Raises:
        ValueError: Their vocabularies differ in size.
    """
    if teacher is None or student is None:
        logger.warning("the teacher is fed the student's ids: without both configs, vocabularies are not compared")
        return
    taught, fed = getattr(teacher, "vocab_size", None), getattr(student, "vocab_size", None)
    if taught is None or fed is None or taught == fed:
        return
    if tokenizer is not None and getattr(teacher, "pad_token_id", None) == tokenizer.pad_token_id:
        if all(0 <= size - len(tokenizer) < _PADDING for size in (taught, fed)):
            return
        if taught < len(tokenizer) <= fed and teacher.model_type == student.model_type:
            raise ValueError(
                f"processing_class has {len(tokenizer)} tokens, the teacher only {taught}; "
                "add the same tokens to the teacher, or pass teacher_processing_class=<the teacher's tokenizer>"
            )
    raise ValueError(
        f"teacher ({teacher.model_type}) has {taught} tokens, student "
        f"({student.model_type}) has {fed}: the student's ids mean nothing "
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

    if isinstance(loss, MSE) and loss.centered and outputs != Outputs.classes:
        left = (
            "leaves nothing of a single number" if num_outputs == 1 else "is another answer: each output stands alone"
        )
        raise UserError("loss", f"mse without its mean {left}", "set centered=false")
    if fits(loss):
        return
    if outputs not in loss.outputs:
        compared = " or ".join(kind.in_words for kind in Outputs if kind in loss.outputs)
        problem = f"{loss.name} compares {compared}, but here the logits say {outputs.in_words}"
    else:
        problem = f"{loss.name} is degenerate here: {loss.degenerate}"
    raise UserError(
        "loss", problem, f"expected one of {', '.join(name for name, kind in LOSSES.items() if fits(kind))}"
    )


def refuse_unfit_soft_loss(loss: LogitLoss, outputs: Outputs, num_outputs: int, batch_size: int) -> None:
    """`refuse_unfit_loss` and `refuse_small_batch` in the words of a `DistillationTrainer`'s arguments.

    Raises:
        UserError: With the losses that fit this student.
    """
    try:
        if loss.uses_logits:
            refuse_unfit_loss(loss, outputs, num_outputs)
    except UserError as error:
        fitting = error.remedy.replace("one of ce, ", "one of ")
        raise UserError("soft_loss", error.problem, f"{fitting}; or alpha=1.0, the labels alone") from None
    try:
        refuse_small_batch(loss, batch_size)
    except UserError as error:
        raise UserError("per_device_train_batch_size", error.problem, error.remedy) from None


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
