"""Checkpoints: found, read, and refused with the reason where they cannot be."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, PretrainedConfig

from kdexp import hub
from kdexp.errors import UserError
from kdexp.model.config import ModelConfig
from kdexp.model.encoder import Encoder, model_class
from kdexp.task.kind import TaskKind


def load_checkpoint(role: str, config: ModelConfig, kind: TaskKind, *, new_head: bool) -> Encoder:
    """Load a checkpoint with its tokenizer, and with a new head where it has none for the task.

    Raises:
        UserError: It is not there, not readable, or not fit for the task.
    """
    checkpoint = config.checkpoint
    assert checkpoint is not None
    where = find_checkpoint(role, checkpoint)
    options = loading_options(config, where)
    try:
        model_config = AutoConfig.from_pretrained(where, **options)
        tokenizer = AutoTokenizer.from_pretrained(where, use_fast=True, **options)
    except (OSError, ValueError, KeyError) as error:
        raise unreadable(role, checkpoint, error) from error
    _keep_layers(role, config, model_config)
    _refuse_too_long(role, config, model_config)
    has_head = any(kind.head in name for name in model_config.architectures or [])
    keep_head = has_head and not new_head
    if keep_head:
        _name_classes(role, config, model_config)
    else:
        model_config.update(kind.head_config())
    # Half-precision checkpoints are trained in float32: a small update would vanish in 16 bits.
    options |= {"config": model_config, "dtype": torch.float32, "use_safetensors": not config.allow_pickle}
    try:
        if keep_head:
            model, report = model_class(kind).from_pretrained(where, output_loading_info=True, **options)
        else:
            encoder, report = AutoModel.from_pretrained(where, output_loading_info=True, **options)
            model = model_class(kind).from_config(model_config, dtype=torch.float32)
            model.base_model.load_state_dict(encoder.state_dict(), strict=False)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise unreadable(role, checkpoint, error) from error
    refuse_missing_weights(role, config, model_config, report["missing_keys"], with_head=keep_head)
    return Encoder(model, tokenizer, config.max_length, answers_task=keep_head)


def refuse_missing_weights(
    role: str, config: ModelConfig, model_config: PretrainedConfig, missing_keys: Iterable[str], *, with_head: bool
) -> None:
    """Refuse weights that transformers made up.

    A pooler may be missing: many encoders have none, and it is trained with the new head.

    Raises:
        UserError: Others are missing as well.
    """
    missing = sorted(name for name in missing_keys if "pooler" not in name or with_head)
    if missing:
        raise UserError(
            f"{role}.checkpoint",
            f"{config.checkpoint} lacks {len(missing)} weights of a {model_config.model_type} model, "
            f"such as {missing[0]}",
            "is it a checkpoint of another architecture?",
        )


def loading_options(config: ModelConfig, where: Path | str) -> dict[str, Any]:
    """What every `from_pretrained` of this checkpoint is told; folders have no revisions."""
    options: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    if isinstance(where, str):
        options |= {"revision": config.revision, "local_files_only": not hub.is_reachable()}
    return options


def find_checkpoint(role: str, checkpoint: str) -> Path | str:
    """A folder on this machine, or a hub id.

    Raises:
        UserError: It reads like a folder, but is none that holds a model.
    """
    folder = Path(checkpoint).expanduser()
    looks_local = checkpoint.startswith((".", "/", "~")) or checkpoint.count("/") > 1 or folder.exists()
    if not looks_local:
        return checkpoint
    if not folder.is_dir():
        raise UserError(f"{role}.checkpoint", f"no folder {folder}", "expected a folder that save_pretrained wrote")
    if not (folder / "config.json").is_file():
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise UserError(
            f"{role}.checkpoint",
            f"{folder} has no config.json (it holds: {found})",
            "expected a folder that save_pretrained wrote",
        )
    return folder


def unreadable(role: str, checkpoint: str, error: Exception) -> UserError:
    """Tell why transformers could not load a checkpoint, in the person's terms."""
    folder = Path(checkpoint).expanduser()
    setting = f"{role}.checkpoint"
    if not folder.is_dir() and not hub.is_reachable():
        return UserError(
            setting,
            f"cannot load {checkpoint}: the hub does not answer, and no earlier download is kept here",
            f"give a local folder with {role}.checkpoint=<folder>, or a compact model such as {role}=bert",
        )
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        pickles = sorted(path.name for path in [*folder.glob("*.bin"), *folder.glob("*.pt")])
        if pickles:
            return UserError(
                setting,
                f"{folder} holds its weights as a pickle only ({pickles[0]}), which may run code when read",
                f"convert it to safetensors, or trust it with {role}.allow_pickle=true",
            )
        return UserError(setting, f"{folder} holds no weights", "expected model.safetensors beside config.json")
    reason = " ".join(str(error).split())
    if "safetensors" in reason and not folder.is_dir():
        return UserError(
            setting,
            f"{checkpoint} is published as a pickle only, which may run code when read",
            f"trust it with {role}.allow_pickle=true, or convert it to safetensors",
        )
    return UserError(
        setting,
        f"cannot load {checkpoint}: {reason[:300]}",
        "check the name, the revision and the folder's files",
    )


def _keep_layers(role: str, config: ModelConfig, model_config: PretrainedConfig) -> None:
    if config.num_layers is None:
        return
    available = model_config.num_hidden_layers
    if config.num_layers > available:
        raise UserError(
            f"{role}.num_layers", f"got {config.num_layers}", f"{config.checkpoint} has {available} layers"
        )
    model_config.num_hidden_layers = config.num_layers


def _refuse_too_long(role: str, config: ModelConfig, model_config: PretrainedConfig) -> None:
    positions = getattr(model_config, "max_position_embeddings", None)
    if positions is None or positions <= 0:
        return
    # RoBERTa numbers its positions from pad_token_id + 1, so two of its table's rows are never read.
    if model_config.model_type in ("roberta", "xlm-roberta"):
        positions -= model_config.pad_token_id + 1
    if config.max_length > positions:
        raise UserError(
            f"{role}.max_length", f"got {config.max_length}", f"{config.checkpoint} reads at most {positions}"
        )


def _name_classes(role: str, config: ModelConfig, model_config: PretrainedConfig) -> None:
    if not config.labels:
        return
    if len(config.labels) != model_config.num_labels:
        raise UserError(
            f"{role}.labels",
            f"names {len(config.labels)} classes, but the head of {config.checkpoint} has {model_config.num_labels}",
            "give one name per output, in its order",
        )
    model_config.id2label = dict(enumerate(config.labels))
    model_config.label2id = {name: index for index, name in enumerate(config.labels)}
