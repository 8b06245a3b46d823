"""What identifies a computation: the settings, files and libraries that its result depends on."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from kdexp.config import Config, teacher_settings
from kdexp.fingerprint import library_versions, path_digest
from kdexp.ranges import established

_SPLITS = ("train", "validation", "test", "transfer")

# Where results are written, how they are tracked, and what a study makes of them.
_WITHOUT_EFFECT = (
    *("tracking", "cache_dir", "study", "resume", "parent_run", "trial", "condition", "varied"),
    *("families", "cross_family", "candidates", "budget", "few_labels"),
)
_HARDWARE_WITHOUT_EFFECT = ("num_workers", "num_threads", "num_parallel")


def config_hash(config: Config, given: Mapping[str, str] | None = None) -> str:
    """SHA-256 of everything that can change a result: two runs with one hash are the same computation.

    Local files that the config names count by their content, libraries by their version. Where
    results are written, how they are tracked and what the study is called do not count, and without
    a teacher (alpha = 1) neither do the other settings of the loss.

    Args:
        given: Digests of what a program handed in, in place of what the config describes.
    """
    parts = established(config)
    for name in _WITHOUT_EFFECT:
        del parts[name]
    for name in _HARDWARE_WITHOUT_EFFECT:
        del parts["hardware"][name]
    parts["loss"] = config.loss.parts()
    for role, teacher in teacher_settings(config).items():
        settings = parts["teacher"] if role == "teacher" else parts["more_teachers"][role.partition(".")[2]]
        for irrelevant in teacher.incidental:
            del settings[irrelevant]
    if not config.more_teachers:
        del parts["more_teachers"], parts["teacher"]["weight"]
    if not config.controls:
        del parts["controls"]
    if not config.export:
        del parts["export"]
    parts["files"] = input_digests(config)
    parts["versions"] = library_versions()
    if given:
        parts["given"] = dict(given)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def input_digests(config: Config) -> dict[str, list[list[str]]]:
    """Content of every file and folder of this machine that the config names, by the setting that names it."""
    return {setting: path_digest(path) for setting, path in _local_inputs(config).items()}


def _local_inputs(config: Config) -> dict[str, Path]:
    named = {f"task.{name}": getattr(config.task, name, None) for name in ("path", *_SPLITS)}
    for role, model in (teacher_settings(config) | {"student": config.student}).items():
        named |= {f"{role}.{name}": value for name, value in model.inputs().items()}
    paths = {setting: Path(value).expanduser() for setting, value in named.items() if value}
    return {setting: path for setting, path in paths.items() if path.exists()}
