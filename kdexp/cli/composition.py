"""The door: from what Hydra composed to the dataclasses that a run gets.

Past it nobody sees a DictConfig. Ranges and defaults stand with the settings; here their refusals get the path of
the setting that a person typed.

This module imports neither torch nor transformers.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdexp.cli.chosen import held_value
from kdexp.cli.completion import fields_at
from kdexp.cli.conf_dir import CONF_DIR
from kdexp.cli.config import SweeperConfig
from kdexp.cli.explain import explain, unknown_setting
from kdexp.cli.folders import register_resolvers
from kdexp.cli.help import GROUPS, options
from kdexp.cli.hydra_adapter import share_types
from kdexp.cli.parts import refuse_undeclared
from kdexp.config import SCHEMAS, Config
from kdexp.errors import UserError
from kdexp.task.config import KindName


def resolve(composed: DictConfig, choices: Mapping[str, Any] | None = None) -> Config:
    """Turn the composed config into plain dataclasses, complete and within range.

    Args:
        choices: Hydra's chosen option by group, where they are known; a group that was given a list of options is
            missing from it.

    Raises:
        UserError: A value is out of range, or a setting does not belong to the chosen option.
    """
    if choices is not None:
        _refuse_merged_options(choices)
    try:
        _refuse_missing(composed)
        _refuse_unknown(composed)
        config: Config = build(composed)
    except OmegaConfBaseException as error:
        raise explain(error) from error
    refuse_undeclared(config)
    return config


def build(node: DictConfig) -> Any:
    """The dataclass that a node stands for, with the setting's path on what a constructor refuses."""
    try:
        return OmegaConf.to_object(node)
    except UserError as error:
        raise error.under(_refused_part(node)) from error.__cause__


def refuse_lax_values(overrides: Sequence[str]) -> None:
    """Refuse what would be taken otherwise than meant: `student=null`, `baseline=7`, `export=[none,onnx]`.

    Raises:
        UserError: A group was given no option, a setting that is true or false a number, or nothing beside something.
    """
    for name, _, value in (override.partition("=") for override in overrides):
        if name in GROUPS and value == "null":
            raise UserError(name, "got null", f"expected one of {', '.join(options(name))}")
        if name == "export":
            _refuse_none_of_several(value)
        path, _, field = name.rpartition(".")
        is_number = re.fullmatch(r"[-+.\d]*\d", value) and value not in ("0", "1")
        if is_number and (fields_at(path, overrides) or {}).get(field) is bool:
            raise UserError(name, f"got {value}", "expected true or false")


def _refuse_none_of_several(value: str) -> None:
    """`none` adds nothing to a list: what it was meant to remove would be exported all the same."""
    for listed in re.findall(r"\[([^\]]*)\]", value):
        names = [name.strip() for name in listed.split(",")]
        if "none" in names and len(names) > 1:
            raise UserError("export", f"got {value}, but none stands alone", "remove none, or all beside it")


def with_loss_of_kind(overrides: Sequence[str]) -> list[str]:
    """The words, with a loss for a task of numbers where none is chosen: they have nothing to soften."""
    chosen = ("loss=", "experiment=", "+loss")
    is_left_open = not any(word.startswith(chosen) for word in overrides)
    if is_left_open and held_value("task.kind", overrides) == KindName.regression:
        return [*overrides, "loss=mse"]
    return list(overrides)


def _refused_part(node: DictConfig) -> str:
    """Path of the innermost node whose constructor refuses: it named its field, and not where it stands."""
    for key in node:
        child = node[key]
        if isinstance(child, DictConfig):
            try:
                OmegaConf.to_object(child)
            except UserError:
                return ".".join(filter(None, (str(key), _refused_part(child))))
    return ""


def _refuse_merged_options(choices: Mapping[str, Any]) -> None:
    """Refuse `teacher=[bert,roberta]`, which Hydra would merge into one teacher with settings of both."""
    for group in ("teacher", "student", "task", "loss", "hardware", "train", "tracking"):
        if group not in choices:
            remedy = "choose one, or compare them in a sweep with -m"
            if group == "teacher":
                remedy += "; several teachers at once are teacher=bert 'more_teachers=[roberta,electra]'"
            raise UserError(group, "got a list of options, which would be merged into one, or none at all", remedy)


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
            raise unknown_setting(name, known)
        child = node[key]
        if isinstance(child, DictConfig):
            _refuse_unknown(child, f"{name}.")


def register_schemas() -> None:
    """Tell Hydra the types. `base_config` types every group; `SCHEMAS`, what differs by option."""
    register_resolvers()
    _store_schemas()


@cache  # a fifth of the time that composing takes
def _store_schemas() -> None:
    share_types()
    store = ConfigStore.instance()
    store.store(name="base_config", node=Config)
    store.store(group="hydra/sweeper", name="kdexp", node=SweeperConfig)
    for group, schemas in SCHEMAS.items():
        for name, schema in schemas.items():
            store.store(group=f"schema/{group}", name=name, node=schema)
    # Every teacher can be a further one too, under its own name.
    for option in CONF_DIR.glob("teacher/*.yaml"):
        name = option.stem
        node = {"defaults": [f"/teacher/{name}@_here_"]}
        store.store(group="more_teachers", name=name, node=node, package=f"more_teachers.{name}")
