"""Tab completion of groups, options and settings, from the files and classes that declare them.

Hydra completes too, but imports itself and composes a whole config first, which takes longer than a person waits. It
is asked for what is not answered here: what a setting holds now, single terms and further teachers, its own
settings.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import Any

from kdexp.cli.conf_dir import CONF_DIR
from kdexp.cli.flags import COMMANDS
from kdexp.cli.help import GROUPS, options
from kdexp.cli.schema import field_types, has_parts, legal_values
from kdexp.cli.suggest import INTERNAL
from kdexp.config import SCHEMAS, Config


def answer(arguments: Sequence[str]) -> str | None:
    """What a shell's question is answered with, None where Hydra has to be asked.

    Args:
        arguments: What follows `-sc`: `query=bash`, as the shell functions call that Hydra installs.
    """
    command, _, shell = " ".join(arguments).partition("=")
    line = os.environ.get("COMP_LINE")
    if command != "query" or line is None:
        return None
    choices = complete(line)
    return None if choices is None else ("\n" if shell == "fish" else " ").join(choices) + "\n"


def complete(line: str) -> list[str] | None:
    """What the last word of a command line can become; None where Hydra has to be asked.

    Args:
        line: Up to the cursor, the program's name first.
    """
    words = line.split()[1:]
    if any(word.startswith(("--config-", "-c", "hydra.searchpath")) for word in words):  # other files than conf/
        return None
    word = "" if line.endswith(" ") or not words else words.pop()
    name, equals, beginning = word.partition("=")
    if equals and beginning.startswith((".", "/")):
        return sorted(f"{name}={path}" for path in _paths(beginning))
    if equals:
        choices = options(name) if name in GROUPS else _values(name, words)
        if not choices:
            return None
        return sorted(f"{name}={choice}" for choice in choices if choice.startswith(beginning))
    if not re.fullmatch(r"[\w.]*", word) or word.startswith("hy"):
        return None
    path, _, beginning = word.rpartition(".")
    fields = fields_at(path, words)
    if fields is None:
        return None
    prefix = f"{path}." if path else ""
    names = [f"{prefix}{field}{'.' if has_parts(kind) else '='}" for field, kind in fields.items()]
    if not path:
        names = [name for name in names if name.rstrip("=") not in INTERNAL] + [f"{group}=" for group in GROUPS]
        names += [] if words else COMMANDS
    return sorted({name for name in names if name.startswith(word)})


def _paths(beginning: str) -> list[str]:
    """Files and folders whose path begins so."""
    folder, start = (beginning, "") if os.path.isdir(beginning) else os.path.split(beginning)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return [os.path.join(folder, name) for name in names if name.startswith(start)]


def _values(setting: str, words: Sequence[str]) -> list[str]:
    path, _, field = setting.rpartition(".")
    return legal_values((fields_at(path, words) or {}).get(field))


def fields_at(path: str, words: Sequence[str]) -> dict[str, Any] | None:
    """Types, by name, of what stands under a path (`teacher.train`); None where no class says so.

    Args:
        words: What else the command line says: it may choose an option.
    """
    settings: Any = Config
    for depth, part in enumerate(filter(None, path.split("."))):
        is_chosen = depth == 0 and part in SCHEMAS
        settings = _chosen_schema(part, words) if is_chosen else field_types(settings).get(part)
        if not is_dataclass(settings):
            return None
    return field_types(settings)


def _chosen_schema(group: str, words: Sequence[str]) -> type | None:
    """The class of the option that the line chooses, or of the default one, as its file names it."""
    defaults = (CONF_DIR / "config.yaml").read_text(encoding="utf-8")
    chosen = re.findall(rf"^  - {group}: (\w+)", defaults, re.MULTILINE)
    chosen += [word.partition("=")[2] for word in words if word.startswith(f"{group}=")]
    if not chosen:  # a group of which none is chosen until someone asks
        return None
    file = CONF_DIR / group / f"{chosen[-1]}.yaml"
    named = re.search(rf"/schema/{group}/(\w+)@_here_", file.read_text(encoding="utf-8")) if file.exists() else None
    return SCHEMAS[group][named.group(1)] if named else None
