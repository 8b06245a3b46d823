"""The student, and its baseline: the same training, with and without a teacher."""

import copy
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kdexp.cache import Cache
from kdexp.fingerprint import library_versions
from kdexp.hardware import Hardware
from kdexp.loss.base import IGNORED_LABEL, Loss
from kdexp.loss.features import FeatureTerms
from kdexp.model.encoder import Encoded, LoadedModel, encode, predict_logits
from kdexp.task.load import Task
from kdexp.teacher.encoder import TeacherLogits, schedule_parts, task_fingerprint
from kdexp.teacher.features import TeacherTargets
from kdexp.training.config import StudentTrainConfig
from kdexp.training.loop import LogCallback, num_optimizer_steps, train_model

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedStudent:
    """A student after training.

    Attributes:
        folder: Model and tokenizer, as `save_pretrained` writes them.
        logits: [rows, classes] on `validation` and `test`.
        num_teacher_rows: Rows that a teacher in the loop forwarded in this run.
        was_kept: It was trained by an earlier run with the same settings.
    """

    folder: Path
    logits: dict[str, Tensor]
    train_seconds: float
    num_steps: int
    num_teacher_rows: int
    was_kept: bool


@dataclass(frozen=True)
class StudentData:
    """The task as the student reads it."""

    task: Task
    splits: dict[str, Encoded]


def encode_task(student: LoadedModel, task: Task, *, use_transfer: bool) -> StudentData:
    """Tokenize every split that the student needs with its own tokenizer."""
    splits = {"train": task.train, "validation": task.validation, "test": task.test}
    if use_transfer and task.transfer is not None:
        splits["transfer"] = task.transfer
    return StudentData(
        task, {name: encode(student.tokenizer, split, student.max_length) for name, split in splits.items()}
    )


def train_student(
    student: LoadedModel,
    data: StudentData,
    loss: Loss,
    answers: dict[str, TeacherLogits],
    schedule: StudentTrainConfig,
    cache: Cache,
    hardware: Hardware,
    *,
    seed: int,
    resume: bool,
    description: str,
    targets: TeacherTargets | None = None,
    on_log: LogCallback | None = None,
    watch: LogCallback | None = None,
) -> TrainedStudent:
    """Train a copy of `student`, or take what an earlier run with the same settings trained.

    Runs that are the same computation share one training: at alpha = 1 the teacher and the
    temperature have no effect, so that is the baseline, whatever they are, unless representation terms
    bring the teacher back.

    Args:
        answers: The teacher's logits on `train` (and `transfer`); not read at alpha = 1.
        targets: What the representation terms of `loss` compare; None where it has none.
        on_log: Receives the training's metrics, of a kept training too.
        watch: Receives them of a training that really runs, and may stop it by raising.
    """
    task = data.task
    rows = _training_rows(data, answers, targets) if loss.uses_logits or targets else _labelled_rows(data)
    # The baseline has no labels for transfer text: it takes as many steps on the labelled rows instead.
    num_rows = len(data.splits["train"].rows) + len(data.splits.get("transfer", Encoded([], 0)).rows)
    num_steps = num_optimizer_steps(num_rows, schedule)

    def log(metrics: dict[str, float], step: int) -> None:
        for receive in (on_log, watch):
            if receive:
                receive(metrics, step)

    def build(target: Path, work: Path) -> None:
        trained = copy.deepcopy(student.model)
        terms = None
        if targets:
            terms = FeatureTerms(trained.config, targets.teacher_config, loss.terms, seed=seed)
        record = train_model(
            trained,
            student.tokenizer,
            rows,
            data.splits["validation"].with_columns(labels=task.validation.labels),
            schedule,
            hardware,
            seed=seed,
            work=work,
            description=f"{description}: training",
            primary_metric=task.primary_metric,
            loss=loss,
            num_steps=num_steps,
            terms=terms,
            teacher=targets.teacher if targets else None,
            on_log=log,
        )
        trained_at = time.perf_counter()
        logits = {
            name: predict_logits(
                trained,
                student.tokenizer,
                data.splits[name],
                hardware,
                batch_size=schedule.eval_batch_size,
                description=f"{description}: {name}",
            )
            for name in ("validation", "test")
        }
        times = {"evaluation_seconds": time.perf_counter() - trained_at}
        trained.to("cpu").save_pretrained(target / "model")
        student.tokenizer.save_pretrained(target / "model")
        save_file(logits, target / "logits.safetensors")
        (target / "training.json").write_text(json.dumps(asdict(record) | times, indent=1), encoding="utf-8")

    parts = {
        "format": 2,
        "model": student.fingerprint(),
        "max_length": student.max_length,
        "data": task_fingerprint(task, "train", "validation", "test"),
        "loss": loss.parts(),
        "teacher_logits": [answers[name].key for name in sorted(answers)] if loss.uses_logits else None,
        "representation_terms": targets.parts if targets else None,
        "schedule": schedule_parts(schedule),
        "num_steps": num_steps,
        "seed": seed,
        "numerics": hardware.numerics,
        "versions": library_versions(),
    }
    if not resume:
        cache.forget("students", parts)
    entry = cache.folder("students", parts, build)
    record = json.loads((entry.path / "training.json").read_text(encoding="utf-8"))
    if entry.hit:
        logger.info("%s: kept from an earlier run with the same settings (resume=false trains it anew)", description)
        for step, metrics in record["history"]:
            if on_log:
                on_log(metrics, step)
    else:
        logger.info("%s: trained in %.0f s, %d steps", description, record["seconds"], record["num_steps"])
    return TrainedStudent(
        folder=entry.path / "model",
        logits=load_file(entry.path / "logits.safetensors"),
        train_seconds=record["seconds"],
        num_steps=record["num_steps"],
        num_teacher_rows=0 if entry.hit else record["num_teacher_rows"],
        was_kept=entry.hit,
    )


def _labelled_rows(data: StudentData) -> list[dict[str, object]]:
    return data.splits["train"].with_columns(labels=data.task.train.labels)


def _training_rows(
    data: StudentData, answers: dict[str, TeacherLogits], targets: TeacherTargets | None
) -> list[dict[str, object]]:
    """Rows with the teacher's answers, and what it shows of its inside; transfer text has no gold label."""
    gold: dict[str, Sequence[int]] = {"train": data.task.train.labels or []}
    if "transfer" in data.splits:
        gold["transfer"] = [IGNORED_LABEL] * len(data.splits["transfer"].rows)
    return [
        row
        for name, labels in gold.items()
        for row in data.splits[name].with_columns(
            labels=labels,
            teacher_logits=list(torch.unbind(answers[name].logits)),
            **(targets.columns[name] if targets else {}),
        )
    ]
