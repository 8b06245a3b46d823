"""Compact models of eight families, and the tokenizers that go with them.

A compact model is the family's real `transformers` class at a small size, with a tokenizer of the
family's own kind (WordPiece, byte-level BPE, Unigram), its special tokens, their order and its pair
format. What families differ in when they read a text is kept; what they were pretrained on is not.
"""

from collections.abc import Mapping
from typing import Any

import torch
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
from kdexp.model.tokenizers import FAMILIES, require_family, train_tokenizer

__all__ = ["FAMILIES", "build_compact_model", "compact_config", "train_tokenizer"]


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
    require_family(family)
    if hidden_size % num_heads:
        raise UserError("hidden_size", f"{hidden_size} cannot be shared by {num_heads} heads", "use a multiple")
    common: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        **head,
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
