"""Words across tokenizers: hand-made examples for each kind of tokenizer, and every pair of families."""

import itertools
import os
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from kdexp.errors import UserError
from kdexp.loss.pooling import averaging, membership
from kdexp.loss.terms import Alignment
from kdexp.model import families
from kdexp.model.alignment import (
    NO_WORD,
    AlignedWords,
    align,
    align_positions,
    align_words,
    pad_words,
    row_tokens,
    word_spans,
)

TEXTS = [
    "The film was good, and the plot... wasn't dull!",
    "naïve  café\tre-opened: 1,200 e\u0301clairs (12.5 %)",
    "你好世界 x 👩\u200d🚀 ﬁne hi\u00addden",
    " leading and trailing ",
    "",
]
PAIRS = ["Who opened it?", "two  words", "a", "", "second alone"]


@pytest.fixture(scope="module")
def tokenizers():
    corpus = [*TEXTS, *PAIRS] * 3
    return {
        family: families.train_tokenizer(family, corpus, vocab_size=400, max_length=64) for family in families.FAMILIES
    }


def pieces(tokenizer, words, texts):
    """The words of one row, as the pieces that make them."""
    encoding = tokenizer(*[[text] for text in texts], truncation=True).encodings[0]
    found = {}
    for word, token in zip(words, encoding.tokens, strict=True):
        found.setdefault(word, []).append(token)
    return [found[word] for word in sorted(found) if word != NO_WORD]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It isn't  dull.", ["It", "isn", "'", "t", "dull", "."]),
        ("re-open... 1,200", ["re", "-", "open", ".", ".", ".", "1", ",", "200"]),
        ("snake_case", ["snake", "_", "case"]),
        ("cafe\u0301 naïve", ["cafe\u0301", "naïve"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("你好a", ["你", "好", "a"]),
        ("👩\u200d🚀", ["👩", "🚀"]),
        ("\t \n", []),
    ],
)
def test_words_of_a_text(text, words):
    assert [text[start:end] for start, end in word_spans(text)] == words


@pytest.mark.parametrize(("student", "teacher"), list(itertools.product(families.FAMILIES, repeat=2)))
def test_words_hold_the_same_characters_in_both_models(tokenizers, student, teacher):
    student, teacher = tokenizers[student], tokenizers[teacher]
    for second in (None, PAIRS):
        columns = [TEXTS] if second is None else [TEXTS, second]
        aligned = align_words(student, teacher, TEXTS, second, student_max_length=64, teacher_max_length=64)
        sides = ((student, aligned.student_words), (teacher, aligned.teacher_words))
        for row, texts in enumerate(zip(*columns, strict=True)):
            reached = []
            for tokenizer, words in sides:
                encoding = tokenizer(*[[text] for text in texts]).encodings[0]
                assert len(words[row]) == len(encoding.ids)
                spans = {}
                for word, index, (start, end) in zip(words[row], encoding.sequence_ids, encoding.offsets, strict=True):
                    if word == NO_WORD:
                        continue
                    letters = {(index, i) for i in range(start, end) if not texts[index][i].isspace()}
                    spans[word] = spans.get(word, set()) | letters
                reached.append(spans)
                assert all(w == NO_WORD for w, i in zip(words[row], encoding.sequence_ids, strict=True) if i is None)
            assert list(reached[0]) == list(reached[1]) == list(range(len(reached[0])))
            for word, letters in reached[0].items():
                # A character that one model's normaliser drops (a combining mark) may be missing on one side.
                assert letters & reached[1][word]
                for number, others in reached[1].items():
                    assert number == word or not letters & others
        # Tokens join words, but never over a space.
        assert len(set(aligned.student_words[0]) - {NO_WORD}) >= sum(len(column[0].split()) for column in columns)


def real(name):
    folder = Path(os.environ.get("KDEXP_DATA", "/nowhere")) / "tokenizers" / name
    if not folder.is_dir():
        pytest.skip("needs KDEXP_DATA")
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.real_data
def test_real_tokenizers_by_hand():
    wordpiece, bpe, unigram = (real(name) for name in ("bert-base-uncased", "roberta-base", "xlm-roberta-base"))
    text = "Don't re-enter  the café... 你好 12,000!"

    def words(student, teacher):
        aligned = align_words(student, teacher, [text], None, student_max_length=64, teacher_max_length=64)
        return (
            pieces(student, aligned.student_words[0], [text]),
            pieces(teacher, aligned.teacher_words[0], [text]),
        )

    student, teacher = words(wordpiece, bpe)
    assert student == [
        ["don"], ["'", "t"], ["re"], ["-"], ["enter"], ["the"], ["cafe"], [".", ".", "."], ["[UNK]"], ["[UNK]"],
        ["12"], [","], ["000"], ["!"],
    ]  # fmt: skip
    assert teacher == [
        ["Don"], ["'t"], ["Ġre"], ["-"], ["enter"], ["Ġthe"], ["ĠcafÃ©"], ["..."], ["ä½", "ł"], ["å¥", "½"],
        ["Ġ12"], [","], ["000"], ["!"],
    ]  # fmt: skip
    student, teacher = words(unigram, bpe)
    assert student == [
        ["▁Don"], ["'", "t"], ["▁re"], ["-"], ["enter"], ["▁the"], ["▁café"], ["..."], ["你好"], ["▁1", "2,000"], ["!"]
    ]  # fmt: skip
    assert teacher == [
        ["Don"], ["'t"], ["Ġre"], ["-"], ["enter"], ["Ġthe"], ["ĠcafÃ©"], ["..."], ["ä½", "ł", "å¥", "½"],
        ["Ġ12", ",", "000"], ["!"],
    ]  # fmt: skip


