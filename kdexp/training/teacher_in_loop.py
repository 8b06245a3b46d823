"""A teacher that is forwarded beside the student, at each step."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from kdexp.loss.features import FeatureTerms, recorded
from kdexp.model.forward import accepted_inputs, config_of, input_names, logits_of
from kdexp.training import checks as guards
from kdexp.training.collate import FEATURES, WORDS, Batch, attention_mask_of, num_rows
from kdexp.training.config import Tokenization


@dataclass(frozen=True)
class Answer:
    """The teacher's, on one batch.

    Attributes:
        logits: [batch, classes], classes in the student's order; None where they are not needed.
        features: What each feature term compares.
    """

    logits: Tensor | None
    features: dict[str, Tensor] = field(default_factory=dict)


class TeacherInLoop:
    """A frozen teacher on the student's device.

    Attributes:
        num_rows: Rows that it has forwarded.

    Args:
        tokenizer: The student's, where it is known.
        tokenization: Whose token ids it reads.
        has_own_tokens: The batches hold the teacher's tokens; else it is fed the student's.

    Raises:
        ValueError: It cannot teach this student; the message says what to pass.
    """

    def __init__(
        self,
        model: nn.Module,
        student: nn.Module,
        accelerator: Accelerator,
        *,
        tokenizer: Any,
        tokenization: Tokenization,
        has_own_tokens: bool,
    ) -> None:
        guards.refuse_no_model(model)
        guards.refuse_shared_parameters(student, model)
        guards.freeze(model)
        self.config = config_of(model)
        if tokenization == Tokenization.own and not has_own_tokens:
            own = tokenizer if isinstance(tokenizer, PreTrainedTokenizerBase) else None
            guards.refuse_foreign_vocabulary(self.config, config_of(student), own)
        self.model = guards.placed(model, accelerator.device)
        self.num_rows = 0
        self._accelerator = accelerator
        self._student_config = config_of(student)
        self._is_fed_foreign_ids = tokenization == Tokenization.student_ids
        self._has_own_tokens = has_own_tokens

    def refuse_other_classes(self) -> None:
        """Refuse a teacher whose logits cannot be compared; teachers of features alone may have other classes.

        Raises:
            ValueError: See `common_class_order`.
        """
        _ = self._class_order

    @cached_property
    def _class_order(self) -> list[int] | None:
        return guards.common_class_order(self.config, self._student_config)

    @property
    def shared_inputs(self) -> frozenset[str]:
        """What it can take of the student's tokens."""
        if self._has_own_tokens:
            return frozenset()
        names = input_names(self.model)
        return (frozenset() if names is None else names) & {"input_ids", "attention_mask", "token_type_ids"}

    def answer(self, batch: Batch, terms: FeatureTerms | None, *, needs_logits: bool = True) -> Answer:
        """Forward the teacher once, without gradients."""
        read = batch.teacher if self._has_own_tokens else batch.student | batch.teachers_share
        inputs = accepted_inputs(self.model, read)
        if self._is_fed_foreign_ids and self.config is not None:
            token_types = inputs.get("token_type_ids")
            guards.refuse_foreign_ids(
                self.config,
                largest_id=int(inputs["input_ids"].max()),
                largest_token_type=0 if token_types is None else int(token_types.max()),
            )
        self.num_rows += num_rows(inputs)
        compared: dict[str, Tensor] = {}
        reads = terms.reads if terms else frozenset()
        with torch.inference_mode(), self._accelerator.autocast(), recorded(self.model, reads) as features:
            outputs = self.model(**inputs, **features.flags)
            if terms:
                words = batch.teacher.get(WORDS, batch.words)
                mask = attention_mask_of(read)
                compared = terms.teacher_features(outputs, features, mask, words, batch.num_words)
        # A clone made outside of inference mode may take part in the student's backward pass.
        compared = {name: tensor.clone() for name, tensor in compared.items()}
        if not needs_logits:
            return Answer(None, compared)
        logits = logits_of(outputs).float().clone()
        return Answer(logits if self._class_order is None else logits[..., self._class_order], compared)


def answer_of(
    batch: Batch,
    terms: FeatureTerms | None,
    teacher: TeacherInLoop | None,
    *,
    needs_logits: bool,
    has_own_tokens: bool,
) -> Answer:
    """What was computed beforehand, and one forward pass for all that was not.

    Args:
        has_own_tokens: The teacher's tokens are not the student's.
    """
    if terms and terms.needs_words and batch.words is None:
        if has_own_tokens:
            raise ValueError(
                f"the dataset holds the teacher's tokens, but no {WORDS} to align them with the student's"
            )
        batch.number_tokens()
    logits = batch.teacher.get("logits") if needs_logits else None
    features = batch.teacher.get(FEATURES, {})
    lacks_logits, lacks_features = needs_logits and logits is None, terms is not None and not features
    if not lacks_logits and not lacks_features:
        return Answer(logits, features)
    if teacher is None:
        raise ValueError(
            "alpha below 1 needs a teacher: pass teacher_model, or a dataset with teacher_logits; "
            "alpha=1.0 in DistillationTrainingArguments trains on the labels alone"
            if lacks_logits
            else "feature_terms need a teacher: pass teacher_model"
        )
    answer = teacher.answer(batch, terms if lacks_features else None, needs_logits=lacks_logits)
    return Answer(answer.logits if lacks_logits else logits, answer.features if lacks_features else features)
