"""Vocabulary transplant: one pretrained encoder, made to read another family's tokens.

The transplanted encoder has the same encoder layers in the other family's own `transformers` architecture. Each of its
tokens starts with the mean of the embeddings that the first tokenizer's pieces of the same text have, so
that what two such teachers differ in is tokenization and input embeddings, and nothing else.

The initialisation is that of Gee et al. 2022, "Fast Vocabulary Transfer for Language Model Compression",
https://aclanthology.org/2022.emnlp-industry.41.
"""

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoModel,
    BertConfig,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    XLMRobertaConfig,
)
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from kdexp.errors import UserError

MODEL_TYPES = {"bert": "bert", "roberta": "roberta", "xlm-roberta": "xlm_roberta"}
"""transformers' model types whose encoder layers are the same, and kdexp's names of their families."""

# What decides how the layers compute; the rest of a config belongs to the vocabulary or the family.
_LAYER_SETTINGS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
    "layer_norm_eps",
    "classifier_dropout",
)
_CONTINUATION = "##"
_METASPACE = "▁"
_BYTE_SPACE = "Ġ"  # how byte-level vocabularies write a space


@dataclass(frozen=True)
class Reading:
    """The text of a token, and whether a word begins with it; None where its vocabulary does not tell.

    Byte-level BPE writes a word's space into its first token: without one the token continues a word, or
    begins the text, or follows a quote.
    """

    text: str
    starts_word: bool | None


def family_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """The family whose architecture reads these tokens: `bert`, `roberta` or `xlm_roberta`.

    Raises:
        UserError: Neither kind of vocabulary and special tokens is that of one of the three.
    """
    kind = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["type"]
    match kind, tokenizer.cls_token:
        case "WordPiece", "[CLS]":
            return "bert"
        case "BPE", "<s>" if _is_byte_level(tokenizer.backend_tokenizer):
            return "roberta"
        case "Unigram", "<s>":
            return "xlm_roberta"
    raise UserError(
        "tokenizer",
        f"a {kind} tokenizer that begins a text with {tokenizer.cls_token} is of no family that can be made",
        f"expected a tokenizer of {', '.join(MODEL_TYPES.values())}",
    )


def transplant(
    encoder: PreTrainedModel, source: PreTrainedTokenizerBase, target: PreTrainedTokenizerBase
) -> PreTrainedModel:
    """Build the encoder anew so that it reads the tokens of `target`.

    - Word starts and continuations are told apart: XLM-R's "▁ing" is BERT's "ing", its "ing" is "##ing".
      RoBERTa's "ing" may be either, and takes the mean of the two (measured: mean-pooled vectors of
      MiniLM's transplant agree at cosine 0.85, against 0.83 when it only continues and 0.82 when it only begins).
    - Special tokens take the embedding of the one with the same role. Tokens without a text (a lone byte, a
      space) take that of the unknown token.
    - Positions are moved by the offset of the family: RoBERTa counts from pad_token_id + 1.
    - RoBERTa's one token type is BERT's first; both of BERT's are RoBERTa's one.

    Args:
        encoder: A model without head, as `AutoModel` loads it, that reads the tokens of `source`.

    Returns:
        A model without head in float32, in evaluation mode.

    Raises:
        UserError: The encoder, or the tokenizer, is of none of the families in `MODEL_TYPES`.
    """
    family = family_of(target)
    if encoder.config.model_type not in MODEL_TYPES:
        raise UserError(
            "checkpoint",
            f"the layers of a {encoder.config.model_type} model are not those of {family}",
            f"expected an encoder of {', '.join(MODEL_TYPES.values())}",
        )
    old = {name: tensor.detach().float() for name, tensor in encoder.state_dict().items()}
    positions = old["embeddings.position_embeddings.weight"][_position_offset(encoder.config) :]
    config = _transplanted_config(family, encoder.config, target, num_positions=len(positions))
    made = AutoModel.from_config(config, dtype=torch.float32)

    new = {name: tensor for name, tensor in old.items() if name in made.state_dict()}
    new["embeddings.word_embeddings.weight"] = _word_embeddings(
        old["embeddings.word_embeddings.weight"], source, target, config.vocab_size
    )
    # The rows before the offset are never read: what stands at padding is masked.
    new["embeddings.position_embeddings.weight"] = torch.cat(
        [torch.zeros(_position_offset(config), config.hidden_size), positions]
    )
    new["embeddings.token_type_embeddings.weight"] = (
        old["embeddings.token_type_embeddings.weight"][:1].repeat(config.type_vocab_size, 1)
        if config.type_vocab_size != encoder.config.type_vocab_size
        else old["embeddings.token_type_embeddings.weight"]
    )
    # Position numbers are buffers of the family's own.
    new |= {name: tensor for name, tensor in made.state_dict().items() if name.endswith("_ids")}
    made.load_state_dict(new, strict=True)
    return made.eval()


