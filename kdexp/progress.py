"""Progress bars with the time left, on a terminal; nothing where none is, or from other processes of one training."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kdexp.processes import Processes


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show one long stage; the value is a function that takes how many units were just done."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    is_shown = console.is_terminal and Processes.current().is_main
    with Progress(*columns, console=console, disable=not is_shown) as bars:
        bar = bars.add_task(description, total=total)
        yield lambda count: bars.advance(bar, count)
