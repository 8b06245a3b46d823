"""What can be set of a teacher."""

from dataclasses import dataclass, field
from enum import StrEnum

from kdexp.model.config import ModelConfig
from kdexp.ranges import Positive, Seed, Weight, later
from kdexp.training.config import Tokenization, TrainConfig

__all__ = ["TeacherConfig", "Tokenization"]


class TeacherRows(StrEnum):
    """Whose gold labels a teacher is fine-tuned on."""

    train = "train"
    all = "all"


@dataclass(kw_only=True)
class TeacherConfig(ModelConfig):
    """A teacher, and how it is fine-tuned where it still has to be.

    Attributes:
        learns_from: `train`, the rows whose labels the student has too; `all`, also those that are text without labels
            to the student (`task.transfer=rest`): a teacher that knows more than a student could.
        cache_hidden: GB of disk for what representation terms compare; where that is not enough, or None, the
            teacher is forwarded at each step of the student's training.
        weight: Share in what several teachers answer together, relative to the others'.
    """

    finetune: bool | None = None
    learns_from: TeacherRows = later(TeacherRows.train)
    chance_check: bool = True
    cache_hidden: Weight | None = 1.0
    weight: Positive = 1.0
    seed: Seed = 0
    train: TrainConfig = field(default_factory=TrainConfig)
