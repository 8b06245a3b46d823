"""Rows of JSON files: an object on each line, or one document that holds them all.

A document is a list of objects, an object that holds such a list (`{"data": [...]}`), or an object of columns, as
lists or by row (as pandas writes them). It is one value, and so it is read whole; of lines a batch is in memory at a
time.
"""

import json
from collections.abc import Iterator
from typing import Any

from kdexp.task.tables.source import Source

NumberedRow = tuple[int | None, dict[str, Any]]
"""The line that it stands on, None in a document; the object."""

_OBJECT_ON_EACH_LINE = 'write one object on each line, like {"text": "...", "label": "..."}'


def json_rows(source: Source, columns: list[str], *, words: bool = False) -> Iterator[NumberedRow]:
    """
    Args:
        columns: Those that are looked for.
        words: A list of strings is one value of a row, and no column.

    Raises:
        UserError: At the line that is no JSON, or no object.
    """
    document = _document(source, columns, words)
    if document is not None:
        yield from ((None, row) for row in document)
        return
    for number, line in _filled_lines(source):
        yield number, _object(source, number, line)


def _filled_lines(source: Source) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in source.numbered_lines() if line.strip())


def _document(source: Source, columns: list[str], words: bool) -> list[dict[str, Any]] | None:
    """The rows of a file that is one JSON value; None where its lines are to be read."""
    lines = _filled_lines(source)
    first = next(lines, None)
    if first is None:
        return None
    try:
        row = json.loads(first[1])
        has_cells = isinstance(row, dict) and any(_is_cell(row.get(name), words) for name in columns)
        if has_cells or (isinstance(row, dict) and next(lines, None) is not None):
            return None
    except (ValueError, RecursionError):
        if first[1].strip()[0] not in "[{":
            return None
    with source.open_text(newline="\n") as file:
        try:
            return _rows_of(json.load(file), columns)
        except (ValueError, RecursionError):
            return None  # told by its line


def _is_cell(value: Any, words: bool) -> bool:
    if words and isinstance(value, list):
        return not any(isinstance(item, list | dict) for item in value)
    return value is not None and not isinstance(value, list | dict)


def _rows_of(value: Any, columns: list[str]) -> list[dict[str, Any]] | None:
    if _are_rows(value):
        return list(value)
    if not isinstance(value, dict):
        return None
    found = [value[name] for name in columns if name in value]
    if found and all(isinstance(column, list) for column in found) and len({*map(len, found)}) == 1:
        return [dict(zip(value, row, strict=False)) for row in zip(*value.values(), strict=True)]
    if found and all(isinstance(column, dict) for column in found):
        return [{name: column.get(row) for name, column in value.items()} for row in found[0]]
    lists = {name: rows for name, rows in value.items() if _are_rows(rows)}
    return lists.get("data", next(iter(lists.values()))) if len(lists) == 1 or "data" in lists else None


def _are_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _object(source: Source, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        problem = f"{source.path}, line {number}: not JSON ({error})"
        raise source.refusal(problem, "write one whole JSON object on each line, or one list of objects") from error
    if not isinstance(row, dict):
        problem = f"{source.path}, line {number}: a JSON {type(row).__name__}, not an object"
        raise source.refusal(problem, _OBJECT_ON_EACH_LINE)
    return row
