"""What is sent to a student, in any form that MLflow's clients know: exactly the rows sent, or one sentence."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException

_TEXT, _PAIR = "text", "text_pair"
_FORMS = {
    False: "texts, or a table with the column 'text'",
    True: "pairs (first, second), or a table with the columns 'text' and 'text_pair'",
    None: "texts, pairs (first, second), or a table with the columns 'text' and, for pairs, 'text_pair'",
}


class InputError(MlflowException, ValueError):
    """What was sent cannot be read. As an invalid parameter it is the client's fault: a server answers 400."""


def texts_of(model_input: Any, is_pair: bool | None) -> tuple[list[str], list[str] | None]:
    """Split any accepted input into first texts and, for pairs, second texts.

    Args:
        is_pair: Whether pairs are expected; None takes what comes.
    """
    try:
        columns = _columns(model_input)
        if columns[_TEXT] and is_pair and _PAIR not in columns:
            raise ValueError("this student reads pairs of texts, and was sent single ones")
        if is_pair is False and _PAIR in columns:
            raise ValueError("this student reads single texts, and was sent pairs")
        texts = {name: _checked(values, name) for name, values in columns.items()}
        first, second = texts[_TEXT], texts.get(_PAIR)
        if second is not None and len(first) != len(second):
            raise ValueError(f"{len(first)} values of 'text' and {len(second)} of 'text_pair'")
    except ValueError as error:
        raise InputError.invalid_parameter_value(f"{error}; send {_FORMS[is_pair]}") from None
    return first, second


def _columns(model_input: Any) -> dict[str, list[Any]]:
    """The values of the column `text` and, where there is one, `text_pair`."""
    match _unwrapped(model_input):
        case pd.DataFrame() as table:
            return _table_columns(table)
        case Mapping() as columns:
            return _named_columns(columns)
        case str() as text:
            return {_TEXT: [text]}
        case Iterable() as rows if not isinstance(rows, bytes):
            return _row_columns([_unwrapped(row) for row in rows])
        case other:
            raise ValueError(f"got {_kind(other)}")


def _unwrapped(value: Any) -> Any:
    """Arrays as lists, and those without a dimension, which MLflow makes of single values, as what they hold."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _table_columns(table: pd.DataFrame) -> dict[str, list[Any]]:
    names = list(table.columns)
    if names == list(range(len(names))) and len(names) in (1, 2):  # they have no names
        table = table.set_axis([_TEXT, _PAIR][: len(names)], axis=1)
    _require_text(names := list(table.columns))
    found = [name for name in (_TEXT, _PAIR) if name in names]
    for name in found:
        if names.count(name) > 1:
            raise ValueError(f"the column '{name}' is there {names.count(name)} times")
    return {name: table[name].tolist() for name in found}


def _named_columns(columns: Mapping[Any, Any]) -> dict[str, list[Any]]:
    """A dictionary of columns, or of the texts of one row."""
    _require_text(columns)
    found = {name: _unwrapped(columns[name]) for name in (_TEXT, _PAIR) if name in columns}
    if all(isinstance(value, str) for value in found.values()):
        return {name: [value] for name, value in found.items()}
    for name, values in found.items():
        if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
            raise ValueError(f"'{name}' is {_kind(values)}, no column")
    return {name: list(values) for name, values in found.items()}


def _row_columns(rows: list[Any]) -> dict[str, list[Any]]:
    """Rows that are texts, pairs, lists of one text, or dictionaries; all of the same kind."""
    if rows and all(isinstance(row, Mapping) for row in rows):
        return _record_columns(rows)
    if rows and all(isinstance(row, list | tuple) for row in rows):
        lengths = {len(row) for row in rows}
        if lengths not in ({1}, {2}):
            raise ValueError(f"rows of {' and '.join(map(str, sorted(lengths)))} values")
        return dict(zip((_TEXT, _PAIR), map(list, zip(*rows, strict=True)), strict=False))
    return {_TEXT: rows}


def _record_columns(rows: list[Mapping[Any, Any]]) -> dict[str, list[Any]]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    _require_text(names)
    found = [name for name in (_TEXT, _PAIR) if name in names]
    for number, row in enumerate(rows):
        for name in found:
            if name not in row:
                raise ValueError(f"row {number} has no '{name}'")
    return {name: [_unwrapped(row[name]) for row in rows] for name in found}


def _require_text(names: Iterable[Any]) -> None:
    if _TEXT not in names:
        raise ValueError(f"expected a column 'text', got {', '.join(map(repr, names)) or 'none'}")


def _checked(values: list[Any], name: str) -> list[str]:
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueError(f"row {row} of '{name}' is {_kind(value)}, no text")
    return [str(value) for value in values]


def _kind(value: Any) -> str:
    """What a value is, for a person: `empty`, `the number 3`, `a list`."""
    match value:
        case None:
            return "empty"
        case float() if math.isnan(value):
            return "empty"
        case int() | float():
            return f"the {'truth value' if isinstance(value, bool) else 'number'} {value}"
        case Mapping():
            return "a dictionary"
        case _:
            return f"of type {type(value).__name__}"


def rows_of_words(model_input: Any) -> list[list[str]]:
    """The words of each row, whatever form it was sent in."""
    rows = _unwrapped(model_input)
    try:
        if isinstance(rows, pd.DataFrame | Mapping) or (
            isinstance(rows, list) and rows and all(isinstance(row, Mapping) for row in rows)
        ):
            columns = _columns(rows)
            if _PAIR in columns:
                raise ValueError("this student tags the words of single texts, and was sent pairs")
            rows = columns[_TEXT]
        rows = [rows] if isinstance(rows, str) else [_unwrapped(row) for row in rows]
        return [_words(row, number) for number, row in enumerate(rows)]
    except (ValueError, TypeError) as error:
        message = f"{error}; send texts, lists of words, or a table whose column 'text' holds them"
        raise InputError.invalid_parameter_value(message) from None


def _words(row: Any, number: int) -> list[str]:
    if isinstance(row, str):
        return row.split()
    if not isinstance(row, list | tuple):
        raise ValueError(f"row {number} is {_kind(row)}, neither a text nor a list of words")
    wrong = next((word for word in row if not isinstance(word, str)), "")
    if not isinstance(wrong, str):
        raise ValueError(f"a word of row {number} is {_kind(wrong)}, no text")
    return list(row)
