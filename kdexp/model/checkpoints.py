"""Checkpoints: found, read, and refused with the reason where they cannot be."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from kdexp import hub
from kdexp.errors import UserError
from kdexp.model.config import ModelConfig
from kdexp.model.encoder import Encoder, model_class
from kdexp.model.families import FAMILIES
from kdexp.task.kinds.base import TaskKind

logger = logging.getLogger(__name__)

_FAMILY_OF_TYPE = {"deberta_v2": "deberta"}
"""Where kdexp calls a family otherwise than transformers its model type."""


def load_checkpoint(
    role: str, config: ModelConfig, kind: TaskKind, *, new_head: bool, foreign_head: bool = False
) -> Encoder:
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
    except Exception as error:
        raise unreadable(role, checkpoint, error) from error
    _refuse_other_family(role, config, model_config)
    tokenizer = load_tokenizer(role, config, where)
    _keep_layers(role, config, model_config)
    has_head = any(kind.head in name for name in model_config.architectures or [])
    keep_head = has_head and not new_head
    if keep_head:
        _name_classes(role, config, model_config)
        if not foreign_head or "regression" in (model_config.problem_type, kind.head_config().get("problem_type")):
            _refuse_other_question(role, config, model_config, kind)
    else:
        model_config.update(kind.head_config())
    # Half-precision checkpoints are trained in float32: a small update would vanish in 16 bits.
    options |= {"config": model_config, "dtype": torch.float32, "use_safetensors": not config.allow_pickle}
    try:
        model, missing_keys = _load_model(where, kind, keep_head, options)
    except Exception as error:
        raise unreadable(role, checkpoint, error) from error
    refuse_missing_weights(role, config, model_config, missing_keys, with_head=keep_head)
    refuse_too_long(role, config, model)
    _agree(role, model, tokenizer)
    return Encoder(model, tokenizer, config.max_length, answers_task=keep_head)


def _load_model(
    where: Path | str, kind: TaskKind, keep_head: bool, options: dict[str, Any]
) -> tuple[PreTrainedModel, Iterable[str]]:
    """The model, and the weights that the checkpoint lacks."""
    if keep_head:
        model, report = model_class(kind).from_pretrained(where, output_loading_info=True, **options)
    else:
        encoder, report = AutoModel.from_pretrained(where, output_loading_info=True, **options)
        model = model_class(kind).from_config(options["config"], dtype=torch.float32)
        model.base_model.load_state_dict(encoder.state_dict(), strict=False)
    return model, report["missing_keys"]


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
    refused = None if folder.is_dir() else hub.refusal(error, f"{role}.revision")
    if refused:
        return UserError(setting, f"cannot load {checkpoint}: {refused[0]}", refused[1])
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


def load_tokenizer(role: str, config: ModelConfig, where: Path | str) -> PreTrainedTokenizerBase:
    """Load a checkpoint's own tokenizer.

    Raises:
        UserError: It has none, or none that can say where in a text its tokens stand.
    """
    checkpoint, setting = config.checkpoint, f"{role}.checkpoint"
    remedy = "write it there with tokenizer.save_pretrained, or choose a checkpoint that has it"
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, use_fast=True, **loading_options(config, where))
    # The libraries below raise bare exceptions too, on files that anyone may have written.
    except Exception as error:
        if isinstance(where, Path) and not _has_tokenizer_files(where, ()):
            raise UserError(setting, f"{checkpoint} has no tokenizer files", remedy) from error
        raise unreadable(role, f"{checkpoint}", error) from error
    files = tuple((tokenizer.vocab_files_names or {}).values())
    # Where there are none, transformers makes up a vocabulary of nothing but special tokens.
    is_made_up = bool(files) and not _has_words(tokenizer)
    if is_made_up or (files and isinstance(where, Path) and not _has_tokenizer_files(where, files)):
        raise UserError(setting, f"{checkpoint} has no tokenizer files, expected {' or '.join(files)}", remedy)
    if not tokenizer.is_fast:
        raise UserError(
            setting,
            f"the tokenizer of {checkpoint} ({type(tokenizer).__name__}) has no fast version, which kdexp needs",
            "choose a checkpoint with a tokenizer.json",
        )
    return tokenizer


def _has_tokenizer_files(folder: Path, names: Sequence[str]) -> bool:
    patterns = names or ("tokenizer.json", "vocab*", "*.model", "merges.txt", "tekken.json")
    return any(path.is_file() for pattern in (*patterns, "tokenizer.json") for path in folder.glob(pattern))


def _has_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether any token of the vocabulary is part of a text."""
    special = set(tokenizer.all_special_tokens)
    return any(token not in special and any(map(str.isalnum, token)) for token in tokenizer.get_vocab())


