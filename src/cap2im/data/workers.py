"""Worker processes for long passes over images, and the bar that shows them. Imports nothing heavy, for every worker imports it."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context, parent_process
from typing import TypeVar

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

Task = TypeVar("Task")
Answer = TypeVar("Answer")


def progress_bar(unit: str) -> Progress:
    """The bar of a long pass over images, with their number a second and the time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


class _Speed(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: rich.progress.Task) -> Text:
        elapsed = task.finished_time or task.elapsed
        return Text(f"{self.unit}, {task.completed / elapsed:.0f}/s" if elapsed else self.unit)


def _leave_with_parent() -> None:
    """A worker whose parent was killed would wait for tasks for ever."""

    def watch() -> None:
        if (parent := parent_process()) is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def parallel(workers: int) -> Iterator[Callable[[Callable[[Task], Answer], Iterable[Task]], Iterator[Answer]]]:
    """A `map` over worker processes, in order, that holds a few tasks at a time; one worker works in this process.

    Raises:
        ValueError: a worker was killed.
    """
    if workers == 1:
        yield map
        return
    # spawn: forking a process that runs torch's threads can hang
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_leave_with_parent) as pool:

        def in_order(function: Callable[[Task], Answer], tasks: Iterable[Task]) -> Iterator[Answer]:
            pending: deque[Future[Answer]] = deque()
            try:
                for task in tasks:
                    pending.append(pool.submit(function, task))
                    if len(pending) >= 4 * workers:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            except BrokenProcessPool:
                raise ValueError("a worker process was killed, perhaps for want of memory; --resume and fewer --workers go on") from None

        try:
            yield in_order
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def available_workers() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def batched(records: Iterable[Task], rows: int) -> Iterator[list[Task]]:
    """Consecutive parts; records that are made when they are asked for are made once."""
    rest = iter(records)
    while part := list(islice(rest, rows)):
        yield part
