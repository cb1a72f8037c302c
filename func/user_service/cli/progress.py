"""Progress of long commands: a bar with rate and remaining time on a terminal, nothing elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress


class Progress(Protocol):
    is_shown: bool

    def show(self, done: int, total: int | None, unit: str) -> None:
        """Shows `done` of `total`, None for an unknown one; `unit` is `bytes` or the name of what is counted."""


class NoProgress:
    """For logs and pipes."""

    is_shown = False

    def show(self, done: int, total: int | None, unit: str) -> None: ...


@contextmanager
def open_progress(stream: TextIO) -> Iterator[Progress]:
    """A bar, if `stream` is a terminal and rich is installed (the extra `cli`)."""
    if not stream.isatty():
        yield NoProgress()
        return
    try:
        from rich import progress as rich
        from rich.console import Console
    except ImportError:
        yield NoProgress()
        return
    columns = (
        rich.BarColumn(),
        rich.TextColumn("{task.percentage:>3.0f} %"),
        rich.TextColumn("{task.fields[rate]}"),
        rich.TimeRemainingColumn(),
    )
    with rich.Progress(*columns, console=Console(file=stream), transient=True) as bars:
        yield RichBar(bars)


class RichBar:
    """A progress bar of rich."""

    is_shown = True

    def __init__(self, bars: "RichProgress") -> None:
        self.bars = bars
        self.task = bars.add_task("", rate="", total=None)

    def show(self, done: int, total: int | None, unit: str) -> None:
        speed = self.bars.tasks[0].speed or 0
        self.bars.update(self.task, completed=done, total=total, rate=f"{done:,} {unit}, {speed:,.0f}/s")
