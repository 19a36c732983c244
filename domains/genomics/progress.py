"""A bar for what takes long: bases read so far, bases a second, and the time left."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Speed(TextColumn):
    """Bases a second."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> str:
        """In words; nothing before the first are read."""
        return f"{task.speed:,.0f} bases/s" if task.speed else ""


@contextmanager
def bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr while something runs, where that is a terminal.

    Args:
        what: is being done.
        total: bases to read; None where nobody knows, and then no time left is shown.

    Yields:
        a function that is told of so many more bases.
    """
    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,} bases"), Speed()]
    columns += [TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(what, total=total)
        yield lambda bases: progress.advance(task, bases)
