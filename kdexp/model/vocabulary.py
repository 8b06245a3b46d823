"""A smaller vocabulary for an encoder, by which some texts are tokenized exactly as before.

What is kept besides the tokens of those texts is what other text is spelled with, so that little becomes unknown that
was known: single characters, bytes, and tokens with a character that stands in no other.

- WordPiece takes the longest token that fits. Of fewer tokens the longest one is still there.
- BPE merges by rank. The merges that lead to a kept token are kept, with their intermediate tokens; of fewer merges
  the first one that applies is still there.
- Unigram takes the segmentation with the best score. Of fewer segmentations the best one is still there; the score of
  an unknown character hangs on the least score of all, so that this token stays too.

(Abdaoui et al. 2020, "Load What You Need: Smaller Versions of Multilingual BERT",
https://aclanthology.org/2020.sustainlp-1.16, trims WordPiece.)
"""

import copy
import json
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from kdexp.errors import UserError
from kdexp.model.encoder import Encoder, Trimming
from kdexp.model.static import StaticForSequenceClassification

_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


def kept_tokens(tokenizer: PreTrainedTokenizerBase, used: Iterable[int]) -> list[int]:
    """The ids to keep so that text of the tokens `used` is tokenized as before, in rising order.

    Raises:
        UserError: The tokenizer is none that can be trimmed.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    model = state["model"]
    ids = _ids_of(model)
    kept = set(used)
    kept |= {token["id"] for token in state["added_tokens"]} | set(tokenizer.all_special_ids)
    kept |= {ids[name] for name in (model.get("unk_token"),) if name in ids}
    if model.get("byte_fallback"):
        kept |= {ids[name] for name in (f"<0x{byte:02X}>" for byte in range(256)) if name in ids}
    letters = {token for token in ids if len(_text(token, model)) == 1}
    kept |= {ids[token] for token in letters}
    kept |= {number for token, number in ids.items() if not _is_spelled(token, letters, model)}
    match model["type"]:
        case "Unigram":
            scores = [score for _, score in model["vocab"]]
            kept |= {model["unk_id"], scores.index(min(scores))} - {None}
        case "BPE":
            kept |= _parts(kept, ids, model)
    return sorted(kept)


def trimmed(encoder: Encoder, kept: Sequence[int]) -> Encoder:
    """A copy with these tokens alone, renumbered in their order.

    Args:
        kept: What `kept_tokens` gave for its tokenizer.
    """
    model = copy.deepcopy(encoder.model)
    tables = token_tables(model)
    kept = _readable(kept, model)
    numbers = {old: new for new, old in enumerate(kept)}
    tokenizer = trimmed_tokenizer(encoder.tokenizer, numbers)
    for table in tables.values():
        table.weight = nn.Parameter(table.weight.detach()[torch.tensor(kept)].clone())
        table.num_embeddings = len(kept)
        if table.padding_idx is not None:
            table.padding_idx = numbers[table.padding_idx]
    model.config.vocab_size = len(kept)
    for name, value in model.config.to_dict().items():
        if name.endswith("_token_id") and isinstance(value, int):
            setattr(model.config, name, numbers.get(value))
    return Encoder(
        model,
        tokenizer,
        encoder.max_length,
        encoder.answers_task,
        notes=encoder.notes,
        trimming=Trimming(encoder, kept),
    )


def untrimmed(trained: PreTrainedModel, trimming: Trimming) -> Encoder:
    """A model that was trained with a trimmed vocabulary, with the other tokens as they were before training."""
    full = trimming.full.copy()
    weights = dict(trained.state_dict())
    with torch.no_grad():
        for name, table in token_tables(full.model).items():
            table.weight[torch.tensor(trimming.kept)] = weights.pop(f"{name}.weight")
    full.model.load_state_dict(weights, strict=False)
    return full


def trimmed_tokenizer(tokenizer: PreTrainedTokenizerBase, numbers: dict[int, int]) -> PreTrainedTokenizerFast:
    """The same with fewer tokens.

    Args:
        numbers: The new id of each that stays, in the order of the old ones.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    state = json.loads(backend.to_str())
    model = state["model"]
    ids = _ids_of(model)
    match model["type"]:
        case "Unigram":
            model["vocab"] = [entry for number, entry in enumerate(model["vocab"]) if number in numbers]
            model["unk_id"] = numbers.get(model["unk_id"])
        case _:
            model["vocab"] = {token: numbers[number] for token, number in ids.items() if number in numbers}
    if model["type"] == "BPE":
        stays = model["vocab"]
        pairs = [pair for pair in _merges(model) if {*pair, _merged(pair, model)} <= stays.keys()]
        model["merges"] = [list(pair) for pair in pairs]
    state["added_tokens"] = [token | {"id": numbers[token["id"]]} for token in state["added_tokens"]]
    _renumber(state["post_processor"], numbers)
    made = Tokenizer.from_str(json.dumps(state))
    special = {f"{role}_token": getattr(tokenizer, f"{role}_token") for role in _ROLES}
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        **{role: token for role, token in special.items() if token is not None},
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        model_input_names=list(tokenizer.model_input_names),
    )


