"""Text in figures as it was written: no formulas, fonts that hold its letters, lengths that leave room for the data.

Names of classes and settings are a person's own. matplotlib takes two `$` for a formula, draws boxes where its font
lacks a letter, and gives a long label all the room there is.
"""

import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager, get_font
from matplotlib.text import Text

logger = logging.getLogger(__name__)

MOST_CHARACTERS = 28
"""Of a label in a figure."""


class PlainFigure(Figure):
    """A figure that shows every text letter by letter, in fonts of this machine that hold the letters."""

    def draw(self, renderer: Any) -> None:
        texts = self.findobj(Text)
        letters = {letter for text in texts for letter in text.get_text() if letter.isprintable()}
        families = _families("".join(sorted(letters)))
        for text in texts:
            text.set_parse_math(False)
            if len(families) > 1:
                text.set_fontfamily(families)
        # Ticks are made anew while the figure is laid out.
        with matplotlib.rc_context({"text.parse_math": False, "text.usetex": False, "font.family": families}):
            super().draw(renderer)


def labels(
    names: Sequence[object], *, numbers: Sequence[int] | None = None, most_characters: int = MOST_CHARACTERS
) -> list[str]:
    """Names as labels: on one line, cut in the middle where they are long, still told apart.

    What no font of this machine can show goes by its number; a name that is like another one once it is cut is led
    by it.

    Args:
        numbers: Of the names; their places in the list, unless given.
    """
    lines = [" ".join(str(name).split()) for name in names]
    unknown = _undrawable("".join(sorted(set("".join(lines)))))
    if unknown:
        logger.warning(
            "no font of this machine shows %s: figures give the numbers of such classes instead of their names",
            "".join(sorted(unknown))[:10],
        )
    short = [shorten(line, most_characters) for line in lines]
    shown = []
    for number, line, label in zip(numbers or range(len(lines)), lines, short, strict=True):
        if unknown & set(line):
            shown.append(f"#{number}")
        elif short.count(label) > 1 or not label:
            shown.append(f"#{number} {label}".strip())
        else:
            shown.append(label)
    return shown


def shorten(line: str, most_characters: int) -> str:
    """The beginning and the end of a long line."""
    if len(line) <= most_characters:
        return line
    end = most_characters // 3
    return f"{line[: most_characters - end - 1]}…{line[-end:]}"


@lru_cache(maxsize=64)
def _families(letters: str) -> list[str]:
    """The usual font, and others of this machine for letters that it lacks."""
    usual = list(matplotlib.rcParams["font.family"])
    missing = set(letters) - _drawn_by(_path_of_usual())
    if not missing:
        return usual
    further = []
    for path, name in _further_fonts().items():
        found = missing & _drawn_by(path)
        if found:
            further.append(name)
            missing -= found
        if not missing:
            break
    return usual + further


@lru_cache(maxsize=64)
def _undrawable(letters: str) -> frozenset[str]:
    missing = set(letters) - _drawn_by(_path_of_usual())
    for path in _further_fonts() if missing else ():
        missing -= _drawn_by(path)
    return frozenset(missing)


def _further_fonts() -> dict[str, str]:
    """Name by path; not the font that comes with matplotlib and shows a box for every letter there is."""
    fonts = sorted((entry.fname, entry.name) for entry in fontManager.ttflist)
    return {path: name for path, name in fonts if not name.startswith("Last Resort")}


def _path_of_usual() -> str:
    return str(fontManager.findfont(FontProperties(family=matplotlib.rcParams["font.family"])))


@lru_cache(maxsize=1024)
def _drawn_by(path: str) -> frozenset[str]:
    """The letters that a font holds; none of one that cannot be read, as those of coloured bitmaps."""
    try:
        return frozenset(map(chr, get_font(Path(path)).get_charmap()))
    except (RuntimeError, OSError, ValueError):
        return frozenset()
