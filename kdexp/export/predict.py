"""`python -m kdexp predict <student> [texts]`: what a student answers, as the server does, in constant memory."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from kdexp.errors import UserError
from kdexp.export.answer_writer import AnswerWriter, open_writer
from kdexp.export.find_student import find_student
from kdexp.export.text_reader import CHUNK_ROWS, TextSource, open_texts
from kdexp.export.unsure import Unsure
from kdexp.progress import progress

USAGE = (
    "usage: kdexp predict <run id | folder | model uri> [<file> | <text> ...] [--text <column>[,<column>]] "
    "[--unsure <score>] [--out <file>] [--uri <tracking uri>]"
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError("predict", message, USAGE)


def main(arguments: Sequence[str]) -> None:
    """Answer texts of a file, of the command line or of the standard input.

    Raises:
        UserError: A student, a file, a column or a threshold that is not there. No file is then half written.
    """
    options = _parse(arguments)
    columns = options.text.split(",") if options.text else None
    texts = open_texts(options.texts, columns)
    if options.out and options.texts and Path(options.out).resolve() == Path(options.texts[0]).resolve():
        raise UserError("--out", f"{options.out} is the file that is read", "name another file")
    student, folder = find_student(options.student, options.uri)
    unsure = None if options.unsure is None else Unsure.of(folder, options.unsure)
    with open_writer(options.out) as writer:
        num_rows, num_unsure = _answer(student, texts, writer, unsure)
    if options.out:
        _say(f"{num_rows:,} rows in {options.out}")
    if unsure:
        _say(unsure.line(num_unsure, num_rows))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog="kdexp predict", add_help=False, allow_abbrev=False)
    parser.add_argument("student")
    parser.add_argument("texts", nargs="*")
    parser.add_argument("--text", default=None)
    parser.add_argument("--unsure", type=float, default=None)
    parser.add_argument("--out", default=None)
    parser.add_argument("--uri", default=None)
    options = parser.parse_intermixed_args(list(arguments))
    if options.unsure is not None and not 0 < options.unsure <= 1:
        raise UserError("--unsure", f"got {options.unsure}", "expected a score above 0, and at most 1")
    return options


def _answer(student: Any, texts: TextSource, writer: AnswerWriter, unsure: Unsure | None) -> tuple[int, int]:
    """Answer one chunk of rows after another; return how many there were, and how many to look at."""
    num_rows = num_unsure = 0
    with progress("predict", texts.num_rows) as advance:
        for rows in _chunks(texts):
            answers = _answered(student, texts, rows, num_rows)
            if unsure:
                marks = unsure.marks(answers)
                answers["unsure"] = marks
                num_unsure += sum(marks)
            writer.write(_joined(rows, answers))
            num_rows += len(rows)
            advance(len(rows))
    return num_rows, num_unsure


def _answered(student: Any, texts: TextSource, rows: list[dict[str, Any]], num_before: int) -> Any:
    import pandas as pd

    place = f"rows {num_before + 1:,} to {num_before + len(rows):,}"
    try:
        return student.predict(pd.DataFrame([texts.inputs(row) for row in rows]))
    except UnicodeEncodeError as error:  # of a terminal or a pipe, bytes that are no text come as half characters
        remedy = "convert them, for example with iconv -f cp1252 -t utf-8"
        raise UserError("predict", f"{place}: not UTF-8", remedy) from error
    except ValueError as error:
        where = f"{place}: {str(error).split('; send ')[0]}"
        expected = "a text and a second text" if student.is_pair else "one text a row"
        raise UserError("predict", where, f"expected {expected}") from error


def _chunks(texts: TextSource) -> Iterator[list[dict[str, Any]]]:
    chunk: list[dict[str, Any]] = []
    for row in texts.rows:
        chunk.append(row)
        if len(chunk) == CHUNK_ROWS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _joined(rows: list[dict[str, Any]], answers: Any) -> list[dict[str, Any]]:
    """The columns that came, then the answer; one that came under an answer's name stays as `given_<name>`."""
    names = set(answers.columns)
    return [
        {f"given_{name}" if name in names else name: value for name, value in row.items()} | answer
        for row, answer in zip(rows, answers.to_dict("records"), strict=True)
    ]


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
