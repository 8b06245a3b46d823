"""Compact models of eight families, and the tokenizers that go with them.

A compact model is the family's real `transformers` class at a small size, with a tokenizer of the
family's own kind (WordPiece, byte-level BPE, Unigram), its special tokens, their order and its pair
format. What families differ in when they read a text is kept; what they were pretrained on is not.

A new family is an entry of `FAMILIES`.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from transformers import (
    AlbertConfig,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

from kdexp.errors import UserError
from kdexp.model import tokenizers
from kdexp.model.tokenizers import Algorithm, TokenizerKind

# A small model trained from scratch underfits: half of the usual dropout.
_DROPOUT = 0.05
_BERTS_DROPOUT = {"hidden_dropout_prob": _DROPOUT, "attention_probs_dropout_prob": _DROPOUT}


@dataclass(frozen=True)
class Compact:
    """What the config of a compact model is made from.

    Attributes:
        head: What it says of the head: `TaskKind.head_config()`.
    """

    tokenizer: PreTrainedTokenizerFast
    num_layers: int
    hidden_size: int
    num_heads: int
    max_length: int
    head: Mapping[str, object]

    @property
    def initializer_range(self) -> float:
        """The families' own 0.02 is meant for 768 wide layers; in narrow ones attention then starts, and for long
        stays, uniform. 1 / sqrt(width) keeps the size of what a layer hands on.
        """
        return self.hidden_size**-0.5

    @property
    def common(self) -> dict[str, Any]:
        """What every config is told."""
        return {
            "vocab_size": len(self.tokenizer),
            "pad_token_id": self.tokenizer.pad_token_id,
            "initializer_range": self.initializer_range,
            **self.head,
        }

    @property
    def size(self) -> dict[str, Any]:
        """Its size, as most families call it."""
        return {
            "num_hidden_layers": self.num_layers,
            "hidden_size": self.hidden_size,
            "num_attention_heads": self.num_heads,
            "intermediate_size": 4 * self.hidden_size,
        }

    @property
    def boundaries(self) -> dict[str, Any]:
        """The ids that a text begins and ends with."""
        return {"bos_token_id": self.tokenizer.cls_token_id, "eos_token_id": self.tokenizer.sep_token_id}


def _bert(compact: Compact) -> BertConfig:
    return BertConfig(**compact.common, **compact.size, **_BERTS_DROPOUT, max_position_embeddings=compact.max_length)


def _distilbert(compact: Compact) -> DistilBertConfig:
    return DistilBertConfig(
        **compact.common,
        n_layers=compact.num_layers,
        dim=compact.hidden_size,
        n_heads=compact.num_heads,
        hidden_dim=4 * compact.hidden_size,
        max_position_embeddings=compact.max_length,
        dropout=_DROPOUT,
        attention_dropout=_DROPOUT,
        seq_classif_dropout=_DROPOUT,
    )


def _electra(compact: Compact) -> ElectraConfig:
    return ElectraConfig(
        **compact.common,
        **compact.size,
        **_BERTS_DROPOUT,
        embedding_size=compact.hidden_size,
        max_position_embeddings=compact.max_length,
    )


def _robertas(compact: Compact) -> dict[str, Any]:
    """Of RoBERTa and XLM-R: positions are counted from pad_token_id + 1 on."""
    positions = compact.max_length + compact.tokenizer.pad_token_id + 1
    own = {"max_position_embeddings": positions, "type_vocab_size": 1}
    return {**compact.common, **compact.size, **_BERTS_DROPOUT, **compact.boundaries, **own}


def _albert(compact: Compact) -> AlbertConfig:
    return AlbertConfig(
        **compact.common,
        **compact.size,
        **_BERTS_DROPOUT,
        **compact.boundaries,
        embedding_size=compact.hidden_size,
        max_position_embeddings=compact.max_length,
        classifier_dropout_prob=_DROPOUT,
    )


def _deberta(compact: Compact) -> DebertaV2Config:
    """As in deberta-v3: disentangled attention, positions in logarithmic buckets."""
    return DebertaV2Config(
        **compact.common,
        **compact.size,
        **_BERTS_DROPOUT,
        max_position_embeddings=compact.max_length,
        type_vocab_size=2,
        relative_attention=True,
        position_buckets=32,
        pos_att_type=["p2c", "c2p"],
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        position_biased_input=False,
        pooler_hidden_size=compact.hidden_size,
    )


def _modernbert(compact: Compact) -> ModernBertConfig:
    # Gated: two of its three matrices make up the usual 4 * hidden_size.
    size = compact.size | {"intermediate_size": 2 * compact.hidden_size}
    return ModernBertConfig(
        **compact.common,
        **size,
        **compact.boundaries,
        cls_token_id=compact.tokenizer.cls_token_id,
        sep_token_id=compact.tokenizer.sep_token_id,
        max_position_embeddings=compact.max_length,
        local_attention=32,
        embedding_dropout=_DROPOUT,
        mlp_dropout=_DROPOUT,
        attention_dropout=_DROPOUT,
        classifier_dropout=_DROPOUT,
        reference_compile=False,
    )


@dataclass(frozen=True)
class Family:
    """A family of encoders.

    Attributes:
        config: Makes the config of a compact model.
    """

    tokenizer: TokenizerKind
    config: Callable[[Compact], PretrainedConfig]


def _berts(*special: str, algorithm: Algorithm = Algorithm.wordpiece, has_token_types: bool = True) -> TokenizerKind:
    """The tokens that BERT named, in a family's order."""
    names = ("[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]")
    return TokenizerKind(algorithm, special, *names, has_token_types=has_token_types)


