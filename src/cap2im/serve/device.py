"""A device of the server, and the process that draws on it: in one with HTTP, each would wait for the other to give up Python's lock.

The two speak over a pipe that they alone hold. The process ends when its server is gone, and is started again when it is killed.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import traceback
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

import torch

from cap2im.drawing import Drawing
from cap2im.pipeline import Glimpses, Pipeline

SPAWN = multiprocessing.get_context("spawn")  # everywhere: a fork would copy locks that other threads hold
STOPPING = (signal.SIGINT, signal.SIGTERM)  # may go to all processes of a terminal or a service; the server obeys them, and ends its own

Watch = Callable[[int, Glimpses], None]  # is told the number of each glimpse, and the glimpse of the watched rows


class EndedError(Exception):
    """The process ended before it answered."""


@dataclass(frozen=True)
class Batch:
    """What is drawn together.

    Attributes:
        model: its name.
        captions: one for each picture.
        seeds: as many.
        made: as many functions of modules, each of which makes of a drawing what is sent in its place; None for the drawing itself.
        watched: rows whose glimpses are told.
    """

    model: str
    captions: Sequence[str]
    seeds: Sequence[int]
    made: Sequence[Callable[[Drawing], Any] | None]
    watched: Sequence[int]


@dataclass(frozen=True)
class Failure:
    """An exception on its way to the server, where its class may mean nothing."""

    text: str
    told: bool  # whether the text says what a user can do
    trace: str

    @classmethod
    def of(cls, error: Exception) -> Failure:
        return cls(str(error), isinstance(error, ValueError | OSError), traceback.format_exc())

    @property
    def again(self) -> Exception:
        return ValueError(self.text) if self.told else RuntimeError(self.trace)


class Device:
    """All models of a server on one device, which draw one batch at a time."""

    def __init__(self, name: str, models: Sequence[str], sharpen: str | None) -> None:
        self._asked = (name, tuple(models), sharpen)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"draws on {name}")
        self._loaded = self._closed = False
        self.start()

    def start(self) -> None:
        """Starts the process; `load` waits for its models."""
        self._connection, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=work, args=(theirs, *self._asked), daemon=True)
        self._loaded = False
        with _undisturbed():
            self._process.start()
        self._end = weakref.finalize(self, self._process.kill)  # however the server ends
        theirs.close()  # else nobody would notice that the process has ended

    def load(self) -> list[Pipeline]:
        """The outline of each model, when all of them are loaded; takes seconds.

        Raises:
            ValueError: a model, sharpener or device that does not exist or fit, or a file that cannot be read.
            EndedError: the process ended.
                RuntimeError: another failure, told with its traceback.
        """
        told = self._receive()
        if isinstance(told, Failure):
            raise told.again
        self._loaded = True
        return told

    async def draw(self, batch: Batch, watch: Watch) -> list[Any]:
        """What is made of each drawing. `watch` is called in another thread.

        Raises:
            EndedError: the process ended meanwhile; another one is started.
            Exception: the model failed.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._draw, batch, watch)

    def _draw(self, batch: Batch, watch: Watch) -> list[Any]:
        if not self._process.is_alive():
            self.start()
        if not self._loaded:
            self.load()
        with suppress(OSError):  # it has just ended, as the next line tells
            self._connection.send(batch)
        while isinstance(told := self._receive(), tuple):
            watch(*told)
        if isinstance(told, Failure):
            raise told.again
        return told

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            self._end()
            self._process.join()
            if self._loaded and not self._closed:  # at once, and not for the next request; one that cannot load is not tried for ever
                self.start()
            raise EndedError("the process that draws ended") from None

    def close(self) -> None:
        """Draws nothing more."""
        self._closed = True
        self._end()
        self._thread.submit(self._connection.close)
        self._thread.shutdown(wait=False)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """What starts meanwhile is not reached by `STOPPING`, from its first moment on."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # with the process it would be started, and unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def work(connection: Connection, device: str, models: Sequence[str], sharpen: str | None) -> None:
    """What the process does, until the server closes the connection."""
    if not hasattr(signal, "pthread_sigmask"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_flush_denormal(True)  # as training does: products of numbers that are almost zero take many times as long
    with connection, suppress(EOFError, OSError):
        try:
            pipelines = [Pipeline.load(model, device=device, sharpen=sharpen) for model in models]
            connection.send([pipeline.outline() for pipeline in pipelines])
        except Exception as error:
            connection.send(Failure.of(error))
            return
        named = {pipeline.name: pipeline for pipeline in pipelines}
        while True:
            batch: Batch = connection.recv()
            try:
                connection.send(_drawn(named[batch.model], batch, connection))
            except Exception as error:
                connection.send(Failure.of(error))


def _drawn(pipeline: Pipeline, batch: Batch, connection: Connection) -> list[Any]:
    rows, counted = list(batch.watched), iter(range(pipeline.glimpses))

    def watch(glimpses: Glimpses) -> None:
        words, boxes = (None if each is None else each[rows] for each in (glimpses.words, glimpses.boxes))
        connection.send((next(counted), Glimpses(glimpses.first, glimpses.canvases[rows], words, boxes)))

    # Captions are checked when they are accepted: those with words to refuse never come here, so that one choice serves all.
    drawings = pipeline.drawings(batch.captions, batch.seeds, unknown="skip", watch=watch if rows else None)
    return [drawing if made is None else made(drawing) for drawing, made in zip(drawings, batch.made, strict=True)]
