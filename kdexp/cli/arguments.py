"""The words of a command line, made such that Hydra takes them wherever they stand. Nothing is imported for it."""

import re
from collections.abc import Sequence
from pathlib import Path

FLAGS_WITH_VALUE = {
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"),
    "--experimental-rerun",
}
"""Hydra's flags that take the next word."""

INFO_TOPICS = {"all", "config", "defaults", "defaults-tree", "plugins", "searchpath"}
"""What may follow `--info`."""

_HOME = re.compile(r"(?<=[=,\[])~(?=/)")


def flags_first(arguments: Sequence[str]) -> list[str]:
    """The same words with Hydra's flags before the overrides: argparse refuses overrides on both sides of a flag."""
    flags: list[str] = []
    overrides: list[str] = []
    for before, word, after in zip(["", *arguments], arguments, [*arguments[1:], ""], strict=False):
        if word in ("--info", "-i") and after not in INFO_TOPICS:
            flags.append("--info=all")  # what follows is no topic
            continue
        follows = before in FLAGS_WITH_VALUE or (before in ("--info", "-i") and word in INFO_TOPICS)
        (flags if follows or word.startswith("-") else overrides).append(word)
    return flags + overrides


def expand_home(arguments: Sequence[str]) -> list[str]:
    """`~/` at the beginning of values, which shells leave alone behind a `=`, and Hydra cannot read."""
    return [_HOME.sub(lambda _: str(Path.home()), word) for word in arguments]
