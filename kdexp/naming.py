"""What a run is called, logged as, and announced with."""

import logging
from collections.abc import Mapping
from functools import lru_cache

import kdexp
from kdexp.cache import Cache
from kdexp.config import (
    Config,
    config_hash,
    flatten,
    teacher_names,
    teacher_settings,
)
from kdexp.fingerprint import plain
from kdexp.hardware import Hardware
from kdexp.model.config import ModelConfig
from kdexp.model.encoder import Encoder
from kdexp.task.load import Task
from kdexp.teacher.base import Teacher, shown_encoders
from kdexp.teacher.config import Tokenization
from kdexp.teacher.features import alignment_tag
from kdexp.tracking.run import RunDescription

logger = logging.getLogger(__name__)


def run_name(config: Config) -> str:
    """`roberta -> bert  kd a=0.5 T=4  s0`; several teachers are joined by `+`, a study's condition comes last."""
    settings = plain(config.loss)
    loss = config.loss.name
    if config.loss.uses_logits:
        loss += f" a={settings['alpha']:g}"
        loss += f" T={settings['temperature']:g}" if "temperature" in settings else ""
    condition = f"  {config.condition}" if config.condition else ""
    return f"{'+'.join(teacher_names(config))} -> {config.student.name}  {loss}  s{config.seed}{condition}"


def run_params(config: Config, hardware: Hardware, readers: Mapping[str, Encoder]) -> dict[str, object]:
    """The settings as MLflow shows them; lists of options by the options' names, so that a sweep over them shows."""
    threads = {f"hardware.{role}_threads": number for role, number in _threads(hardware, readers).items()}
    return flatten(config) | {
        "hardware.name": hardware.name,
        "hardware.bfloat16": hardware.bfloat16,
        **threads,
        "more_teachers": "+".join(config.more_teachers) or "none",
        "terms": "+".join(config.loss.terms) or "none",
    }


def describe_run(
    config: Config,
    task: Task,
    hardware: Hardware,
    cache: Cache,
    readers: Mapping[str, Encoder],
    given: Mapping[str, str],
) -> RunDescription:
    """What MLflow is told of a run before it begins.

    Args:
        readers: The models that read text, by role.
        given: Digests of what a program handed in, in place of what the config describes.
    """
    tags = run_tags(config, cache, given) | task_tags(config, task)
    return RunDescription(config.study, run_name(config), run_params(config, hardware, readers), tags)


def run_tags(config: Config, cache: Cache, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """What identifies a run: what it computes, of which sweep it is a job, and whose locks tell that it lives."""
    parent = {"mlflow.parentRunId": config.parent_run} if config.parent_run else {}
    return parent | {
        "kdexp.config_hash": config_hash(config, given),
        "kdexp.cache": cache.identity(),
        "kdexp.version": kdexp.__version__,
    }


def task_tags(config: Config, task: Task) -> dict[str, str]:
    same = {teacher.family for teacher in teacher_settings(config).values()} == {config.student.family}
    return {
        "kdexp.pairing": "same-family" if same else "cross-family",
        "kdexp.tokenization": config.tokenization.value.replace("_", "-"),
        "kdexp.alignment": alignment_tag(config.loss.terms),
        "kdexp.primary_metric": task.primary_metric,
        "kdexp.data_sha256": task.fingerprint("train", "validation", "test"),
        **{f"kdexp.{name}_rows": str(len(getattr(task, name))) for name in ("train", "validation", "test")},
        **task.tags,
    }


def teacher_tags(teacher: Teacher) -> dict[str, str]:
    """What each teacher answers by: `kdexp.teacher_sha256`, and with a name for every further teacher."""
    first, *others = teacher.members.items() or [(teacher.name, teacher)]
    return {"kdexp.teacher_sha256": first[1].digest} | {
        f"kdexp.teacher_sha256.{name}": member.digest for name, member in others
    }


def announce(config: Config, hardware: Hardware, task: Task, teacher: Teacher, student: Encoder) -> None:
    """Say what was decided that the command line did not say; of a sweep's jobs, what the one before did not say."""
    say = _say_once if config.parent_run else logger.info
    for note in task.announcements:
        say(note)
    sizes = {name: member.num_parameters for name, member in teacher.members.items()}
    for settings in teacher_settings(config).values():
        num_parameters = sizes.get(settings.name, teacher.num_parameters)
        say(f"teacher {settings.name}: {_origin(settings)}, {num_parameters:,} parameters")
    say(f"student {config.student.name}: {_origin(config.student)}, {student.num_parameters:,} parameters")
    for reader in (*shown_encoders(teacher).values(), student):
        for notice in reader.legibility.notices if reader.legibility else ():
            say(notice)
    number_format = "bfloat16" if hardware.bfloat16 else "float32"
    threads = _threads(hardware, shown_encoders(teacher) | {"student": student})
    counts = ", ".join(f"{role.replace('_', ' ')} {number}" for role, number in threads.items())
    say(f"hardware: {hardware.name}, {number_format}, threads: {counts}")
    if config.tokenization == Tokenization.student_ids:
        logger.warning("ablation: the teacher is fed the student's token ids, which mean nothing to it")
    if config.train.use_transfer and task.transfer is None:
        logger.warning("train.use_transfer is ignored: task %s has no transfer text", task.name)


def _threads(hardware: Hardware, readers: Mapping[str, Encoder]) -> dict[str, int]:
    """With how many each model is computed."""
    return {role: hardware.num_threads_for(reader.model) for role, reader in readers.items()}


def _origin(model: ModelConfig) -> str:
    """What a model is made from."""
    if model.checkpoint is None:
        return f"compact {model.family} from scratch, tokenizer trained on the training text"
    if model.transplant is None:
        return model.checkpoint
    return f"encoder of {model.checkpoint}, tokens of {model.transplant}, as {model.family}"


@lru_cache(maxsize=256)
def _say_once(line: str) -> None:
    logger.info(line)