_BERTS = _berts("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_ROBERTAS = TokenizerKind(
    Algorithm.byte_level_bpe,
    ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
    *("<s>", "</s>", "<pad>", "<unk>", "<mask>"),
    doubled_separator=True,
)
_ALBERTS = TokenizerKind(
    Algorithm.unigram,
    ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"),
    *("[CLS]", "[SEP]", "<pad>", "<unk>", "[MASK]"),
    has_token_types=True,
    is_uncased=True,
)
_DEBERTAS = _berts("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", algorithm=Algorithm.unigram)
_MODERNBERTS = _berts(
    "[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", algorithm=Algorithm.byte_level_bpe, has_token_types=False
)

FAMILIES: dict[str, Family] = {
    "bert": Family(_BERTS, _bert),
    "roberta": Family(_ROBERTAS, lambda compact: RobertaConfig(**_robertas(compact))),
    "distilbert": Family(replace(_BERTS, has_token_types=False), _distilbert),
    "electra": Family(_BERTS, _electra),
    "xlm_roberta": Family(
        replace(_ROBERTAS, algorithm=Algorithm.unigram), lambda compact: XLMRobertaConfig(**_robertas(compact))
    ),
    "albert": Family(_ALBERTS, _albert),
    "deberta": Family(_DEBERTAS, _deberta),
    "modernbert": Family(_MODERNBERTS, _modernbert),
}
"""The families by name."""


def train_tokenizer(
    family: str, texts: Collection[str], *, vocab_size: int, max_length: int
) -> PreTrainedTokenizerFast:
    """Train a tokenizer of the family's own kind; see `kdexp/model/tokenizers.py`.

    Raises:
        UserError: Unknown family.
    """
    return tokenizers.train(_family(family).tokenizer, texts, vocab_size=vocab_size, max_length=max_length)


def compact_config(
    family: str,
    tokenizer: PreTrainedTokenizerFast,
    *,
    num_layers: int,
    hidden_size: int,
    num_heads: int,
    max_length: int,
    head: Mapping[str, object],
) -> PretrainedConfig:
    """The family's config at a small size; everything else as the family has it.

    Args:
        head: What the config says of the head: `TaskKind.head_config()`.

    Raises:
        UserError: Unknown family, or a hidden size that the heads cannot share.
    """
    found = _family(family)
    if hidden_size % num_heads:
        raise UserError("hidden_size", f"{hidden_size} cannot be shared by {num_heads} heads", "use a multiple")
    return found.config(Compact(tokenizer, num_layers, hidden_size, num_heads, max_length, head))


def _family(name: str) -> Family:
    if name not in FAMILIES:
        raise UserError("family", f"no compact model of '{name}'", f"expected one of {', '.join(FAMILIES)}")
    return FAMILIES[name]
