"""What can be set of a teacher, by what it is made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from kdexp.model.config import ModelConfig
from kdexp.ranges import Checked, Positive, Seed, Weight
from kdexp.training.config import Tokenization, TrainConfig

__all__ = ["TEACHERS", "EncoderTeacherConfig", "TeacherConfig", "Tokenization"]


@dataclass(kw_only=True)
class TeacherConfig(Checked):
    """What every teacher has.

    Attributes:
        chance_check: It has to be better than the trivial answer before it may teach.
        weight: Share in what several teachers answer together, relative to the others'.
    """

    name: str
    chance_check: bool = True
    weight: Positive = 1.0

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
        cache_hidden: GB of disk for what representation terms compare; where that is not enough, or None, the
            teacher is forwarded at each step of the student's training.
    """

    finetune: bool | None = None
    cache_hidden: Weight | None = 1.0
    seed: Seed = 0
    train: TrainConfig = field(default_factory=TrainConfig)


TEACHERS: dict[str, type[TeacherConfig]] = {"encoder": EncoderTeacherConfig}
"""What a teacher may be made of, by the name of its schema."""
