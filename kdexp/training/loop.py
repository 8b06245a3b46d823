"""One training, of a teacher or of a student: the same Trainer, schedule and checkpoints for both."""

import logging
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    EvalPrediction,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

from kdexp.errors import UserError
from kdexp.files import sync
from kdexp.hardware import Hardware
from kdexp.loss.base import CrossEntropy, LogitLoss, Loss
from kdexp.loss.terms import TERMS
from kdexp.model.encoder import Encoder
from kdexp.processes import Processes
from kdexp.progress import progress
from kdexp.ranges import established
from kdexp.training.arguments import DistillationTrainingArguments, soft_loss_settings
from kdexp.training.config import CheckpointSelection, TrainConfig
from kdexp.training.lesson import Lesson
from kdexp.training.trainer import DistillationTrainer

logger = logging.getLogger(__name__)

_TRAIN_METRICS = {
    *("loss", "hard_loss", "soft_loss", "alpha", "grad_norm", "learning_rate"),
    *(f"{term}_{what}" for term in TERMS for what in ("loss", "weight")),
}

_TRAINERS_OWN = {"eval_loss", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second"}

_MOST_VALIDATIONS = 20
"""Of one that goes through few rows many times."""

LogCallback = Callable[[dict[str, float], int], None]
"""Takes metrics and the optimizer step they belong to."""


@dataclass(frozen=True)
class TrainingRecord:
    """How a training went.

    Attributes:
        seconds: Wall time of the training itself.
        num_steps: Optimizer steps.
        kept_step: The step whose weights were kept.
        num_teacher_rows: Rows that a teacher in the loop forwarded.
        history: (step, metrics) in the order they were logged: `train/...` and `validation/...`.
    """

    seconds: float
    num_steps: int
    kept_step: int
    num_teacher_rows: int
    history: list[tuple[int, dict[str, float]]]


def num_optimizer_steps(num_rows: int, schedule: TrainConfig) -> int:
    """Optimizer steps of a whole training on `num_rows` rows."""
    if schedule.max_steps is not None:
        return schedule.max_steps
    assert schedule.epochs is not None
    num_batches = math.ceil(num_rows / schedule.batch_size)
    return schedule.epochs * math.ceil(num_batches / schedule.gradient_accumulation)


def schedule_parts(schedule: TrainConfig) -> dict[str, object]:
    """What of a schedule can change a result."""
    parts = established(schedule)
    del parts["eval_batch_size"]
    return parts


def train_model(
    encoder: Encoder,
    lesson: Lesson,
    schedule: TrainConfig,
    hardware: Hardware,
    *,
    seed: int,
    work: Path,
    description: str,
    on_log: LogCallback | None = None,
) -> TrainingRecord:
    """Train the encoder's model in place; afterwards it holds the kept weights.

    All processes of a training call this together, and share each batch.

    Args:
        work: Holds a checkpoint per epoch: a training that was cut off continues from its last one.
        on_log: Receives the metrics as they are logged.

    Raises:
        UserError: Loss, gradients or weights became infinite or nan, or the batch cannot be shared among the
            processes.
    """
    started = time.perf_counter()
    total_steps = lesson.num_steps or num_optimizer_steps(len(lesson.train_rows), schedule)
    arguments = _arguments(lesson, schedule, hardware, total_steps, seed, work)
    if hardware.bfloat16 and hardware.device.type == "cpu":
        logger.info("%s: bfloat16 autocast on the CPU", description)

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        # Not in the order of the split: the Trainer groups by length here too.
        answers, labels = lesson.kind.units_of_rows(prediction.predictions, prediction.label_ids)
        if not answers.values[answers.read].isfinite().all():
            raise diverged("the model answers nan or infinity", lesson.settings)
        return lesson.kind.metrics(lesson.kind.decided(answers, answers, labels), labels)

    teacher = [lesson.teacher.model] if lesson.teacher else []
    with hardware.threads_for(encoder.model, *teacher), progress(description, total_steps) as advance:
        callback = _TrainingMonitor(advance, on_log, lesson.settings)
        trainer = DistillationTrainer(
            encoder.model,
            arguments,
            train_dataset=lesson.train_rows,
            eval_dataset=lesson.validation_rows,
            processing_class=encoder.tokenizer,
            teacher_model=lesson.teacher.model if lesson.teacher else None,
            teacher_processing_class=lesson.teacher.tokenizer if lesson.teacher else None,
            feature_terms=lesson.terms,
            kind=lesson.kind,
            compute_metrics=compute_metrics,
            callbacks=[callback],
        )
        trainer.remove_callback(PrinterCallback)
        checkpoint = Processes.current().share("checkpoint", lambda: _last_complete_checkpoint(work))
        if checkpoint:
            logger.info("%s continues from %s", description, Path(checkpoint).name)
        trainer.train(resume_from_checkpoint=checkpoint)
    state = trainer.state
    num_teacher_rows = torch.tensor(trainer.num_teacher_rows, device=hardware.device)
    kept_step = state.best_global_step if schedule.select == CheckpointSelection.best else state.global_step
    return TrainingRecord(
        seconds=time.perf_counter() - started,
        num_steps=state.global_step,
        kept_step=kept_step or state.global_step,
        num_teacher_rows=int(trainer.accelerator.reduce(num_teacher_rows)),
        history=callback.history,
    )


def _arguments(
    lesson: Lesson, schedule: TrainConfig, hardware: Hardware, total_steps: int, seed: int, work: Path
) -> DistillationTrainingArguments:
    on_gpu = hardware.device.type == "cuda"
    arguments = DistillationTrainingArguments(
        output_dir=str(work),
        **_loss_arguments(lesson.loss or CrossEntropy()),
        transfer_ratio=lesson.transfer_ratio,
        transfer_weight=lesson.transfer_weight,
        max_steps=total_steps,
        per_device_train_batch_size=rows_per_process(schedule, hardware, lesson.settings),
        per_device_eval_batch_size=schedule.eval_batch_size,
        gradient_accumulation_steps=schedule.gradient_accumulation,
        learning_rate=schedule.learning_rate,
        weight_decay=schedule.weight_decay,
        warmup_steps=math.ceil(schedule.warmup_ratio * total_steps),
        max_grad_norm=schedule.max_grad_norm,
        label_smoothing_factor=schedule.label_smoothing,
        train_sampling_strategy="group_by_length" if schedule.group_by_length else "random",
        optim="adamw_torch_fused" if on_gpu else "adamw_torch",
        bf16=hardware.bfloat16,
        use_cpu=not on_gpu,
        dataloader_num_workers=hardware.num_workers,
        dataloader_pin_memory=on_gpu,
        # No parameter stays without gradient, and those of feature terms, used outside of the model, would be
        # taken for such.
        ddp_find_unused_parameters=False,
        seed=seed,
        **_validation(lesson, schedule, total_steps),
        # The one before stays until this one is complete: whenever a process is killed, one can be read.
        save_total_limit=2,
        load_best_model_at_end=schedule.select == CheckpointSelection.best,
        metric_for_best_model=f"eval_{lesson.kind.primary_metric}",
        greater_is_better=True,
        logging_steps=max(1, total_steps // 50),
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
    )
    # One process drives one GPU: DataParallel over all that are visible would split each batch.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _validation(lesson: Lesson, schedule: TrainConfig, total_steps: int) -> dict[str, Any]:
    """When checkpoints are written and validated: after each pass.

    A student whose steps are those of one that has much more text would go through its few rows a hundred times:
    it is validated 20 times, or four times per epoch of the schedule.
    """
    rows = schedule.batch_size * schedule.gradient_accumulation * total_steps
    most = max(_MOST_VALIDATIONS, 4 * (schedule.epochs or 1))
    if lesson.num_steps is None or rows <= most * len(lesson.train_rows):
        return {"eval_strategy": "epoch", "save_strategy": "epoch"}
    steps = math.ceil(total_steps / most)
    return {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": steps, "save_steps": steps}


def rows_per_process(schedule: TrainConfig, hardware: Hardware, settings: str = "train") -> int:
    """Each process's share of a batch, which is as large as the schedule says, whatever their number.

    Args:
        settings: What the schedule's settings begin with, for errors.

    Raises:
        UserError: It cannot be shared equally.
    """
    if schedule.batch_size % hardware.num_processes:
        raise UserError(
            f"{settings}.batch_size",
            f"{schedule.batch_size} rows cannot be shared equally among {hardware.num_processes} processes",
            f"use a multiple of {hardware.num_processes}",
        )
    return schedule.batch_size // hardware.num_processes


def _loss_arguments(loss: Loss) -> dict[str, Any]:
    """The loss as `DistillationTrainingArguments` take it; its terms are passed apart."""
    if not isinstance(loss, LogitLoss):
        return {"alpha": 1.0}
    return {"alpha": loss.alpha, "alpha_end": loss.alpha_end, "soft_loss": soft_loss_settings(loss)}


COMPLETE = "complete"
"""Empty file in a checkpoint of which everything else is on the disk."""


def _last_complete_checkpoint(work: Path) -> str | None:
    """The checkpoint to continue from; one that a killed process left half written is removed."""
    for checkpoint in work.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if not (checkpoint / COMPLETE).exists():
            shutil.rmtree(checkpoint)
    return get_last_checkpoint(str(work))


class DivergedError(UserError):
    """A training left the numbers."""


def diverged(problem: str, settings: str) -> DivergedError:
    """A training that left the numbers, and which settings tame it."""
    return DivergedError(
        f"{settings}.learning_rate", problem, f"try a smaller one, more {settings}.warmup_ratio, or float32"
    )


class _TrainingMonitor(TrainerCallback):
    """Passes on what the Trainer logs, moves the progress bar, and stops a loss that is no number."""

    def __init__(self, advance: Callable[[int], None], on_log: LogCallback | None, settings: str) -> None:
        self.history: list[tuple[int, dict[str, float]]] = []
        self._advance = advance
        self._on_log = on_log
        self._settings = settings

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._advance(state.global_step)
        for entry in state.log_history:  # of the part that was trained before it was cut off
            self._pass_on(dict(entry), int(entry["step"]))

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._advance(1)

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        Processes.current().wait("checkpoint")  # each writes the state of its random numbers
        if state.is_world_process_zero:
            checkpoint = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            sync(checkpoint)
            (checkpoint / COMPLETE).touch()

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, float], **kwargs: Any
    ) -> None:
        for name, what in (("loss", "loss"), ("grad_norm", "gradient")):
            if not math.isfinite(logs.get(name, 0.0)):
                raise diverged(f"the {what} became {logs[name]} at step {state.global_step}", self._settings)
        self._pass_on(dict(logs), state.global_step)

    def _pass_on(self, logs: dict[str, float], step: int) -> None:
        metrics = {}
        for name, value in logs.items():
            if name in _TRAIN_METRICS:
                metrics[f"train/{name}"] = float(value)
            elif name.startswith("eval_") and name not in _TRAINERS_OWN:
                metrics[f"validation/{name.removeprefix('eval_')}"] = float(value)
        if metrics:
            self.history.append((step, metrics))
            if self._on_log:
                self._on_log(metrics, step)
