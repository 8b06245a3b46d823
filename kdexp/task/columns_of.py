"""Which columns a task's settings name: the texts, and the labels."""

from dataclasses import replace
from typing import Any

from kdexp.errors import UserError
from kdexp.task.config import FileTaskConfig, PublicTaskConfig
from kdexp.task.kinds.base import TaskKind
from kdexp.task.tables.table import Column, Columns, Table


def label_columns(label: Any) -> list[str]:
    """Read the setting task.label: a column, or one for each label."""
    return [str(name) for name in label] if isinstance(label, list | tuple) else [str(label)]


def refuse_label_settings(config: PublicTaskConfig | FileTaskConfig, kind: type[TaskKind]) -> None:
    """Refuse settings of labels that the kind does not read.

    Raises:
        UserError: Several columns, or a separator, for one label.
    """
    several = isinstance(config.label, list | tuple)
    if several and not kind.takes_columns:
        problem = f"names {len(config.label)} columns, but a {kind.name} task has its labels in one"
        raise UserError("task.label", problem, "name one, or choose task.kind=multi_label")
    if config.separator is not None and (several or not kind.takes_columns):
        why = "each column holds one" if several else f"a {kind.name} task has one"
        raise UserError("task.separator", f"got '{config.separator}', but {why} label", "leave it out")


def gold_column(table: Table, config: PublicTaskConfig | FileTaskConfig) -> Column:
    """The column of labels, or all of them where there are several."""
    columns = [table.column(name, "task.label") for name in label_columns(config.label)]
    if isinstance(config.label, list | tuple):
        return Columns.of(columns)
    return columns[0] if config.separator is None else replace(columns[0], separator=config.separator)


def text_columns(text: Any, label: Any) -> list[str]:
    """Read the setting task.text: a column, or a list of one or two."""
    columns = [str(name) for name in text] if isinstance(text, list | tuple) else [str(text)]
    if not 1 <= len(columns) <= 2:
        problem = f"{len(columns)} columns ({', '.join(columns)})"
        raise UserError("task.text", problem, "name one column, or two for pairs: task.text=[premise,hypothesis]")
    labels = label_columns(label)
    if len({*columns, *labels}) < len(columns) + len(labels):
        problem = f"columns are named twice: text {', '.join(columns)}, label {', '.join(labels)}"
        raise UserError("task.text", problem, "name different columns for each text and for the label")
    return columns
