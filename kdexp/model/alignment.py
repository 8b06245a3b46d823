"""Which tokens of two models stand for the same part of a text.

Two tokenizers cut a text differently, but both know from which characters each token comes. Words are taken
from the text alone:

- a run of letters, digits and combining marks is one word, a Han ideograph is a word of its own,
- any other visible character (punctuation, a symbol) is a word of its own,
- whitespace, control and format characters belong to no word.

Some tokens reach over several such words (byte-level BPE's `...`, Unigram's `2,000`): these words then count
as one, for both models. What is compared is therefore always the same characters, and never a part of a word.

Special tokens (`[CLS]`, `</s>`) and tokens of pure whitespace belong to no word. Words that truncation cut,
wholly or in part, in either model, are left out, as are words of which a model has no token at all (BERT drops
control characters).
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from tokenizers import Encoding
from torch import Tensor
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from kdexp.errors import UserError
from kdexp.loss.terms import Alignment
from kdexp.model.tokens import tokenizer_fingerprint

NO_WORD = -1
"""Word of a token that belongs to none: special tokens, whitespace, padding."""

Token = tuple[int, int, int]
"""Of which text of a pair (0 or 1), first character, end."""

# SentencePiece's mark of a word's beginning. Alone it is whitespace, though its offsets may name the first letter.
_METASPACE = "▁"


@dataclass(frozen=True)
class AlignedWords:
    """The word of each token, row by row; word i of a row is the same in both models.

    Attributes:
        student_words: A row per text: a word per token of the student, `NO_WORD` for none.
        teacher_words: The same for the teacher's tokens.
    """

    student_words: list[list[int]]
    teacher_words: list[list[int]]


def word_spans(text: str) -> list[tuple[int, int]]:
    """First character and end of each word; see the module for what a word is."""
    spans: list[tuple[int, int]] = []
    is_open = False
    for position, character in enumerate(text):
        category = unicodedata.category(character)
        if category[0] in "CZ":
            is_open = False
        elif category[0] in "LNM" and not (category == "Lo" and _is_ideograph(character)):
            if is_open:
                spans[-1] = (spans[-1][0], position + 1)
            else:
                spans.append((position, position + 1))
            is_open = True
        else:
            spans.append((position, position + 1))
            is_open = False
    return spans


def _is_ideograph(character: str) -> bool:
    return unicodedata.name(character, "").startswith("CJK ")


@dataclass(frozen=True)
class RowTokens:
    """The tokens of one text, or pair, as one model has them; None for special tokens and whitespace.

    Attributes:
        read: What the model reads, in order.
        whole: What it would read if nothing were cut off.
    """

    read: list[Token | None]
    whole: list[Token | None]


def align(
    student_tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase,
    first: Sequence[str],
    second: Sequence[str] | None = None,
    *,
    student_max_length: int | None,
    teacher_max_length: int | None,
    method: Alignment = Alignment.words,
) -> AlignedWords:
    """Align on words, or by position.

    Two models with one tokenizer, of which neither cuts what the other reads, have the same tokens: these are
    aligned position by position either way, which loses nothing, keeps special tokens, and is what papers do.

    Raises:
        UserError: As `align_words`.
    """
    columns = [list(column) for column in (first, second) if column is not None]
    sides = ((student_tokenizer, student_max_length), (teacher_tokenizer, teacher_max_length))
    lengths = [_num_tokens(tokenizer, columns, max_length) for tokenizer, max_length in sides]
    is_same = tokenizer_fingerprint(student_tokenizer) == tokenizer_fingerprint(teacher_tokenizer)
    if method == Alignment.position or (is_same and lengths[0] == lengths[1]):
        return align_positions(*lengths)
    return align_words(
        student_tokenizer,
        teacher_tokenizer,
        first,
        second,
        student_max_length=student_max_length,
        teacher_max_length=teacher_max_length,
    )


def _num_tokens(tokenizer: PreTrainedTokenizerBase, columns: list[list[str]], max_length: int | None) -> list[int]:
    """Of each row, special tokens included."""
    if not columns[0]:
        return []
    return [len(row) for row in tokenizer(*columns, truncation=True, max_length=max_length)["input_ids"]]


def align_words(
    student_tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase,
    first: Sequence[str],
    second: Sequence[str] | None,
    *,
    student_max_length: int | None,
    teacher_max_length: int | None,
) -> AlignedWords:
    """Align what two tokenizers make of the same texts, or pairs of texts, on words.

    Args:
        second: The other text of each pair.
        student_max_length: Texts are cut after so many tokens, special ones included; None takes the
            tokenizer's own limit.

    Raises:
        UserError: A tokenizer does not tell which characters its tokens come from.
    """
    columns = [first] if second is None else [first, second]
    student_rows = row_tokens("student", student_tokenizer, columns, student_max_length)
    teacher_rows = row_tokens("teacher", teacher_tokenizer, columns, teacher_max_length)
    rows = [
        align_row(texts, student, teacher)
        for texts, student, teacher in zip(zip(*columns, strict=True), student_rows, teacher_rows, strict=True)
    ]
    return AlignedWords([student for student, _ in rows], [teacher for _, teacher in rows])


def align_row(texts: Sequence[str], student: RowTokens, teacher: RowTokens) -> tuple[list[int], list[int]]:
    """The words of the tokens that the student reads, and of those that the teacher reads."""
    spans = [(index, start, end) for index, text in enumerate(texts) for start, end in word_spans(text)]
    word_at = {
        (index, position): word for word, (index, start, end) in enumerate(spans) for position in range(start, end)
    }
    reach = {token: _words_of(token, word_at) for side in (student, teacher) for token in side.whole if token}
    joined = {word for words in reach.values() for word in range(words.start + 1, words.stop)}
    group_of = list(accumulate(int(word not in joined) for word in range(len(spans))))

    def groups(tokens: list[Token | None]) -> list[int]:
        return [group_of[reach[token].start] if token and reach[token] else NO_WORD for token in tokens]

    student_groups, teacher_groups = groups(student.read), groups(teacher.read)
    common = _complete(student_groups, groups(student.whole)) & _complete(teacher_groups, groups(teacher.whole))
    number_of = {group: number for number, group in enumerate(sorted(common))}
    return (
        [number_of.get(group, NO_WORD) for group in student_groups],
        [number_of.get(group, NO_WORD) for group in teacher_groups],
    )


def _words_of(token: Token, word_at: dict[tuple[int, int], int]) -> range:
    """The words that a token's characters belong to."""
    index, start, end = token
    words = [word_at[index, position] for position in range(start, end) if (index, position) in word_at]
    return range(words[0], words[-1] + 1) if words else range(0)


