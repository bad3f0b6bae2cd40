"""Progress bars on standard error."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import rich.progress
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

Item = TypeVar("Item")


class _Speed(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: rich.progress.Task) -> Text:
        elapsed = task.finished_time or task.elapsed
        return Text(f"{self.unit}, {task.completed / elapsed:.0f}/s" if elapsed else self.unit)


def progress_bar(unit: str) -> Progress:
    """Return a progress bar of at most 80 columns with speed, elapsed time and remaining time.

    Args:
        unit: plural noun for what is counted.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        _Speed(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def track(items: Iterable[Item], description: str, *, total: int | None = None, show: bool = True) -> Iterable[Item]:
    """Iterate over items with a progress bar.

    Args:
        items: to iterate over.
        description: text in front of the bar.
        total: number of items; None takes their length.
        show: False shows no bar, as for work that ends at once.
    """
    return rich.progress.track(items, escape(description), total, console=Console(stderr=True), disable=not show)
