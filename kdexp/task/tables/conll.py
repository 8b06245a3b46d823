"""Rows of words and tags as CoNLL files hold them: a word on each line, blank lines between sentences.

The fields of a line are parted by tabs, or by spaces where no line has a tab. `-DOCSTART-` lines are
skipped, as are comments (`# sent_id = 1`) in files with tabs.
"""

import re
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]

from kdexp.arrow import BATCH_ROWS, map_table, write_table
from kdexp.task.tables.source import Source
from kdexp.task.tables.table import Table

SUFFIXES = (".conll", ".iob", ".iob2", ".bio", ".bioes")

_WORDS = pa.list_(pa.large_string())
_BLANK = " \t\r"
_SPACES = re.compile(r"[ \t]+")  # and no others: words hold no-break spaces
_FIRST, _LAST = "text", "label"
"""What task.text and task.label are where nobody set them: columns of a CoNLL file have no names."""

Sentence = list[tuple[int, list[str]]]
"""Line, fields."""


def read_conll(source: Source, columns: Sequence[str], target: Path) -> Table:
    """Read the columns of words and of tags, by their numbers: 0, 1, ...; -1 is the last.

    Args:
        columns: That of the words (`text`, as it is where nobody set it: the first), that of the tags (`label`: the
            last). Tags are left out where there is only one column.

    Raises:
        UserError: A line has other columns than the first, or there is no such column.
    """
    sentences = _sentences(source)
    first = next(sentences, None)
    if first is None:
        raise source.refusal(f"{source.path} is empty", "name a file with rows")
    names = [str(number) for number in range(len(first[0][1]))]
    places = {name: place for name in columns if (place := _place(source, name, len(names))) is not None}
    if len(set(places.values())) < len(places):  # one column: words without tags
        places.pop(columns[-1])
    lines = array("q")

    def batches() -> Iterator[pa.RecordBatch]:
        yield record([first])
        while batch := list(islice(sentences, BATCH_ROWS)):
            yield record(batch)

    def record(batch: list[Sentence]) -> pa.RecordBatch:
        lines.extend(sentence[0][0] for sentence in batch)
        values = [[[fields[place] for _, fields in sentence] for sentence in batch] for place in places.values()]
        return pa.record_batch([pa.array(column, _WORDS) for column in values], schema=schema)

    schema = pa.schema([(name, _WORDS) for name in places])
    write_table(target, schema, batches())
    table = map_table(target)
    kept = {name: table.column(name) for name in places}
    return Table(str(source.path), names, kept, lines, notes=_notes(source, names, columns))


def _notes(source: Source, names: Sequence[str], columns: Sequence[str]) -> list[str]:
    if len(names) <= 2 or columns[-1] != _LAST:
        return []
    return [
        f"{source.path}: of its {len(names)} columns the last is taken for the tags (task.label={len(names) - 1}); "
        "task.label=<number> names another, counted from 0"
    ]


def _place(source: Source, name: str, num_columns: int) -> int | None:
    """Number of a column; None where there is no such column."""
    number = {_FIRST: "0", _LAST: "-1"}.get(name, name)
    if not number.removeprefix("-").isdecimal():
        problem = f"{source.path} is read as CoNLL, whose columns have no names, and so no '{name}'"
        raise source.refusal(
            problem, f"name columns by number, 0 to {num_columns - 1}, or leave them out: the first and the last"
        )
    place = int(number) + (num_columns if number.startswith("-") else 0)
    return place if 0 <= place < num_columns else None


def _sentences(source: Source) -> Iterator[Sentence]:
    filled = (line for _, line in source.numbered_lines() if line.strip(_BLANK))
    has_tabs = any("\t" in line.rstrip(_BLANK) for line in islice(filled, BATCH_ROWS))
    sentence: Sentence = []
    num_columns = 0
    for number, line in source.numbered_lines():
        line = line.rstrip(_BLANK)
        if not line:
            if sentence:
                yield sentence
            sentence = []
            continue
        if line.startswith("-DOCSTART-") or (has_tabs and line.startswith("#") and "\t" not in line):
            continue
        fields = [field.strip() for field in line.split("\t")] if has_tabs else _SPACES.split(line.lstrip(_BLANK))
        num_columns = num_columns or len(fields)
        if len(fields) != num_columns:
            problem = f"{source.path}, line {number}: {len(fields)} columns where the first line has {num_columns}"
            raise source.refusal(problem, "give every word the same columns")
        sentence.append((number, fields))
    if sentence:
        yield sentence
