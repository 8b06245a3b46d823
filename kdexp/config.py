"""A whole run's settings: the groups joined, and what identifies a computation.

The settings of each part stand with the part; parts never see `Config`. Nothing here loads torch.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from kdexp.fingerprint import library_versions, path_digest, plain
from kdexp.hardware import HardwareConfig
from kdexp.loss.base import Loss
from kdexp.student.config import StudentConfig
from kdexp.task.config import TaskConfig
from kdexp.teacher.config import TeacherConfig, Tokenization
from kdexp.tracking.config import TrackingConfig
from kdexp.training.config import StudentTrainConfig


@dataclass
class CrossFamilyConfig:
    """The cross-family study.

    Attributes:
        teachers, students: Checkpoints by family, `{bert: <folder or hub id>}`, in place of compact models.
        margin: Half width, in points, of what counts as equivalent.
    """

    # Any, because only an untyped setting takes a mapping with new keys from the command line.
    teachers: Any = None
    students: Any = None
    margin: float = 2.0


@dataclass
class Config:
    """One run."""

    teacher: TeacherConfig = MISSING
    more_teachers: dict[str, TeacherConfig] = field(default_factory=dict)
    student: StudentConfig = MISSING
    task: TaskConfig = MISSING
    loss: Loss = MISSING
    hardware: HardwareConfig = MISSING
    train: StudentTrainConfig = MISSING
    tracking: TrackingConfig = MISSING
    tokenization: Tokenization = Tokenization.own
    baseline: bool = True
    seed: int = 0
    study: str = "distillation"
    resume: bool = True
    cache_dir: str = MISSING
    parent_run: str | None = None
    trial: str | None = None
    condition: str | None = None
    families: list[str] = field(default_factory=list)
    cross_family: CrossFamilyConfig = field(default_factory=CrossFamilyConfig)


_SPLITS = ("train", "validation", "test", "transfer")


def teacher_settings(config: Config) -> dict[str, TeacherConfig]:
    """Every teacher by what its settings begin with: `teacher`, `more_teachers.roberta`, ..."""
    return {"teacher": config.teacher} | {f"more_teachers.{name}": each for name, each in config.more_teachers.items()}


def teacher_names(config: Config) -> list[str]:
    """What each teacher is called in metrics and logs, in the order of `teacher_settings`."""
    return [config.teacher.name, *config.more_teachers]


def flatten(config: object) -> dict[str, Any]:
    """The config as dotted names, as MLflow shows it (`loss.alpha`, `teacher.train.epochs`, ...)."""

    def walk(prefix: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            return {prefix: value}
        return {
            name: leaf
            for key, item in value.items()
            for name, leaf in walk(f"{prefix}.{key}" if prefix else key, item).items()
        }

    return walk("", plain(config))


def config_hash(config: Config) -> str:
    """SHA-256 of everything that can change a result: two runs with one hash are the same computation.

    Local files that the config names count by their content, libraries by their version. Where
    results are written, how they are tracked and what the study is called do not count, and without
    a teacher (alpha = 1) neither do the other settings of the loss.
    """
    parts = plain(config)
    for irrelevant in (
        "tracking",
        "cache_dir",
        "study",
        "resume",
        "parent_run",
        "trial",
        "condition",
        "families",
        "cross_family",
    ):
        del parts[irrelevant]
    for irrelevant in ("num_workers", "num_threads"):
        del parts["hardware"][irrelevant]
    parts["loss"] = config.loss.parts()
    if not config.more_teachers:
        del parts["more_teachers"], parts["teacher"]["weight"]
    parts["files"] = {setting: path_digest(path) for setting, path in _local_inputs(config).items()}
    parts["versions"] = library_versions()
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _local_inputs(config: Config) -> dict[str, Path]:
    """Files and folders of this machine that the config names."""
    named = {f"task.{name}": getattr(config.task, name, None) for name in ("path", *_SPLITS)}
    for role, model in (teacher_settings(config) | {"student": config.student}).items():
        named |= {f"{role}.checkpoint": model.checkpoint, f"{role}.transplant": model.transplant}
    paths = {setting: Path(value).expanduser() for setting, value in named.items() if value}
    return {setting: path for setting, path in paths.items() if path.exists()}
