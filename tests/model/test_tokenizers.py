"""Tokenizers of compact models, on text that no one would call words."""

import time

import pytest

from kdexp.model.families import FAMILIES, train_tokenizer
from kdexp.task.embedded.reviews import generate_splits

TEXTS = [text for text, _ in generate_splits({"train": 200}, seed=0, label_noise=0.0)["train"]]
WORDS = {
    "equal letters": "a" * 100_000,
    "a period": "abcdefg" * 15_000,
    "a blob": "".join(chr(97 + i * i * 7919 % 26) for i in range(100_000)),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("word", WORDS.values(), ids=WORDS)
def test_a_word_without_an_end_takes_time_as_its_length(family, word):
    """A hundred times as long as what takes milliseconds; its square would take minutes."""
    started = time.perf_counter()
    tokenizer = train_tokenizer(family, [*TEXTS, f"It was {word} good."], vocab_size=600, max_length=32)
    tokens = tokenizer([word, f"It was {word} good."], truncation=True, max_length=32)
    assert time.perf_counter() - started < 8
    assert max(map(len, tokens["input_ids"])) <= 32
    if family in ("xlm_roberta", "albert", "deberta"):
        assert max(map(len, tokenizer.get_vocab())) <= 101


@pytest.mark.parametrize("family", FAMILIES)
def test_long_ordinary_words_make_whole_pieces(family):
    """What is cut cannot be an ordinary word: the longest of them stays one piece."""
    word = "donaudampfschifffahrtselektrizitaetenhauptbetriebswerkbauunterbeamtengesellschaft"
    texts = [*TEXTS[:20], *[f"the {word} is good"] * 50]
    tokenizer = train_tokenizer(family, texts, vocab_size=600, max_length=64)
    assert len(tokenizer.tokenize(f"the {word}")) <= 4
