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

import contextlib
import inspect
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from transformers import DataCollatorWithPadding, PreTrainedModel, Trainer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.trainer_pt_utils import LengthGroupedSampler

from kdexp.arrow import Rows
from kdexp.fingerprint import weights_fingerprint
from kdexp.loss.base import LogitLoss, Outputs
from kdexp.loss.features import FeatureTerms, recorded
from kdexp.model.encoder import label_names
from kdexp.task.kind import UNITS, TaskKind
from kdexp.task.single_label import SingleLabel
from kdexp.training import checks as guards
from kdexp.training.arguments import DistillationTrainingArguments
from kdexp.training.collate import (
    FEATURES,
    TEACHER_PREFIX,
    WORDS,
    Batch,
    DistillationCollator,
    has_teacher,
    num_units,
    with_teacher_tokens,
)
from kdexp.training.config import Tokenization
from kdexp.training.teacher_in_loop import Answer, TeacherInLoop

logger = logging.getLogger(__name__)

_TERMS_MODULE = "distillation_terms"
_TERMS_FILE = "distillation_terms.safetensors"


class DistillationTrainer(Trainer):
    """A `Trainer` whose loss is alpha * CE(gold) + (1 - alpha) * T^2 * KL(teacher || student).

    The teacher is put on the student's device, in eval mode, without gradients and outside the
    optimizer; `train` proves by SHA-256 that its weights did not change. The evaluation loss is the
    gold labels' NLL alone, so that runs with different alpha and temperature can be compared.
    Gradient accumulation is exact: the loss is divided by the rows of the whole optimizer step.
    Settings of the loss are read when they are used: `hyperparameter_search` may change them.

    Args:
        positional, named: What `transformers.Trainer` takes, in its order or by name: `model` is the student (None
            where `model_init` makes it), `args` are `DistillationTrainingArguments`.
        teacher_model: The teacher. Not needed with a `teacher_logits` column, or at alpha = 1.
        teacher_processing_class: The teacher's tokenizer, where it is not the student's. The training
            set must then hold the text itself (`args.text_columns`).
        feature_terms: Losses on hidden states, attention and the like; their weighted sum is added to
            the loss. They need teacher_model, or a `teacher_features` column.
        kind: What the task asks for; by default one of the student's classes.

    Raises:
        ValueError: Teacher and student cannot work together; the message says what to pass.
    """

    args: DistillationTrainingArguments

    def __init__(
        self,
        *positional: Any,
        teacher_model: PreTrainedModel | None = None,
        teacher_processing_class: PreTrainedTokenizerBase | None = None,
        feature_terms: FeatureTerms | None = None,
        kind: TaskKind | None = None,
        **named: Any,
    ) -> None:
        # As the Trainer itself would take them, whatever order its releases give them.
        given = inspect.signature(Trainer.__init__).bind(self, *positional, **named).arguments
        given.pop("self")
        args: DistillationTrainingArguments = given["args"]
        if given.get("compute_loss_func") is not None:
            raise ValueError("compute_loss_func would replace the distillation loss; use transformers.Trainer")
        if feature_terms is not None and given.get("model_init") is not None:
            raise ValueError("feature_terms are made for one student: pass model in place of model_init")
        if feature_terms is not None:
            guards.refuse_unfit_terms(feature_terms.terms, Tokenization(args.tokenization))
        tokenizer, dataset = given.get("processing_class"), given.get("train_dataset")
        if teacher_processing_class is not None and dataset is not None and not has_teacher(dataset):
            given["train_dataset"] = with_teacher_tokens(
                dataset, teacher_processing_class, tokenizer, args.text_columns, args.teacher_max_length, feature_terms
            )
        given["data_collator"] = _collator(given.get("data_collator"), tokenizer, teacher_processing_class)
        super().__init__(**given)
        # compute_loss divides by the rows of the whole optimizer step; the Trainer must not divide again.
        # It would otherwise decide from the model's signature, and decide wrongly for encoder classifiers:
        # k accumulated micro-batches gave k times the gradient.
        self.loss_is_scaled_for_ga = True
        self.teacher_model = teacher_model
        self.feature_terms = feature_terms
        self.kind = kind or SingleLabel(label_names(self.model.config))
        self._realised_weights: dict[str, float] = {}
        self._loss_sums: dict[str, Tensor] = {}
        self._step_of_last_log = 0
        self._refuse_unfit_loss()
        self._teacher_has_own_tokens = teacher_processing_class is not None
        self._teacher: TeacherInLoop | None = None
        if teacher_model is not None:
            self._teacher = TeacherInLoop(
                teacher_model,
                self.model,
                self.accelerator,
                tokenization=Tokenization(args.tokenization),
                has_own_tokens=self._teacher_has_own_tokens,
            )

    @property
    def num_teacher_rows(self) -> int:
        """Rows that a teacher in the loop forwarded."""
        return self._teacher.num_rows if self._teacher else 0

    @property
    def loss(self) -> LogitLoss:
        """The loss as the arguments describe it now, feature terms included."""
        return replace(self.args.logit_loss(), terms=self.feature_terms.terms if self.feature_terms else {})

    def _refuse_unfit_loss(self) -> None:
        num_outputs = self.model.config.num_labels
        outputs = Outputs.number if num_outputs == 1 else self.kind.outputs
        if self.loss.uses_logits:  # at alpha = 1 there is no teacher to compare with
            guards.refuse_unfit_loss(self.loss, outputs, num_outputs)
        guards.refuse_small_batch(self.loss, self.args.per_device_train_batch_size)

    def get_train_dataloader(self) -> DataLoader:
        """At the start of each training: its settings may be others than at the construction."""
        self._refuse_unfit_loss()
        return super().get_train_dataloader()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train the student, as `Trainer.train` does.

        Raises:
            RuntimeError: The teacher's weights changed.
        """
        with self._terms_attached():
            if self.teacher_model is None:
                return super().train(*args, **kwargs)
            before = weights_fingerprint(self.teacher_model.state_dict())
            output = super().train(*args, **kwargs)
        if weights_fingerprint(self.teacher_model.state_dict()) != before:
            raise RuntimeError("the teacher's weights changed during training: only the student may learn")
        return output

    @contextlib.contextmanager
    def _terms_attached(self) -> Iterator[None]:
        """While training, the projections are a part of the student: optimized, clipped and synchronised with it."""
        if self.feature_terms is None:
            yield
            return
        self.model.add_module(_TERMS_MODULE, self.feature_terms.to(self.accelerator.device))
        try:
            models = [self.teacher_model, self.model] if self.teacher_model else [self.model]
            with self.feature_terms.with_eager_attention(*models):
                yield
        finally:
            delattr(self.model, _TERMS_MODULE)

    @contextlib.contextmanager
    def _terms_beside(self) -> Iterator[bool]:
        """Write and read the student alone; yields whether there are projections to write and read beside it."""
        is_attached = _TERMS_MODULE in self.model._modules
        if is_attached:
            delattr(self.model, _TERMS_MODULE)
        try:
            yield is_attached
        finally:
            if is_attached:
                self.model.add_module(_TERMS_MODULE, self.feature_terms)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        with self._terms_beside() as has_terms:
            super()._save(output_dir, state_dict)
            if has_terms and self.args.should_save:
                assert self.feature_terms is not None
                folder = Path(output_dir or self.args.output_dir)
                save_file(self.feature_terms.state_dict(), folder / _TERMS_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with self._terms_beside() as has_terms:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            if has_terms:
                assert self.feature_terms is not None
                state = load_file(Path(resume_from_checkpoint) / _TERMS_FILE)
                self.feature_terms.load_state_dict(state)

    def _load_best_model(self) -> None:
        # Projections are not part of the student: the best step's are not restored.
        with self._terms_beside():
            super()._load_best_model()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The distillation loss while training, the gold labels' NLL while evaluating."""
        batch = Batch.of(inputs)
        if model.training:
            loss, outputs = self._training_loss(model, batch, num_items_in_batch)
        else:
            outputs = model(**batch.student)
            loss = self._hard_loss(batch.unit_values(outputs.logits), batch, None, 0.0)
            outputs.logits = batch.by_row(outputs.logits)
        return (loss, outputs) if return_outputs else loss

    def _training_loss(self, model: nn.Module, batch: Batch, num_examples: Tensor | int | None) -> tuple[Tensor, Any]:
        """The loss of a micro-batch, a share of that of the optimizer step's `num_examples` rows; and the outputs."""
        loss, terms = self.loss, self.feature_terms
        with recorded(model, terms.reads if terms else frozenset()) as features:
            outputs = model(**batch.student, **features.flags)
        logits = batch.unit_values(outputs.logits)
        if num_examples is None:
            num_examples = len(logits)
        progress = self.state.global_step / max(self.state.max_steps, 1)
        alpha = loss.alpha_at(progress)
        answer = self._answer(batch, needs_logits=alpha < 1)
        hard = soft = logits.new_zeros(())
        if alpha > 0:
            hard = self._hard_loss(logits, batch, num_examples, self.args.label_smoothing_factor)
        if answer.logits is not None:
            soft = loss(logits, answer.logits, batch.labels, num_examples=num_examples)
        total = hard if alpha == 1 else alpha * hard + (1 - alpha) * soft
        self._realised_weights = {"alpha": alpha}
        values: dict[str, Tensor] = {}
        if terms:
            student = terms.student_features(
                outputs, features, batch.student["attention_mask"], batch.words, batch.num_words
            )
            values = terms(student, answer.features, batch.word_mask, num_examples=num_examples)
            weights = {name: term.weight_at(progress) for name, term in loss.terms.items()}
            total = total + sum(weights[name] * value for name, value in values.items())
            self._realised_weights |= {f"{name}_weight": weight for name, weight in weights.items()}
        self._add_up(hard_loss=hard, soft_loss=soft, **{f"{name}_loss": value for name, value in values.items()})
        return total, outputs

    def _hard_loss(
        self, logits: Tensor, batch: Batch, num_examples: Tensor | int | None, label_smoothing: float
    ) -> Tensor:
        return self.kind.hard_loss(
            logits, batch.gold_labels(), num_examples=num_examples, label_smoothing=label_smoothing
        )

    def _answer(self, batch: Batch, *, needs_logits: bool) -> Answer:
        """What was computed beforehand, and one forward pass for all that was not."""
        terms = self.feature_terms
        if terms and terms.needs_words and batch.words is None:
            if self._teacher_has_own_tokens:
                raise ValueError(
                    f"the dataset holds the teacher's tokens, but no {WORDS} to align them with the student's"
                )
            batch.number_tokens()
        logits = batch.teacher.get("logits") if needs_logits else None
        features = batch.teacher.get(FEATURES, {})
        lacks_logits, lacks_features = needs_logits and logits is None, terms is not None and not features
        if not lacks_logits and not lacks_features:
            return Answer(logits, features)
        if self._teacher is None:
            raise ValueError(
                f"alpha={self.args.alpha} needs a teacher: pass teacher_model, or a dataset with teacher_logits"
                if lacks_logits
                else "feature_terms need a teacher: pass teacher_model"
            )
        answer = self._teacher.answer(batch, terms if lacks_features else None)
        return Answer(answer.logits if lacks_logits else logits, answer.features if lacks_features else features)

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Tensor]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Tensor]], Tensor | int | None]:
        """Count the rows (or units) of the whole optimizer step, labelled or not, for `compute_loss` to divide by."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        num_examples = sum(num_units(batch) for batch in batches)
        if self.accelerator.num_processes == 1:
            return batches, num_examples
        # Gradients are averaged over processes: each divides by the processes' mean number of examples.
        examples = torch.tensor(float(num_examples), device=device)
        return batches, self.accelerator.gather(examples).mean()

    def _add_up(self, **losses: Tensor) -> None:
        """Add up the parts of the loss on the device; reading them every step would stall a GPU."""
        for name, value in losses.items():
            self._loss_sums[name] = self._loss_sums.get(name, 0) + value.detach()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the realised terms beside their mixture, each a mean per optimizer step."""
        if "loss" in logs and self._loss_sums:
            num_steps = max(self.state.global_step - self._step_of_last_log, 1)
            logs |= {name: (total / num_steps).item() for name, total in self._loss_sums.items()}
            logs |= self._realised_weights
            self._loss_sums = {}
            self._step_of_last_log = self.state.global_step
        super().log(logs, start_time)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        """Group by length without making every row first: `Rows` know their lengths."""
        rows = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length" or not isinstance(rows, Rows):
            return super()._get_train_sampler(train_dataset)
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthGroupedSampler(size, lengths=rows.lengths.tolist())

    def _set_signature_columns_if_needed(self) -> None:
        """Keep the teacher's columns, which the student's forward does not name."""
        super()._set_signature_columns_if_needed()
        teacher_columns = ["logits", "input_ids", "attention_mask", "token_type_ids", WORDS, FEATURES]
        columns = {WORDS, UNITS, *(TEACHER_PREFIX + name for name in teacher_columns)}
        self._signature_columns += sorted(columns - set(self._signature_columns))


def _collator(
    student_collator: Callable[[list[dict[str, Any]]], dict[str, Tensor]] | None,
    tokenizer: PreTrainedTokenizerBase | None,
    teacher_tokenizer: PreTrainedTokenizerBase | None,
) -> DistillationCollator | None:
    """One that pads the teacher's columns too; None leaves the Trainer its default."""
    if student_collator is None and tokenizer is not None:
        student_collator = DataCollatorWithPadding(tokenizer)
    if student_collator is None:
        return None
    padding_side = "right" if tokenizer is None else tokenizer.padding_side
    return DistillationCollator(student_collator, teacher_tokenizer, padding_side)