def _refuse_other_family(role: str, config: ModelConfig, model_config: PretrainedConfig) -> None:
    """Refuse a family that is not the checkpoint's: runs would be tagged, and compared, as what they are not."""
    own = family_of(model_config)
    if config.family != own and {config.family, own} & set(FAMILIES):
        raise UserError(
            f"{role}.family",
            f"is {config.family}, but {config.checkpoint} is a {own} model",
            f"choose {role}={own}, or add {role}.family={own}" if own in FAMILIES else f"add {role}.family={own}",
        )


def family_of(config: PretrainedConfig) -> str:
    """What kdexp calls the model type."""
    own = config.model_type.replace("-", "_")
    return _FAMILY_OF_TYPE.get(own, own)


def _refuse_other_question(role: str, config: ModelConfig, model_config: PretrainedConfig, kind: TaskKind) -> None:
    """Refuse a head whose outputs mean something else, such as a multi-label one, which softmax would distort."""
    own, wanted = model_config.problem_type, kind.head_config().get("problem_type")
    if own is not None and wanted is not None and own != wanted:
        raise UserError(
            f"{role}.checkpoint",
            f"the head of {config.checkpoint} is trained for {own}, and the task is {wanted}",
            f"give it a new head with {role}.finetune=true, or choose a checkpoint whose classes exclude each other",
        )


def refuse_too_long(role: str, config: ModelConfig, model: PreTrainedModel) -> None:
    """Refuse a length for which the model has no positions.

    Raises:
        UserError: With the greatest.
    """
    positions = num_positions(model)
    if positions is not None and config.max_length > positions:
        reader = config.checkpoint or "the teacher"
        raise UserError(f"{role}.max_length", f"got {config.max_length}", f"{reader} reads at most {positions}")


_POSITION_TABLES = ("position_embeddings", "position_embedding", "embed_positions", "wpe")


def num_positions(model: PreTrainedModel) -> int | None:
    """How many tokens a model can tell the places of; None where it says no limit.

    RoBERTa and its relatives number positions from the padding's id + 1, so that the first rows of their table are
    never read; they declare that row as the table's padding. Others (OPT) call it the table's offset.
    """
    for name, table in model.named_modules():
        if isinstance(table, nn.Embedding) and name.rpartition(".")[2] in _POSITION_TABLES:
            unread = getattr(table, "offset", 0) if table.padding_idx is None else table.padding_idx + 1
            return int(table.num_embeddings - unread)
    positions = getattr(model.config, "max_position_embeddings", None)
    return positions if positions and positions > 0 else None


def _agree(role: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make up for what a checkpoint's model and tokenizer do not know of each other."""
    positions = num_positions(model)
    if positions is not None:  # whoever uses the saved student elsewhere is not led beyond its table
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    _agree_on_padding(model.config, tokenizer)
    _embed_added_tokens(role, model, tokenizer)


def _agree_on_padding(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Both need a padding token, which batches are filled with; the attention mask keeps it from being read."""
    if tokenizer.pad_token is None:
        own = None if config.pad_token_id is None else tokenizer.convert_ids_to_tokens(config.pad_token_id)
        tokenizer.pad_token = own or tokenizer.eos_token or tokenizer.sep_token or tokenizer.unk_token
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id


def _embed_added_tokens(role: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Tokens that were added to the tokenizer alone begin as what the model knows least about, the unknown token."""
    embedding = model.get_input_embeddings()
    num_known, num_tokens = embedding.num_embeddings, max(tokenizer.get_vocab().values()) + 1
    if num_tokens <= num_known:
        return
    unknown = tokenizer.unk_token_id
    with torch.no_grad():
        known = embedding.weight if unknown is None or unknown >= num_known else embedding.weight[[unknown]]
        row = known.mean(dim=0)
        model.resize_token_embeddings(num_tokens, mean_resizing=False)
        model.get_input_embeddings().weight[num_known:] = row
    logger.warning(
        "%s: its tokenizer has %d tokens that its embedding lacks; they begin as the unknown token does",
        role,
        num_tokens - num_known,
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