def _complete(read: list[int], whole: list[int]) -> set[int]:
    """The groups of which every token is read."""
    num_read, num_whole = Counter(read), Counter(whole)
    return {group for group in num_read if num_read[group] == num_whole[group]} - {NO_WORD}


def require_characters(role: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that cannot be aligned.

    Raises:
        UserError: It does not tell which characters its tokens come from.
    """
    if not tokenizer.is_fast:
        raise UserError(
            "loss.terms",
            f"the {role}'s tokenizer ({type(tokenizer).__name__}) does not tell which characters its tokens come "
            "from: they cannot be aligned with another tokenizer's",
            "use a checkpoint with a fast tokenizer (tokenizer.json), or terms that need no tokens: pkd, rkd, cka",
        )


def row_tokens(
    role: str, tokenizer: PreTrainedTokenizerBase, columns: Sequence[Sequence[str]], max_length: int | None
) -> list[RowTokens]:
    """Tokenize, with the characters that tokens come from."""
    require_characters(role, tokenizer)
    if not columns[0]:
        return []
    columns = [list(column) for column in columns]
    encodings = tokenizer(*columns, truncation=True, max_length=max_length).encodings
    read = [_tokens(encoding) for encoding in encodings]
    whole = list(read)
    cut = [row for row, encoding in enumerate(encodings) if encoding.overflowing]
    if cut:
        texts = [[column[row] for row in cut] for column in columns]
        for row, encoding in zip(cut, tokenizer(*texts, verbose=False).encodings, strict=True):
            whole[row] = _tokens(encoding)
    return [RowTokens(*tokens) for tokens in zip(read, whole, strict=True)]


def _tokens(encoding: Encoding) -> list[Token | None]:
    return [
        None if index is None or piece == _METASPACE else (index, *span)
        for index, piece, span in zip(encoding.sequence_ids, encoding.tokens, encoding.offsets, strict=True)
    ]


def align_positions(student_lengths: Sequence[int], teacher_lengths: Sequence[int]) -> AlignedWords:
    """Take the i-th tokens of both models as the same thing, special tokens included.

    That is exact where both have the same tokenizer and cut at the same length. Across tokenizers it is wrong,
    and is what FastFormers' released code amounts to: an ablation.

    Args:
        student_lengths: Tokens of each row.
    """
    pairs = list(zip(student_lengths, teacher_lengths, strict=True))
    return AlignedWords(
        [[position if position < teacher else NO_WORD for position in range(student)] for student, teacher in pairs],
        [[position if position < student else NO_WORD for position in range(teacher)] for student, teacher in pairs],
    )


def pad_words(rows: Sequence[Sequence[int]], num_tokens: int, padding_side: str, value: int = NO_WORD) -> Tensor:
    """Stack rows to [batch, num_tokens], with `value` where the tokenizer pads."""
    words = torch.full((len(rows), num_tokens), value)
    for row, numbers in enumerate(rows):
        start = num_tokens - len(numbers) if padding_side == "left" else 0
        words[row, start : start + len(numbers)] = torch.tensor(numbers, dtype=torch.long)
    return words
