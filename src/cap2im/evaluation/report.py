"""Evaluations on the command line: progress bars and tables."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cap2im.evaluation.protocol import in_words
from cap2im.evaluation.registry import TRAINING

if TYPE_CHECKING:
    from cap2im.evaluation.evaluation import Evaluation
    from cap2im.evaluation.inputs import StartProgress
    from cap2im.metrics.measurement import Measurement


PIPE_WIDTH = 140  # characters of a line that no terminal limits


@contextmanager
def progress_bars(enabled: bool) -> Iterator[StartProgress]:
    """Show progress bars with the remaining time on standard error, if that is a terminal.

    Args:
        enabled: whether this process shows them.

    Yields:
        the function that starts a bar.
    """
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not (enabled and console.is_terminal)) as progress:

        def start(description: str, total: int) -> Callable[[int], None]:
            task = progress.add_task(description, total=total)
            return lambda count: progress.advance(task, count)

        yield start


def print_evaluation(evaluation: Evaluation, *, default_metrics: bool = False) -> None:
    """Print an evaluation on standard output: tables of groups by quantities, and notes.

    Args:
        evaluation: to print.
        default_metrics: whether no metric was named.
    """
    stdout = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
    for rows in _tables([each for each in evaluation.measurements if each.name not in TRAINING]):
        stdout.print(_table(evaluation.model, rows))
    for note in _notes(evaluation, default_metrics):
        stdout.print(note, soft_wrap=True)


def _tables(measurements: list[Measurement]) -> Iterator[list[list[Measurement]]]:
    """Yield the rows of each table: measurements of one group and one protocol, below others of the same names."""
    table: list[list[Measurement]] = []
    for _, run in groupby(measurements, key=lambda each: (each.group, each.protocol)):
        row = list(run)
        if table and [each.name for each in row] != [each.name for each in table[0]]:
            yield table
            table = []
        table.append(row)
    if table:
        yield table


def _table(model: str, rows: list[list[Measurement]]) -> Table:
    first = rows[0]
    common = {key: value for key, value in first[0].protocol.items() if all(row[0].protocol.get(key) == value for row in rows)}
    protocol = in_words(common)
    table = Table(title=f"{escape(model)}: {', '.join(each.name for each in first)}", caption=escape(protocol))
    table.add_column("")
    table.add_column("n", justify="right", no_wrap=True)
    for each in first:
        table.add_column(each.model_copy(update={"group": ""}).title, justify="right")
    for row in rows:
        table.add_row(row[0].group or "all", f"{row[0].n:,}", *(each.text for each in row))
    if any(each.chance is not None for each in first):
        table.add_row("chance", "", *("" if each.chance is None else each.number(each.chance) for each in first))
    return table


def _notes(evaluation: Evaluation, default_metrics: bool) -> Iterator[str]:
    """Yield remarks on measurements that are missing or misleading."""
    bounds = [each for each in evaluation.measurements if each.name == "bound"]
    if default_metrics and not bounds:
        hint = "" if "caption-accuracy" in evaluation.settings.get("metrics", "") else "; name others with --metric"
        yield f"no bound: a model of this kind has no likelihood{hint}"
    if bounds and "sharpener" in evaluation.settings and not any("sharpener" in each.protocol for each in bounds):
        yield f"no bound after sharpening: pixels must be bernoulli, these are {bounds[0].protocol.get('observation')}"
    for each in evaluation.measurements:
        counts = [each.n, each.protocol.get("real_images", 0)]
        if each.name == "FID" and min(counts) <= each.protocol.get("features", 0):
            features = f"{each.protocol['features']:,} features"
            yield f"(FID of {min(counts):,} pictures is far too high: it has {features}; 30,000 drawings are usual)"
            return
