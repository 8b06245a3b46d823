"""`DistillationTrainer`: a `transformers.Trainer` in which a frozen teacher helps the student's loss.

    trainer = DistillationTrainer(
        student_model,
        DistillationTrainingArguments(output_dir="out", alpha=0.5, temperature=4.0),
        teacher_model=teacher_model,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=student_tokenizer,
        teacher_processing_class=teacher_tokenizer,  # where the teacher has another tokenizer
        compute_metrics=compute_metrics,
    )
    trainer.train()

A dataset that carries a `teacher_logits` column needs no teacher model: that is how a kdexp run
trains, with logits computed once.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from transformers import DataCollatorWithPadding, PreTrainedModel, Trainer, TrainingArguments
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from kdexp import guards
from kdexp.cache import weights_fingerprint
from kdexp.config import Tokenization
from kdexp.losses import hard_loss, mixed_loss, soft_loss

logger = logging.getLogger(__name__)

TEACHER_PREFIX = "teacher_"
"""Columns of a batch that belong to the teacher: `teacher_logits`, or `teacher_input_ids` and the like."""


@dataclass
class DistillationTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` plus the distillation's own, which `to_dict()` records too.

    Args:
        alpha: Weight of the gold labels, 0 to 1: 1 trains without a teacher, 0 on the teacher alone.
        temperature: T, above 0; softens both distributions.
        tokenization: `own`, each model reads its own tokens; `student_ids`, the teacher is fed the
            student's ids though its vocabulary is another one (an ablation: its answers are nonsense).
        text_columns: One or two dataset columns that hold the text, read by `teacher_processing_class`.
        teacher_max_length: The teacher's texts are cut after so many of its tokens; by default its
            tokenizer's own limit.
    """

    alpha: float = 0.5
    temperature: float = 4.0
    tokenization: str = "own"
    text_columns: list[str] = field(default_factory=lambda: ["text"])
    teacher_max_length: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be from 0 (teacher only) to 1 (no teacher), got {self.alpha}")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be a finite number above 0, got {self.temperature}")
        if self.tokenization not in set(Tokenization):
            raise ValueError(f"tokenization must be one of {', '.join(Tokenization)}, got {self.tokenization!r}")


class DistillationCollator:
    """Pads the student's and the teacher's columns apart, each with its own tokenizer."""

    def __init__(
        self,
        student_collator: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
        teacher_tokenizer: PreTrainedTokenizerBase | None,
    ) -> None:
        self.student_collator = student_collator
        self.teacher_collator = DataCollatorWithPadding(teacher_tokenizer) if teacher_tokenizer else None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        student_rows, teacher_rows = zip(*(_split_row(row) for row in rows), strict=True)
        batch = dict(self.student_collator(list(student_rows)))
        logits = [row.pop("logits") for row in teacher_rows if "logits" in row]
        if logits:
            batch["teacher_logits"] = torch.stack([torch.as_tensor(row) for row in logits])
        if teacher_rows[0]:
            if self.teacher_collator is None:
                raise ValueError("the dataset holds teacher tokens: pass teacher_processing_class to pad them")
            for name, value in self.teacher_collator(list(teacher_rows)).items():
                batch[TEACHER_PREFIX + name] = value
        return batch


