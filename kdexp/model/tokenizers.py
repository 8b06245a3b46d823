"""Tokenizers of the compact families' own kinds, trained on a task's text: WordPiece, byte-level BPE, Unigram."""

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from kdexp.arrow import BATCH_ROWS
from kdexp.errors import UserError
from kdexp.fingerprint import texts_fingerprint

FAMILIES = ("bert", "roberta", "distilbert", "electra", "xlm_roberta", "albert", "deberta", "modernbert")


@dataclass(frozen=True)
class _Special:
    """A family's special tokens, in the order of their ids."""

    tokens: tuple[str, ...]
    cls: str
    sep: str
    pad: str
    unk: str
    mask: str
    doubled_separator: bool = False  # between the texts of a pair


_BERT = _Special(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), "[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]")
_ROBERTA = _Special(
    ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
    "<s>",
    "</s>",
    "<pad>",
    "<unk>",
    "<mask>",
    doubled_separator=True,
)
_ALBERT = _Special(("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"), "[CLS]", "[SEP]", "<pad>", "<unk>", "[MASK]")
_DEBERTA = _Special(("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"), "[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]")
_MODERNBERT = _Special(("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"), "[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]")

_SPECIAL = {
    "bert": _BERT,
    "distilbert": _BERT,
    "electra": _BERT,
    "roberta": _ROBERTA,
    "xlm_roberta": _ROBERTA,
    "albert": _ALBERT,
    "deberta": _DEBERTA,
    "modernbert": _MODERNBERT,
}
# Unigram looks up every piece at every letter: with pieces as long as the words, time would grow with their square.
_LONGEST_PIECE = 100
# Merging the letters of one word takes the square of its length, and says nothing of other words.
_LONGEST_WORD = 10_000
_LONG_WORD = re.compile(rf"(\S{{{_LONGEST_WORD}}})\S+")
# More candidates give fewer tokens per text, and fewer pieces in common with the library's Unigram trainer.
_NUM_CANDIDATES_PER_PIECE = 2
# DistilBERT, RoBERTa, XLM-R and ModernBERT tell the texts of a pair apart by the separator alone.
_HAS_TOKEN_TYPES = {"bert", "electra", "albert", "deberta"}


def train_tokenizer(
    family: str, texts: Collection[str], *, vocab_size: int, max_length: int
) -> PreTrainedTokenizerFast:
    """Train a tokenizer of the family's own kind.

    The same texts give the same tokenizer, in any process. A small corpus may give fewer tokens than
    `vocab_size`.

    Args:
        texts: Gone through several times, never held all at once.
        max_length: Tokens that the model reads at most, special ones included.

    Raises:
        UserError: Unknown family.
    """
    require_family(family)
    special, corpus = _SPECIAL[family], _Corpus(texts_fingerprint(texts), texts)
    token_types = ["token_type_ids"] if family in _HAS_TOKEN_TYPES else []
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_train_backend(family, corpus, vocab_size)),
        cls_token=special.cls,
        sep_token=special.sep,
        pad_token=special.pad,
        unk_token=special.unk,
        mask_token=special.mask,
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
def _train_backend(family: str, corpus: _Corpus, vocab_size: int) -> str:
    """The trained tokenizer as JSON: teacher and student of one family, and all jobs of a sweep, share it."""
    special, texts = _SPECIAL[family], _ShortWords(corpus.texts)
    match family:
        case "bert" | "distilbert" | "electra":
            backend = _train_wordpiece(texts, vocab_size, special)
        case "roberta" | "modernbert":
            backend = _train_byte_level_bpe(texts, vocab_size, special)
        case _:
            backend = _train_unigram(texts, vocab_size, special, family)
    between = f"{special.sep} {special.sep}" if special.doubled_separator else special.sep
    second = 1 if family in _HAS_TOKEN_TYPES else 0
    backend.post_processor = processors.TemplateProcessing(
        single=f"{special.cls} $A {special.sep}",
        pair=f"{special.cls} $A {between} $B:{second} {special.sep}:{second}",
        special_tokens=[(token, backend.token_to_id(token)) for token in (special.cls, special.sep)],
    )
    return str(backend.to_str())


def _train_wordpiece(texts: Iterable[str], vocab_size: int, special: _Special) -> Tokenizer:
    backend = Tokenizer(models.WordPiece(unk_token=special.unk))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    # The trainer numbers characters inside of words in another order in every process, and breaks ties
    # between merges by these numbers. Declared as special they are numbered by us.
    inner = sorted(set().union(*(_inner_letters(backend, batch) for batch in _batches(texts))))
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*special.tokens, *(f"##{letter}" for letter in inner)],
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    state = json.loads(backend.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in special.tokens]
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


def _train_byte_level_bpe(texts: Iterable[str], vocab_size: int, special: _Special) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special.tokens),
        # Sorted, because the alphabet comes in another order in every process.
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def _train_unigram(texts: Iterable[str], vocab_size: int, special: _Special, family: str) -> Tokenizer:
    """Train by hard EM: pieces are scored by how often the best segmentation of the texts uses them.

    The library's own trainer sums over its words in another order in every process, and the last digits
    of its scores decide which of two equally good pieces is dropped. Whole counts have no last digits.
    The candidates are those of BPE, whose order of merges is fixed.
    """
    backend = Tokenizer(models.BPE())
    steps = [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    if family == "albert":
        steps[0] = normalizers.NFKD()
        steps += [normalizers.StripAccents(), normalizers.Lowercase()]
    backend.normalizer = normalizers.Sequence(steps)
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=_NUM_CANDIDATES_PER_PIECE * vocab_size,
        max_token_length=_LONGEST_PIECE,
        special_tokens=list(special.tokens),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    candidates = set(backend.get_vocab()) - set(special.tokens)
    room = vocab_size - len(special.tokens)
    pieces = _scored_pieces(backend, texts, candidates, len(candidates))
    backend.model = _unigram_model(pieces, special)
    backend.model = _unigram_model(_scored_pieces(backend, texts, candidates, room), special)
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


def _unigram_model(pieces: list[tuple[str, float]], special: _Special) -> models.Unigram:
    return models.Unigram(
        [*((token, 0.0) for token in special.tokens), *pieces], unk_id=special.tokens.index(special.unk)
    )


def require_family(family: str) -> None:
    if family not in FAMILIES:
        raise UserError("family", f"no compact model of '{family}'", f"expected one of {', '.join(FAMILIES)}")
