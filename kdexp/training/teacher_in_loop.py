"""A teacher that is forwarded beside the student, at each step."""

import logging
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from kdexp.loss.features import FeatureTerms, recorded
from kdexp.model.encoder import accepted_inputs
from kdexp.training import checks as guards
from kdexp.training.collate import WORDS, Batch
from kdexp.training.config import Tokenization

logger = logging.getLogger(__name__)


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
        has_own_tokens: The batches hold the teacher's tokens; else it is fed the student's.

    Raises:
        ValueError: It cannot teach this student; the message says what to pass.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        student: PreTrainedModel,
        accelerator: Accelerator,
        *,
        tokenization: Tokenization,
        has_own_tokens: bool,
    ) -> None:
        guards.refuse_shared_parameters(student, model)
        guards.freeze(model)
        if tokenization == Tokenization.own and not has_own_tokens:
            guards.refuse_foreign_vocabulary(model.config, student.config)
        self.model = model.to(accelerator.device)
        self.num_rows = 0
        self._accelerator = accelerator
        self._class_order = guards.common_class_order(model.config, student.config)
        self._is_fed_foreign_ids = tokenization == Tokenization.student_ids
        self._has_own_tokens = has_own_tokens

    def answer(self, batch: Batch, terms: FeatureTerms | None) -> Answer:
        """Forward the teacher once, without gradients."""
        read = batch.teacher if self._has_own_tokens else batch.student
        inputs = accepted_inputs(self.model, read)
        if self._is_fed_foreign_ids:
            token_types = inputs.get("token_type_ids")
            guards.refuse_foreign_ids(
                self.model.config,
                largest_id=int(inputs["input_ids"].max()),
                largest_token_type=0 if token_types is None else int(token_types.max()),
            )
        self.num_rows += len(inputs["input_ids"])
        compared: dict[str, Tensor] = {}
        reads = terms.reads if terms else frozenset()
        with torch.inference_mode(), self._accelerator.autocast(), recorded(self.model, reads) as features:
            outputs = self.model(**inputs, **features.flags)
            if terms:
                words = batch.teacher.get(WORDS, batch.words)
                compared = terms.teacher_features(outputs, features, read["attention_mask"], words, batch.num_words)
        # A clone made outside of inference mode may take part in the student's backward pass.
        logits = outputs.logits.float().clone()
        logits = logits if self._class_order is None else logits[:, self._class_order]
        return Answer(logits, {name: tensor.clone() for name, tensor in compared.items()})
