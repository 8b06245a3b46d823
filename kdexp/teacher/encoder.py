"""The teacher: loaded or fine-tuned once, frozen, checked, and asked once for its logits."""

import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import log_softmax
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from kdexp.cache import Cache
from kdexp.errors import UserError
from kdexp.fingerprint import library_versions, texts_fingerprint, weights_fingerprint
from kdexp.hardware import Hardware
from kdexp.model.encoder import Encoded, LoadedModel, encode, load_model, predict_logits, tokenizer_fingerprint
from kdexp.task.load import Split, Task
from kdexp.teacher.config import TeacherConfig, Tokenization
from kdexp.training import checks as guards
from kdexp.training.config import TrainConfig
from kdexp.training.loop import train_model

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Teacher:
    """A frozen teacher that answers the task.

    Attributes:
        sha256: Of its weights, when it was frozen.
        class_order: `logits[:, class_order]` is in the task's order of classes.
        train_seconds: What fine-tuning it cost when it was done; 0 where it was not needed.
        was_kept: It was fine-tuned by an earlier run.
    """

    loaded: LoadedModel
    sha256: str
    class_order: list[int]
    train_seconds: float
    was_kept: bool

    def is_unchanged(self) -> bool:
        """Whether its weights are still those that were frozen, bit by bit."""
        return weights_fingerprint(self.loaded.model.state_dict()) == self.sha256


@dataclass(frozen=True)
class TeacherLogits:
    """The teacher's answers on one split.

    Attributes:
        logits: [rows, classes], float32, classes in the task's order.
        key: Content key of the cache entry; of several teachers' answers, each one's with its weight.
        num_forwarded: Rows that this run had to forward; 0 when the answers were kept.
        num_truncated: Rows that were longer than the teacher reads.
    """

    logits: Tensor
    key: str
    num_forwarded: int
    num_truncated: int
    seconds: float


def load_teacher(config: TeacherConfig, task: Task, role: str = "teacher") -> LoadedModel:
    """Load the teacher as it comes, before any fine-tuning.

    Args:
        role: What its settings begin with, for errors.

    Raises:
        UserError: It cannot be loaded, or its head does not answer the task.
    """
    loaded = load_model(role, config, task, seed=config.seed, new_head=config.finetune is True)
    if loaded.answers_task:
        guards.class_order(guards.label_names(loaded.model.config), task.label_names, role)
    elif config.finetune is False:
        raise UserError(
            f"{role}.finetune",
            "is false, but the teacher has no classification head for this task",
            f"remove {role}.finetune=false, or give a fine-tuned checkpoint with {role}.checkpoint=...",
        )
    return loaded


def prepare_teacher(
    loaded: LoadedModel, config: TeacherConfig, task: Task, cache: Cache, hardware: Hardware
) -> Teacher:
    """Fine-tune the teacher if it needs it (once: it is kept under the cache), and freeze it."""
    train_seconds, was_kept = 0.0, False
    if not loaded.answers_task:
        loaded, train_seconds, was_kept = _fine_tune(loaded, config, task, cache, hardware)
    guards.freeze(loaded.model)
    return Teacher(
        loaded=loaded,
        sha256=weights_fingerprint(loaded.model.state_dict()),
        class_order=guards.class_order(guards.label_names(loaded.model.config), task.label_names),
        train_seconds=train_seconds,
        was_kept=was_kept,
    )


