"""The models of a server, and how requests share them: pictures of all clients are drawn in common batches, on bounded places.

One thread for each device draws, so that models on one device take turns.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from anyio import CapacityLimiter, to_thread
from numpy.typing import NDArray

from cap2im.data.vocabulary import Tokens, Unknown
from cap2im.pipeline import Glimpses, Pipeline, find_device
from cap2im.rendering.drawing import Drawing
from cap2im.serve.metrics import Metrics
from cap2im.serve.settings import ServeSettings

RECENT = 0.2  # share of the last batch in the measured speed
LONGEST_WAIT = 60  # seconds; of Retry-After
SLOW_READERS = 10  # seconds; of Retry-After where streams wait for their clients
PATIENCE = 0.25  # of the last batch's time, for its clients to come back
TOLD_STRANGERS = 8  # unknown words of a caption that get their nearest known ones: a few milliseconds a word
MOST_EXAMPLES = 8  # captions that the page offers of a model
_log = logging.getLogger(__name__)
T = TypeVar("T")


class BusyError(Exception):
    """A request does not fit; in so many seconds it may."""

    def __init__(self, what: str, seconds: int) -> None:
        super().__init__(f"{what}; try again in {seconds} s")
        self.seconds = seconds


class BrokenError(Exception):
    """A model failed while it drew; what happened is in the log."""


@dataclass(frozen=True)
class Seen:
    """One glimpse of one caption's samples, in their order.

    Attributes:
        result: number of the caption in its request.
        glimpse: 0 ... T - 1.
        canvases: [S, A, A, C]
        words: [S, L], boxes: [S, 4], or None.
    """

    result: int
    glimpse: int
    canvases: NDArray[np.uint8]
    words: NDArray[np.floating] | None
    boxes: NDArray[np.floating] | None


@dataclass(frozen=True)
class Asked:
    """What a request wants drawn, checked: sample k of each caption comes from seed + k."""

    drawer: Drawer
    captions: tuple[str, ...]
    tokens: tuple[Tokens, ...]
    samples: int
    seed: int

    @property
    def pictures(self) -> int:
        return len(self.captions) * self.samples


@dataclass(frozen=True)
class Picture:
    """One picture of a batch: who watches it is told its number and its glimpses."""

    caption: str
    seed: int
    number: int = 0
    watch: Callable[[int, Glimpses, Sequence[int], Sequence[int]], None] | None = None


class BatchQueue:
    """Collect pictures of several requests into batches, and draw one batch at a time.

    A first picture waits `wait_ms` for others. After a batch the queue waits up to `PATIENCE` of the batch's time until as many pictures
    are there as were drawn or waiting: clients that were answered together come back one after the other, and would otherwise be drawn in
    two half-empty batches in turns.

    Args:
        draw: draws a batch.
        size: pictures of a batch, at most.
        wait_ms: milliseconds.
    """

    def __init__(self, draw: Callable[[list[Picture]], Awaitable[list[Drawing]]], *, size: int, wait_ms: float) -> None:
        self._draw, self._size, self._wait_s = draw, size, wait_ms / 1000
        self._pictures: list[tuple[Picture, asyncio.Future[Drawing]]] = []
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def draw(self, pictures: Sequence[Picture]) -> list[Drawing]:
        """Return the drawings of pictures; cancelled, those that are not being drawn yet are dropped."""
        loop = asyncio.get_running_loop()
        if self._task is None:
            self._task = loop.create_task(self._run())
        futures: list[asyncio.Future[Drawing]] = [loop.create_future() for _ in pictures]
        self._pictures += zip(pictures, futures, strict=True)
        self._arrived.set()
        try:
            return list(await asyncio.gather(*futures))
        finally:
            for future in futures:
                future.cancel()

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        expected, until = 0, 0.0
        while True:
            await self._wait_for(1)
            left = until - clock()
            if expected > 1 and left > 0:
                await self._wait_for(expected, max(left, self._wait_s))
            else:
                await self._wait_for(self._size, self._wait_s)
            if self._waiting() == 0:
                continue  # all clients left meanwhile
            batch, self._pictures = self._pictures[: self._size], self._pictures[self._size :]
            start = clock()
            try:
                for (_, future), drawing in zip(batch, await self._draw([picture for picture, _ in batch]), strict=True):
                    if not future.done():
                        future.set_result(drawing)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
            expected, until = min(self._size, self._waiting() + len(batch)), clock() + PATIENCE * (clock() - start)

    async def _wait_for(self, pictures: int, seconds: float | None = None) -> None:
        """Wait until so many pictures are there, or for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._waiting() < pictures:
                    self._arrived.clear()
                    await self._arrived.wait()

    def _waiting(self) -> int:
        """Drop pictures that were given up, and return how many are left."""
        self._pictures = [each for each in self._pictures if not each[1].done()]
        return len(self._pictures)


