"""What can be set of a teacher, by what it is made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any

from kdexp.errors import UserError
from kdexp.loss.base import Outputs
from kdexp.model.config import ModelConfig
from kdexp.ranges import Checked, Positive, Range, Seed, Weight, later
from kdexp.training.config import Tokenization, TrainConfig

__all__ = [
    "TEACHERS",
    "EncoderTeacherConfig",
    "PredictionsTeacherConfig",
    "TeacherConfig",
    "Tokenization",
    "Values",
]

Floor = Annotated[float, Range("a number above 0, at most 0.01", low=0, high=0.01, open_low=True)]


class TeacherRows(StrEnum):
    """Whose gold labels a teacher is fine-tuned on."""

    train = "train"
    all = "all"


@dataclass(kw_only=True)
class TeacherConfig(Checked):
    """What every teacher has.

    Attributes:
        chance_check: It has to be better than the trivial answer before it may teach.
        weight: Share in what several teachers answer together, relative to the others'.
        label_map: Where its classes are not the task's: the task's class by the teacher's, None to leave one out.
        outputs: What its outputs say, where a head's own config does not: one of several classes (softmax), or yes or
            no for each label (sigmoid).
    """

    name: str
    chance_check: bool = True
    weight: Positive = 1.0
    label_map: Any = later(None)
    outputs: Outputs | None = later(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        label_map = self.label_map
        if label_map is not None and not (isinstance(label_map, dict) and label_map):
            raise UserError(
                "label_map", f"got {label_map}", "expected {teacher's class: task's class}, null to leave out"
            )
        if self.outputs == Outputs.number:
            raise UserError("outputs", "got number", "expected classes or yes_no")

    @property
    def origin(self) -> str:
        """What it answers from, as the log says it; the names of runs have the end of it."""
        return self.name

    def inputs(self) -> Mapping[str, str | None]:
        """Settings that may name files or folders of this machine, whose content then decides what it answers."""
        return {}


@dataclass(kw_only=True)
class EncoderTeacherConfig(ModelConfig, TeacherConfig):
    """A teacher that is an encoder, and how it is fine-tuned where it still has to be.

    Attributes:
        learns_from: `train`, the rows whose labels the student has too; `all`, also those that are text without labels
            to the student (`task.transfer=rest`): a teacher that knows more than a student could.
        cache_hidden: GB of disk for what representation terms compare; where that is not enough, or None, the
            teacher is forwarded at each step of the student's training.
    """

    finetune: bool | None = None
    learns_from: TeacherRows = later(TeacherRows.train)
    cache_hidden: Weight | None = 1.0
    seed: Seed = 0
    train: TrainConfig = field(default_factory=TrainConfig)


class Values(StrEnum):
    """What the numbers of a file of answers are."""

    auto = "auto"
    logits = "logits"
    probabilities = "probabilities"
    log_probabilities = "log_probabilities"


@dataclass(kw_only=True)
class PredictionsTeacherConfig(TeacherConfig):
    """A teacher that is a file of answers.

    Attributes:
        text: The file's column of the text, or columns of pairs; None: as kdexp's own files call them.
        columns: What stands before each class's name in the names of the columns, or `{class: column}`; None: they are
            looked for.
        label, confidence: In place of a column per class: the column of a label, and the column of its probability, or
            one probability for all.
        floor: Smallest probability of a class.
    """

    path: str
    text: Any = None
    columns: Any = None
    values: Values = Values.auto
    label: str | None = None
    confidence: Any = None
    floor: Floor = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label is None:
            if self.confidence is not None:
                raise UserError("confidence", f"got {self.confidence}, but no label", "name the label's column too")
            return
        if self.columns is not None or self.values != Values.auto:
            name = "values" if self.columns is None else "columns"
            raise UserError(name, "is of a column per class, but label names one column", "remove one of both")
        if self.confidence is None:
            problem = "is not set: a label alone is no distribution, and the gold labels are such labels already"
            raise UserError("confidence", problem, "name a column, or give one probability for all, such as 0.9")
        if not isinstance(self.confidence, str) and not 0 < float(self.confidence) < 1:
            raise UserError("confidence", f"got {self.confidence}", "expected a column, or a number between 0 and 1")

    @property
    def origin(self) -> str:
        return self.path

    def inputs(self) -> Mapping[str, str | None]:
        return {"path": self.path}


TEACHERS: dict[str, type[TeacherConfig]] = {"encoder": EncoderTeacherConfig, "predictions": PredictionsTeacherConfig}
"""What a teacher may be made of, by the name of its schema."""
