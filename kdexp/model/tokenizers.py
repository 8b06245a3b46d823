"""Tokenizers of the kinds that families have, trained on a task's text: WordPiece, byte-level BPE, Unigram."""

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from itertools import islice

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from kdexp.arrow import BATCH_ROWS
from kdexp.fingerprint import texts_fingerprint


class Algorithm(StrEnum):
    """What cuts words into tokens."""

    wordpiece = "wordpiece"  # without case and accents
    byte_level_bpe = "byte_level_bpe"
    unigram = "unigram"


@dataclass(frozen=True)
class TokenizerKind:
    """How a family reads text.

    Attributes:
        special: Its special tokens, in the order of their ids.
        cls, sep, pad, unk, mask: What each of them is there for.
        has_token_types: The texts of a pair have types; else the separator alone tells them apart.
        doubled_separator: Two of them stand between the texts of a pair.
        is_uncased: A Unigram without case and accents.
    """

    algorithm: Algorithm
    special: tuple[str, ...]
    cls: str
    sep: str
    pad: str
    unk: str
    mask: str
    has_token_types: bool = False
    doubled_separator: bool = False
    is_uncased: bool = False


# Unigram looks up every piece at every letter: with pieces as long as the words, time would grow with their square.
_LONGEST_PIECE = 100
# Merging the letters of one word takes the square of its length, and says nothing of other words.
_LONGEST_WORD = 10_000
_LONG_WORD = re.compile(rf"(\S{{{_LONGEST_WORD}}})\S+")
# More candidates give fewer tokens per text, and fewer pieces in common with the library's Unigram trainer.
_NUM_CANDIDATES_PER_PIECE = 2


def train(kind: TokenizerKind, texts: Collection[str], *, vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer of a kind.

    The same texts give the same tokenizer, in any process. A small corpus may give fewer tokens than
    `vocab_size`.

    Args:
        texts: Gone through several times, never held all at once.
        max_length: Tokens that the model reads at most, special ones included.
    """
    corpus = _Corpus(texts_fingerprint(texts), texts)
    token_types = ["token_type_ids"] if kind.has_token_types else []
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_train_backend(kind, corpus, vocab_size)),
        cls_token=kind.cls,
        sep_token=kind.sep,
        pad_token=kind.pad,
        unk_token=kind.unk,
        mask_token=kind.mask,
        model_max_length=max_length,
        model_input_names=["input_ids", *token_types, "attention_mask"],
    )


@dataclass(frozen=True)
class _Corpus:
    """Texts that equal others of the same content."""

    digest: str
    texts: Collection[str] = field(compare=False, repr=False)


@dataclass(frozen=True)
class _ShortWords:
    """Texts of which no word is longer than what a vocabulary is made from."""

    texts: Iterable[str]

    def __iter__(self) -> Iterator[str]:
        return (_LONG_WORD.sub(r"\1", text) if len(text) > _LONGEST_WORD else text for text in self.texts)


@lru_cache(maxsize=4)
def _train_backend(kind: TokenizerKind, corpus: _Corpus, vocab_size: int) -> str:
    """The trained tokenizer as JSON: teacher and student of one kind, and all jobs of a sweep, share it."""
    texts = _ShortWords(corpus.texts)
    match kind.algorithm:
        case Algorithm.wordpiece:
            backend = _train_wordpiece(texts, vocab_size, kind)
        case Algorithm.byte_level_bpe:
            backend = _train_byte_level_bpe(texts, vocab_size, kind)
        case Algorithm.unigram:
            backend = _train_unigram(texts, vocab_size, kind)
    between = f"{kind.sep} {kind.sep}" if kind.doubled_separator else kind.sep
    second = 1 if kind.has_token_types else 0
    backend.post_processor = processors.TemplateProcessing(
        single=f"{kind.cls} $A {kind.sep}",
        pair=f"{kind.cls} $A {between} $B:{second} {kind.sep}:{second}",
        special_tokens=[(token, backend.token_to_id(token)) for token in (kind.cls, kind.sep)],
    )
    return str(backend.to_str())


def _train_wordpiece(texts: Iterable[str], vocab_size: int, kind: TokenizerKind) -> Tokenizer:
    backend = Tokenizer(models.WordPiece(unk_token=kind.unk))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    # The trainer numbers characters inside of words in another order in every process, and breaks ties
    # between merges by these numbers. Declared as special they are numbered by us.
    inner = sorted(set().union(*(_inner_letters(backend, batch) for batch in _batches(texts))))
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*kind.special, *(f"##{letter}" for letter in inner)],
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    state = json.loads(backend.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in kind.special]
    return Tokenizer.from_str(json.dumps(state))


def _inner_letters(backend: Tokenizer, texts: list[str]) -> set[str]:
    """Letters that follow another one in a word."""
    # A space always ends a word: what stands between two is the same wherever it occurs.
    parts = {part for text in texts for part in text.split(" ")}
    words = backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(" ".join(parts)))
    return {letter for word, _ in words for letter in word[1:]}


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(texts)
    while batch := list(islice(iterator, BATCH_ROWS)):
        yield batch


def _train_byte_level_bpe(texts: Iterable[str], vocab_size: int, kind: TokenizerKind) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(kind.special),
        # Sorted, because the alphabet comes in another order in every process.
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def _train_unigram(texts: Iterable[str], vocab_size: int, kind: TokenizerKind) -> Tokenizer:
    """Train by hard EM: pieces are scored by how often the best segmentation of the texts uses them.

    The library's own trainer sums over its words in another order in every process, and the last digits
    of its scores decide which of two equally good pieces is dropped. Whole counts have no last digits.
    The candidates are those of BPE, whose order of merges is fixed.
    """
    backend = Tokenizer(models.BPE())
    steps = [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    if kind.is_uncased:
        steps[0] = normalizers.NFKD()
        steps += [normalizers.StripAccents(), normalizers.Lowercase()]
    backend.normalizer = normalizers.Sequence(steps)
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=_NUM_CANDIDATES_PER_PIECE * vocab_size,
        max_token_length=_LONGEST_PIECE,
        special_tokens=list(kind.special),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    candidates = set(backend.get_vocab()) - set(kind.special)
    room = vocab_size - len(kind.special)
    pieces = _scored_pieces(backend, texts, candidates, len(candidates))
    backend.model = _unigram_model(pieces, kind)
    backend.model = _unigram_model(_scored_pieces(backend, texts, candidates, room), kind)
    return Tokenizer.from_str(backend.to_str())


def _scored_pieces(
    backend: Tokenizer, texts: Iterable[str], candidates: set[str], room: int
) -> list[tuple[str, float]]:
    """The pieces that `backend` uses most, with the logarithm of how often; every character comes first."""
    counts = Counter(
        token for batch in _batches(texts) for encoding in backend.encode_batch(batch) for token in encoding.tokens
    )
    kept = sorted(candidates, key=lambda piece: (len(piece) > 1, -counts[piece], piece))[:room]
    # Half a count for pieces that were never used: they stay possible.
    total = sum(counts[piece] for piece in kept) + len(kept) / 2
    scored = [(piece, math.log((counts[piece] + 0.5) / total)) for piece in kept]
    return sorted(scored, key=lambda piece: (-piece[1], piece[0]))


def _unigram_model(pieces: list[tuple[str, float]], kind: TokenizerKind) -> models.Unigram:
    return models.Unigram([*((token, 0.0) for token in kind.special), *pieces], unk_id=kind.special.index(kind.unk))
