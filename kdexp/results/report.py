"""Reports of a few kinds of block, as one self-contained HTML page or as Markdown; `terminal` prints the same blocks.

Nothing on the page comes from elsewhere: figures are embedded, and there are no scripts, fonts or
style sheets to load. All text is escaped, so class names and paths may hold anything.
"""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from jinja2 import Environment
    from markupsafe import Markup
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Heading:
    """Begins a section."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True)
class BulletList:
    """Short statements, one per item."""

    items: Sequence[str]


@dataclass(frozen=True)
class Facts:
    """Short names, each with what there is to say about it; an empty name goes on with the one before."""

    facts: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Preformatted:
    """Commands or a config, shown letter by letter."""

    text: str


@dataclass(frozen=True)
class TableBlock:
    """A table without its index. Floats show four significant digits; missing values are left blank."""

    table: "pd.DataFrame"
    caption: str = ""


@dataclass(frozen=True)
class FigureBlock:
    """A matplotlib figure. The caption is also what a screen reader says."""

    figure: "Figure"
    caption: str


Block = Heading | Paragraph | BulletList | Facts | Preformatted | TableBlock | FigureBlock


@dataclass(frozen=True)
class Cells:
    """A table as it is shown: the columns' names, the rows, and which columns are aligned as numbers."""

    names: list[str]
    rows: list[list[str]]
    are_numbers: list[bool]


def cells_of(table: "pd.DataFrame") -> Cells:
    """The texts of a table's cells."""
    columns = [table.iloc[:, place] for place in range(table.shape[1])]
    texts = [[_show(value) for value in column.tolist()] for column in columns]
    return Cells(
        [str(name) for name in table.columns],
        [list(row) for row in zip(*texts, strict=True)],
        [_is_number(column, shown) for column, shown in zip(columns, texts, strict=True)],
    )


def html_page(title: str, blocks: Sequence[Block]) -> str:
    """Render a report as one HTML file. The same blocks give the same bytes."""
    named = [(type(block).__name__, block) for block in blocks]
    return _environment().get_template("report.html").render(title=title, blocks=named)


def markdown_page(title: str, blocks: Sequence[Block]) -> str:
    """Render a report as Markdown that reads well as plain text; of figures only the captions remain."""
    return f"# {_escape_markdown(title)}\n\n{markdown_text(blocks)}"


def markdown_text(blocks: Sequence[Block]) -> str:
    """The same without a title, for a page that has one."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


@lru_cache(maxsize=1)
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("kdexp.results"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cells": cells_of, "svg_uri": _svg_uri, "linked": _linked}
    return environment


def _linked(text: str) -> "Markup":
    """Escaped text whose addresses are links."""
    from markupsafe import Markup

    pieces = re.split(r"(https?://[^\s<>\"']*[^\s<>\"'.,;:!?)\]])", text)
    # Those at odd places are what the group matched.
    return Markup().join(
        Markup('<a href="{0}">{0}</a>').format(piece) if place % 2 else piece for place, piece in enumerate(pieces)
    )


def _markdown(block: Block) -> str:
    match block:
        case Heading(text):
            return f"## {_escape_markdown(text)}"
        case Paragraph(text):
            return _escape_markdown(text)
        case BulletList(items):
            return "\n".join(f"- {_escape_markdown(item)}" for item in items)
        case Facts(facts):
            return "\n".join(
                f"- {_escape_markdown(f'{name}: {text}')}" if name else f"  - {_escape_markdown(text)}"
                for name, text in facts
            )
        case Preformatted(text):
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
            return f"{fence}\n{text}\n{fence}"
        case TableBlock(table, caption):
            # Above it, as on the other faces: below, a reader takes it for the title of the next table.
            return (f"{_escape_markdown(caption)}\n\n" if caption else "") + _markdown_table(table)
        case FigureBlock(_, caption):
            return f"(Figure: {_escape_markdown(caption)})"


def _markdown_table(table: "pd.DataFrame") -> str:
    cells = cells_of(table)
    names, *rows = ([_escape_markdown(cell) for cell in row] for row in (cells.names, *cells.rows))
    widths = [max(3, *(len(cell) for cell in column)) for column in zip(names, *rows, strict=True)]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in (names, ["-" * width for width in widths], *rows)
    )


def _show(value: object) -> str:
    import pandas as pd

    if value is None or value is pd.NA or value is pd.NaT or value != value:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_number(column: "pd.Series", shown: Sequence[str]) -> bool:
    """Numbers, or texts that all begin as numbers do, such as `+1.20 [+0.80, +1.60]`."""
    import pandas as pd

    if pd.api.types.is_bool_dtype(column.dtype):
        return False
    beginnings = [text[0] for text in shown if text]
    all_digits = bool(beginnings) and all(letter in "+-<0123456789" for letter in beginnings)
    return pd.api.types.is_numeric_dtype(column.dtype) or all_digits


def _escape_markdown(text: str) -> str:
    """Escape what Markdown would take for markup in running text and cells; intervals [a, b] stay as they are."""
    one_line = " ".join(text.split())
    return re.sub(r"([\\`*<|])", r"\\\1", one_line).replace("](", "]\\(")


def _svg_uri(figure: "Figure") -> str:
    import matplotlib

    svg = io.BytesIO()
    # Ids are otherwise random and the date is written in: the same figure would never be the same file.
    with matplotlib.rc_context({"svg.hashsalt": "kdexp"}):
        figure.savefig(svg, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(svg.getvalue()).decode("ascii")
