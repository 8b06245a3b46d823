"""What the options that a command line chooses say, read from their files: without Hydra, for TAB alone."""

import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from kdexp.cli.conf_dir import CONF_DIR
from kdexp.config import SCHEMAS

PARTS = {"loss.terms": "terms", "controls": "controls", "export": "export", "more_teachers": "more_teachers"}
"""Settings that hold others by name, and the group whose options put them there."""

_LAUNCHERS = {
    "hydra_joblib_launcher": ("joblib",),
    "hydra_ray_launcher": ("ray", "ray_aws"),
    "hydra_rq_launcher": ("rq",),
    "hydra_submitit_launcher": ("submitit_local", "submitit_slurm"),
}


def chosen_option(group: str, words: Sequence[str]) -> str | None:
    """The option of a group that the line chooses, or the default one; None where there is none."""
    defaults = (CONF_DIR / "config.yaml").read_text(encoding="utf-8")
    chosen = re.findall(rf"^  - {group}: (\w+)", defaults, re.MULTILINE)
    chosen += [word.partition("=")[2] for word in words if word.startswith(f"{group}=")]
    return chosen[-1] if chosen else None


def chosen_parts(path: str, words: Sequence[str]) -> dict[str, str]:
    """The options, by name, of what stands under a path of `PARTS`."""
    group = PARTS[path]
    lists = [word.partition("=")[2] for word in words if word.startswith(f"{group}=")]
    parts = {name: name for name in re.findall(r"\w+", lists[-1])} if lists else {}
    parts |= dict(re.findall(rf"^\+?(?:\w+@){re.escape(path)}\.(\w+)=(\w+)$", "\n".join(words), re.MULTILINE))
    if path == "loss.terms":  # a loss may bring its own
        file = CONF_DIR / "loss" / f"{chosen_option('loss', words)}.yaml"
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        parts |= dict(re.findall(r"/terms@terms\.(\w+): (\w+)", text))
    return parts


def schema_of(group: str, option: str) -> type | None:
    """The class of an option's settings, as its file names it."""
    folder = _folder(group)
    file = CONF_DIR / folder / f"{option}.yaml"
    named = re.search(rf"/schema/{folder}/(\w+)@_here_", file.read_text(encoding="utf-8")) if file.exists() else None
    return SCHEMAS[folder][named.group(1)] if named else None


def held_value(setting: str, words: Sequence[str]) -> str | None:
    """What a setting holds, as a person types it; None where that is nothing, or follows from others."""
    typed = [word.partition("=")[2] for word in words if word.startswith(f"{setting}=")]
    if typed:
        return typed[-1]
    value: Any = _file_of(setting, words)
    for name in _path_within_file(setting):
        value = value.get(name) if isinstance(value, Mapping) else None
    is_told = isinstance(value, str) and value not in ("null", "", "???") and "${" not in value
    return value if is_told else None


def installed_launchers() -> list[str] | None:
    """Names of Hydra's launchers; None where one is installed that only Hydra can ask for its names."""
    spec = importlib.util.find_spec("hydra_plugins")
    folders = spec.submodule_search_locations or [] if spec else []
    packages = [name for folder in folders for name in os.listdir(folder) if name.endswith("launcher")]
    if not all(name in _LAUNCHERS for name in packages):
        return None
    return sorted({"basic", *(launcher for name in packages for launcher in _LAUNCHERS[name])})


def _folder(group: str) -> str:
    return "teacher" if group == "more_teachers" else group


def _part_of(setting: str) -> tuple[str, str, list[str]] | None:
    """Of `loss.terms.rkd.weight`: `loss.terms`, `rkd`, [`weight`]."""
    for path in PARTS:
        if setting.startswith(f"{path}."):
            name, *rest = setting.removeprefix(f"{path}.").split(".")
            return path, name, rest
    return None


def _path_within_file(setting: str) -> list[str]:
    part = _part_of(setting)
    if part:
        return part[2]
    group, *rest = setting.split(".")
    return rest if rest and (CONF_DIR / group).is_dir() else [group, *rest]


def _file_of(setting: str, words: Sequence[str]) -> dict[str, Any]:
    part = _part_of(setting)
    if part:
        option = chosen_parts(part[0], words).get(part[1])
        return _read(CONF_DIR / _folder(PARTS[part[0]]) / f"{option}.yaml")
    group, *rest = setting.split(".")
    if rest and (CONF_DIR / group).is_dir():
        return _read(CONF_DIR / group / f"{chosen_option(group, words)}.yaml")
    return _read(CONF_DIR / "config.yaml")


def _read(file: Path) -> dict[str, Any]:
    """A file's settings as they are written, with those of the files that it includes here."""
    if not file.exists():
        return {}
    own = yaml.load(file.read_text(encoding="utf-8"), yaml.BaseLoader) or {}
    included = [entry.split("@")[0] for entry in own.get("defaults", []) if str(entry).endswith("@_here_")]
    settings: dict[str, Any] = {}
    for name in included:
        settings |= _read(CONF_DIR / f"{name.removeprefix('/')}.yaml")
    return settings | own
