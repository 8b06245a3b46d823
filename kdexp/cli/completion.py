"""Tab completion of groups, options and settings, from the files and classes that declare them.

Hydra completes too, but imports itself and composes a whole config first, which takes longer than a person waits. It
is asked for what is not answered here: its own settings, and files that lie elsewhere.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import Any

from kdexp.cli.chosen import PARTS, chosen_option, chosen_parts, held_value, installed_launchers, schema_of
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
    words = unquoted(line).split()[1:]
    if any(word.startswith(("--config-", "-c", "hydra.searchpath")) for word in words):  # other files than conf/
        return None
    word = "" if line.endswith(" ") or not words else words.pop()
    name, equals, beginning = word.partition("=")
    if equals:
        choices = _choices(name, beginning, words)
        return choices and sorted(f"{name}={choice}" for choice in choices if choice.startswith(beginning))
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


def unquoted(line: str) -> str:
    """The line without the quotes that only the shell needs, as in `'terms=[rkd,hidden]'`."""
    return re.sub(r"""(?<=\s)(['"])(\S*)\1(?=\s)""", r"\2", line)


def _choices(name: str, beginning: str, words: Sequence[str]) -> list[str] | None:
    """What can stand behind `name=`, whatever it begins with; None where Hydra knows."""
    if beginning.startswith((".", "/")):
        return _paths(beginning)
    if name in GROUPS:
        return list(options(name)) or None
    if name == "hydra/launcher":
        return installed_launchers()
    path, _, field = name.rpartition(".")
    fields = fields_at(path, words) or {}
    if field not in fields:
        return None
    held = held_value(name, words)
    return legal_values(fields[field]) or ([] if held is None else [held])


def _paths(beginning: str) -> list[str]:
    """Files and folders whose path begins so."""
    folder, start = (beginning, "") if os.path.isdir(beginning) else os.path.split(beginning)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return [os.path.join(folder, name) for name in names if name.startswith(start)]


def fields_at(path: str, words: Sequence[str]) -> dict[str, Any] | None:
    """Types, by name, of what stands under a path (`teacher.train`); None where no class says so.

    Args:
        words: What else the command line says: it may choose an option.
    """
    settings: Any = Config
    walked = ""
    for part in filter(None, path.split(".")):
        parent, walked = walked, f"{walked}.{part}".lstrip(".")
        if parent in PARTS:
            option = chosen_parts(parent, words).get(part)
            settings = option and schema_of(PARTS[parent], option)
        elif walked in PARTS:
            settings = walked
        elif walked in SCHEMAS:
            settings = schema_of(part, chosen_option(part, words) or "")
        else:
            settings = field_types(settings).get(part)
        if not (is_dataclass(settings) or settings in PARTS):
            return None
    if settings in PARTS:
        options_by_name = chosen_parts(settings, words)
        return {name: schema_of(PARTS[settings], option) for name, option in options_by_name.items()}
    return field_types(settings)