def _transplanted_config(
    family: str, source: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, *, num_positions: int
) -> PretrainedConfig:
    config_class = {"bert": BertConfig, "roberta": RobertaConfig, "xlm_roberta": XLMRobertaConfig}[family]
    layers = {name: getattr(source, name) for name in _LAYER_SETTINGS}
    vocabulary = {
        "vocab_size": max(tokenizer.get_vocab().values()) + 1,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    offset = 0 if family == "bert" else tokenizer.pad_token_id + 1
    return config_class(
        **layers,
        **vocabulary,
        max_position_embeddings=num_positions + offset,
        type_vocab_size=2 if family == "bert" else 1,
    )


def num_readable_tokens(config: PretrainedConfig) -> int:
    """Length of the longest text that a model of one of the `MODEL_TYPES` reads, in tokens."""
    return config.max_position_embeddings - _position_offset(config)


def _position_offset(config: PretrainedConfig) -> int:
    return 0 if config.model_type == "bert" else config.pad_token_id + 1


def _word_embeddings(
    old: Tensor, source: PreTrainedTokenizerBase, target: PreTrainedTokenizerBase, vocab_size: int
) -> Tensor:
    """[vocab_size, hidden]: of each target token, the mean over the source's pieces of its text.

    Where the text can be read in two ways, both count the same.
    """
    unknown = [source.unk_token_id]
    pieces = _Pieces(source.backend_tokenizer)
    readings = _Readings(target.backend_tokenizer)
    specials = _roles(source, target)
    token_of = {index: token for token, index in target.get_vocab().items()}
    bags = []
    owners = []  # the token that each bag is a reading of
    for index in range(vocab_size):
        if index in specials:
            ways = [[specials[index]]]
        elif index not in token_of:  # a gap in the numbering, which no text reaches
            ways = [unknown]
        else:
            ways = [way or unknown for way in pieces.of(readings.of(token_of[index]))]
        bags += ways
        owners += [index] * len(ways)
    means = _means(old, bags)
    shares = torch.bincount(torch.tensor(owners), minlength=vocab_size)
    total = torch.zeros(vocab_size, old.shape[1]).index_add(0, torch.tensor(owners), means)
    return total / shares[:, None]


def _means(table: Tensor, bags: Sequence[Sequence[int]]) -> Tensor:
    """[bags, hidden]: mean of the rows that each bag names."""
    lengths = torch.tensor([0, *(len(bag) for bag in bags[:-1])])
    return torch.nn.functional.embedding_bag(
        torch.tensor([index for bag in bags for index in bag]), table, lengths.cumsum(0), mode="mean"
    )


def _roles(source: PreTrainedTokenizerBase, target: PreTrainedTokenizerBase) -> dict[int, int]:
    """Source id of every special token of the target: that of the same role, or of the unknown token."""
    roles = dict.fromkeys(target.all_special_ids, source.unk_token_id)
    # The last ones win: in RoBERTa <s> is both bos and cls, in BERT only [CLS] exists.
    for role in ("bos", "eos", "unk", "mask", "pad", "sep", "cls"):
        target_id, source_id = (getattr(tokenizer, f"{role}_token_id") for tokenizer in (target, source))
        if target_id is not None and source_id is not None:
            roles[target_id] = source_id
    return roles


class _Readings:
    """What the tokens of a vocabulary say, whatever its way of marking words."""

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend
        self._spelling = _spelling(backend)
        self._byte_of = _bytes_of_letters()

    def of(self, token: str) -> Reading:
        match self._spelling:
            case "wordpiece":
                if token.startswith(_CONTINUATION):
                    return Reading(token.removeprefix(_CONTINUATION), False)
                return Reading(token, not _stands_alone(self._backend, token))
            case "byte_level":
                if not set(token) <= self._byte_of.keys():  # added later, as it is written
                    return Reading(token.strip(), token.startswith(" ") or None)
                text = bytes(self._byte_of[letter] for letter in token).decode("utf-8", "ignore")
                return Reading(text.strip(), text.startswith(" ") or None)
            case _:
                return Reading(token.replace(_METASPACE, " ").strip(), token.startswith(_METASPACE))


class _Pieces:
    """Ids that a tokenizer gives to a text."""

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend
        self._spelling = _spelling(backend)
        self._inside = _continuing_model(backend) if self._spelling == "wordpiece" else None

    def of(self, reading: Reading) -> list[list[int]]:
        """One list of ids for each way to read the text; an empty one where it is blank."""
        if reading.starts_word is not None:
            return [self._encode(reading.text, reading.starts_word)]
        if self._spelling == "byte_level":  # which leaves it as open
            return [self._encode(reading.text, False)]
        return [self._encode(reading.text, True), self._encode(reading.text, False)]

    def _encode(self, text: str, starts_word: bool) -> list[int]:
        words = _words(self._backend, text)
        if not words:
            return []
        first, *others = words
        model = self._backend.model
        match self._spelling:
            case "wordpiece":
                if self._inside and not starts_word and not _stands_alone(self._backend, text):
                    model = self._inside
            case "byte_level":
                first = _BYTE_SPACE * starts_word + first.removeprefix(_BYTE_SPACE)
            case _:
                first = _METASPACE * starts_word + first.removeprefix(_METASPACE)
        pieces = [*model.tokenize(first), *(piece for word in others for piece in self._backend.model.tokenize(word))]
        return [piece.id for piece in pieces]


def _continuing_model(backend: Tokenizer) -> models.WordPiece:
    """BERT's model that takes its first piece, too, from those that continue a word."""
    state = json.loads(backend.to_str())["model"]
    inner = {piece: index for piece, index in state["vocab"].items() if piece.startswith(_CONTINUATION)}
    first = {piece.removeprefix(_CONTINUATION): index for piece, index in inner.items()}
    return models.WordPiece(
        vocab={**first, **inner, state["unk_token"]: state["vocab"][state["unk_token"]]},
        unk_token=state["unk_token"],
        max_input_chars_per_word=state["max_input_chars_per_word"],
    )


def _words(backend: Tokenizer, text: str) -> list[str]:
    """The normalised words that the tokenizer's model is given one by one."""
    normalized = backend.normalizer.normalize_str(text) if backend.normalizer else text
    return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normalized)]


def _stands_alone(backend: Tokenizer, text: str) -> bool:
    """Whether BERT splits a text off the letter before it: punctuation and Chinese, which need no space.

    Opening brackets and quotes do begin a word.
    """
    if not text or unicodedata.category(text[0]) in ("Ps", "Pi"):
        return False
    return _words(backend, "a" + text)[0] == "a"


def _spelling(backend: Tokenizer) -> str:
    if json.loads(backend.to_str())["model"]["type"] == "WordPiece":
        return "wordpiece"
    return "byte_level" if _is_byte_level(backend) else "metaspace"


def _is_byte_level(backend: Tokenizer) -> bool:
    return '"ByteLevel"' in json.dumps(json.loads(backend.to_str())["pre_tokenizer"])


def _bytes_of_letters() -> dict[str, int]:
    """The byte that each letter of the byte-level alphabet stands for (GPT-2's: printable bytes are themselves)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    letters |= {chr(256 + place): byte for place, byte in enumerate(others)}
    assert letters.keys() == set(pre_tokenizers.ByteLevel.alphabet())
    return letters
