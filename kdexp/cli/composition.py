"""From the composed config to the one that a run gets: complete, and within range.

`resolve` turns what Hydra composed into plain dataclasses, fills in every default that depends on another
setting, and refuses values out of range before anything is built. Past that point nobody sees a
DictConfig, and nothing is left to guess: the resolved config is what is logged.

This module imports neither torch nor transformers.
"""

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from kdexp.cli.conf_dir import CONF_DIR
from kdexp.cli.explain import undeclared_term
from kdexp.config import Config, teacher_settings
from kdexp.errors import UserError
from kdexp.loss.base import Loss
from kdexp.loss.logit import LOSSES
from kdexp.loss.terms import TERMS
from kdexp.model.config import ModelConfig
from kdexp.task.config import EmbeddedTaskConfig, FileTaskConfig, PublicTaskConfig
from kdexp.training.config import TrainConfig

# Compact sizes by role: a teacher large enough to be worth imitating and a student small enough to
# need it, both trainable in seconds on two CPU cores; measured on the embedded tasks.
_COMPACT_SIZES = {
    "teacher": {"num_layers": 2, "hidden_size": 64, "num_heads": 4, "vocab_size": 800},
    "student": {"num_layers": 1, "hidden_size": 24, "num_heads": 2, "vocab_size": 800},
}
# From scratch a small model needs a large rate and several passes; a pretrained one the usual
# fine-tuning recipe (Devlin et al. 2019, arXiv 1810.04805, appendix A.3).
_FROM_SCRATCH = {
    "teacher": {"epochs": 6, "learning_rate": 2e-3},
    "student": {"epochs": 4, "learning_rate": 3e-3},
}
_PRETRAINED = {"epochs": 3, "learning_rate": 5e-5}


def resolve(composed: DictConfig) -> Config:
    """Turn the composed config into plain dataclasses, complete and within range.

    Raises:
        UserError: A value is out of range, or a setting does not belong to the chosen option.
    """
    _refuse_missing(composed)
    _refuse_unknown(composed)
    config: Config = _build(composed)
    for name, further in config.more_teachers.items():
        further.name = name  # two of one option are told apart
    for teacher in teacher_settings(config).values():
        _complete(teacher, "teacher", teacher.train)
    _complete(config.student, "student", config.train)
    config.cache_dir = str(Path(config.cache_dir).expanduser().absolute())
    _check(config)
    return config


def refuse_merged_options(choices: Mapping[str, Any]) -> None:
    """Refuse `teacher=[bert,roberta]`, which Hydra would merge into one teacher with settings of both.

    Args:
        choices: Hydra's chosen option by group; a group with a list of options is missing from it.

    Raises:
        UserError: A group that takes one option was given several.
    """
    for group in ("teacher", "student", "task", "loss", "hardware", "train", "tracking"):
        if group not in choices:
            remedy = "choose one, or compare them in a sweep with -m"
            if group == "teacher":
                remedy += "; several teachers at once are teacher=bert 'more_teachers=[roberta,electra]'"
            raise UserError(group, "got a list of options, which would be merged into one", remedy)


def _refuse_missing(composed: DictConfig) -> None:
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise UserError(missing[0], "is not set", f"add {missing[0]}=<value>")


def _refuse_unknown(node: DictConfig, prefix: str = "") -> None:
    """Refuse keys that `+key=value` slipped past the schema: Hydra accepts these without a word."""
    schema = OmegaConf.get_type(node)
    is_typed = isinstance(schema, type) and is_dataclass(schema)
    known = [item.name for item in fields(schema)] if is_typed else []  # type: ignore[arg-type]
    for key in node:
        name = f"{prefix}{key!s}"
        if is_typed and key not in known:
            raise UserError(name, "no such setting", f"expected one of {', '.join(known)}")
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none():
            _refuse_unknown(child, f"{name}.")


def _build(composed: DictConfig) -> Any:
    """The dataclasses that a config describes, with the setting's path on what a constructor refuses."""
    try:
        return OmegaConf.to_object(composed)
    except UserError as error:
        raise error.under(_path_of_refusal(composed)) from None


def _path_of_refusal(node: DictConfig) -> str:
    """Where the constructor stands that refuses its settings; empty for the node itself."""
    for key in node:
        child = node[key]
        if isinstance(child, DictConfig):
            try:
                OmegaConf.to_object(child)
            except UserError:
                return ".".join(filter(None, (str(key), _path_of_refusal(child))))
    return ""


def _complete(model: ModelConfig, role: str, train: TrainConfig) -> None:
    """Fill in what depends on whether the model is compact or a checkpoint."""
    if model.checkpoint is None:
        for name, size in _COMPACT_SIZES[role].items():
            if getattr(model, name) is None:
                setattr(model, name, size)
    schedule = _FROM_SCRATCH[role] if model.checkpoint is None else _PRETRAINED
    if train.learning_rate is None:
        train.learning_rate = schedule["learning_rate"]
    if train.epochs is None:
        train.epochs = int(schedule["epochs"])