def _split_row(row: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    student = {name: value for name, value in row.items() if not name.startswith(TEACHER_PREFIX)}
    teacher = {
        name.removeprefix(TEACHER_PREFIX): value for name, value in row.items() if name.startswith(TEACHER_PREFIX)
    }
    return student, teacher


class DistillationTrainer(Trainer):
    """A `Trainer` whose loss is alpha * CE(gold) + (1 - alpha) * T^2 * KL(teacher || student).

    The teacher is put on the student's device, in eval mode, without gradients and outside the
    optimizer; `train` proves by SHA-256 that its weights did not change. The evaluation loss is the
    gold labels' NLL alone, so that runs with different alpha and temperature can be compared.
    Gradient accumulation is exact: the loss is divided by the rows of the whole optimizer step.

    Args:
        model: The student.
        args: `DistillationTrainingArguments`.
        teacher_model: The teacher. Not needed with a `teacher_logits` column, or at alpha = 1.
        teacher_processing_class: The teacher's tokenizer, where it is not the student's. The training
            set must then hold the text itself (`args.text_columns`).

    Raises:
        ValueError: Teacher and student cannot work together; the message says what to pass.
    """

    args: DistillationTrainingArguments

    def __init__(
        self,
        model: PreTrainedModel,
        args: DistillationTrainingArguments,
        data_collator: Callable[[list[dict[str, Any]]], dict[str, Tensor]] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        teacher_model: PreTrainedModel | None = None,
        teacher_processing_class: PreTrainedTokenizerBase | None = None,
        **trainer_arguments: Any,
    ) -> None:
        if trainer_arguments.get("compute_loss_func") is not None:
            raise ValueError("compute_loss_func would replace the distillation loss; use transformers.Trainer")
        if teacher_processing_class is not None and train_dataset is not None:
            train_dataset = _with_teacher_tokens(train_dataset, teacher_processing_class, args)
        if data_collator is None and processing_class is not None:
            data_collator = DataCollatorWithPadding(processing_class)
        if data_collator is not None:
            data_collator = DistillationCollator(data_collator, teacher_processing_class)
        super().__init__(
            model,
            args,
            data_collator,
            train_dataset,
            eval_dataset,
            processing_class,
            **trainer_arguments,
        )
        # compute_loss divides by the rows of the whole optimizer step; the Trainer must not divide again.
        # It would otherwise decide from the model's signature, and decide wrongly for encoder classifiers:
        # k accumulated micro-batches gave k times the gradient.
        self.loss_is_scaled_for_ga = True
        self.teacher_model = teacher_model
        self._teacher_has_own_tokens = teacher_processing_class is not None
        self._class_order: list[int] | None = None
        self._term_sums: dict[str, Tensor] = {}
        self._step_of_last_log = 0
        if teacher_model is not None:
            self._prepare_teacher(model, teacher_model)

    def _prepare_teacher(self, student: PreTrainedModel, teacher: PreTrainedModel) -> None:
        guards.refuse_shared_parameters(student, teacher)
        guards.freeze(teacher)
        teacher.to(self.accelerator.device)
        if teacher.config.num_labels != student.config.num_labels:
            raise ValueError(
                f"teacher has {teacher.config.num_labels} classes, student has {student.config.num_labels}; "
                "both must answer the same question"
            )
        teacher_names, student_names = guards.label_names(teacher.config), guards.label_names(student.config)
        if not guards.are_generic(teacher_names) and not guards.are_generic(student_names):
            self._class_order = guards.class_order(teacher_names, student_names)
        else:
            logger.warning("classes are matched by index: teacher %s, student %s", teacher_names, student_names)
        own_tokens = self.args.tokenization == Tokenization.own
        if own_tokens and not self._teacher_has_own_tokens and teacher.config.vocab_size != student.config.vocab_size:
            raise ValueError(
                f"teacher ({teacher.config.model_type}) has {teacher.config.vocab_size} tokens, student "
                f"({student.config.model_type}) has {student.config.vocab_size}: the student's ids mean nothing "
                "to the teacher; pass teacher_processing_class=<the teacher's tokenizer>, or ask for the "
                "ablation with tokenization='student_ids'"
            )

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train the student, as `Trainer.train` does.

        Raises:
            RuntimeError: The teacher's weights changed.
        """
        if self.teacher_model is None:
            return super().train(*args, **kwargs)
        before = weights_fingerprint(self.teacher_model.state_dict())
        output = super().train(*args, **kwargs)
        if weights_fingerprint(self.teacher_model.state_dict()) != before:
            raise RuntimeError("the teacher's weights changed during training: only the student may learn")
        return output

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The distillation loss while training, the gold labels' NLL while evaluating."""
        student_inputs, teacher_inputs = _split_row(inputs)
        labels = student_inputs.pop("labels", None)
        outputs = model(**student_inputs)
        logits = outputs.logits
        # None outside of training: then the mean over the batch at hand.
        num_examples = num_items_in_batch if model.training and num_items_in_batch is not None else len(logits)
        alpha = self.args.alpha if model.training else 1.0
        hard = soft = logits.new_zeros(())
        if alpha > 0:
            smoothing = self.args.label_smoothing_factor if model.training else 0.0
            hard = hard_loss(logits, labels, num_examples=num_examples, label_smoothing=smoothing)
        if alpha < 1:
            teacher_logits = self._teacher_logits(student_inputs, teacher_inputs)
            soft = soft_loss(logits, teacher_logits, self.args.temperature, num_examples=num_examples)
        loss = hard if alpha == 1 else mixed_loss(hard, soft, alpha)
        if model.training:
            self._record_terms(hard_loss=hard, soft_loss=soft)
        return (loss, outputs) if return_outputs else loss

    def _teacher_logits(self, student_inputs: dict[str, Tensor], teacher_inputs: dict[str, Tensor]) -> Tensor:
        if "logits" in teacher_inputs:
            return teacher_inputs["logits"]
        if self.teacher_model is None:
            raise ValueError(
                f"alpha={self.args.alpha} needs a teacher: pass teacher_model, or a dataset with teacher_logits"
            )
        inputs = teacher_inputs if self._teacher_has_own_tokens else student_inputs
        inputs = guards.accepted_inputs(self.teacher_model, inputs)
        if self.args.tokenization == Tokenization.student_ids:
            token_types = inputs.get("token_type_ids")
            guards.refuse_foreign_ids(
                self.teacher_model.config,
                largest_id=int(inputs["input_ids"].max()),
                largest_token_type=0 if token_types is None else int(token_types.max()),
            )
        with torch.inference_mode(), self.accelerator.autocast():
            logits = self.teacher_model(**inputs).logits
        # A clone made outside of inference mode may take part in the student's backward pass.
        logits = logits.float().clone()
        return logits if self._class_order is None else logits[:, self._class_order]

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Tensor]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Tensor]], Tensor | int | None]:
        """Count the rows of the whole optimizer step, labelled or not, for `compute_loss` to divide by."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        num_rows = sum(len(batch["input_ids"]) for batch in batches)
        if self.accelerator.num_processes == 1:
            return batches, num_rows
        # Gradients are averaged over processes: each divides by the processes' mean number of rows.
        rows = torch.tensor(float(num_rows), device=device)
        return batches, self.accelerator.gather(rows).mean()

    def _record_terms(self, **terms: Tensor) -> None:
        """Add up the loss terms on the device; reading them every step would stall a GPU."""
        for name, value in terms.items():
            self._term_sums[name] = self._term_sums.get(name, 0) + value.detach()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the realised terms beside their mixture, each a mean per optimizer step."""
        if "loss" in logs and self._term_sums:
            num_steps = max(self.state.global_step - self._step_of_last_log, 1)
            logs |= {name: (total / num_steps).item() for name, total in self._term_sums.items()}
            self._term_sums = {}
            self._step_of_last_log = self.state.global_step
        super().log(logs, start_time)

    def _set_signature_columns_if_needed(self) -> None:
        """Keep the teacher's columns, which the student's forward does not name."""
        super()._set_signature_columns_if_needed()
        teacher_columns = ["logits", "input_ids", "attention_mask", "token_type_ids"]
        columns = {TEACHER_PREFIX + name for name in teacher_columns}
        self._signature_columns += sorted(columns - set(self._signature_columns))


def _with_teacher_tokens(dataset: Any, tokenizer: PreTrainedTokenizerBase, args: DistillationTrainingArguments) -> Any:
    """Add the teacher's own tokens of the text to a `datasets.Dataset`."""
    if not isinstance(dataset, datasets.Dataset):
        raise ValueError(
            f"teacher_processing_class needs train_dataset to be a datasets.Dataset, got {type(dataset).__name__}"
        )
    missing = [name for name in args.text_columns if name not in dataset.column_names]
    if missing:
        raise ValueError(
            f"teacher_processing_class needs the text itself, but train_dataset has no column "
            f"{', '.join(missing)} (it has {', '.join(dataset.column_names)}); "
            "set text_columns in the training arguments"
        )

    def tokenize(batch: dict[str, list[str]]) -> dict[str, Any]:
        tokens = tokenizer(
            *(batch[name] for name in args.text_columns), truncation=True, max_length=args.teacher_max_length
        )
        return {TEACHER_PREFIX + name: value for name, value in tokens.items()}

    return dataset.map(tokenize, batched=True, desc="the teacher's tokens")
