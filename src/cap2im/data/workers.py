"""Worker processes that read or write many images. Imports nothing heavy, because every worker imports it."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

ITEMS_PER_TASK = 16


@dataclass(frozen=True)
class WorkerPool:
    """Calls a function for many items, in worker processes or, without any, in this process."""

    workers: int
    executor: ProcessPoolExecutor | None = None

    def map(
        self,
        function: Callable[..., Result],
        items: Iterable[Item],
        arguments: Callable[[Item], tuple[Any, ...]],
        items_per_task: int = ITEMS_PER_TASK,
    ) -> Iterator[tuple[Item, Result]]:
        """Yield each item with the function's result, in order.

        Args:
            function: importable by workers.
            items: each is read once.
            arguments: returns the function's arguments for an item.
            items_per_task: at most four tasks per worker are in memory.

        Raises:
            ValueError: a worker was killed.
        """
        if self.executor is None:
            yield from ((item, function(*arguments(item))) for item in items)
            return
        pending: deque[tuple[list[Item], Future[list[Result]]]] = deque()
        rest = iter(items)
        try:
            while (part := list(islice(rest, items_per_task))) or pending:
                if part:
                    pending.append((part, self.executor.submit(_call_each, function, [arguments(item) for item in part])))
                if not part or len(pending) >= 4 * self.workers:
                    done, future = pending.popleft()
                    yield from zip(done, future.result(), strict=True)
        except BrokenProcessPool as error:
            raise ValueError("a worker process was killed, perhaps out of memory") from error


def _call_each(function: Callable[..., Result], calls: list[tuple[Any, ...]]) -> list[Result]:
    return [function(*arguments) for arguments in calls]


@contextmanager
def worker_pool(workers: int | None) -> Iterator[WorkerPool]:
    """Start worker processes, and end them afterwards.

    Args:
        workers: number of processes; 1 starts none, None starts one per available processor.
    """
    workers = available_workers() if workers is None else workers
    if workers == 1:
        yield WorkerPool(1)
        return
    # spawn: forking a process that runs torch's threads can hang
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_exit_with_parent) as executor:
        try:
            yield WorkerPool(workers, executor)
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


def _exit_with_parent() -> None:
    """End this worker when its parent ends: a worker of a killed parent would wait for tasks for ever."""

    def watch() -> None:
        if (parent := parent_process()) is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def available_workers() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