def token_tables(model: PreTrainedModel) -> dict[str, nn.Embedding]:
    """What is looked up by a token's id, by its place in the model."""
    tables = [model.get_input_embeddings()]
    if isinstance(model, StaticForSequenceClassification):
        tables.append(model.scores)
    return {name: module for name, module in model.named_modules() if any(module is table for table in tables)}


def _readable(kept: Sequence[int], model: PreTrainedModel) -> list[int]:
    """With all up to the padding's id where the model counts positions from there on (RoBERTa): it must not move."""
    pad = model.config.pad_token_id
    counts_from_padding = any(
        isinstance(module, nn.Embedding) and module.padding_idx is not None and "position" in name
        for name, module in model.named_modules()
    )
    return sorted({*kept, *range(pad + 1)}) if counts_from_padding and pad is not None else list(kept)


def _ids_of(model: dict[str, Any]) -> dict[str, int]:
    match model["type"]:
        case "WordPiece" | "BPE":
            return dict(model["vocab"])
        case "Unigram":
            return {piece: number for number, (piece, _) in enumerate(model["vocab"])}
    raise UserError(
        "vocab",
        f"is trim, but a {model['type']} tokenizer does not spell words that it lacks",
        "choose a student whose tokenizer is WordPiece, BPE or Unigram",
    )


def _text(token: str, model: dict[str, Any]) -> str:
    """Without the signs that it continues or ends a word."""
    without = token.removeprefix(model.get("continuing_subword_prefix") or "")
    return without.removesuffix(model.get("end_of_word_suffix") or "") or token


def _is_spelled(token: str, letters: set[str], model: dict[str, Any]) -> bool:
    """Whether tokens of one character make it up."""
    text, prefix = _text(token, model), model.get("continuing_subword_prefix") or ""
    suffix = model.get("end_of_word_suffix") or ""
    begins, ends = token == text or not prefix, bool(suffix) and token.endswith(suffix)
    for place, letter in enumerate(text):
        start = "" if place == 0 and begins else prefix
        end = suffix if ends and place == len(text) - 1 else ""
        if start + letter + end not in letters:
            return False
    return True


def _parts(kept: set[int], ids: dict[str, int], model: dict[str, Any]) -> set[int]:
    """Whatever is merged on the way to a kept token, by any merge that ends in it."""
    made: dict[str, list[tuple[str, str]]] = {}
    for pair in _merges(model):
        made.setdefault(_merged(pair, model), []).append(pair)
    token_of = {number: token for token, number in ids.items()}
    found, open_tokens = set(), [token_of[number] for number in kept if number in token_of]
    while open_tokens:
        token = open_tokens.pop()
        if token not in found:
            found.add(token)
            open_tokens += [part for pair in made.get(token, ()) for part in pair]
    return {ids[token] for token in found}


def _merges(model: dict[str, Any]) -> list[tuple[str, str]]:
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
    return [(first, second) for first, second in pairs]


def _merged(pair: tuple[str, str], model: dict[str, Any]) -> str:
    return pair[0] + pair[1].removeprefix(model.get("continuing_subword_prefix") or "")


def _renumber(processor: Any, numbers: dict[int, int]) -> None:
    """The ids of special tokens in a post-processor, in place: lists `ids`, or pairs of a token and its id."""
    match processor:
        case {"type": "Sequence", "processors": processors}:
            for part in processors:
                _renumber(part, numbers)
        case {"type": "TemplateProcessing", "special_tokens": tokens}:
            for token in tokens.values():
                token["ids"] = [numbers[number] for number in token["ids"]]
        case {"sep": _, "cls": _}:
            for name in ("sep", "cls"):
                processor[name][1] = numbers[processor[name][1]]
