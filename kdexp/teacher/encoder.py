"""A teacher that is an encoder with a head: loaded or fine-tuned once, frozen, checked, and forwarded."""

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from kdexp.cache import Cache
from kdexp.errors import UserError
from kdexp.fingerprint import library_versions, weights_fingerprint
from kdexp.hardware import Hardware
from kdexp.loss.base import Outputs
from kdexp.model.encoder import Encoder, label_names, predict
from kdexp.model.load import load_encoder, load_finished
from kdexp.model.tokens import tokenize, tokenizer_fingerprint
from kdexp.task.kinds.base import TaskKind
from kdexp.task.kinds.classes import class_order
from kdexp.task.load import Task
from kdexp.task.split import Split
from kdexp.teacher.base import Cost, Preparation, Scale, Teacher, TeacherAnswers
from kdexp.teacher.config import EncoderTeacherConfig, TeacherRows
from kdexp.teacher.translation import Translation, translation_of
from kdexp.training import checks
from kdexp.training.config import TrainConfig
from kdexp.training.lesson import Lesson
from kdexp.training.loop import schedule_parts, train_model

logger = logging.getLogger(__name__)


class EncoderTeacher:
    """An encoder that answers the task.

    Args:
        encoder: As it was loaded, before any fine-tuning.
    """

    scale = Scale.logits

    def __init__(
        self, role: str, settings: EncoderTeacherConfig, encoder: Encoder, task: Task, cache: Cache, hardware: Hardware
    ) -> None:
        self.role, self.settings, self.encoder = role, settings, encoder
        self.task, self.cache, self.hardware = task, cache, hardware
        self.name, self.checks_chance = settings.name, settings.chance_check
        self.num_parameters = encoder.num_parameters
        self.members: Mapping[str, Teacher] = {}
        self.digest, self.preparation = "", Preparation()
        self.output_order: list[int] = []
        self.translation = self._find_translation()

    def prepare(self) -> None:
        """Fine-tune it if it needs that (once: it is kept in the cache), and freeze it."""
        if not self.encoder.answers_task:
            self._fine_tune()
        checks.freeze(self.encoder.model)
        self.digest = weights_fingerprint(self.encoder.model.state_dict())
        names = label_names(self.encoder.model.config)
        self.output_order = (
            self.task.kind.output_order(names, self.role) if self.translation is None else [*range(len(names))]
        )

    def _find_translation(self) -> Translation | None:
        """How what it answers becomes the task's; None where it answers the task's own classes.

        Raises:
            UserError: Its head cannot answer the task.
        """
        settings, kind = self.settings, self.task.kind
        if not self.encoder.answers_task:
            for name in ("label_map", "outputs"):
                if getattr(settings, name) is not None:
                    problem = "is of a head that comes with a checkpoint, but this teacher is fine-tuned on the task"
                    raise UserError(f"{self.role}.{name}", problem, "remove it, or choose a fine-tuned checkpoint")
            return None
        config = self.encoder.model.config
        names = label_names(config)
        said = kind.outputs if config.problem_type is None else checks.outputs_of(config)
        found = translation_of(self.role, settings, names, settings.outputs or said, kind)
        if found is not None:
            return found
        if _numbers_classes(names, kind):
            return Translation.open(names, kind.label_names)
        kind.output_order(names, self.role)
        return None

    def fingerprint(self) -> str:
        return self.fingerprint_as(self.encoder)

    def fingerprint_as(self, reader: Encoder) -> str:
        """Of all that decides its answers when it is fed the tokens of `reader`."""
        parts = {
            "teacher": self.encoder.fingerprint(),
            "tokenizer": tokenizer_fingerprint(reader.tokenizer),
            "max_length": reader.max_length,
            "output_order": self.output_order,
            "numerics": self.hardware.numerics,
            "versions": library_versions(),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def answer(self, split: Split, name: str) -> TeacherAnswers:
        return self.answer_as(self.encoder, split, name)

    def answer_as(self, reader: Encoder, split: Split, name: str) -> TeacherAnswers:
        """Answer when fed the tokens of `reader`.

        Raises:
            UserError: They are none that this encoder can read.
        """
        started = time.perf_counter()
        tokens = tokenize(reader.tokenizer, split, reader.max_length, self.task.kind, self.cache)
        if reader is not self.encoder:
            checks.refuse_foreign_ids(
                self.encoder.model.config,
                largest_id=tokens.largest("input_ids"),
                largest_token_type=tokens.largest("token_type_ids"),
            )
        answers = predict(
            self.encoder.model,
            reader.tokenizer,
            tokens,
            self.hardware,
            batch_size=self.settings.train.eval_batch_size,
            description=f"teacher: answers on {name}",
        )
        self.encoder.model.to("cpu")  # its memory is the student's now
        seconds = time.perf_counter() - started
        return TeacherAnswers(
            answers=self.task.kind.from_head(answers.in_order(self.output_order), self.encoder.model.config.to_dict()),
            key=self.fingerprint_as(reader),
            num_forwarded=len(split),
            seconds=seconds,
            cost=Cost(len(split), seconds, 0, int(tokens.rows().lengths.sum())),
        )

    def verify(self) -> None:
        if weights_fingerprint(self.encoder.model.state_dict()) != self.digest:
            raise RuntimeError("the teacher's weights changed during the run: only the student may learn")

    def _fine_tune(self) -> None:
        """Train it, and once more and calmer where it learned to say one thing only."""
        fresh, schedule = self.encoder, self.settings.train
        # Only what is trained from scratch is small enough to be held twice, and learns at so high a rate.
        may_repeat = self.settings.checkpoint is None and schedule.max_steps is None and self.checks_chance
        record, hit = self._train(fresh.copy() if may_repeat else fresh, schedule)
        notices = []
        if may_repeat and record.get("says_one_thing"):
            calmer = calmer_schedule(schedule)
            notices.append(
                f"it gave one answer on every validation row, and was trained again: {self.role}.train.learning_rate="
                f"{calmer.learning_rate:g} {self.role}.train.epochs={calmer.epochs}"
            )
            logger.warning("teacher %s: %s", self.name, notices[0])
            record, hit = self._train(fresh, calmer)
        self.preparation = Preparation(record["seconds"], hit, record["history"], notices)

    def _train(self, encoder: Encoder, schedule: TrainConfig) -> tuple[dict[str, Any], bool]:
        """Train an encoder in place, or find what an earlier run trained; the teacher then holds what is kept.

        Returns:
            How the training went, and whether it was there already.
        """
        task = self.task
        split = "pool" if self.settings.learns_from == TeacherRows.all else "train"

        def build(target: Path, work: Path) -> None:
            record = train_model(
                encoder,
                Lesson.of_labels(encoder, task, self.cache, schedule, f"{self.role}.train", split),
                schedule,
                self.hardware,
                seed=self.settings.seed,
                work=work,
                description=f"teacher {self.name}: training",
            )
            told = asdict(record) | {"says_one_thing": self._says_one_thing(encoder)}
            encoder.save(target)
            (target / "training.json").write_text(json.dumps(told, indent=1), encoding="utf-8")

        parts = {
            "model": encoder.fingerprint(),
            "max_length": encoder.max_length,
            "data": task.fingerprint(split, "validation"),
            "schedule": schedule_parts(schedule),
            "seed": self.settings.seed,
            "numerics": self.hardware.numerics,
            "versions": library_versions(),
        } | task.selection_parts

        def load(path: Path) -> tuple[dict[str, Any], Encoder]:
            record = json.loads((path / "training.json").read_text(encoding="utf-8"))
            if missing := {"seconds", "kept_step", "num_steps", "history"} - record.keys():
                raise ValueError(f"no {missing}")
            encoder.refuse_unlike(path)
            return record, load_finished(path, task.kind, encoder.max_length)

        entry, (record, self.encoder) = self.cache.loaded("teachers", parts, build, load)
        logger.info(
            "teacher %s: %s, epoch chosen on validation (step %d of %d)",
            self.name,
            "kept from an earlier run" if entry.hit else f"trained in {record['seconds']:.0f} s",
            record["kept_step"],
            record["num_steps"],
        )
        return record, entry.hit

    def _says_one_thing(self, encoder: Encoder) -> bool:
        """Whether it answers every validation row alike, though their labels differ."""
        kind, validation = self.task.kind, self.task.validation
        tokens = tokenize(encoder.tokenizer, validation, encoder.max_length, kind, self.cache)
        answers = predict(
            encoder.model,
            encoder.tokenizer,
            tokens,
            self.hardware,
            batch_size=self.settings.train.eval_batch_size,
            description=f"teacher {self.name}: answers on validation",
        )
        said, gold = kind.decisions(answers), kind.gold(self.task.labels("validation"))
        return len(set(map(str, said))) == 1 < len(set(map(str, gold)))


def calmer_schedule(schedule: TrainConfig) -> TrainConfig:
    """A quarter of the learning rate, for four times as many epochs: steps may have been too large, or too few."""
    assert schedule.learning_rate
    assert schedule.epochs
    return replace(schedule, learning_rate=schedule.learning_rate / 4, epochs=4 * schedule.epochs)


class StudentIds:
    """The ablation: a teacher that is fed the student's token ids, which mean nothing to it."""

    checks_chance = False  # it is expected to answer nonsense: measuring that is the point

    def __init__(self, teacher: EncoderTeacher, student: Encoder) -> None:
        self.teacher, self.student = teacher, student
        self.name, self.role, self.scale = teacher.name, teacher.role, teacher.scale
        self.num_parameters, self.members = teacher.num_parameters, teacher.members
        self.digest, self.preparation = "", Preparation()
        self.encoder = teacher.encoder

    def prepare(self) -> None:
        self.teacher.prepare()
        self.digest, self.preparation = self.teacher.digest, self.teacher.preparation
        self.encoder = self.teacher.encoder

    def fingerprint(self) -> str:
        return self.teacher.fingerprint_as(self.student)

    def answer(self, split: Split, name: str) -> TeacherAnswers:
        return self.teacher.answer_as(self.student, split, name)

    def verify(self) -> None:
        self.teacher.verify()


def _numbers_classes(names: Sequence[str], kind: TaskKind) -> bool:
    """Whether a head has as many classes as the task, and calls them LABEL_0, ... where the task has names."""
    if kind.outputs != Outputs.classes or kind.has_units or len(names) != kind.num_outputs:
        return False
    if not checks.are_generic(names):
        return False
    try:
        class_order(names, kind.label_names)
    except UserError:
        return True
    return False


def load_encoder_teacher(
    role: str, settings: EncoderTeacherConfig, task: Task, cache: Cache, hardware: Hardware
) -> EncoderTeacher:
    """Load the teacher as it comes, before any fine-tuning.

    Args:
        role: What its settings begin with, for errors.

    Raises:
        UserError: It cannot be loaded, or its head does not answer the task.
    """
    if settings.learns_from == TeacherRows.all and task.pool is None:
        problem = "got all, but there are no labels beyond those of train"
        raise UserError(
            f"{role}.learns_from", problem, "label some of train only: task.transfer=rest task.train_size=500"
        )
    encoder = load_encoder(
        role, settings, task, cache, seed=settings.seed, new_head=settings.finetune is True, foreign_head=True
    )
    if not encoder.answers_task and settings.finetune is False:
        raise UserError(
            f"{role}.finetune",
            "is false, but the teacher has no classification head for this task",
            f"remove {role}.finetune=false, or give a fine-tuned checkpoint with {role}.checkpoint=...",
        )
    return EncoderTeacher(role, settings, encoder, task, cache, hardware)
