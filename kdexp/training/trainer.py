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

Losses on what happens inside of the models take one more argument,

        representation_terms=RepresentationTerms(student_model.config, teacher_model.config, {"hidden": TermConfig()}),

and the teacher in the loop. Their projections are trained and saved in checkpoints with the student, but are no
part of it: `save_model` and `save_pretrained` write the student alone.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import DataCollatorWithPadding, PreTrainedModel, Trainer, TrainingArguments
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.trainer_pt_utils import LengthGroupedSampler

from kdexp.arrow import Rows
from kdexp.cli.composition import check_loss
from kdexp.fingerprint import weights_fingerprint
from kdexp.loss.config import LOSSES, SoftLossConfig
from kdexp.loss.logit import hard_loss, logit_loss, mixed_loss, ramp
from kdexp.loss.terms import RepresentationTerms, recording, refuse_unfit
from kdexp.model.alignment import NO_WORD, AlignedWords, align, pad_words
from kdexp.teacher.config import Tokenization
from kdexp.training import checks as guards

logger = logging.getLogger(__name__)

TEACHER_PREFIX = "teacher_"
"""Columns of a batch that belong to the teacher: `teacher_logits`, or `teacher_input_ids` and the like."""

WORDS = "word_ids"
"""Column of the word of each token, the student's; with `TEACHER_PREFIX` the teacher's."""

WORD_MASK = "word_mask"
"""Of a batch: [batch, words], true where a row has a word of that number."""

TARGETS = "targets"
"""Column, with `TEACHER_PREFIX`, of what the teacher shows a row's representation terms, computed beforehand."""

_TERMS_MODULE = "distillation_terms"
_TERMS_FILE = "distillation_terms.safetensors"


