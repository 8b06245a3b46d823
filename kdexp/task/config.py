"""What can be set of a task."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from kdexp.errors import UserError
from kdexp.ranges import Checked, NaturalNumber, PositiveInt, Range, Seed, later

_NoiseShare = Annotated[float, Range("a number from 0 (none) to 1 (every label)", low=0, high=1)]


class Quoting(StrEnum):
    """What quotes mean in CSV and TSV files."""

    auto = "auto"
    quoted = "quoted"
    plain = "plain"


class KindName(StrEnum):
    """What a task asks for; `kdexp/task/kinds.py` has the class of each."""

    single_label = "single_label"
    multi_label = "multi_label"
    regression = "regression"
    token_labels = "token_labels"


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
    seed: Seed = 0


@dataclass(kw_only=True)
class PublicTaskConfig(TaskConfig):
    """A public data set by name, from the hub or from a local copy (`path`)."""

    kind: KindName = later(KindName.single_label)
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
    seed: Seed = 0


@dataclass(kw_only=True)
class FileTaskConfig(TaskConfig):
    """A person's own files: CSV, TSV, JSON, Parquet, or folders that `datasets` saved.

    Attributes:
        encoding: Of text files, as Python calls it.
        quoting: Of CSV and TSV. `quoted`: fields may stand in quotes, and then double those inside; `plain`: a quote
            is part of the text; `auto`: CSV is quoted, and a TSV where the whole file is what a program that quotes
            would have written.
    """

    kind: KindName = later(KindName.single_label)
    train: str
    validation: str | None = None
    test: str | None = None
    transfer: str | None = None
    text: Any
    label: str
    labels: list[str] | None = None
    header: bool = True
    encoding: str = later("utf-8")
    quoting: Quoting = later(Quoting.auto)
    train_size: PositiveInt | None = None
    validation_size: PositiveInt | None = None
    test_size: PositiveInt | None = None
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            b"a".decode(self.encoding, errors="replace")
        except LookupError as error:
            raise UserError("encoding", f"got {self.encoding}", "expected utf-8, latin-1, cp1252, ...") from error