class Drawer:
    """A model on a device, which draws pictures of several clients together."""

    def __init__(self, pipeline: Pipeline, thread: ThreadPoolExecutor, settings: ServeSettings, metrics: Metrics) -> None:
        self.pipeline, self._thread, self._metrics = pipeline, thread, metrics
        self.taken = 0  # pictures that wait or are drawn
        self.speed: float | None = None  # pictures a second, of late
        batch = min(settings.batch, pipeline.at_once)
        self.draw = BatchQueue(self._together, size=batch, wait_ms=settings.wait_ms).draw

    async def _together(self, pictures: list[Picture]) -> list[Drawing]:
        name, start = self.pipeline.name, time.perf_counter()
        try:
            drawings = await asyncio.get_running_loop().run_in_executor(self._thread, self._draw, pictures)
        except Exception:
            _log.exception("%s failed to draw %d pictures", name, len(pictures))
            raise BrokenError(f"{name} failed to draw") from None
        seconds = time.perf_counter() - start
        speed = len(pictures) / seconds
        self.speed = speed if self.speed is None else (1 - RECENT) * self.speed + RECENT * speed
        self._metrics.pictures.labels(name).inc(len(pictures))
        self._metrics.batches.labels(name).observe(len(pictures))
        self._metrics.drawing.labels(name).observe(seconds)
        return drawings

    def _draw(self, pictures: list[Picture]) -> list[Drawing]:
        watchers: dict[Any, list[int]] = {}
        for row, picture in enumerate(pictures):
            if picture.watch is not None:
                watchers.setdefault(picture.watch, []).append(row)
        counted = iter(range(self.pipeline.glimpses))

        def watch(glimpses: Glimpses) -> None:
            t = next(counted)
            for told, rows in watchers.items():
                told(t, glimpses, rows, [pictures[row].number for row in rows])

        # Captions are checked when they are accepted: those with words to refuse never come here, so that one choice serves all.
        return self.pipeline.drawings(
            [picture.caption for picture in pictures],
            [picture.seed for picture in pictures],
            unknown="skip",
            watch=watch if watchers else None,
        )


class Places:
    """The places of a request's pictures: in the queue until they are drawn or given up, then among what waits to be read."""

    def __init__(self, engine: Engine, asked: Asked) -> None:
        self._engine, self._drawer = engine, asked.drawer
        self._waiting, self._unread = asked.pictures, 0
        self._engine.take(self._drawer, self._waiting)

    def drawn(self, pictures: int) -> None:
        """So many were drawn, and wait for a client that reads as slowly as it likes; nothing if it left meanwhile."""
        pictures = min(pictures, self._waiting)
        self._waiting -= pictures
        self._unread += pictures
        self._engine.take(self._drawer, -pictures)
        self._engine.unread += pictures

    def leave(self) -> None:
        """The request is over."""
        self._engine.take(self._drawer, -self._waiting)
        self._engine.unread -= self._unread
        self._waiting = self._unread = 0


