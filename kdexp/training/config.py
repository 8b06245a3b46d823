"""What can be set of a training."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from kdexp.errors import UserError
from kdexp.ranges import Checked, Positive, PositiveInt, Range, Share, Weight, later

# The optimizer's step must be a float32.
LearningRate = Annotated[float, Range("a finite number above 0, at most 1e30", low=0, high=1e30, open_low=True)]

_WEIGHT = Range("a finite number above 0", low=0, open_low=True)


class Tokenization(StrEnum):
    """Whose token ids the teacher reads."""

    own = "own"
    student_ids = "student_ids"


class CheckpointSelection(StrEnum):
    """Which epoch's weights a training ends with: chosen on validation, or simply the last."""

    best = "best"
    last = "last"


@dataclass(kw_only=True)
class TrainConfig(Checked):
    """Schedule of one training.

    Attributes:
        epochs, learning_rate: None means: depends on the model, see `kdexp.config.Config`.
        max_steps: Optimizer steps, in place of epochs.
        class_weights: In the hard loss: `none`, `balanced` (rare classes weigh as much together as frequent ones), or
            a number above 0 for each class, in their order.
    """

    epochs: PositiveInt | None = None
    max_steps: PositiveInt | None = None
    batch_size: PositiveInt = 32
    gradient_accumulation: PositiveInt = 1
    eval_batch_size: PositiveInt = 128
    learning_rate: LearningRate | None = None
    weight_decay: Weight = 0.01
    warmup_ratio: Share = 0.1
    max_grad_norm: Positive = 1.0
    label_smoothing: Share = 0.0
    class_weights: Any = later("none")
    group_by_length: bool = True
    select: CheckpointSelection = CheckpointSelection.best

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_weights is None:
            self.class_weights = "none"
        given = self.class_weights
        if given in ("none", "balanced"):
            return
        if not isinstance(given, list) or any(_WEIGHT.refuses(value) for value in given):
            raise UserError(
                "class_weights", f"got {given}", "expected none, balanced, or a number above 0 for each class"
            )


@dataclass(kw_only=True)
class StudentTrainConfig(TrainConfig):
    """The student's schedule, and its baseline's.

    Attributes:
        use_transfer: Also distil on text that only the teacher labels; None: where `task.transfer` names some.
        transfer_ratio: Share of the rows of each batch that are such text; None: all rows are shuffled together.
        transfer_weight: Weight of the soft loss of such a row, relative to that of a labelled row.
    """

    use_transfer: bool | None = None
    transfer_ratio: (
        Annotated[float, Range("a number between 0 and 1", low=0, high=1, open_low=True, open_high=True)] | None
    ) = later(None)
    transfer_weight: Positive = later(1.0)
