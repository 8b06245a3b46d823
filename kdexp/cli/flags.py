"""The words of a command line before Hydra reads them: flags anywhere, and mistakes that Hydra would not tell."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from kdexp.errors import UserError

COMMANDS = ("summary", "predict", "transplant")
PLAN = "--plan"
"""Tells what a command would compute, and computes nothing."""
WITH_VALUE = {
    "-c": "--cfg",
    "-p": "--package",
    "-cp": "--config-path",
    "-cn": "--config-name",
    "-cd": "--config-dir",
    "-er": "--experimental-rerun",
}
_WITHOUT_VALUE = {"-h": "--help", "-r": "--run", "-m": "--multirun", "-sc": "--shell-completion", "-i": "--info"}
_LONG = (*WITH_VALUE.values(), *_WITHOUT_VALUE.values(), "--resolve", "--hydra-help", "--version", PLAN)
CHOICES = {
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}
_HOME = re.compile(r"(?<=[=,\[])~(?=/)")
_ONE_OF = ("--run", "--multirun", "--cfg", "--info", "--shell-completion")


_OF_CHOOSE_STUDENT = re.compile(r"\+*(budget\.[\w.]+|candidates)=(.*)")


def refuse_without_study(arguments: Sequence[str]) -> None:
    """Refuse what only a study reads, where no experiment is named.

    Raises:
        UserError: It would have no effect.
    """
    if any(word.lstrip("+").startswith("experiment=") for word in arguments):
        return
    for word in arguments:
        if found := _OF_CHOOSE_STUDENT.fullmatch(word):
            name, value = found.groups()
            raise UserError(name, f"got {value}, but nothing is chosen", "add experiment=choose_student, or remove it")


def may_set_mode(arguments: Sequence[str]) -> bool:
    """Whether a config may say that the command is many runs: a study's, or one of a person's own."""
    settings = ("experiment", "hydra", "--config-", "--experimental-rerun")
    return any(word.lstrip("+~").startswith(settings) for word in arguments)


def flags_first(arguments: Sequence[str]) -> list[str]:
    """Flags wherever a person wrote them, then the settings in their order: Hydra reads no flag after a setting.

    Raises:
        UserError: A flag is unknown, lacks its value, or contradicts another one.
    """
    flags, settings, names = [], [], []
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("-") or word == "-":
            settings.append(word)
            continue
        name, value = _read_flag(word, words)
        names.append(name)
        flags += [name] if value is None else [name, value]
    _refuse_contradiction([*names, "--multirun"] if PLAN in names else names)
    if "--resolve" in names and "hydra" in flags:
        raise UserError(
            "--resolve", "needs the run's settings, which --cfg hydra leaves out", "use --cfg all --resolve"
        )
    for word in settings:
        _refuse_no_setting(word)
    return flags + settings


def _refuse_no_setting(word: str) -> None:
    name, equals, _ = word.partition("=")
    if (equals and name) or word.startswith("~"):
        return
    near = get_close_matches(word, COMMANDS, n=1)
    meant = f" (did you mean kdexp {near[0]}?)" if near else f"; commands come first: {', '.join(COMMANDS)}"
    raise UserError(word, "is no setting=value", f"write {'setting' if equals else word}=<value>{meant}")


def _read_flag(word: str, following: list[str]) -> tuple[str, str | None]:
    """A flag's long name and its value, which is taken from the words that follow."""
    given, equals, value = word.partition("=")
    name = WITH_VALUE.get(given) or _WITHOUT_VALUE.get(given) or _completed(given)
    if name in WITH_VALUE.values() and not equals:
        if not following:
            raise UserError(given, "has no value", f"expected {' or '.join(CHOICES.get(name, ('a value',)))}")
        return name, _chosen(name, following.pop(0))
    if name == "--info" and not equals and following and following[0] in CHOICES[name]:
        return name, following.pop(0)
    if name == "--info" and not equals:
        return name, "all"  # else argparse would take the next setting for a topic
    return name, _chosen(name, value) if equals else None


def expand_home(arguments: Sequence[str]) -> list[str]:
    """`~/` at the beginning of values, which shells leave alone behind a `=`, and Hydra cannot read."""
    return [_HOME.sub(lambda _: str(Path.home()), word) for word in arguments]


def _completed(given: str) -> str:
    matches = [name for name in _LONG if name.startswith(given)] if given.startswith("--") else []
    if given in matches:
        return given
    if len(matches) != 1:
        near = get_close_matches(given, _LONG, n=1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(given, "no such flag", f"expected one of -m, {', '.join(_LONG)}{meant}")
    return matches[0]


def _chosen(name: str, value: str) -> str:
    if value not in CHOICES.get(name, (value,)):
        raise UserError(name, f"got {value}", f"expected one of {', '.join(CHOICES[name])}")
    return value


def _refuse_contradiction(names: Sequence[str]) -> None:
    several = list(dict.fromkeys(name for name in names if name in _ONE_OF))
    if len(several) < 2:
        return
    remedy = "leave one of them out"
    if several[0] in ("--cfg", "--info"):
        several.reverse()
    if set(several) == {"--multirun", "--cfg"}:
        remedy = "--cfg shows the settings of one run: leave -m out, with one value per setting"
    raise UserError(several[0], f"cannot go together with {', '.join(several[1:])}", remedy)


def repeated(arguments: Sequence[str], groups: Sequence[str]) -> list[str]:
    """A line for each second answer to one question, of which Hydra takes the last without a word.

    That is as it should be where a script's settings are overridden, so that of a single run's settings nothing is
    said; who repeats one in a sweep, or chooses two options, may have meant both.

    Raises:
        UserError: Two ready-made studies.
    """
    is_sweep = not {"-m", "--multirun"}.isdisjoint(arguments)
    seen: dict[str, str] = {}
    lines = []
    for word in arguments:
        name, equals, value = word.partition("=")
        name = name.lstrip("+")
        if not equals or word.startswith(("-", "~")):
            continue
        earlier = seen.get(name, value)
        seen[name] = value
        if earlier == value or not (is_sweep or name in groups):
            continue
        if name == "experiment":
            raise UserError(name, f"is given twice, {earlier} and {value}", "name one")
        many = "" if is_sweep else "-m "
        lines.append(f"{name} is given twice: {value} counts (for both: {many}{name}={earlier},{value})")
    return lines
