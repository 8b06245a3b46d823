"""What one training is given: the rows, the loss, and the teacher where it is asked at each step."""

from dataclasses import dataclass

from kdexp.arrow import Rows
from kdexp.cache import Cache
from kdexp.errors import UserError, under
from kdexp.loss.base import Loss
from kdexp.loss.features import FeatureTerms
from kdexp.model.encoder import Encoder
from kdexp.model.tokens import tokenize
from kdexp.task.kinds.base import TaskKind
from kdexp.task.load import Task
from kdexp.training.config import TrainConfig


@dataclass(frozen=True)
class Lesson:
    """What a model is trained on, and by which loss.

    Attributes:
        train_rows: Tokens, `labels`, and `teacher_logits` where the loss has a soft part.
        validation_rows: Tokens and `labels`.
        loss: None trains on the gold labels alone.
        settings: What the schedule's settings begin with, for errors.
        transfer_ratio: Share of each batch that is the second part of `train_rows`, which has no gold labels; None
            shuffles all together.
        transfer_weight: Of the soft loss of these rows.
        num_steps: Optimizer steps, where they are not to follow from the schedule and the rows.
        terms: Feature terms of the loss.
        teacher: To be forwarded at each step, where the rows do not hold what the terms compare.
    """

    kind: TaskKind
    train_rows: Rows
    validation_rows: Rows
    loss: Loss | None = None
    settings: str = "train"
    num_steps: int | None = None
    transfer_ratio: float | None = None
    transfer_weight: float = 1.0
    terms: FeatureTerms | None = None
    teacher: Encoder | None = None

    @classmethod
    def of_labels(
        cls, encoder: Encoder, task: Task, cache: Cache, schedule: TrainConfig, settings: str, split: str = "train"
    ) -> "Lesson":
        """The gold labels of a split of the task, and nothing else."""
        train, validation = (
            tokenize(encoder.tokenizer, part, encoder.max_length, task.kind, cache).rows(labels=part.labels)
            for part in (getattr(task, split), task.validation)
        )
        return cls(weighted_kind(task, schedule, settings), train, validation, settings=settings)


def weighted_kind(task: Task, schedule: TrainConfig, settings: str) -> TaskKind:
    """The task's kind with the schedule's class weights in its hard loss.

    Raises:
        UserError: The schedule asks for what the kind cannot do, under `settings`.
    """
    with under(settings):
        if schedule.label_smoothing and not task.kind.smooths_labels:
            problem = f"got {schedule.label_smoothing:g}, but numbers cannot be smoothed as classes can"
            raise UserError("label_smoothing", problem, "leave it at 0")
        return task.kind.weighted(schedule.class_weights, task.labels("train"))
