"""Blocks in the terminal: one console, whether a person looks at it or a file takes it."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdexp.results.record import RunRecord
from kdexp.results.report import (
    Block,
    BulletList,
    Facts,
    FigureBlock,
    Heading,
    Paragraph,
    Preformatted,
    TableBlock,
    cells_of,
)
from kdexp.results.run_report import job_line, link_blocks, result_blocks

# What is piped into a file must not be cut to the width of a terminal that is not there.
_PIPED_WIDTH = 140


def console() -> Console:
    """Standard output."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=_PIPED_WIDTH)


def print_blocks(blocks: Sequence[Block]) -> None:
    """Print blocks to standard output, after an empty line; figures are left to the pages."""
    output = console()
    output.print()
    for block in blocks:
        match block:
            case Heading(text):
                output.print(Text(text, style="bold"), soft_wrap=True)
            case Paragraph(text) | Preformatted(text):
                output.print(Text(text), soft_wrap=True)
            case BulletList(items):
                for item in items:
                    output.print(Text(f"  {item}"), soft_wrap=True)
            case Facts(facts):
                for name, text in facts:
                    output.print(Text(f"{name:<9} {text}"), soft_wrap=True)
            case TableBlock():
                output.print(_table(block))
            case FigureBlock():
                pass


def print_result(record: RunRecord, ui_command: str, cache_dir: str) -> None:
    """Print what a person wants to know at the end of a run."""
    print_blocks([*result_blocks(record), Facts([("notice", notice) for notice in record.notices])])
    print_blocks(link_blocks(record, ui_command, cache_dir))


def print_line(record: RunRecord) -> None:
    """Print one line for one job of a sweep."""
    console().print(Text(job_line(record)), soft_wrap=True)


def _table(block: TableBlock) -> Table:
    cells = cells_of(block.table)
    table = Table(title=block.caption or None, title_justify="left", title_style="bold")
    for name, is_number in zip(cells.names, cells.are_numbers, strict=True):
        # Folded where there is no room: a cut name or number would be another one.
        table.add_column(Text(name), justify="right" if is_number else "left", overflow="fold")
    for row in cells.rows:
        table.add_row(*map(Text, row))
    return table
