"""What can be set of a training."""

from dataclasses import dataclass
from enum import StrEnum


class Tokenization(StrEnum):
    """Whose token ids the teacher reads."""

    own = "own"
    student_ids = "student_ids"


class Keep(StrEnum):
    """Which epoch's weights are kept: chosen on validation, or simply the last."""

    best = "best"
    last = "last"


@dataclass
class TrainConfig:
    """Schedule of one training. `None` means: depends on the model, see `resolve`."""

    epochs: int | None = None
    max_steps: int | None = None
    batch_size: int = 32
    gradient_accumulation: int = 1
    eval_batch_size: int = 128
    learning_rate: float | None = None
    weight_decay: float = 0.01
    warmup_ratio: float = 0.1
    max_grad_norm: float = 1.0
    label_smoothing: float = 0.0
    group_by_length: bool = True
    keep: Keep = Keep.best


@dataclass
class StudentTrainConfig(TrainConfig):
    """The student's schedule, and its baseline's."""

    use_transfer: bool = False
