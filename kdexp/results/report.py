"""Reports of a few kinds of block, as one self-contained HTML page or as Markdown.

Nothing on the page comes from elsewhere: figures are embedded, and there are no scripts, fonts or
style sheets to load. All text is escaped, so class names and paths may hold anything.
"""

import base64
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import pandas as pd
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
class Preformatted:
    """Commands or a config, shown letter by letter."""

    text: str


@dataclass(frozen=True)
class TableBlock:
    """A table without its index. Floats show four significant digits; missing values are left blank."""

    table: pd.DataFrame
    caption: str = ""


@dataclass(frozen=True)
class FigureBlock:
    """A matplotlib figure. The caption is also what a screen reader says."""

    figure: Figure
    caption: str


Block = Heading | Paragraph | BulletList | Preformatted | TableBlock | FigureBlock

_STYLE = """\
:root { color-scheme: light dark; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; }
h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; padding-top: .4rem; opacity: .8; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #8884; text-align: left; vertical-align: top; }
.number { text-align: right; white-space: nowrap; }
pre { overflow-x: auto; padding: .7rem 1rem; background: #8882; border-radius: .3rem; }
figure { margin: 1.5rem 0; }
figure img { max-width: 100%; height: auto; background: #fff; }
figcaption { opacity: .8; }
"""


def html_page(title: str, blocks: Sequence[Block]) -> str:
    """Render a report as one HTML file. The same blocks give the same bytes."""
    body = "\n".join(_html(block) for block in blocks)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{_STYLE}</style>\n</head>\n"
        f"<body>\n<h1>{html.escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def markdown_page(title: str, blocks: Sequence[Block]) -> str:
    """Render a report as Markdown that reads well as plain text; of figures only the captions remain."""
    return "\n\n".join([f"# {_escape_markdown(title)}", *(_markdown(block) for block in blocks)]) + "\n"


def _html(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{html.escape(text)}</h2>"
        case Paragraph(text):
            return f"<p>{html.escape(text)}</p>"
        case BulletList(items):
            return "<ul>\n" + "\n".join(f"<li>{html.escape(item)}</li>" for item in items) + "\n</ul>"
        case Preformatted(text):
            return f"<pre>{html.escape(text)}</pre>"
        case TableBlock(table, caption):
            return _html_table(table, caption)
        case FigureBlock(figure, caption):
            escaped = html.escape(caption)
            return f'<figure><img src="{_svg_uri(figure)}" alt="{escaped}"><figcaption>{escaped}</figcaption></figure>'


def _html_table(table: pd.DataFrame, caption: str) -> str:
    kinds = [
        ' class="number"' if pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind) else ""
        for kind in table.dtypes
    ]

    def row(tag: str, cells: Sequence[str]) -> str:
        joined = "".join(f"<{tag}{kind}>{html.escape(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        return f"<tr>{joined}</tr>"

    names, *rows = _cells(table)
    lines = [
        '<div class="scroll"><table>',
        *([f"<caption>{html.escape(caption)}</caption>"] if caption else []),
        f"<thead>{row('th', names)}</thead>",
        "<tbody>",
        *(row("td", cells) for cells in rows),
        "</tbody></table></div>",
    ]
    return "\n".join(lines)


def _markdown(block: Block) -> str:
    match block:
        case Heading(text):
            return f"## {_escape_markdown(text)}"
        case Paragraph(text):
            return _escape_markdown(text)
        case BulletList(items):
            return "\n".join(f"- {_escape_markdown(item)}" for item in items)
        case Preformatted(text):
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
            return f"{fence}\n{text}\n{fence}"
        case TableBlock(table, caption):
            names, *rows = ([_escape_markdown(cell) for cell in cells] for cells in _cells(table))
            widths = [max(3, *(len(cell) for cell in column)) for column in zip(names, *rows, strict=True)]
            lines = [
                "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"
                for cells in (names, ["-" * width for width in widths], *rows)
            ]
            return "\n".join(lines) + (f"\n\n{_escape_markdown(caption)}" if caption else "")
        case FigureBlock(_, caption):
            return f"(Figure: {_escape_markdown(caption)})"


def _cells(table: pd.DataFrame) -> list[list[str]]:
    """Names of the columns, then every row, as they are shown."""
    columns = [[_show(value) for value in table.iloc[:, place].tolist()] for place in range(table.shape[1])]
    return [[str(name) for name in table.columns], *(list(row) for row in zip(*columns, strict=True))]


def _show(value: object) -> str:
    if value is None or value is pd.NA or value is pd.NaT or value != value:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _escape_markdown(text: str) -> str:
    """Escape what Markdown would take for markup in running text and cells; intervals [a, b] stay as they are."""
    one_line = " ".join(text.split())
    return re.sub(r"([\\`*<|])", r"\\\1", one_line).replace("](", "]\\(")


def _svg_uri(figure: Figure) -> str:
    svg = io.BytesIO()
    # Ids are otherwise random and the date is written in: the same figure would never be the same file.
    with matplotlib.rc_context({"svg.hashsalt": "kdexp"}):
        figure.savefig(svg, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(svg.getvalue()).decode("ascii")