@dataclass
class DistillationTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` plus the distillation's own, which `to_dict()` records too.

    Args:
        alpha: Weight of the gold labels, 0 to 1: 1 trains without a teacher, 0 on the teacher alone.
        alpha_end: Where alpha gets to, linearly, at the last step; None keeps it.
        temperature: T, above 0; softens both distributions.
        soft_loss: Another soft loss than Hinton's, by name with its settings, as in conf/loss:
            `{"name": "dkd", "temperature": 4.0, "target_weight": 1.0, "nontarget_weight": 8.0}`.
        tokenization: `own`, each model reads its own tokens; `student_ids`, the teacher is fed the
            student's ids though its vocabulary is another one (an ablation: its answers are nonsense).
        text_columns: One or two dataset columns that hold the text, read by `teacher_processing_class`.
        teacher_max_length: The teacher's texts are cut after so many of its tokens; by default its
            tokenizer's own limit.
    """

    alpha: float = 0.5
    alpha_end: float | None = None
    temperature: float = 4.0
    soft_loss: dict[str, Any] | None = None
    tokenization: str = "own"
    text_columns: list[str] = field(default_factory=lambda: ["text"])
    teacher_max_length: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be from 0 (teacher only) to 1 (no teacher), got {self.alpha}")
        if self.alpha_end is not None and not 0 <= self.alpha_end <= 1:
            raise ValueError(f"alpha_end must be from 0 to 1, got {self.alpha_end}")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be a finite number above 0, got {self.temperature}")
        if self.tokenization not in set(Tokenization):
            raise ValueError(f"tokenization must be one of {', '.join(Tokenization)}, got {self.tokenization!r}")

    def soft_loss_config(self) -> SoftLossConfig:
        """The soft loss, checked.

        Raises:
            ValueError: There is none of that name, or its settings are not legal.
        """
        settings = self.soft_loss or {"name": "kd", "temperature": self.temperature}
        kind = LOSSES.get(settings.get("name", ""))
        if kind is None or not issubclass(kind, SoftLossConfig):
            names = [name for name, each in LOSSES.items() if issubclass(each, SoftLossConfig)]
            raise ValueError(f"soft_loss must have a name of {', '.join(names)}, got {settings.get('name')!r}")
        try:
            config = kind(alpha=self.alpha, **settings)
        except TypeError as error:
            raise ValueError(f"soft_loss {settings['name']}: {error}") from None
        check_loss(config)
        return config


class DistillationCollator:
    """Pads the student's and the teacher's columns apart, each with its own tokenizer."""

    def __init__(
        self,
        student_collator: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
        teacher_tokenizer: PreTrainedTokenizerBase | None,
        student_padding_side: str = "right",
    ) -> None:
        self.student_collator = student_collator
        self.student_padding_side = student_padding_side
        self.teacher_tokenizer = teacher_tokenizer

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        student_rows, teacher_rows = zip(*(_split_row(row) for row in rows), strict=True)
        words = _take(student_rows, WORDS)
        batch: dict[str, Any] = dict(self.student_collator(list(student_rows)))
        if words:
            batch[WORDS] = pad_words(words, batch["input_ids"].shape[1], self.student_padding_side)
            # Here, on the CPU: on a GPU the number of words would have to be waited for.
            num_words = batch[WORDS].max(dim=1, keepdim=True).values + 1
            batch[WORD_MASK] = torch.arange(int(num_words.max())) < num_words
        logits = _take(teacher_rows, "logits")
        if logits:
            batch[TEACHER_PREFIX + "logits"] = torch.stack([torch.as_tensor(row) for row in logits])
        targets = _take(teacher_rows, TARGETS)
        if targets:
            batch[TEACHER_PREFIX + TARGETS] = {
                name: stack_padded([row[name] for row in targets]) for name in targets[0]
            }
        words = _take(teacher_rows, WORDS)
        if teacher_rows[0]:
            if self.teacher_tokenizer is None:
                raise ValueError("the dataset holds teacher tokens: pass teacher_processing_class to pad them")
            for name, value in DataCollatorWithPadding(self.teacher_tokenizer)(list(teacher_rows)).items():
                batch[TEACHER_PREFIX + name] = value
            if words:
                num_tokens = batch[TEACHER_PREFIX + "input_ids"].shape[1]
                batch[TEACHER_PREFIX + WORDS] = pad_words(words, num_tokens, self.teacher_tokenizer.padding_side)
        return batch


def _take(rows: Sequence[dict[str, Any]], column: str) -> list[Any]:
    """Take a column out of the rows; empty where they have none."""
    return [row.pop(column) for row in rows if column in row]


def stack_padded(tensors: Sequence[Tensor]) -> Tensor:
    """Stack tensors whose sizes differ, with zeros where one ends before another."""
    largest = [max(sizes) for sizes in zip(*(tensor.shape for tensor in tensors), strict=True)]
    stacked = tensors[0].new_zeros(len(tensors), *largest)
    for row, tensor in enumerate(tensors):
        stacked[row][tuple(slice(size) for size in tensor.shape)] = tensor
    return stacked


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
        representation_terms: Losses on hidden states, attention and the like; their weighted sum is added to
            the loss. They need teacher_model, or a `teacher_targets` column.

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
        representation_terms: RepresentationTerms | None = None,
        **trainer_arguments: Any,
    ) -> None:
        if trainer_arguments.get("compute_loss_func") is not None:
            raise ValueError("compute_loss_func would replace the distillation loss; use transformers.Trainer")
        if representation_terms is not None:
            refuse_unfit(representation_terms.pairs, Tokenization(args.tokenization), args.per_device_train_batch_size)
        if teacher_processing_class is not None and train_dataset is not None and not _has_teacher(train_dataset):
            train_dataset = _with_teacher_tokens(
                train_dataset, teacher_processing_class, args, processing_class, representation_terms
            )
        if data_collator is None and processing_class is not None:
            data_collator = DataCollatorWithPadding(processing_class)
        if data_collator is not None:
            padding_side = "right" if processing_class is None else processing_class.padding_side
            data_collator = DistillationCollator(data_collator, teacher_processing_class, padding_side)
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
        self.representation_terms = representation_terms
        self.num_teacher_rows = 0
        self._teacher_has_own_tokens = teacher_processing_class is not None
        self._class_order: list[int] | None = None
        self._soft_loss = args.soft_loss_config()
        guards.refuse_unfit_loss(self._soft_loss, model.config.num_labels, args.per_device_train_batch_size)
        self._realised_weights: dict[str, float] = {}
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
        if self.representation_terms is None:
            yield
            return
        self.model.add_module(_TERMS_MODULE, self.representation_terms.to(self.accelerator.device))
        try:
            with self.representation_terms.readable(*([self.teacher_model] if self.teacher_model else []), self.model):
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
                self.model.add_module(_TERMS_MODULE, self.representation_terms)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        with self._terms_beside() as has_terms:
            super()._save(output_dir, state_dict)
            if has_terms and self.args.should_save:
                assert self.representation_terms is not None
                folder = Path(output_dir or self.args.output_dir)
                save_file(self.representation_terms.state_dict(), folder / _TERMS_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with self._terms_beside() as has_terms:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            if has_terms:
                assert self.representation_terms is not None
                state = load_file(Path(resume_from_checkpoint) / _TERMS_FILE)
                self.representation_terms.load_state_dict(state)

    def _load_best_model(self) -> None:
        # The projections of the best step teach nobody any more.
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
        student_inputs, teacher_inputs = _split_row(inputs)
        labels = student_inputs.pop("labels", None)
        words, mask = student_inputs.pop(WORDS, None), student_inputs.pop(WORD_MASK, None)
        terms = self.representation_terms if model.training else None
        with recording(model, terms.kinds if terms else frozenset()) as seen:
            outputs = model(**student_inputs, **seen.flags)
        logits = outputs.logits
        # None outside of training: then the mean over the batch at hand.
        num_examples = num_items_in_batch if model.training and num_items_in_batch is not None else len(logits)
        progress = self.state.global_step / max(self.state.max_steps, 1)
        alpha = ramp(self.args.alpha, self.args.alpha_end, progress) if model.training else 1.0
        hard = soft = logits.new_zeros(())
        if alpha > 0:
            smoothing = self.args.label_smoothing_factor if model.training else 0.0
            hard = hard_loss(logits, labels, num_examples=num_examples, label_smoothing=smoothing)
        if terms and terms.needs_words and words is None:
            words, mask = self._own_positions(student_inputs["attention_mask"])
        if alpha < 1 or terms:
            answer = self._ask_teacher(student_inputs, teacher_inputs, terms, words, mask, needs_logits=alpha < 1)
        if alpha < 1:
            assert answer.logits is not None
            soft = logit_loss(self._soft_loss, logits, answer.logits, labels, num_examples=num_examples)
        loss = hard if alpha == 1 else mixed_loss(hard, soft, alpha)
        realised = {}
        if terms:
            assert answer.targets is not None
            student = terms.of_student(outputs, seen, student_inputs["attention_mask"], words, _num_words(mask))
            realised = terms(student, answer.targets, mask, num_examples=num_examples)
            weights = {name: ramp(*terms.weights[name], progress) for name in realised}
            loss = loss + sum(weights[name] * value for name, value in realised.items())
            self._realised_weights = {f"{name}_weight": weight for name, weight in weights.items()}
        if model.training:
            named = {f"{name}_loss": value for name, value in realised.items()}
            self._record_terms(hard_loss=hard, soft_loss=soft, **named)
            self._realised_weights["alpha"] = alpha
        return (loss, outputs) if return_outputs else loss

    def _own_positions(self, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Words and their mask where both models read the same ids: each token is a word."""
        if self._teacher_has_own_tokens:
            raise ValueError(
                f"the dataset holds the teacher's tokens, but no {WORDS} to align them with the student's"
            )
        words = torch.where(attention_mask.bool(), attention_mask.cumsum(-1) - 1, NO_WORD)
        positions = torch.arange(words.shape[1], device=words.device)
        return words, positions < attention_mask.sum(-1, keepdim=True)

    def _ask_teacher(
        self,
        student_inputs: dict[str, Tensor],
        teacher_inputs: dict[str, Any],
        terms: RepresentationTerms | None,
        words: Tensor | None,
        mask: Tensor | None,
        *,
        needs_logits: bool,
    ) -> "_Answer":
        """What was computed beforehand, and one forward pass for all that was not."""
        logits, targets = teacher_inputs.get("logits"), teacher_inputs.get(TARGETS)
        has_logits, has_targets = logits is not None or not needs_logits, targets is not None or terms is None
        if has_logits and has_targets:
            return _Answer(logits, targets)
        if self.teacher_model is None:
            raise ValueError(
                "representation_terms need a teacher: pass teacher_model"
                if has_logits
                else f"alpha={self.args.alpha} needs a teacher: pass teacher_model, or a dataset with teacher_logits"
            )
        read = teacher_inputs if self._teacher_has_own_tokens else student_inputs
        inputs = guards.accepted_inputs(self.teacher_model, read)
        if self.args.tokenization == Tokenization.student_ids:
            token_types = inputs.get("token_type_ids")
            guards.refuse_foreign_ids(
                self.teacher_model.config,
                largest_id=int(inputs["input_ids"].max()),
                largest_token_type=0 if token_types is None else int(token_types.max()),
            )
        self.num_teacher_rows += len(inputs["input_ids"])
        kinds = terms.kinds if terms else frozenset()
        with torch.inference_mode(), self.accelerator.autocast(), recording(self.teacher_model, kinds) as seen:
            outputs = self.teacher_model(**inputs, **seen.flags)
            if terms and targets is None:
                teacher_words = teacher_inputs.get(WORDS, words)
                targets = terms.of_teacher(outputs, seen, read["attention_mask"], teacher_words, _num_words(mask))
        # A clone made outside of inference mode may take part in the student's backward pass.
        if targets is not None:
            targets = {name: tensor.clone() for name, tensor in targets.items()}
        if logits is None:
            logits = outputs.logits.float().clone()
            logits = logits if self._class_order is None else logits[:, self._class_order]
        return _Answer(logits, targets)

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
            logs |= self._realised_weights
            self._term_sums = {}
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
        teacher_columns = ["logits", "input_ids", "attention_mask", "token_type_ids", WORDS, TARGETS]
        columns = {WORDS, *(TEACHER_PREFIX + name for name in teacher_columns)}
        self._signature_columns += sorted(columns - set(self._signature_columns))


@dataclass(frozen=True)
class _Answer:
    """The teacher's, on one batch.

    Attributes:
        targets: What it shows the representation terms.
    """

    logits: Tensor | None
    targets: dict[str, Tensor] | None


def _num_words(mask: Tensor | None) -> int:
    """Most words that a row of the batch has; 0 where no term needs words."""
    return 0 if mask is None else mask.shape[1]


def _has_teacher(dataset: Any) -> bool:
    """Whether the rows hold teacher columns already."""
    return any(name.startswith(TEACHER_PREFIX) for name in dataset[0])


def _with_teacher_tokens(
    dataset: Any,
    tokenizer: PreTrainedTokenizerBase,
    args: DistillationTrainingArguments,
    student_tokenizer: PreTrainedTokenizerBase | None,
    terms: RepresentationTerms | None,
) -> Any:
    """Add the teacher's own tokens of the text to a `datasets.Dataset`, and the words of both models' tokens."""
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

    dataset = dataset.map(tokenize, batched=True, desc="the teacher's tokens")
    if terms is None or not terms.needs_words:
        return dataset
    if student_tokenizer is None:
        raise ValueError("representation_terms compare tokens: pass processing_class=<the student's tokenizer>")
    lengths = [len(row) for row in dataset["input_ids"]]
    alignment = align(
        student_tokenizer,
        tokenizer,
        *(dataset[name] for name in args.text_columns),
        # Where texts were cut, that is where; where none was, nothing is cut here either.
        student_max_length=max(lengths),
        teacher_max_length=args.teacher_max_length,
        method=terms.alignment,
    )
    if [len(words) for words in alignment.student_words] != lengths:
        raise ValueError("the input_ids of train_dataset are not what processing_class makes of its text, unpadded")
    return _with_words(dataset, alignment)


def _with_words(dataset: datasets.Dataset, alignment: AlignedWords) -> datasets.Dataset:
    dataset = dataset.add_column(WORDS, alignment.student_words)
    return dataset.add_column(TEACHER_PREFIX + WORDS, alignment.teacher_words)