def test_truncation_leaves_only_words_that_both_models_saw_entirely(tokenizers):
    text = "The film was good, and the plot wasn't dull"
    student, teacher = tokenizers["bert"], tokenizers["roberta"]
    whole = align_words(student, teacher, [text], None, student_max_length=64, teacher_max_length=64)
    total = max(whole.student_words[0]) + 1
    for limits in ((64, 9), (9, 64), (8, 11)):
        aligned = align_words(
            student, teacher, [text], None, student_max_length=limits[0], teacher_max_length=limits[1]
        )
        seen = []
        for words, full, limit in (
            (aligned.student_words[0], whole.student_words[0], limits[0]),
            (aligned.teacher_words[0], whole.teacher_words[0], limits[1]),
        ):
            assert len(words) == min(limit, len(full))
            num_kept = len(words) - 1  # the last one is a special token
            complete = {word for word in range(total) if full.count(word) == full[:num_kept].count(word)}
            seen.append(complete)
        kept = max(aligned.student_words[0]) + 1
        assert set(aligned.student_words[0]) == set(aligned.teacher_words[0])
        assert kept == len(seen[0] & seen[1]) < total


def test_pairs_are_cut_on_either_side(tokenizers):
    first, second = "The film was good and the plot was dull", "naïve café opened words alone"
    student, teacher = tokenizers["bert"], tokenizers["xlm_roberta"]
    aligned = align_words(student, teacher, [first], [second], student_max_length=14, teacher_max_length=64)
    encoding = student([first], [second], truncation=True, max_length=14).encodings[0]
    words = aligned.student_words[0]
    # Both texts keep words, and their words never mix.
    by_text = [{w for w, i in zip(words, encoding.sequence_ids, strict=True) if i == n} - {NO_WORD} for n in (0, 1)]
    assert all(by_text)
    assert max(by_text[0]) < min(by_text[1])
    teacher_words = aligned.teacher_words[0]
    assert set(words) == set(teacher_words)
    assert teacher([first], [second]).encodings[0].sequence_ids[teacher_words.index(min(by_text[1]))] == 1


def test_positions():
    assert align_positions([3, 2], [2, 4]) == AlignedWords([[0, 1, -1], [0, 1]], [[0, 1], [0, 1, -1, -1]])


def test_tensors_that_average_over_words():
    words = pad_words([[-1, 0, 0, 1], [-1, 0]], 5, "right")
    assert words.tolist() == [[-1, 0, 0, 1, -1], [-1, 0, -1, -1, -1]]
    assert pad_words([[-1, 0]], 4, "left").tolist() == [[-1, -1, -1, 0]]
    assert membership(words, 2)[0].tolist() == [[0, 1, 1, 0, 0], [0, 0, 0, 1, 0]]
    assert averaging(words, 2).tolist() == [
        [[0, 0.5, 0.5, 0, 0], [0, 0, 0, 1, 0]],
        [[0, 1, 0, 0, 0], [0, 0, 0, 0, 0]],
    ]
    states = torch.arange(10.0).reshape(1, 5, 2)
    assert (averaging(words[:1], 2) @ states)[0].tolist() == [[3, 4], [6, 7]]


def test_a_tokenizer_without_characters_is_refused(tokenizers):
    class Slow:
        is_fast = False

    with pytest.raises(UserError, match=r"the teacher's tokenizer \(Slow\) does not tell .*pkd, rkd, cka"):
        row_tokens("teacher", Slow(), [["a"]], 8)
    assert align_words(
        tokenizers["bert"], tokenizers["roberta"], [], None, student_max_length=8, teacher_max_length=8
    ) == AlignedWords([], [])


def test_models_with_one_tokenizer_are_aligned_token_by_token(tokenizers):
    def aligned(student, teacher, **settings):
        limits = {"student_max_length": 64, "teacher_max_length": 64} | settings
        return align(tokenizers[student], tokenizers[teacher], TEXTS, PAIRS, **limits)

    exact = aligned("bert", "electra")  # the same tokenizer, of the same texts
    lengths = [len(row) for row in tokenizers["bert"](TEXTS, PAIRS)["input_ids"]]
    assert exact.student_words == exact.teacher_words == [list(range(length)) for length in lengths]
    # Where one of them cuts, or the tokenizers differ, words are; and positions only when asked for.
    assert aligned("bert", "electra", teacher_max_length=12).student_words != exact.student_words
    by_words = aligned("bert", "roberta")
    assert by_words.student_words[0][0] == NO_WORD
    by_position = aligned("bert", "roberta", method=Alignment.position)
    assert by_position.student_words[0][0] == by_position.teacher_words[0][0] == 0
