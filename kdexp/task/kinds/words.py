"""Rows of words: texts whose words are given, and which token of a model answers for each of them.

A text is its words with one space between them, so that everything that reads texts (tokenizers, feature terms,
digests, tables of predictions) reads rows of words too. A word that is
empty or holds a space has a no-break space there.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Encoding

from kdexp.errors import UserError
from kdexp.task.kinds.base import NO_UNIT
from kdexp.task.tables.table import Column, is_broken

_NO_BREAK_SPACE = "\u00a0"
# SentencePiece's mark of a word's beginning. Alone it is whitespace, though its offsets may name the first letter.
_METASPACE = "▁"


def words_of(text: str) -> list[str]:
    """The words of a text that `WordTexts` joined."""
    return text.split(" ")


@dataclass(frozen=True)
class WordTexts:
    """A column of words, as texts: lists of words, or strings whose words white space separates."""

    column: Column

    def batches(self) -> Iterator[list[str]]:
        for values in self.column.batches():
            yield [" ".join(map(_filled, split_row(value))) for value in values]

    def notes(self) -> list[str]:
        """What was changed about the words."""
        changed = [(row, word) for row, words in enumerate(self._rows()) for word in words if _filled(word) != word]
        if not changed:
            return []
        row, word = changed[0]
        return [
            f"{len(changed):,} words are empty or hold a space, the first in {self.column.where(row)} ({word!r:.40}): "
            "they are read with a no-break space there"
        ]

    def refuse_broken(self) -> None:
        """
        Raises:
            UserError: A row holds no words, or something else.
        """
        setting, name = "task.text", self.column.name
        num_empty, first_empty = 0, 0
        for row, value in enumerate(self.column):
            if value is not None and not _are_words(value):
                problem = f"{self.column.where(row)}: column '{name}' holds {value!r:.60s}, not a row of words"
                raise UserError(
                    setting, problem, 'write a list of words, like ["New", "York"], or name another column'
                )
            words = [] if value is None else split_row(value)
            if not words:
                first_empty = first_empty if num_empty else row
                num_empty += 1
            broken = next((word for word in words if is_broken(word)), None)
            if broken is not None:
                problem = f"{self.column.where(row)}: half of a surrogate pair, which is not a character"
                raise UserError(setting, problem, "remove it, or write the whole pair")
        if num_empty:
            first = self.column.where(first_empty)
            problem = f"{num_empty:,} rows have no words in column '{name}', the first is {first}"
            raise UserError(setting, problem, "fill or remove these rows")

    def _rows(self) -> Iterator[list[str]]:
        return (split_row(value) for value in self.column)


def split_row(value: Any) -> list[Any]:
    """The words, or the tags, of one row as a file has it: a list, or a string that white space separates."""
    return value.split() if isinstance(value, str) else list(value)


def _are_words(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(word, str) for word in value))


def _filled(word: str) -> str:
    return word.replace(" ", _NO_BREAK_SPACE) or _NO_BREAK_SPACE


def units_of_tokens(text: str, encoding: Encoding) -> list[int]:
    """Which word each token answers for: the first token of a word for that word, all others for none.

    Words are found by the characters that tokens come from, so the text is read as any other text, with the tokens
    that the model was pretrained on. A word of which a model has no visible token (BERT drops control characters) is
    answered by none, as is one that is cut off.
    """
    word_at: list[int] = []
    for number, word in enumerate(words_of(text)):
        word_at += [number] * len(word) + [NO_UNIT]
    units, last = [], NO_UNIT
    for index, piece, (start, end) in zip(encoding.sequence_ids, encoding.tokens, encoding.offsets, strict=True):
        unit = NO_UNIT
        if index is not None and piece != _METASPACE:
            # Some byte-level tokens begin with the space before a word.
            unit = next((number for number in word_at[start:end] if number != NO_UNIT), NO_UNIT)
        units.append(unit if unit > last else NO_UNIT)
        last = max(last, unit)
    return units


def lengths_of(texts: Iterable[str]) -> list[int]:
    """How many words each text has."""
    return [text.count(" ") + 1 for text in texts]


def refuse_other_lengths(words: Sequence[int], tags: Sequence[int] | np.ndarray, column: Column) -> None:
    """
    Args:
        words, tags: [rows], how many there are.
        column: The tags', for messages.

    Raises:
        UserError: A row has not one tag for each word.
    """
    wrong = [row for row, pair in enumerate(zip(words, tags, strict=True)) if pair[0] != pair[1]]
    if wrong:
        row = wrong[0]
        more = f" ({len(wrong):,} rows are like this)" if len(wrong) > 1 else ""
        problem = f"{column.where(row)}: {words[row]} words and {tags[row]} tags{more}"
        raise UserError("task.label", problem, "give each word one tag")
