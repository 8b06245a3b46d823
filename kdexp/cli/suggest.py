"""What a person may have meant by a name that is none."""

from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from kdexp.cli.schema import field_types
from kdexp.config import SCHEMAS, Config
from kdexp.ranges import Checked

INTERNAL = ("parent_run", "trial", "varied", "condition")
"""Settings that sweeps set for their jobs: nobody is offered them."""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """` (did you mean roberta?)`, to stand behind a list of choices, or nothing."""
    near = get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""


def meant_setting(word: str, siblings: Iterable[str], prefix: str) -> str:
    """The same of a setting, which may also stand elsewhere: `alpha` of `loss.alpha`."""
    near = get_close_matches(word, list(siblings), n=1, cutoff=0.6)
    if near:
        return f" (did you mean {prefix}{near[0]}?)"
    group = prefix.partition(".")[0]
    others = [name for name, schema in SCHEMAS.get(group, {}).items() if prefix + word in _paths(schema, f"{group}.")]
    if others:  # spelt right, and of another option
        return f" (another {group} has it: {', '.join(others)})"
    paths = {path: path.rpartition(".")[2] for path in known_settings()}
    names = get_close_matches(word, set(paths.values()), n=1, cutoff=0.8)
    elsewhere = sorted((path for path, name in paths.items() if name in names), key=len)
    return f" (did you mean {' or '.join(elsewhere[:3])}?)" if elsewhere else ""


@lru_cache(maxsize=1)
def known_settings() -> list[str]:
    """Every setting's path, of all options."""
    paths = dict.fromkeys(_paths(Config, ""))
    for group, schemas in SCHEMAS.items():
        for schema in schemas.values():
            paths |= dict.fromkeys(_paths(schema, f"{group}."))
    return [path for path in paths if path not in INTERNAL and not path.startswith(("terms.", "controls."))]


def _paths(settings: Any, prefix: str) -> list[str]:
    paths = []
    for name, kind in field_types(settings).items():
        nested = isinstance(kind, type) and issubclass(kind, Checked)
        paths += _paths(kind, f"{prefix}{name}.") if nested else [f"{prefix}{name}"]
    return paths
