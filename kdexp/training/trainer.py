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

Feature terms (losses on what happens inside of the models) take one more argument,

        feature_terms=FeatureTerms(student_model.config, teacher_model.config, {"hidden": Hidden(weight=0.5)}),

and the teacher in the loop. Their projections are trained and saved in checkpoints with the student, but are no
part of it: `save_model` and `save_pretrained` write the student alone.
"""

import inspect
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from transformers import PreTrainedModel, Trainer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from kdexp.loss.base import LogitLoss
from kdexp.loss.features import FeatureTerms, recorded
from kdexp.loss.hard import hard_loss
from kdexp.model.forward import input_names, logits_of
from kdexp.task.kinds.base import UNITS, TaskKind
from kdexp.training import checks as guards
from kdexp.training.arguments import DistillationTrainingArguments, distillation_arguments, logit_loss
from kdexp.training.collate import (
    TEACHER_COLUMNS,
    WORDS,
    Batch,
    attention_mask_of,
    distillation_collator,
    has_teacher,
    num_units,
)
from kdexp.training.config import Tokenization
from kdexp.training.projections import Projections, prepare_for_terms
from kdexp.training.realised import RealisedLosses
from kdexp.training.sampling import train_sampler
from kdexp.training.soft_loss import answered_soft_loss
from kdexp.training.student_in_loop import StudentInLoop
from kdexp.training.teacher_in_loop import TeacherInLoop, answer_of
from kdexp.training.teacher_tokens import with_teacher_tokens

_MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "inputs_embeds", "position_ids")


class DistillationTrainer(Trainer):
    """A `Trainer` whose loss is alpha * hard + (1 - alpha) * T^2 * KL(teacher || student).

    The hard loss is the student's own, whatever its forward makes of the labels: at alpha = 1 any model trains as
    with `Trainer`. The teacher is put on the student's device, in eval mode, without gradients and outside the
    optimizer; `train` proves by SHA-256 that its weights did not change. The evaluation loss is that of the gold
    labels alone, so that runs with different alpha and temperature can be compared. Gradient accumulation is exact:
    the loss is divided by the rows of the whole optimizer step. Settings of the loss are read when they are used:
    `hyperparameter_search` may change them.

    Args:
        positional, named: What `transformers.Trainer` takes, in its order or by name: `model` is the student (None
            where `model_init` makes it), `args` are `DistillationTrainingArguments`; others get their defaults.
        teacher_model: The teacher. Not needed with a `teacher_logits` column, or at alpha = 1.
        teacher_processing_class: The teacher's tokenizer, where it is not the student's. The training
            set must then hold the text itself (`args.text_columns`).
        feature_terms: Losses on hidden states, attention and the like; their weighted sum is added to
            the loss. They need teacher_model, or a `teacher_features` column.
        kind: What the task asks for, whose hard loss then takes the place of the student's own.
        tokenizer: The old name of `processing_class`; deprecated.

    Raises:
        ValueError: Teacher and student cannot work together; the message says what to pass.
    """

    args: DistillationTrainingArguments

    def __init__(
        self,
        *positional: Any,
        teacher_model: PreTrainedModel | nn.Module | None = None,
        teacher_processing_class: PreTrainedTokenizerBase | None = None,
        feature_terms: FeatureTerms | None = None,
        kind: TaskKind | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        **named: Any,
    ) -> None:
        if tokenizer is not None:
            warnings.warn("tokenizer is deprecated: pass processing_class", FutureWarning, stacklevel=2)
            named.setdefault("processing_class", tokenizer)
        # As the Trainer itself would take them, whatever order its releases give them.
        given = inspect.signature(Trainer.__init__).bind(self, *positional, **named).arguments
        given.pop("self")
        args = given["args"] = distillation_arguments(given.get("args"))
        if given.get("compute_loss_func") is not None:
            raise ValueError("compute_loss_func would replace the distillation loss; use transformers.Trainer")
        if feature_terms is not None:
            prepare_for_terms(feature_terms, args, given)
        processing_class, dataset = given.get("processing_class"), given.get("train_dataset")
        if teacher_processing_class is not None and dataset is not None and not has_teacher(dataset):
            given["train_dataset"] = with_teacher_tokens(
                dataset,
                teacher_processing_class,
                processing_class,
                args.text_columns,
                args.teacher_max_length,
                feature_terms,
            )
        given["data_collator"] = distillation_collator(
            given.get("data_collator"), processing_class, teacher_processing_class
        )
        super().__init__(**given)
        # compute_loss divides by the rows of the whole optimizer step; the Trainer must not divide again.
        # It would otherwise decide from the model's signature, and decide wrongly for encoder classifiers:
        # k accumulated micro-batches gave k times the gradient.
        self.loss_is_scaled_for_ga = True
        self.teacher_model = teacher_model
        self.feature_terms = feature_terms
        self.kind = kind
        self._teacher_has_own_tokens = teacher_processing_class is not None
        # A forward that names none, such as (*args, **kwargs), may take some all the same.
        self.label_names: list[str] = self.label_names or ["labels"]
        self._projections = Projections(self.model, feature_terms)
        self._last_student: StudentInLoop | None = None
        self._realised = RealisedLosses()
        self._realised_weights: dict[str, float] = {}
        self._refuse_unfit_loss()
        self._teacher = None if teacher_model is None else self._in_loop(teacher_model)

    def _in_loop(self, teacher_model: nn.Module) -> TeacherInLoop:
        teacher = TeacherInLoop(
            teacher_model,
            self.model,
            self.accelerator,
            tokenizer=self.processing_class or getattr(self.data_collator, "tokenizer", None),
            tokenization=Tokenization(self.args.tokenization),
            has_own_tokens=self._teacher_has_own_tokens,
        )
        if self.loss.uses_logits:
            teacher.refuse_other_classes()
        return teacher

    @property
    def num_teacher_rows(self) -> int:
        """Rows that a teacher in the loop forwarded."""
        return self._teacher.num_rows if self._teacher else 0

    @property
    def loss(self) -> LogitLoss:
        """The loss as the arguments describe it now, feature terms included."""
        loss = logit_loss(self.args, self._student.outputs)
        return replace(loss, terms=self.feature_terms.terms if self.feature_terms else {})

    @property
    def _student(self) -> StudentInLoop:
        """The model of now: each trial of a search has another."""
        if self._last_student is None or self._last_student.model is not self.model:
            self._last_student = StudentInLoop(self.model, self.kind, self.label_names)
        return self._last_student

    def _refuse_unfit_loss(self) -> None:
        loss, student = self.loss, self._student
        num_outputs = student.num_outputs or loss.min_classes
        guards.refuse_unfit_soft_loss(loss, student.outputs, num_outputs, self.args.per_device_train_batch_size)

    def get_train_dataloader(self) -> DataLoader:
        """At the start of each training: its settings may be others than at the construction."""
        self._refuse_unfit_loss()
        return super().get_train_dataloader()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train the student, as `Trainer.train` does.

        Raises:
            RuntimeError: The teacher's weights changed.
        """
        self._realised.clear()
        teacher, terms = self.teacher_model, self.feature_terms
        if terms is None:
            return self._train(*args, **kwargs)
        models = [self.model] if teacher is None else [teacher, self.model]
        with self._projections.attached(self.accelerator.device), terms.with_eager_attention(*models):
            return self._train(*args, **kwargs)

    def _train(self, *args: Any, **kwargs: Any) -> Any:
        if self.teacher_model is None:
            return super().train(*args, **kwargs)
        before = guards.frozen_digest(self.teacher_model)
        output = super().train(*args, **kwargs)
        if guards.frozen_digest(self.teacher_model) != before:
            raise RuntimeError("the teacher's weights changed during training: only the student may learn")
        return output

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        with self._projections.beside() as has_terms:
            super()._save(output_dir, state_dict)
            if has_terms and self.args.should_save:
                self._projections.save(output_dir or self.args.output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with self._projections.beside() as has_terms:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            if has_terms:
                self._projections.load(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        # Projections are not part of the student: the best step's are not restored.
        with self._projections.beside():
            super()._load_best_model()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The distillation loss while training, that of the gold labels while evaluating."""
        batch = self._student.batch(inputs, self._teacher.shared_inputs if self._teacher else frozenset())
        if model.training:
            loss, outputs = self._training_loss(model, batch, num_items_in_batch)
        elif self._student.has_own_loss:
            loss, outputs = self._own_loss(model, batch, {})
        else:
            outputs = model(**batch.student)
            logits = logits_of(outputs)
            loss = self._hard_loss(batch.unit_values(logits), batch, None, 0.0)
            outputs = {**(outputs if isinstance(outputs, Mapping) else {}), "logits": batch.by_row(logits)}
        return (loss, outputs) if return_outputs else loss

    def _own_loss(self, model: nn.Module, batch: Batch, flags: Mapping[str, bool]) -> tuple[Tensor, Any]:
        """The mean over the labels at hand, as the Trainer takes it, and the outputs."""
        batch.gold_labels()
        inputs = batch.student | batch.without_empty_labels() | dict(flags)
        return super().compute_loss(model, inputs, return_outputs=True)

    def _training_loss(self, model: nn.Module, batch: Batch, num_examples: Tensor | int | None) -> tuple[Tensor, Any]:
        """The loss of a micro-batch, a share of that of the optimizer step's `num_examples` rows; and the outputs."""
        loss, terms = self.loss, self.feature_terms
        progress = self.state.global_step / max(self.state.max_steps, 1)
        alpha = loss.alpha_at(progress)
        if num_examples is None:
            num_examples = batch.num_units
        has_own_loss = alpha > 0 and self._student.has_own_loss
        hard = soft = batch.labels.new_zeros((), dtype=torch.float)
        with recorded(model, terms.reads if terms else frozenset()) as features:
            if has_own_loss:
                own, outputs = self._own_loss(model, batch, features.flags)
                hard = own * (batch.num_labelled / torch.as_tensor(num_examples).clamp(min=1))
            else:
                outputs = model(**batch.student, **features.flags)
        answer = answer_of(
            batch, terms, self._teacher, needs_logits=alpha < 1, has_own_tokens=self._teacher_has_own_tokens
        )
        if alpha > 0 and not has_own_loss:
            logits = batch.unit_values(logits_of(outputs))
            hard = self._hard_loss(logits, batch, num_examples, self.args.label_smoothing_factor)
        if answer.logits is not None:
            logits = logits_of(outputs, with_loss=has_own_loss)
            soft = answered_soft_loss(
                loss, logits, answer.logits, batch, self._student.outputs, num_examples, self.args.transfer_weight
            )
        total = hard if alpha == 1 else alpha * hard + (1 - alpha) * soft
        self._realised_weights = {"alpha": alpha}
        self._realised.add(hard_loss=hard, soft_loss=soft)
        if terms:
            mask = attention_mask_of(batch.student)
            student = terms.student_features(outputs, features, mask, batch.words, batch.num_words)
            values = terms(student, answer.features, batch.word_mask, num_examples=num_examples)
            total = total + self._weighted(values, progress)
        return total, outputs

    def _weighted(self, values: dict[str, Tensor], progress: float) -> Any:
        """The feature terms' part of the loss."""
        weights = {name: term.weight_at(progress) for name, term in self.loss.terms.items()}
        self._realised_weights |= {f"{name}_weight": weight for name, weight in weights.items()}
        self._realised.add(**{f"{name}_loss": value for name, value in values.items()})
        return sum(weights[name] * value for name, value in values.items())

    def _hard_loss(
        self, logits: Tensor, batch: Batch, num_examples: Tensor | int | None, label_smoothing: float
    ) -> Tensor:
        """Where the student makes none itself."""
        compute = hard_loss if self.kind is None else self.kind.hard_loss
        return compute(logits, batch.gold_labels(), num_examples=num_examples, label_smoothing=label_smoothing)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> Any:
        """Of the student alone: columns that only the teacher or the terms read are left out."""
        batch = self._student.batch(inputs, self._teacher.shared_inputs if self._teacher else frozenset())
        units = {} if batch.units is None or not batch.label_columns else {UNITS: batch.units}
        kept = batch.student | {name: inputs[name] for name in self.label_names if name in inputs} | units
        return super().prediction_step(model, kept, prediction_loss_only, ignore_keys)

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Tensor]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Tensor]], Tensor | int | None]:
        """Count the rows (or units) of the whole optimizer step, labelled or not, for `compute_loss` to divide by."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._realised.begin_step()
        num_examples = sum(num_units(batch, self.label_names) for batch in batches)
        if self.accelerator.num_processes == 1:
            return batches, num_examples
        # Gradients are averaged over processes: each divides by the processes' mean number of examples.
        examples = torch.as_tensor(num_examples, dtype=torch.float, device=device)
        return batches, self.accelerator.gather(examples).mean()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the realised terms beside their mixture, each a mean per optimizer step."""
        # The Trainer's own entry, which all processes log together; a callback may log a loss too.
        if "loss" in logs and "learning_rate" in logs and (realised := self._realised.take(self.accelerator)):
            logs |= realised | self._realised_weights
        super().log(logs, start_time)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        rows = self.train_dataset if train_dataset is None else train_dataset
        return train_sampler(rows, self.args) or super()._get_train_sampler(train_dataset)

    def _set_signature_columns_if_needed(self) -> None:
        """Keep the labels and the teacher's columns, which the student's forward does not name."""
        super()._set_signature_columns_if_needed()
        columns = {WORDS, UNITS, *self.label_names, *TEACHER_COLUMNS}
        if self._teacher:
            columns |= self._teacher.shared_inputs
        if input_names(self.model) is None:
            columns |= set(getattr(self.processing_class, "model_input_names", _MODEL_INPUTS))
        self._signature_columns += sorted(columns - set(self._signature_columns))
