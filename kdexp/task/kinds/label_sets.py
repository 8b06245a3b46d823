"""Labels of which a row may have several: one column that lists them, or one column of 0 and 1 for each."""

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kdexp.errors import UserError
from kdexp.task.kinds.labels import in_order, is_number, meaning, several_labels, spelled, with_meanings
from kdexp.task.tables.table import Column, Columns, shorten

_YES, _NO = ("1", "true", "yes"), ("0", "false", "no")


def label_set_names(column: Column, names: Sequence[str] | None) -> list[str]:
    """The labels: as given, as the columns are called, or as they occur: numbers in their order, names by alphabet.

    Raises:
        UserError: They are given for columns that have names, or are none, or look like something else.
    """
    if isinstance(column, Columns):
        if names is not None:
            problem = f"got [{shorten(names)}], but task.label names a column for each label"
            raise UserError("task.labels", problem, "leave it out: labels are called as their columns")
        return [single.name for single in column.columns]
    if names is not None:
        given = [spelled(label) for label in names]
        if not given or len(set(given)) < len(given):
            raise UserError("task.labels", f"[{shorten(names)}]", "name the labels, each once")
        return given
    found = sorted({label for labels in _label_sets(column) for label in labels})
    where = f"column '{column.name}' of {column.table.source}"
    if not found:
        raise UserError("task.label", f"no row has a label in {where}", "name the column that lists them")
    several = several_labels(found)
    if several:
        remedy = "say what stands between labels: task.separator='|', or another"
        raise UserError(
            "task.separator", f"got '{column.separator}', but '{several[0]:.40}' looks like several", remedy
        )
    if len(found) > 50 and len(found) > len(column) / 2:
        problem = f"{where} holds {len(found):,} different labels in {len(column):,} rows: not labels"
        raise UserError(
            "task.label", problem, f"name the label column; the columns are: {shorten(column.table.names)}"
        )
    return in_order(found)


def label_matrix(column: Column, names: Sequence[str]) -> np.ndarray:
    """[rows, labels], float32: 1 where a row has the label, else 0.

    Of labels that have names a row may also give the number, counted from 0, as public data sets do.

    Raises:
        UserError: A row has an unknown label, or one twice, or something else than 0 and 1 in a column of its own.
    """
    matrix = np.zeros((len(column), len(names)), dtype=np.float32)
    if isinstance(column, Columns):
        for row, values in enumerate(column):
            for place, value in enumerate(values):
                matrix[row, place] = _is_yes(value, column, row, names[place])
        return matrix
    numbers = {} if any(map(is_number, names)) else {str(index): index for index in range(len(names))}
    known = with_meanings(numbers | {name: index for index, name in enumerate(names)})
    for row, labels in enumerate(_label_sets(column)):
        places = [_place(label, known, column, row, names) for label in labels]
        if len(set(places)) < len(places):
            double = next(label for label in labels if labels.count(label) > 1 or len(labels) > len(set(places)))
            problem = f"{column.where(row)}: the label '{double:.60}' stands there twice"
            remedy = "list the labels that a row has, each once; a 0 or 1 for each label needs a column for each"
            raise UserError("task.label", problem, remedy)
        matrix[row, places] = 1
    return matrix


def _place(label: str, known: Mapping[str, int], column: Column, row: int, names: Sequence[str]) -> int:
    found = known.get(label, known.get(meaning(label)))
    if found is None:
        problem = f"{column.where(row)}: unknown label '{label:.60}'"
        raise UserError("task.label", problem, f"the labels are: {shorten(names)}")
    return found


def _is_yes(value: Any, column: Columns, row: int, name: str) -> bool:
    text = "" if value is None or value != value else spelled(value).lower()
    if text not in (*_YES, *_NO):
        problem = f"{column.where(row)}: column '{name}' holds {value!r:.60s}"
        raise UserError("task.label", problem, "write 1 where a row has the label and 0 where it has not")
    return text in _YES


def _label_sets(column: Column) -> Iterator[list[str]]:
    """The labels of each row; none of an empty one."""
    for row, value in enumerate(column):
        if isinstance(value, str) and value.lstrip().startswith("["):
            value = _written_list(value, column, row)
        if value is None or (isinstance(value, float) and value != value):
            yield []
        elif isinstance(value, str):
            yield [part for part in map(spelled, value.split(column.separator)) if part]
        elif isinstance(value, list | tuple):
            yield [_one(item, column, row) for item in value]
        else:
            yield [_one(value, column, row)]


def _written_list(text: str, column: Column, row: int) -> list[Any]:
    """A list as JSON, or as Python and pandas write it."""
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, list):
            return value
    problem = f"{column.where(row)}: cannot read {text:.60s}"
    raise UserError("task.label", problem, 'write a list as JSON: ["a", "b"], or labels with task.separator between')


def _one(value: Any, column: Column, row: int) -> str:
    if not isinstance(value, str | int | float) or value != value or not str(value).strip():
        problem = f"{column.where(row)}: column '{column.name}' holds {value!r:.60s}, not a label"
        raise UserError("task.label", problem, "write one string or number for each label")
    return spelled(value)
