"""Pretrained encoders that were given another family's tokens: for a run, or written to a folder."""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from kdexp import hub
from kdexp.cache import Cache
from kdexp.errors import UserError
from kdexp.fingerprint import weights_fingerprint
from kdexp.model.checkpoints import (
    find_checkpoint,
    load_tokenizer,
    loading_options,
    refuse_missing_weights,
    unreadable,
)
from kdexp.model.config import ModelConfig
from kdexp.model.tokens import tokenizer_fingerprint
from kdexp.model.transplant import family_of, num_readable_tokens, transplant

logger = logging.getLogger(__name__)

_USAGE = "expected: python -m kdexp transplant <checkpoint> <tokenizer> <target folder>"

AnyModelConfig = TypeVar("AnyModelConfig", bound=ModelConfig)


def transplanted(role: str, config: AnyModelConfig, cache: Cache) -> AnyModelConfig:
    """The config to load where `transplant` is set: that of the transplanted encoder, made once and kept in the cache.

    Raises:
        UserError: The checkpoint or the tokenizer cannot be loaded, or is of no family that can be made; or the
            config names another family than the transplanted encoder's.
    """
    if config.transplant is None:
        return config
    setting = f"{role}.transplant"
    target = _load_tokenizer(setting, config.transplant)
    family = _family_of(setting, target)
    if config.family != family:
        raise UserError(
            f"{role}.family",
            f"is {config.family}, but with the tokens of {config.transplant} it is a {family} model",
            f"add {role}.family={family}",
        )
    encoder, source = load_headless(role, config)

    def build(folder: Path, _: Path) -> None:
        _write(_transplant(role, encoder, source, target), target, folder)

    parts = {
        "config": hashlib.sha256(
            json.dumps(encoder.config.to_dict(), sort_keys=True, default=str).encode()
        ).hexdigest(),
        "encoder": weights_fingerprint(encoder.state_dict()),
        "source": tokenizer_fingerprint(source),
        "target": tokenizer_fingerprint(target),
        "target_specials": target.special_tokens_map,
    }
    entry = cache.folder("transplanted", parts, build)
    logger.info(
        "%s: encoder of %s with the tokens of %s, %s",
        role,
        config.checkpoint,
        config.transplant,
        "kept from an earlier run" if entry.hit else "made now",
    )
    return replace(config, checkpoint=str(entry.path), transplant=None, revision=None)


def main(arguments: Sequence[str]) -> None:
    """`python -m kdexp transplant <checkpoint> <tokenizer> <target folder>`: write a transplanted encoder to a folder.

    Raises:
        UserError: An argument is missing or wrong. Nothing is then written.
    """
    if len(arguments) != 3:
        raise UserError("transplant", f"got {len(arguments)} arguments", _USAGE)
    checkpoint, tokenizer, folder = arguments
    place = Path(folder).expanduser().absolute()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UserError("transplant.target", f"{place} is there already", "name a new folder")
    transformers.utils.logging.disable_progress_bar()
    target = _load_tokenizer("transplant.tokenizer", tokenizer)
    family = _family_of("transplant.tokenizer", target)
    config = ModelConfig(name=place.name, family=family, checkpoint=checkpoint)
    try:
        encoder, source = load_headless("transplant", config)
    except UserError as error:  # whose remedies are a run's settings
        remedy = "name a folder that save_pretrained wrote (safetensors), or a hub id that can be reached"
        raise UserError("transplant.checkpoint", error.problem, remedy) from error
    made = _transplant("transplant", encoder, source, target)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        # Written beside its place and renamed, so that a folder of that name is a whole one.
        with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as beside:
            _write(made, target, Path(beside, "encoder"))
            os.replace(Path(beside, "encoder"), place)
    except OSError as error:
        raise UserError("transplant.target", f"cannot write {place}: {error}", "choose another folder") from error
    from rich.console import Console

    Console(highlight=False, soft_wrap=True).print(
        f"wrote {place}: {type(made).__name__}, {sum(weight.numel() for weight in made.parameters()):,} parameters, "
        f"{made.config.vocab_size:,} tokens; use it with teacher={family} teacher.checkpoint={place}",
        markup=False,
    )


def load_headless(role: str, config: ModelConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A checkpoint's encoder without any head, in float32, and its tokenizer.

    Raises:
        UserError: It is not there, or not readable.
    """
    assert config.checkpoint is not None
    where = find_checkpoint(role, config.checkpoint)
    options = loading_options(config, where)
    # A pooler that the checkpoint lacks is drawn at random: the same each time, as it enters the key.
    torch.manual_seed(0)
    try:
        model_config = AutoConfig.from_pretrained(where, **options)
        encoder, report = AutoModel.from_pretrained(
            where,
            config=model_config,
            dtype=torch.float32,
            use_safetensors=not config.allow_pickle,
            output_loading_info=True,
            **options,
        )
    except Exception as error:
        raise unreadable(role, config.checkpoint, error) from error
    refuse_missing_weights(role, config, model_config, report["missing_keys"], with_head=False)
    return encoder, load_tokenizer(role, config, where)


def _load_tokenizer(setting: str, name: str) -> PreTrainedTokenizerBase:
    folder = Path(name).expanduser()
    remedy = "name a folder that holds tokenizer.json, or a hub id"
    if not folder.is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise UserError(setting, f"no folder {folder}", remedy)
    where = folder if folder.is_dir() else name
    options = {} if folder.is_dir() else {"local_files_only": not hub.is_reachable()}
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, use_fast=True, **options)
    except Exception as error:
        raise UserError(setting, f"cannot load {name}: {' '.join(str(error).split())[:200]}", remedy) from error
    if not tokenizer.is_fast:
        raise UserError(setting, f"{name} is no fast tokenizer", remedy)
    return tokenizer


def _family_of(setting: str, tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        return family_of(tokenizer)
    except UserError as error:
        raise UserError(setting, error.problem, error.remedy) from None


def _transplant(
    role: str, encoder: PreTrainedModel, source: PreTrainedTokenizerBase, target: PreTrainedTokenizerBase
) -> PreTrainedModel:
    try:
        return transplant(encoder, source, target)
    except UserError as error:
        raise UserError(f"{role}.checkpoint", error.problem, error.remedy) from None


def _write(made: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    tokenizer.model_max_length = min(tokenizer.model_max_length, num_readable_tokens(made.config))
    tokenizer.save_pretrained(folder)
    made.save_pretrained(folder)
