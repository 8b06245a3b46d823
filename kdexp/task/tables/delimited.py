"""Rows of CSV and TSV files, each with the line that an editor shows it on.

Read by the standard library, because it alone is strict and knows the line that a row begins on. CSV follows RFC 4180
(fields may be quoted, and then hold separators, line breaks and doubled quotes). In a TSV a quote is part of the text,
as in GLUE's files, unless the whole file is what a program that quotes would have written, as pandas and spreadsheets
do. Blank lines are skipped.
"""

import csv
import re
from collections.abc import Iterator

from kdexp.task.config import Quoting
from kdexp.task.tables.source import Source, separator_hint

Row = tuple[int, list[str]]

_QUOTED_FIELD = r'"[^"]*(?:""[^"]*)*"'
_FIELD = rf'(?:{_QUOTED_FIELD}|[^"\t]*)'
_RECORD = re.compile(rf"{_FIELD}(?:\t{_FIELD})*")
_ALL_QUOTED = re.compile(rf"{_QUOTED_FIELD}(?:\t{_QUOTED_FIELD})*")
_CONTENT = re.compile(r'(?:\A|\t)"([^"]*(?:""[^"]*)*)"(?=\t|\Z)')
_MOST_LINES = 1000  # of one row whose quote is not closed: it is no quote then


def delimited_rows(source: Source, kind: str, quoting: Quoting) -> tuple[Iterator[Row], list[str]]:
    """Rows that are not blank, and what should be said of how they are read.

    Args:
        kind: `csv` or `tsv`.
    """
    mark = "," if kind == "csv" else "\t"
    if quoting == Quoting.auto and kind == "tsv":
        if not _is_quoted(source):
            return _plain_rows(source, mark), []
        note = f"{source.path}: its fields are quoted, as pandas writes them (task.quoting=plain keeps their quotes)"
        return _quoted_rows(source, mark), [note]
    rows = _plain_rows if quoting == Quoting.plain else _quoted_rows
    return rows(source, mark), []


def _quoted_rows(source: Source, mark: str) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)  # the default refuses texts of more than 131,072 characters
    with source.open_text(newline="") as file:
        reader = csv.reader(file, delimiter=mark, strict=True)
        line = 1
        try:
            for row in reader:
                if row:
                    yield line, row
                line = reader.line_num + 1
        except csv.Error as error:
            remedy = "check the quotes of the row that begins there: a quote inside a quoted field is doubled"
            if mark == "," and (hint := separator_hint(next(source.numbered_lines(), (1, ""))[1])):
                remedy = hint
            raise source.refusal(f"{source.path}, line {line}: {error}", remedy) from error


def _plain_rows(source: Source, mark: str) -> Iterator[Row]:
    for number, line in source.numbered_lines():
        if line:
            yield number, line.split(mark)


def _is_quoted(source: Source) -> bool:
    """Whether every quote of a TSV encloses a field, and some field needs that, or all of the first row's have it."""
    is_needed, is_first = False, True
    for record in _records(source):
        if record is None:
            return False
        if '"' in record:
            if not _RECORD.fullmatch(record):
                return False
            is_needed |= is_first and bool(_ALL_QUOTED.fullmatch(record))
            is_needed |= any(re.search(r'""|[\t\n]', content) for content in _CONTENT.findall(record))
        is_first = False
    return is_needed


def _records(source: Source) -> Iterator[str | None]:
    """Lines, joined until their quotes are closed; None where they never are."""
    pending: list[str] = []
    is_open = False
    for _, line in source.numbered_lines():
        pending.append(line)
        is_open ^= line.count('"') % 2 == 1
        if not is_open:
            yield "\n".join(pending)
            pending.clear()
        elif len(pending) > _MOST_LINES:
            break
    if pending:
        yield None
