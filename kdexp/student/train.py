"""The student, and what is trained beside it: the same training, with and without a teacher."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kdexp.arrow import Column, Rows
from kdexp.fingerprint import library_versions
from kdexp.loss.base import IGNORED_LABEL, Loss
from kdexp.loss.features import FeatureTerms
from kdexp.model.answer_files import read_answers, write_answers
from kdexp.model.encoder import predict
from kdexp.model.tokens import Tokens
from kdexp.results.metric_names import metric_name
from kdexp.task.kinds.base import Answers, TaskKind
from kdexp.teacher.base import TeacherAnswers
from kdexp.teacher.features import TeacherFeatures
from kdexp.training.config import StudentTrainConfig
from kdexp.training.course import Course
from kdexp.training.lesson import Lesson, weighted_kind
from kdexp.training.loop import LogCallback, num_optimizer_steps, schedule_parts, train_model

logger = logging.getLogger(__name__)

Watch = Callable[[float, int], None]
"""Sees the primary metric on validation and its step, after each epoch; may end the training by raising."""


@dataclass(frozen=True)
class TrainedStudent:
    """A student after training.

    Attributes:
        folder: Model and tokenizer, as `save_pretrained` writes them.
        answers: On `validation` and `test`.
        schedule: That it was trained with.
        num_teacher_rows: Rows that a teacher in the loop forwarded in this run.
        from_cache: It was trained by an earlier run with the same settings.
    """

    folder: Path
    answers: dict[str, Answers]
    schedule: StudentTrainConfig
    train_seconds: float
    num_steps: int
    num_teacher_rows: int
    from_cache: bool


def train_student(
    course: Course,
    description: str,
    loss: Loss,
    answers: Mapping[str, TeacherAnswers] | None = None,
    features: TeacherFeatures | None = None,
    *,
    on_metrics: LogCallback | None = None,
    watch: Watch | None = None,
) -> TrainedStudent:
    """Train a copy of the student, or take what an earlier run with the same settings trained.

    Runs that are the same computation share one training: at alpha = 1 the teacher and the
    temperature have no effect, so that is the baseline, whatever they are, unless feature terms
    bring the teacher back.

    Args:
        answers: The teacher's on `train` (and `transfer`); not read at alpha = 1.
        features: What the feature terms of `loss` compare; None where it has none.
        on_metrics: Receives the training's metrics, of a training from the cache too.
        watch: Sees a training that really runs.
    """
    answers = answers if answers is not None and loss.uses_logits else None
    tokens = course.tokens()
    # The baseline has no labels for transfer text: it takes as many steps on the labelled rows instead.
    num_rows = sum(len(split) for split in course.training_splits.values())
    num_steps = num_optimizer_steps(num_rows, course.schedule)

    primary = metric_name("validation", course.task.primary_metric)

    def log(metrics: dict[str, float], step: int) -> None:
        if on_metrics:
            on_metrics(metrics, step)
        if watch and primary in metrics:
            watch(metrics[primary], step)

    if answers:
        _tell_unread(course, tokens, answers)

    def build(target: Path, work: Path) -> None:
        _train(
            course, tokens, _lesson(course, tokens, loss, answers, features, num_steps), description, target, work, log
        )

    parts = _parts(course, loss, answers, features, num_steps)
    if not course.resume:
        course.cache.forget("students", parts)
    entry, (record, answered) = course.cache.loaded("students", parts, build, partial(_read, course))
    if entry.hit:
        logger.info("%s: kept from an earlier run with the same settings (resume=false trains it anew)", description)
        for step, metrics in record["history"]:
            if on_metrics:
                on_metrics(metrics, step)
    else:
        logger.info("%s: trained in %.0f s, %d steps", description, record["seconds"], record["num_steps"])
    return TrainedStudent(
        folder=entry.path / "model",
        answers=answered,
        schedule=course.schedule,
        train_seconds=record["seconds"],
        num_steps=record["num_steps"],
        num_teacher_rows=0 if entry.hit else record["num_teacher_rows"],
        from_cache=entry.hit,
    )


def _read(course: Course, folder: Path) -> tuple[dict[str, Any], dict[str, Answers]]:
    """The record of a training and the answers.

    Raises:
        ValueError: The folder does not hold what `_train` writes of this student.
    """
    record, answers = json.loads((folder / "training.json").read_text(encoding="utf-8")), read_answers(folder)
    if missing := {"seconds", "num_steps", "num_teacher_rows", "history"} - record.keys():
        raise ValueError(f"no {missing}")
    for name, split in course.evaluation_splits.items():
        values = answers[name].values
        if answers[name].num_rows != len(split) or values.shape[1:] != (course.task.kind.num_outputs,):
            raise ValueError(f"{tuple(values.shape)} answers on {len(split)} rows of {name}")
        if values.isnan().any():
            raise ValueError(f"nan on {name}")
    course.encoder.refuse_unlike(folder / "model")
    return record, answers


def _tell_unread(course: Course, tokens: Mapping[str, Tokens], answers: Mapping[str, TeacherAnswers]) -> None:
    """Say of how many units of rows, such as words, one of both models says nothing."""
    own, taught = [tokens[name] for name in course.training_splits], [answers[name] for name in course.training_splits]
    total = sum(int(item.num_units.sum()) for item in own if item.num_units is not None)
    by_student = total - sum(item.num_read for item in own)
    by_teacher = sum(int((~item.answers.read).sum()) for item in taught)
    if total and by_student + by_teacher:
        logger.info(
            "%s of %s training words are not read by the student, %s not by the teacher (max_length): "
            "they have no soft loss",
            *(f"{number:,}" for number in (by_student, total, by_teacher)),
        )


def _parts(
    course: Course,
    loss: Loss,
    answers: Mapping[str, TeacherAnswers] | None,
    features: TeacherFeatures | None,
    num_steps: int,
) -> dict[str, object]:
    """Everything that decides what is trained."""
    transfer = course.training_splits.get("transfer") if answers or features else None
    return {
        "model": course.encoder.fingerprint(),
        "max_length": course.encoder.max_length,
        "data": course.task.fingerprint("train", "validation", "test"),
        "transfer": transfer.text_digest if transfer is not None else None,
        "loss": loss.parts(),
        "teacher_answers": [answers[name].key for name in sorted(answers)] if answers else None,
        "teacher_features": features.parts if features else None,
        "schedule": schedule_parts(course.schedule),
        "num_steps": num_steps,
        "seed": course.seed,
        "numerics": course.hardware.numerics,
        "versions": library_versions(),
    } | course.task.selection_parts


def _lesson(
    course: Course,
    tokens: Mapping[str, Tokens],
    loss: Loss,
    answers: Mapping[str, TeacherAnswers] | None,
    features: TeacherFeatures | None,
    num_steps: int,
) -> Lesson:
    terms = None
    if features:
        terms = FeatureTerms(course.encoder.model.config, features.teacher_config, loss.terms, seed=course.seed)
    has_transfer = "transfer" in tokens and (answers is not None or features is not None)
    return Lesson(
        kind=weighted_kind(course.task, course.schedule, "train"),
        train_rows=_training_rows(course, tokens, answers, features),
        validation_rows=tokens["validation"].rows(labels=course.task.validation.labels),
        loss=loss,
        num_steps=num_steps,
        transfer_ratio=course.schedule.transfer_ratio if has_transfer else None,
        transfer_weight=course.schedule.transfer_weight if has_transfer else 1.0,
        terms=terms,
        teacher=features.teacher if features else None,
    )


def _train(
    course: Course,
    tokens: Mapping[str, Tokens],
    lesson: Lesson,
    description: str,
    target: Path,
    work: Path,
    log: LogCallback,
) -> None:
    """Train a copy, and write it with its answers."""
    trained = course.encoder.copy()
    record = train_model(
        trained,
        lesson,
        course.schedule,
        course.hardware,
        seed=course.seed,
        work=work,
        description=f"{description}: training",
        on_log=log,
    )
    answers = {
        name: predict(
            trained.model,
            trained.tokenizer,
            tokens[name],
            course.hardware,
            batch_size=course.schedule.eval_batch_size,
            description=f"{description}: {name}",
        )
        for name in course.evaluation_splits
    }
    trained.save(target / "model")
    write_answers(answers, target)
    (target / "training.json").write_text(json.dumps(asdict(record), indent=1), encoding="utf-8")


def _training_rows(
    course: Course,
    tokens: Mapping[str, Tokens],
    answers: Mapping[str, TeacherAnswers] | None,
    features: TeacherFeatures | None,
) -> Rows:
    """Rows with the teacher's answers, and its features; transfer text has no gold label."""
    gold: dict[str, Column] = {"train": course.task.train.labels}
    if answers is None and features is None:
        return tokens["train"].rows(labels=gold["train"])
    if "transfer" in tokens:
        gold["transfer"] = _unlabelled(course.task.kind, tokens["transfer"])
    return Rows(
        *(
            tokens[name].columns
            | {"labels": labels}
            | ({"teacher_logits": answers[name].answers.by_row()} if answers else {})
            | (features.columns[name] if features else {})
            for name, labels in gold.items()
        )
    )


def _unlabelled(kind: TaskKind, tokens: Tokens) -> Column:
    """No gold label for any unit."""
    if tokens.num_units is None:
        return kind.unlabelled(len(tokens))
    return [[IGNORED_LABEL] * num_units for num_units in tokens.num_units]