def _fine_tune(
    loaded: LoadedModel, config: TeacherConfig, task: Task, cache: Cache, hardware: Hardware
) -> tuple[LoadedModel, float, bool]:
    def build(target: Path, work: Path) -> None:
        record = train_model(
            loaded.model,
            loaded.tokenizer,
            encode(loaded.tokenizer, task.train, loaded.max_length).with_columns(labels=task.train.labels),
            encode(loaded.tokenizer, task.validation, loaded.max_length).with_columns(labels=task.validation.labels),
            config.train,
            hardware,
            seed=config.seed,
            work=work,
            description=f"teacher {config.name}: training",
            primary_metric=task.primary_metric,
        )
        loaded.model.to("cpu").save_pretrained(target)
        loaded.tokenizer.save_pretrained(target)
        (target / "training.json").write_text(json.dumps(asdict(record), indent=1), encoding="utf-8")

    parts = {
        "format": 1,
        "model": loaded.fingerprint(),
        "max_length": loaded.max_length,
        "data": task_fingerprint(task, "train", "validation"),
        "schedule": schedule_parts(config.train),
        "seed": config.seed,
        "numerics": hardware.numerics,
        "versions": library_versions(),
    }
    entry = cache.folder("teachers", parts, build)
    record = json.loads((entry.path / "training.json").read_text(encoding="utf-8"))
    logger.info(
        "teacher %s: %s, epoch chosen on validation (step %d of %d)",
        config.name,
        "kept from an earlier run" if entry.hit else f"trained in {record['seconds']:.0f} s",
        record["kept_step"],
        record["num_steps"],
    )
    model = AutoModelForSequenceClassification.from_pretrained(entry.path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(entry.path)
    return LoadedModel(model, tokenizer, loaded.max_length, True), record["seconds"], entry.hit


def teacher_logits(
    teacher: Teacher,
    split: Split,
    split_name: str,
    student: LoadedModel,
    tokenization: Tokenization,
    cache: Cache,
    hardware: Hardware,
    batch_size: int,
) -> TeacherLogits:
    """Ask the teacher about one split, or take its answers from the cache.

    The teacher reads its own tokens; with `tokenization=student_ids` it is fed the student's.

    Raises:
        UserError: The student's ids are none the teacher can read.
    """
    started = time.perf_counter()
    reader = student if tokenization == Tokenization.student_ids else teacher.loaded
    parts = {
        "format": 1,
        "teacher": teacher.loaded.fingerprint(),
        "tokenizer": tokenizer_fingerprint(reader.tokenizer),
        "max_length": reader.max_length,
        "text": texts_fingerprint(split.first, split.second),
        "class_order": teacher.class_order,
        "numerics": hardware.numerics,
        "versions": library_versions(),
    }

    def compute(work: Path) -> dict[str, Tensor]:
        encoded = encode(reader.tokenizer, split, reader.max_length)
        if tokenization == Tokenization.student_ids:
            _refuse_foreign_ids(teacher.loaded, encoded)
        logits = predict_logits(
            teacher.loaded.model,
            reader.tokenizer,
            encoded,
            hardware,
            batch_size=batch_size,
            description=f"teacher: answers on {split_name}",
        )
        return {
            "logits": logits[:, teacher.class_order],
            "num_truncated": torch.tensor(encoded.num_truncated),
        }

    entry = cache.tensors("teacher_logits", parts, compute)
    return TeacherLogits(
        logits=entry.tensors["logits"],
        key=entry.key,
        num_forwarded=0 if entry.hit else len(split),
        num_truncated=int(entry.tensors["num_truncated"]),
        seconds=time.perf_counter() - started,
    )


def mixed_answers(answers: Sequence[TeacherLogits], weights: Sequence[float]) -> TeacherLogits:
    """What several teachers answer together on one split: log(sum_k w_k softmax(z_k)), with weights that sum to one.

    The mean is one of probabilities, because logits of different models have no common scale or zero. A
    temperature is applied to what comes out: softmax(log m / T) softens the mixture m as it would one
    teacher's answer, which is not the mixture of the softened answers. The mixture is a log-probability:
    a loss on logits themselves (`mse`) should be centered, since each row's mean is the normaliser's.

    Args:
        weights: Above 0, one for each teacher, in any unit.
    """
    total = sum(weights)
    weighted = [
        log_softmax(answer.logits, dim=-1) + math.log(weight / total)
        for answer, weight in zip(answers, weights, strict=True)
    ]
    return TeacherLogits(
        logits=torch.stack(weighted).logsumexp(dim=0),
        key=" + ".join(f"{weight / total!r} {answer.key}" for answer, weight in zip(answers, weights, strict=True)),
        num_forwarded=sum(answer.num_forwarded for answer in answers),
        num_truncated=sum(answer.num_truncated for answer in answers),
        seconds=sum(answer.seconds for answer in answers),
    )


def _refuse_foreign_ids(teacher: LoadedModel, encoded: Encoded) -> None:
    guards.refuse_foreign_ids(
        teacher.model.config,
        largest_id=max(max(row["input_ids"]) for row in encoded.rows),
        largest_token_type=max(max(row.get("token_type_ids", [0])) for row in encoded.rows),
    )


def task_fingerprint(task: Task, *split_names: str) -> str:
    """SHA-256 of classes, texts and labels of the named splits."""
    columns: list[list[str] | None] = [list(task.label_names)]
    for name in split_names:
        split: Split = getattr(task, name)
        labels = None if split.labels is None else [str(label) for label in split.labels]
        columns += [split.first, split.second, labels]
    return texts_fingerprint(*columns)


def schedule_parts(schedule: TrainConfig) -> dict[str, object]:
    """What of a schedule can change a result."""
    parts = asdict(schedule) | {"select": str(schedule.select)}
    del parts["eval_batch_size"]
    return parts
