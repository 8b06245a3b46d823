"""What can be set of a task."""

from dataclasses import dataclass
from typing import Annotated, Any

from kdexp.ranges import Checked, NaturalNumber, PositiveInt, Range

_NoiseShare = Annotated[float, Range("a number from 0 (none) to 1 (every label)", low=0, high=1)]


@dataclass(kw_only=True)
class TaskConfig(Checked):
    name: str


@dataclass(kw_only=True)
class EmbeddedTaskConfig(TaskConfig):
    """A task that kdexp generates: `reviews` or `inference`. Sizes are in rows.

    Attributes:
        label_noise: Share of training labels that are wrong.
    """

    train_size: PositiveInt
    validation_size: PositiveInt
    test_size: PositiveInt
    transfer_size: NaturalNumber
    label_noise: _NoiseShare
    seed: int = 0


@dataclass(kw_only=True)
class PublicTaskConfig(TaskConfig):
    """A public data set by name, from the hub or from a local copy (`path`)."""

    dataset: str
    subset: str | None = None
    revision: str | None = None
    path: str | None = None
    text: Any
    label: str
    labels: list[str]
    train_size: PositiveInt | None = None
    validation_size: PositiveInt
    test_size: PositiveInt | None = None
    seed: int = 0


@dataclass(kw_only=True)
class FileTaskConfig(TaskConfig):
    """A person's own CSV, TSV, JSONL or Parquet files."""

    train: str
    validation: str | None = None
    test: str | None = None
    transfer: str | None = None
    text: Any
    label: str
    labels: list[str] | None = None
    header: bool = True
    train_size: PositiveInt | None = None
    validation_size: PositiveInt | None = None
    test_size: PositiveInt | None = None
    seed: int = 0
