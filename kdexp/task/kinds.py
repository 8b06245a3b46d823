"""The kinds of task by name: the one place that lists them."""

from kdexp.errors import UserError
from kdexp.task.config import EmbeddedTaskConfig, FileTaskConfig, KindName, PublicTaskConfig, TaskConfig
from kdexp.task.kind import TaskKind
from kdexp.task.multi_label import MultiLabel
from kdexp.task.regression import Regression
from kdexp.task.single_label import SingleLabel


def kind_class(config: TaskConfig) -> type[TaskKind]:
    """The class of a task's kind; generated text has one label of several.

    Raises:
        UserError: There is no such kind yet.
    """
    match config:
        case EmbeddedTaskConfig():
            return SingleLabel
        case PublicTaskConfig() | FileTaskConfig():
            return _named(config.kind)
        case _:
            raise TypeError(f"no kind for {type(config).__name__}")


def _named(kind: KindName) -> type[TaskKind]:
    match kind:
        case KindName.single_label:
            return SingleLabel
        case KindName.multi_label:
            return MultiLabel
        case KindName.regression:
            return Regression
        case _:
            raise UserError("task.kind", f"{kind} is not there yet", f"expected {KindName.single_label}")
