"""What can be set of a task."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
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
    """What a task asks for; `kdexp/task/kinds/by_name.py` has the class of each."""

    single_label = "single_label"
    multi_label = "multi_label"
    regression = "regression"
    token_labels = "token_labels"

    @property
    def has_classes(self) -> bool:
        """Whether one of several is right, for each text or word."""
        return self in (KindName.single_label, KindName.token_labels)


ClassWeights = str | Sequence[float]
"""`none`, `balanced`, or a number for each class."""

REST = "rest"
"""`task.transfer`: the rows of train that are not among the labelled ones."""


@dataclass(kw_only=True)
class TaskConfig(Checked):
    """
    Attributes:
        primary_metric: Decides gain, checkpoint selection and verdict; None is the kind's own.
    """

    name: str
    primary_metric: str | None = later(None)

    @property
    def transfer_file(self) -> Path | None:
        """The file, or the folder that `datasets` saved, that text for the teacher alone is read from."""
        return None


@dataclass(kw_only=True)
class EmbeddedTaskConfig(TaskConfig):
    """A task that kdexp generates: `reviews` or `inference`. Sizes are in rows.

    Attributes:
        transfer: A file of text that the teacher labels, in place of generated text; `rest`: labelled rows and text
            are drawn from the same `train_size + transfer_size` generated rows, whose labels are all known.
        label_noise: Share of training labels that are wrong.
        subset_seed: Draws which of these rows are labelled; None takes `seed`.
    """

    train_size: PositiveInt
    validation_size: PositiveInt
    test_size: PositiveInt
    transfer_size: NaturalNumber
    label_noise: _NoiseShare
    seed: Seed = 0
    transfer: str | None = later(None)
    subset_seed: Seed | None = later(None)

    @property
    def transfer_file(self) -> Path | None:
        return None if self.transfer in (None, REST) else Path(str(self.transfer)).expanduser()

    @property
    def has_pool(self) -> bool:
        """Labelled rows and transfer text are drawn from the same rows."""
        return self.transfer == REST or self.subset_seed is not None


@dataclass(kw_only=True)
class PublicTaskConfig(TaskConfig):
    """A public data set by name, from the hub or from a local copy (`path`).

    Attributes:
        dev: Which dev set, where there are several: `matched` or `mismatched` of MNLI.
        files: Names that its distributor gives the files of a split, in a local copy: `{train: [sts-train.tsv]}`.
        columns: What the columns of a file without a header line are; further ones are left out.
        aliases: What else a column may be called in a local copy: `{label: [score]}`.
        transfer: Text that the teacher labels: `rest`, the rows of train beyond `train_size`; a further split of the
            data set by its name; or a file.
        subset_seed: Draws which `train_size` rows are labelled; None takes `seed`.
    """

    kind: KindName = later(KindName.single_label)
    dataset: str
    subset: str | None = None
    revision: str | None = None
    path: str | None = None
    text: Any
    label: Any
    labels: list[str] | None = None
    separator: str | None = later(None)
    train_size: PositiveInt | None = None
    validation_size: PositiveInt
    test_size: PositiveInt | None = None
    seed: Seed = 0
    transfer: str | None = later(None)
    subset_seed: Seed | None = later(None)
    dev: str | None = later(None)
    # Any, because only an untyped setting takes a mapping of lists.
    files: Any = later(None)
    columns: list[str] | None = later(None)
    aliases: Any = later(None)

    @property
    def transfer_file(self) -> Path | None:
        if self.transfer is None or re.fullmatch(r"[\w-]+", self.transfer):  # the name of a split
            return None
        return Path(self.transfer).expanduser()


@dataclass(kw_only=True)
class FileTaskConfig(TaskConfig):
    """A person's own files: CSV, TSV, JSON, Parquet, or folders that `datasets` saved.

    Attributes:
        label: A column; of several labels, that which lists them or one for each.
        separator: Between several labels in one value; None is a comma.
        id: A column that names each row, so that answers from elsewhere can be joined by it (`teacher.id`).
        transfer: Text that the teacher labels: a file, or `rest`, the rows of train beyond `train_size`.
        subset_seed: Draws which `train_size` rows are labelled; None takes `seed`.
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
    label: Any
    labels: list[str] | None = None
    separator: str | None = later(None)
    id: str | None = later(None)
    header: bool = True
    encoding: str = later("utf-8")
    quoting: Quoting = later(Quoting.auto)
    train_size: PositiveInt | None = None
    validation_size: PositiveInt | None = None
    test_size: PositiveInt | None = None
    seed: Seed = 0
    subset_seed: Seed | None = later(None)

    @property
    def transfer_file(self) -> Path | None:
        return None if self.transfer in (None, REST) else Path(str(self.transfer)).expanduser()

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            b"a".decode(self.encoding, errors="replace")
        except LookupError as error:
            raise UserError("encoding", f"got {self.encoding}", "expected utf-8, latin-1, cp1252, ...") from error
