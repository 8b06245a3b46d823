"""Compact models of eight families, and the tokenizers that go with them.

A compact model is the family's real `transformers` class at a small size, with a tokenizer of the
family's own kind (WordPiece, byte-level BPE, Unigram), its special tokens, their order and its pair
format. What families differ in when they read a text is kept; what they were pretrained on is not.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

from kdexp.errors import UserError

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
# More candidates give fewer tokens per text, and fewer pieces in common with the library's Unigram trainer.
_NUM_CANDIDATES_PER_PIECE = 2
# DistilBERT, RoBERTa, XLM-R and ModernBERT tell the texts of a pair apart by the separator alone.
_HAS_TOKEN_TYPES = {"bert", "electra", "albert", "deberta"}


def train_tokenizer(family: str, texts: Iterable[str], *, vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer of the family's own kind.

    The same texts give the same tokenizer, in any process. A small corpus may give fewer tokens than
    `vocab_size`.

    Args:
        max_length: Tokens that the model reads at most, special ones included.

    Raises:
        UserError: Unknown family.
    """
    _require_family(family)
    special = _SPECIAL[family]
    token_types = ["token_type_ids"] if family in _HAS_TOKEN_TYPES else []
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_train_backend(family, tuple(texts), vocab_size)),
        cls_token=special.cls,
        sep_token=special.sep,
        pad_token=special.pad,
        unk_token=special.unk,
        mask_token=special.mask,
        model_max_length=max_length,
        model_input_names=["input_ids", *token_types, "attention_mask"],
    )


@lru_cache(maxsize=4)
def _train_backend(family: str, texts: tuple[str, ...], vocab_size: int) -> str:
    """The trained tokenizer as JSON: teacher and student of one family, and all jobs of a sweep, share it."""
    special = _SPECIAL[family]
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
    texts = list(texts)
    # The trainer numbers characters inside of words in another order in every process, and breaks ties
    # between merges by these numbers. Declared as special they are numbered by us.
    inner = sorted({letter for text in texts for letter in _inner_letters(backend, text)})
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*special.tokens, *(f"##{letter}" for letter in inner)],
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    state = json.loads(backend.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in special.tokens]
    return Tokenizer.from_str(json.dumps(state))


def _inner_letters(backend: Tokenizer, text: str) -> set[str]:
    """Letters that follow another one in a word."""
    words = backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))
    return {letter for word, _ in words for letter in word[1:]}


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
    texts = list(texts)
    trainer = trainers.BpeTrainer(
        vocab_size=_NUM_CANDIDATES_PER_PIECE * vocab_size,
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


def _scored_pieces(backend: Tokenizer, texts: list[str], candidates: set[str], room: int) -> list[tuple[str, float]]:
    """The pieces that `backend` uses most, with the logarithm of how often; every character comes first."""
    counts = Counter(
        token
        for start in range(0, len(texts), 1000)
        for encoding in backend.encode_batch(texts[start : start + 1000])
        for token in encoding.tokens
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


def compact_config(
    family: str,
    tokenizer: PreTrainedTokenizerFast,
    *,
    num_layers: int,
    hidden_size: int,
    num_heads: int,
    max_length: int,
    label_names: Sequence[str],
) -> PretrainedConfig:
    """The family's config at a small size; everything else as the family has it.

    Raises:
        UserError: Unknown family, or a hidden size that the heads cannot share.
    """
    _require_family(family)
    if hidden_size % num_heads:
        raise UserError("hidden_size", f"{hidden_size} cannot be shared by {num_heads} heads", "use a multiple")
    common = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: index for index, name in enumerate(label_names)},
        "problem_type": "single_label_classification",
    }
    size = {
        # The families' own 0.02 is meant for 768 wide layers; in narrow ones attention then starts, and
        # for long stays, uniform. 1 / sqrt(width) keeps the size of what a layer hands on.
        "initializer_range": hidden_size**-0.5,
        "num_hidden_layers": num_layers,
        "hidden_size": hidden_size,
        "num_attention_heads": num_heads,
        "intermediate_size": 4 * hidden_size,
    }
    # A small model trained from scratch underfits: half of the usual dropout.
    dropout = {"hidden_dropout_prob": 0.05, "attention_probs_dropout_prob": 0.05}
    boundaries = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    match family:
        case "bert":
            return BertConfig(**common, **size, **dropout, max_position_embeddings=max_length)
        case "distilbert":
            return DistilBertConfig(
                **common,
                n_layers=num_layers,
                dim=hidden_size,
                n_heads=num_heads,
                hidden_dim=4 * hidden_size,
                initializer_range=hidden_size**-0.5,
                max_position_embeddings=max_length,
                dropout=0.05,
                attention_dropout=0.05,
                seq_classif_dropout=0.05,
            )
        case "electra":
            return ElectraConfig(
                **common, **size, **dropout, embedding_size=hidden_size, max_position_embeddings=max_length
            )
        case "roberta" | "xlm_roberta":
            config_class = RobertaConfig if family == "roberta" else XLMRobertaConfig
            # Positions are counted from pad_token_id + 1 on.
            positions = max_length + common["pad_token_id"] + 1
            return config_class(
                **common, **size, **dropout, **boundaries, max_position_embeddings=positions, type_vocab_size=1
            )
        case "albert":
            return AlbertConfig(
                **common,
                **size,
                **dropout,
                **boundaries,
                embedding_size=hidden_size,
                max_position_embeddings=max_length,
                classifier_dropout_prob=0.05,
            )
        case "deberta":
            return DebertaV2Config(
                **common,
                **size,
                **dropout,
                max_position_embeddings=max_length,
                type_vocab_size=2,
                # As in deberta-v3: disentangled attention, positions in logarithmic buckets.
                relative_attention=True,
                position_buckets=32,
                pos_att_type=["p2c", "c2p"],
                norm_rel_ebd="layer_norm",
                share_att_key=True,
                position_biased_input=False,
                pooler_hidden_size=hidden_size,
            )
        case _:
            return ModernBertConfig(
                **common,
                **boundaries,
                cls_token_id=tokenizer.cls_token_id,
                sep_token_id=tokenizer.sep_token_id,
                num_hidden_layers=num_layers,
                hidden_size=hidden_size,
                num_attention_heads=num_heads,
                initializer_range=hidden_size**-0.5,
                # Gated: two of its three matrices make up the usual 4 * hidden_size.
                intermediate_size=2 * hidden_size,
                max_position_embeddings=max_length,
                local_attention=32,
                embedding_dropout=0.05,
                mlp_dropout=0.05,
                attention_dropout=0.05,
                classifier_dropout=0.05,
                reference_compile=False,
            )


def build_compact_model(config: PretrainedConfig) -> PreTrainedModel:
    """Build the family's sequence classifier with fresh weights, from torch's current random state."""
    return AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)


def _require_family(family: str) -> None:
    if family not in FAMILIES:
        raise UserError("family", f"no compact model of '{family}'", f"expected one of {', '.join(FAMILIES)}")