class Engine:
    """All models of a server on all its devices.

    Attributes:
        models: what draws, by name: an entry for each device. Empty until `load` is done.
        taken: pictures that wait or are drawn.
        unread: pictures that are drawn, of streams whose clients have not read them yet.
    """

    def __init__(self, settings: ServeSettings, metrics: Metrics) -> None:
        self.settings, self.metrics = settings, metrics
        self.models: dict[str, list[Drawer]] = {}
        self._threads: list[ThreadPoolExecutor] = []
        self.taken = self.unread = 0
        self.readers = CapacityLimiter(1)  # threads that look for nearest words, and leave the others to the event loop

    def load(self) -> None:
        """Loads the models; takes seconds.

        Raises:
            ValueError: a model, sharpener or device that does not exist or fit, or two models of one name.
        """
        models: dict[str, list[Drawer]] = {}
        for device in self.settings.devices:
            # numbers that are almost zero, of which narrow filters have many, take many times as long; each thread is told apart
            flushing: dict[str, Any] = {"initializer": torch.set_flush_denormal, "initargs": (True,)}
            thread = ThreadPoolExecutor(1, thread_name_prefix=f"draws on {find_device(device)}", **flushing)
            self._threads.append(thread)
            names = set()
            for model in self.settings.models:
                pipeline = Pipeline.load(model, device=device, sharpen=self.settings.sharpen)
                if pipeline.name in names:
                    raise ValueError(f"two models are called {pipeline.name}; requests could not tell them apart")
                names.add(pipeline.name)
                models.setdefault(pipeline.name, []).append(Drawer(pipeline, thread, self.settings, self.metrics))
        self.models = models

    @property
    def ready(self) -> bool:
        """Whether the models are loaded."""
        return bool(self.models)

    @property
    def default(self) -> str:
        """Name of the model that draws where a request names none."""
        return next(iter(self.models))

    def pipeline(self, model: str) -> Pipeline:
        """A model by its name."""
        return self.models[model][0].pipeline

    def accept(self, model: str, captions: Sequence[str], samples: int, seed: int, unknown: Unknown) -> Asked:
        """Checks captions, and picks the device that has least to do.

        Raises:
            ValueError: unknown words, an empty or over-long caption.
        """
        drawer = min(self.models[model], key=lambda each: each.taken)
        tokens = drawer.pipeline.tokens(captions, unknown)
        return Asked(drawer, tuple(captions), tuple(tokens), samples, seed)

    @contextmanager
    def places(self, asked: Asked, *, watched: bool = False) -> Iterator[Places]:
        """Holds places in the queue for all pictures of a request.

        Args:
            asked: the request.
            watched: whether it will be drawn by `watch`. What its client leaves unread is bounded like the queue, for all of them together.

        Raises:
            BusyError: there are not enough.
        """
        count, most = asked.pictures, self.settings.queue
        if watched and self.unread + count > most:
            self.metrics.refused.inc()
            raise BusyError("clients that read slowly hold up the streams", SLOW_READERS)
        if self.taken + count > most:
            self.metrics.refused.inc()
            speeds = [each.speed for drawers in self.models.values() for each in drawers if each.speed is not None]
            together = len(self.settings.devices) * sum(speeds) / max(1, len(speeds))  # models of one device take turns
            wait = self.taken / together if speeds else 1
            raise BusyError("the queue is full", max(1, min(LONGEST_WAIT, math.ceil(wait))))
        places = Places(self, asked)
        try:
            yield places
        finally:
            places.leave()

    def take(self, drawer: Drawer, count: int) -> None:
        """Counts places of the queue, which are given back with a negative count."""
        self.taken += count
        drawer.taken += count
        self.metrics.queued.set(self.taken)

    async def draw(self, asked: Asked) -> list[list[Drawing]]:
        """The drawings of each caption; the caller holds their places.

        Raises:
            BrokenError: the model failed.
        """
        drawings = await asked.drawer.draw([Picture(caption, asked.seed + k) for caption in asked.captions for k in range(asked.samples)])
        return [drawings[start : start + asked.samples] for start in range(0, len(drawings), asked.samples)]

    async def watch(self, asked: Asked, places: Places) -> AsyncGenerator[Seen | tuple[int, list[Drawing]], None]:
        """Every glimpse of each caption as soon as all its samples have it, and its drawings as soon as they are finished, by its number.

        The places of what is drawn are free, whether or not anybody asks for it here.

        Raises:
            BrokenError: the model failed.
        """
        news: asyncio.Queue[Any] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def told(glimpse: int, glimpses: Glimpses, rows: Sequence[int], numbers: Sequence[int]) -> None:  # in the thread that draws
            arrays = [None if each is None else each[rows] for each in (glimpses.canvases, glimpses.words, glimpses.boxes)]
            loop.call_soon_threadsafe(news.put_nowait, (glimpse, numbers, arrays))

        async def finished(result: int, caption: str) -> None:
            first = result * asked.samples
            pictures = [Picture(caption, asked.seed + k, first + k, told) for k in range(asked.samples)]
            try:
                news.put_nowait((result, await asked.drawer.draw(pictures)))
                places.drawn(asked.samples)
            except BrokenError as error:
                news.put_nowait(error)

        parts: dict[tuple[int, int], dict[int, list[Any]]] = {}
        tasks = [loop.create_task(finished(result, caption)) for result, caption in enumerate(asked.captions)]
        left = len(tasks)
        try:
            while left:
                told_of = await news.get()
                if isinstance(told_of, BrokenError):
                    raise told_of
                if len(told_of) == 2:
                    left -= 1
                    yield told_of
                    continue
                glimpse, numbers, arrays = told_of
                for row, number in enumerate(numbers):
                    result, sample = divmod(number, asked.samples)
                    samples = parts.setdefault((result, glimpse), {})
                    samples[sample] = [None if each is None else each[row] for each in arrays]
                    if len(samples) == asked.samples:
                        yield self._seen(asked, result, glimpse, parts.pop((result, glimpse)))
        finally:
            for task in tasks:
                task.cancel()

    def _seen(self, asked: Asked, result: int, glimpse: int, samples: dict[int, list[Any]]) -> Seen:
        canvases, words, boxes = zip(*(samples[k] for k in range(asked.samples)), strict=True)
        length = len(asked.tokens[result].words)
        return Seen(
            result,
            glimpse,
            np.stack(canvases),
            None if words[0] is None else np.stack([each[:length] for each in words]),
            None if boxes[0] is None else np.stack(boxes),
        )

    def read(self, model: str, caption: str) -> tuple[list[str], list[tuple[str, list[str]]]]:
        """A caption's words, and those that the model does not know with the nearest ones that it knows."""
        strangers = self.pipeline(model).strangers(caption)
        vocabulary = self.pipeline(model).vocabulary
        near = [(word, vocabulary.nearest(word) if n < TOLD_STRANGERS else []) for n, word in enumerate(strangers)]
        return vocabulary.split(caption), near

    async def run_reader(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run work on captions in a thread, one at a time; as many may wait as pictures in the queue.

        Raises:
            BusyError: too many wait already.
        """
        if self.readers.statistics().tasks_waiting >= self.settings.queue:
            self.metrics.refused.inc()
            raise BusyError("too many captions wait to be read", 1)
        return await to_thread.run_sync(work, *arguments, limiter=self.readers)

    @cached_property
    def described(self) -> list[dict[str, Any]]:
        """What `GET /v1/models` says of each model."""
        return [
            {
                "name": name,
                "kind": (pipeline := drawers[0].pipeline).config["kind"],
                "description": pipeline.config.get("description", ""),
                "side": pipeline.model.config.side,
                "colours": pipeline.model.config.colours,
                "glimpses": pipeline.glimpses,
                "reads_words": pipeline.model.config.reads_words,
                "words": len(pipeline.vocabulary),
                "examples": pipeline.examples[:MOST_EXAMPLES],
                "sharpener": None if pipeline.sharpening is None else pipeline.sharpening.name,
            }
            for name, drawers in self.models.items()
        ]

    def close(self) -> None:
        """Draws nothing more."""
        for thread in self._threads:
            thread.shutdown(wait=False, cancel_futures=True)
