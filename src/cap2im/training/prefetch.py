"""Batches in their order, prepared by worker processes while the network computes."""

from __future__ import annotations

import signal
import time
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from cap2im.data.workers import available_workers


class Batches(Protocol):
    """Training batches by number, so that the position in the data is the step alone."""

    steps_per_epoch: int

    def at(self, step: int, rows: slice) -> Any:
        """Return some rows of the batch of the update that follows `step` updates; a batch has a method `to(device)`."""
        ...


class _Steps(Dataset[Any]):
    """Batches by step, as DataLoader reads them. Errors are returned, because DataLoader would wrap them in a worker traceback."""

    def __init__(self, batches: Batches, rows: slice) -> None:
        self.batches, self.rows = batches, rows

    def __getitem__(self, step: int) -> Any:
        try:
            return self.batches.at(step, self.rows)
        except (ValueError, OSError) as error:
            return error


def _ignore_signals(_: int) -> None:
    """Ignore SIGINT and SIGTERM, which terminals and service managers send to all processes: the training finishes its step first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torch ends its workers by an event


class Prefetcher:
    """An iterator over the batches of `steps`.

    Args:
        batches: by number.
        rows: this process's share of a batch.
        steps: numbers of the batches, in order.
        workers: processes that prepare batches, at most one a processor; 0 prepares each batch when it is requested.
        pin_memory: keep batches in pinned memory, from which a CUDA device copies while the program goes on.

    Raises:
        ValueError: a batch cannot be read.
        OSError: a batch cannot be read.
    """

    def __init__(self, batches: Batches, rows: slice, steps: range, workers: int, *, pin_memory: bool = False) -> None:
        loader = DataLoader(
            _Steps(batches, rows),
            None,
            sampler=steps,
            num_workers=min(workers, available_workers()),
            pin_memory=pin_memory,
            generator=torch.Generator(),  # from the global generator the loader would take a seed, and a resumed run would differ
            worker_init_fn=_ignore_signals,
        )
        self._batches = iter(loader)
        self._waited, self._since = 0.0, time.perf_counter()

    def __iter__(self) -> Prefetcher:
        return self

    def __next__(self) -> Any:
        start = time.perf_counter()
        batch = next(self._batches)
        self._waited += time.perf_counter() - start
        if isinstance(batch, Exception):
            raise batch
        return batch

    def waiting_share(self) -> float:
        """Return the share of time spent waiting for batches since the last call."""
        now = time.perf_counter()
        share = self._waited / (now - self._since)
        self._waited, self._since = 0.0, now
        return share
