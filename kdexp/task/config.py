"""What can be set of a task."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING


@dataclass
class TaskConfig:
    name: str = MISSING


@dataclass
class EmbeddedTaskConfig(TaskConfig):
    """A task that kdexp generates: `reviews` or `inference`."""

    train_size: int = MISSING
    validation_size: int = MISSING
    test_size: int = MISSING
    transfer_size: int = MISSING
    label_noise: float = MISSING
    seed: int = 0


@dataclass
class PublicTaskConfig(TaskConfig):
    """A public data set by name, from the hub or from a local copy (`path`)."""

    dataset: str = MISSING
    subset: str | None = None
    revision: str | None = None
    path: str | None = None
    text: Any = MISSING
    label: str = MISSING
    labels: list[str] = MISSING
    train_size: int | None = None
    validation_size: int = MISSING
    test_size: int | None = None
    seed: int = 0


@dataclass
class FileTaskConfig(TaskConfig):
    """A person's own CSV, TSV, JSONL or Parquet files."""

    train: str = MISSING
    validation: str | None = None
    test: str | None = None
    transfer: str | None = None
    text: Any = MISSING
    label: str = MISSING
    labels: list[str] | None = None
    header: bool = True
    train_size: int | None = None
    validation_size: int | None = None
    test_size: int | None = None
    seed: int = 0
