"""The kinds of task by name: the one place that lists them."""

from kdexp.task.config import EmbeddedTaskConfig, FileTaskConfig, KindName, PublicTaskConfig, TaskConfig
from kdexp.task.kinds.base import TaskKind
from kdexp.task.kinds.multi_label import MultiLabel
from kdexp.task.kinds.regression import Regression
from kdexp.task.kinds.single_label import SingleLabel
from kdexp.task.kinds.token_labels import TokenLabels


def kind_class(config: TaskConfig) -> type[TaskKind]:
    """The class of a task's kind; generated text has one class, or a tag for each word."""
    match config:
        case EmbeddedTaskConfig():
            return TokenLabels if config.name == "entities" else SingleLabel
        case PublicTaskConfig() | FileTaskConfig():
            return _named(config.kind)
        case _:
            raise TypeError(f"no kind for {type(config).__name__}")


def _named(kind: KindName) -> type[TaskKind]:
    match kind:
        case KindName.single_label:
            return SingleLabel
        case KindName.token_labels:
            return TokenLabels
        case KindName.multi_label:
            return MultiLabel
        case KindName.regression:
            return Regression
