"""What the trainings of one student have in common, with or without a teacher."""

from dataclasses import dataclass

from kdexp.cache import Cache
from kdexp.hardware import Hardware
from kdexp.model.encoder import Encoder
from kdexp.model.tokens import Tokens, tokenize
from kdexp.task.load import Task
from kdexp.task.split import Split
from kdexp.training.config import StudentTrainConfig


@dataclass(frozen=True)
class Course:
    """The student before training, what it is to learn, and on which schedule.

    Attributes:
        encoder: Every training has a copy of it.
        resume: Take what an earlier run with the same settings trained.
    """

    encoder: Encoder
    task: Task
    schedule: StudentTrainConfig
    cache: Cache
    hardware: Hardware
    seed: int
    resume: bool

    @property
    def training_splits(self) -> dict[str, Split]:
        """What the student is trained on: `train`, and `transfer` where it is used."""
        splits = {"train": self.task.train}
        if self.schedule.use_transfer and self.task.transfer is not None:
            splits["transfer"] = self.task.transfer
        return splits

    @property
    def evaluation_splits(self) -> dict[str, Split]:
        return {"validation": self.task.validation, "test": self.task.test}

    def tokens(self) -> dict[str, Tokens]:
        """Every split as the student reads it."""
        splits = self.training_splits | self.evaluation_splits
        return {
            name: tokenize(self.encoder.tokenizer, split, self.encoder.max_length, self.task.kind, self.cache)
            for name, split in splits.items()
        }