def _check(config: Config) -> None:
    for role, teacher in teacher_settings(config).items():
        _check_model(role, teacher)
        _check_train(f"{role}.train", teacher.train)
        if teacher.cache_hidden is not None:
            _require_weight(f"{role}.cache_hidden", teacher.cache_hidden)
        _require_positive(f"{role}.weight", teacher.weight)
        _require_at_least(f"{role}.seed", teacher.seed, 0)
    _check_more_teachers(config)
    _check_model("student", config.student)
    _check_train("train", config.train)
    _check_terms(config.loss)
    task = config.task
    for size in ("train_size", "validation_size", "test_size"):
        value = getattr(task, size, None)
        if value is not None:
            _require_at_least(f"task.{size}", value, 1)
    if isinstance(task, EmbeddedTaskConfig):
        _require_at_least("task.transfer_size", task.transfer_size, 0)
        _require_between("task.label_noise", task.label_noise, 0, 1, "0 (none) to 1 (every label)")
    if config.hardware.num_threads is not None:
        _require_at_least("hardware.num_threads", config.hardware.num_threads, 1)
    _require_at_least("hardware.num_workers", config.hardware.num_workers, 0)
    _require_at_least("seed", config.seed, 0)
    _require_positive("cross_family.margin", config.cross_family.margin)
    for role in ("teachers", "students"):
        value = getattr(config.cross_family, role)
        if value is not None and not (isinstance(value, dict) and set(value) <= set(config.families)):
            raise UserError(
                f"cross_family.{role}", f"got {value}", f"expected {{family: checkpoint}} for {config.families}"
            )
    if not config.study.strip():
        raise UserError("study", "is empty", "give the study a name, such as study=my_first_sweep")


def _check_more_teachers(config: Config) -> None:
    name = config.teacher.name
    if name in config.more_teachers:
        raise UserError(
            "more_teachers",
            f"{name} is the first teacher already",
            f"choose another option, or call the second one differently: +teacher@more_teachers.{name}_2={name} "
            f"more_teachers.{name}_2.seed=1",
        )
    if config.more_teachers and config.loss.terms:
        raise UserError(
            "loss.terms",
            f"got {', '.join(config.loss.terms)}, but terms compare with the inside of one teacher, "
            f"not of {len(config.more_teachers) + 1}",
            "remove more_teachers, or choose a loss without terms",
        )


def _check_terms(loss: Loss) -> None:
    for name, term in loss.terms.items():
        if type(term) is not TERMS.get(name):
            raise undeclared_term(name)


def _check_model(role: str, model: ModelConfig) -> None:
    for name in ("num_layers", "hidden_size", "num_heads"):
        value = getattr(model, name)
        if value is not None:
            _require_at_least(f"{role}.{name}", value, 1)
    if model.vocab_size is not None:
        # Below this a byte-level vocabulary cannot hold its 256 bytes and the special tokens.
        _require_at_least(f"{role}.vocab_size", model.vocab_size, 300)
    _require_at_least(f"{role}.max_length", model.max_length, 8)
    if model.checkpoint is not None:
        for name in ("hidden_size", "num_heads", "vocab_size"):
            if getattr(model, name) is not None:
                raise UserError(
                    f"{role}.{name}",
                    f"cannot be set for the checkpoint {model.checkpoint}, which decides it itself",
                    f"remove {role}.{name}, or remove {role}.checkpoint for a compact model",
                )
        if model.transplant is not None and model.labels is not None:
            raise UserError(
                f"{role}.labels",
                f"names the classes of a published head, but with {role}.transplant the head is made anew",
                f"remove {role}.labels",
            )
    elif model.transplant is not None:
        raise UserError(
            f"{role}.transplant",
            f"got {model.transplant}, but a compact model has no pretrained encoder to transplant",
            f"choose one with {role}.checkpoint=<hub id or folder>",
        )
    elif model.labels is not None:
        raise UserError(
            f"{role}.labels",
            "names the classes of a published head, but this model is compact",
            f"remove it, or choose a checkpoint with {role}.checkpoint=<hub id or folder>",
        )


def _check_train(prefix: str, train: TrainConfig) -> None:
    for name in ("epochs", "batch_size", "gradient_accumulation", "eval_batch_size"):
        _require_at_least(f"{prefix}.{name}", getattr(train, name), 1)
    if train.max_steps is not None:
        _require_at_least(f"{prefix}.max_steps", train.max_steps, 1)
    assert train.learning_rate is not None
    _require_positive(f"{prefix}.learning_rate", train.learning_rate)
    _require_positive(f"{prefix}.max_grad_norm", train.max_grad_norm)
    _require_between(f"{prefix}.warmup_ratio", train.warmup_ratio, 0, 1, "0 to 1")
    _require_between(f"{prefix}.label_smoothing", train.label_smoothing, 0, 1, "0 to 1")
    _require_weight(f"{prefix}.weight_decay", train.weight_decay)


def _require_between(setting: str, value: float, low: float, high: float, meaning: str) -> None:
    if not low <= value <= high:  # also refuses nan
        raise UserError(setting, f"got {value}", f"expected a number from {meaning}")


def _require_positive(setting: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise UserError(setting, f"got {value}", "expected a finite number above 0")


def _require_weight(setting: str, value: float) -> None:
    if not (value >= 0 and math.isfinite(value)):
        raise UserError(setting, f"got {value}", "expected a finite number of at least 0")


def _require_at_least(setting: str, value: int, low: int) -> None:
    if value < low:
        raise UserError(setting, f"got {value}", f"expected a whole number of at least {low}")


def register_schemas() -> None:
    """Tell Hydra the types. `base_config` types every group; tasks and losses differ by option."""
    store = ConfigStore.instance()
    store.store(name="base_config", node=Config)
    for name, schema in {
        "embedded": EmbeddedTaskConfig,
        "public": PublicTaskConfig,
        "file": FileTaskConfig,
    }.items():
        store.store(group="schema/task", name=name, node=schema)
    for name, loss_schema in LOSSES.items():
        store.store(group="schema/loss", name=name, node=loss_schema)
    for name, term_schema in TERMS.items():
        store.store(group="schema/terms", name=name, node=term_schema)
    # Every teacher can be a further one too, under its own name.
    for option in CONF_DIR.glob("teacher/*.yaml"):
        name = option.stem
        node = {"defaults": [f"/teacher/{name}@_here_"]}
        store.store(group="more_teachers", name=name, node=node, package=f"more_teachers.{name}")
