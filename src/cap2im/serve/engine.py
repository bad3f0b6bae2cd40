"""The served models, their bounded queue, and drawing for requests."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
import torch
from anyio import CapacityLimiter, to_thread
from numpy.typing import NDArray

from cap2im.data.vocabulary import Unknown
from cap2im.loading import find_device
from cap2im.pipeline import Glimpses, Pipeline, Prompt
from cap2im.rendering.drawing import Drawing
from cap2im.serve.batching import BatchQueue, Picture
from cap2im.serve.metrics import Metrics
from cap2im.serve.settings import ServeSettings

RECENT = 0.2  # weight of the last batch in the moving average of the speed
LONGEST_RETRY = 60  # seconds, of Retry-After
STREAM_RETRY = 10  # seconds, of Retry-After when slow stream clients hold all slots
MOST_CORRECTED = 8  # unknown words of a caption that get suggestions; each takes a few milliseconds
MOST_EXAMPLES = 20  # example captions of a model on the page
logger = logging.getLogger(__name__)
T = TypeVar("T")


class BusyError(Exception):
    """The queue is full. `headers` has Retry-After."""

    def __init__(self, reason: str, seconds: int) -> None:
        super().__init__(f"{reason}; try again in {seconds} s")
        self.headers = {"Retry-After": str(seconds)}


class DrawingError(Exception):
    """A model failed while drawing; the log has the traceback."""


@dataclass(frozen=True)
class DrawRequest:
    """A checked request: sample k of each caption is drawn with seed + k on one device."""

    drawer: Drawer
    captions: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    samples: int
    seed: int

    @property
    def pictures(self) -> int:
        """Number of pictures."""
        return len(self.captions) * self.samples


@dataclass(frozen=True)
class GlimpseEvent:
    """One glimpse of all samples of one caption.

    Attributes:
        result: index of the caption in its request.
        glimpse: 0 to T - 1.
        canvases: [S, A, A, C]
        words: attention over words, [S, L], or None.
        boxes: write windows, [S, 4], or None.
    """

    result: int
    glimpse: int
    canvases: NDArray[np.uint8]
    words: NDArray[np.floating] | None
    boxes: NDArray[np.floating] | None


@dataclass(frozen=True)
class DrawnEvent:
    """The finished drawings of one caption."""

    result: int
    drawings: list[Drawing]


class Drawer:
    """A model on a device with its batch queue.

    Attributes:
        queued: number of pictures that wait or are being drawn.
        speed: moving average in pictures per second; None before the first batch.
    """

    def __init__(self, pipeline: Pipeline, thread: ThreadPoolExecutor, settings: ServeSettings, metrics: Metrics) -> None:
        self.pipeline, self._thread, self._metrics = pipeline, thread, metrics
        self.queued = 0
        self.speed: float | None = None
        self._size = min(settings.batch, pipeline.batch_size)
        self.draw = BatchQueue(self._draw_batch, size=self._size, wait_ms=settings.wait_ms).draw

    def compile(self) -> None:
        """Compile drawing on the thread that draws: compiled functions are for its number of threads.

        Raises:
            ValueError: see `Pipeline.compile`.
        """
        self._thread.submit(self.pipeline.compile, self._size).result()

    async def _draw_batch(self, pictures: list[Picture]) -> list[Drawing]:
        name, start = self.pipeline.name, time.perf_counter()
        try:
            drawings = await asyncio.get_running_loop().run_in_executor(self._thread, self._draw, pictures)
        except Exception:
            logger.exception("%s failed to draw %d pictures", name, len(pictures))
            raise DrawingError(f"{name} failed to draw") from None
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
        indices = iter(range(self.pipeline.glimpses))

        def watch(glimpses: Glimpses) -> None:
            glimpse = next(indices)
            for notify, rows in watchers.items():
                notify(glimpse, glimpses, rows, [pictures[row].sample for row in rows])

        return self.pipeline.drawings(
            [picture.prompt for picture in pictures], [picture.seed for picture in pictures], watch=watch if watchers else None
        )


class QueueSlots:
    """The slots of one request: in the queue until its pictures are drawn, then among the unread pictures of streams."""

    def __init__(self, engine: Engine, request: DrawRequest) -> None:
        self._engine, self._drawer = engine, request.drawer
        self._queued, self._unread = request.pictures, 0
        self._engine.add_queued(self._drawer, self._queued)

    def mark_drawn(self, pictures: int) -> None:
        """Move slots of drawn pictures to the unread ones. Does nothing after `release`."""
        pictures = min(pictures, self._queued)
        self._queued -= pictures
        self._unread += pictures
        self._engine.add_queued(self._drawer, -pictures)
        self._engine.unread += pictures

    def release(self) -> None:
        """Free all slots."""
        self._engine.add_queued(self._drawer, -self._queued)
        self._engine.unread -= self._unread
        self._queued = self._unread = 0


class Engine:
    """All served models on all devices, and the queue that bounds them.

    One thread per device draws, so the models of a device take turns.

    Attributes:
        models: model name -> one `Drawer` per device; empty before `load`.
        queued: number of pictures that wait or are being drawn.
        unread: number of drawn pictures that stream clients have not read yet.
    """

    def __init__(self, settings: ServeSettings, metrics: Metrics) -> None:
        self.settings, self.metrics = settings, metrics
        self.models: dict[str, list[Drawer]] = {}
        self._threads: list[ThreadPoolExecutor] = []
        self.queued = self.unread = 0
        self.readers = CapacityLimiter(1)  # spelling suggestions take processor time; one thread leaves the others to the event loop

    def load(self) -> None:
        """Load all models, which takes seconds.

        Raises:
            ValueError: a model, sharpener or device is missing or does not fit, or two models share a name.
        """
        models: dict[str, list[Drawer]] = {}
        for device in self.settings.devices:
            # arithmetic on denormal numbers, which narrow filters produce, is many times slower; the setting is per thread
            flush: dict[str, Any] = {"initializer": torch.set_flush_denormal, "initargs": (True,)}
            thread = ThreadPoolExecutor(1, thread_name_prefix=f"draws on {find_device(device)}", **flush)
            self._threads.append(thread)
            names = set()
            for model in self.settings.models:
                pipeline = Pipeline.load(model, device=device, sharpen=self.settings.sharpen)
                if pipeline.name in names:
                    raise ValueError(f"two models have the name {pipeline.name}; names must differ")
                names.add(pipeline.name)
                models.setdefault(pipeline.name, []).append(Drawer(pipeline, thread, self.settings, self.metrics))
        self.models = models

    def compile(self) -> None:
        """Compile all models, which takes a minute or two for each. Requests will not wait for further compilations.

        Raises:
            ValueError: a model has no steps, or there is no compiler.
        """
        for drawers in self.models.values():
            for drawer in drawers:
                drawer.compile()
        torch.compiler.set_stance("eager_on_recompile")

    @property
    def default(self) -> str:
        """Name of the model for requests that name none."""
        return next(iter(self.models))

    def pipeline(self, model: str) -> Pipeline:
        """Pipeline of a model on the first device."""
        return self.models[model][0].pipeline

    def accept(self, model: str, captions: Sequence[str], samples: int, seed: int, unknown: Unknown) -> DrawRequest:
        """Check captions and choose the device with the shortest queue.

        Raises:
            ValueError: unknown words, an empty caption or one that is too long.
        """
        drawer = min(self.models[model], key=lambda each: each.queued)
        return DrawRequest(drawer, tuple(captions), tuple(drawer.pipeline.prompts(captions, unknown)), samples, seed)

    @contextmanager
    def slots(self, request: DrawRequest, *, stream: bool = False) -> Iterator[QueueSlots]:
        """Hold slots for all pictures of a request.

        Args:
            request: the request.
            stream: whether `watch` will draw it. The pictures that clients of streams leave unread are bounded like the queue.

        Raises:
            BusyError: there are too few free slots.
        """
        count, most = request.pictures, self.settings.queue
        if stream and self.unread + count > most:
            self.metrics.refused.inc()
            raise BusyError("slow stream clients hold all slots", STREAM_RETRY)
        if self.queued + count > most:
            self.metrics.refused.inc()
            speeds = [each.speed for drawers in self.models.values() for each in drawers if each.speed is not None]
            total = len(self.settings.devices) * sum(speeds) / max(1, len(speeds))  # models of one device take turns
            wait = self.queued / total if speeds else 1
            raise BusyError("the queue is full", max(1, min(LONGEST_RETRY, math.ceil(wait))))
        slots = QueueSlots(self, request)
        try:
            yield slots
        finally:
            slots.release()

    def add_queued(self, drawer: Drawer, count: int) -> None:
        """Add to the number of queued pictures; `count` may be negative."""
        self.queued += count
        drawer.queued += count
        self.metrics.queued.set(self.queued)

    async def draw(self, request: DrawRequest) -> list[list[Drawing]]:
        """Return the drawings of each caption. The caller holds the slots.

        Raises:
            DrawingError: the model failed.
        """
        n = request.samples
        drawings = await request.drawer.draw([Picture(prompt, request.seed + k) for prompt in request.prompts for k in range(n)])
        return [drawings[start : start + n] for start in range(0, len(drawings), n)]

    async def watch(self, request: DrawRequest, slots: QueueSlots) -> AsyncGenerator[GlimpseEvent | DrawnEvent, None]:
        """Yield each glimpse of a caption when all its samples have it, and its drawings when they are finished.

        Slots of drawn pictures leave the queue, whether or not the caller reads on.

        Raises:
            DrawingError: the model failed.
        """
        events: asyncio.Queue[Any] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def notify(result: int, glimpse: int, glimpses: Glimpses, rows: Sequence[int], samples: Sequence[int]) -> None:
            arrays = [None if each is None else each[rows] for each in (glimpses.canvases, glimpses.words, glimpses.boxes)]
            loop.call_soon_threadsafe(events.put_nowait, (result, glimpse, samples, arrays))

        async def draw_caption(result: int, prompt: Prompt) -> None:
            watch = partial(notify, result)
            try:
                drawings = await request.drawer.draw([Picture(prompt, request.seed + k, k, watch) for k in range(request.samples)])
                events.put_nowait(DrawnEvent(result, drawings))
                slots.mark_drawn(request.samples)
            except DrawingError as error:
                events.put_nowait(error)

        parts: dict[tuple[int, int], dict[int, list[Any]]] = {}
        tasks = [loop.create_task(draw_caption(result, prompt)) for result, prompt in enumerate(request.prompts)]
        unfinished = len(tasks)
        try:
            while unfinished:
                event = await events.get()
                if isinstance(event, DrawingError):
                    raise event
                if isinstance(event, DrawnEvent):
                    unfinished -= 1
                    yield event
                    continue
                result, glimpse, samples, arrays = event
                part = parts.setdefault((result, glimpse), {})
                part |= {sample: [None if each is None else each[row] for each in arrays] for row, sample in enumerate(samples)}
                if len(part) == request.samples:  # samples of one caption may be drawn in several batches
                    yield _glimpse_event(request, result, glimpse, parts.pop((result, glimpse)))
        finally:
            for task in tasks:
                task.cancel()

    def read(self, model: str, caption: str) -> tuple[list[str], list[tuple[str, list[str]]]]:
        """Return the words of a caption, and its unknown words with the nearest known ones."""
        pipeline = self.pipeline(model)
        words = pipeline.untrained_words(caption)
        return pipeline.vocabulary.split(caption), [
            (word, pipeline.similar_words(word) if n < MOST_CORRECTED else []) for n, word in enumerate(words)
        ]

    async def run_reader(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run a function of captions on a thread, one at a time.

        Raises:
            BusyError: as many wait as the queue has slots.
        """
        if self.readers.statistics().tasks_waiting >= self.settings.queue:
            self.metrics.refused.inc()
            raise BusyError("too many captions wait to be read", 1)
        return await to_thread.run_sync(work, *arguments, limiter=self.readers)

    @cached_property
    def model_cards(self) -> list[dict[str, Any]]:
        """The models, as `GET /v1/models` lists them."""
        return [
            {
                "name": name,
                "kind": (pipeline := drawers[0].pipeline).config.kind,
                "description": pipeline.config.description,
                "side": pipeline.model.config.side,
                "colours": pipeline.model.config.colours,
                "glimpses": pipeline.glimpses,
                "reads_words": pipeline.model.config.reads_words,
                "words": pipeline.vocabulary.word_count,
                "examples": pipeline.examples[:MOST_EXAMPLES],
                "sharpener": None if pipeline.sharpening is None else pipeline.sharpening.name,
            }
            for name, drawers in self.models.items()
        ]

    def close(self) -> None:
        """Stop drawing; a batch that is being drawn is finished."""
        for thread in self._threads:
            thread.shutdown(wait=False, cancel_futures=True)


def _glimpse_event(request: DrawRequest, result: int, glimpse: int, samples: dict[int, list[Any]]) -> GlimpseEvent:
    canvases, words, boxes = zip(*(samples[k] for k in range(request.samples)), strict=True)
    length = len(request.prompts[result].tokens.words)
    return GlimpseEvent(
        result,
        glimpse,
        np.stack(canvases),
        None if words[0] is None else np.stack([each[:length] for each in words]),
        None if boxes[0] is None else np.stack(boxes),
    )
