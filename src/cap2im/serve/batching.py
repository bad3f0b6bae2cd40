"""Dynamic batching: pictures of concurrent requests are drawn together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from cap2im.pipeline import Glimpses, Prompt
from cap2im.rendering.drawing import Drawing

RETURN_WAIT = 0.25  # share of the last batch's time to wait for its clients' next requests


@dataclass(frozen=True)
class Picture:
    """One picture of a batch.

    Attributes:
        prompt: the tokenised caption.
        seed: its seed.
        sample: its index among the samples of its caption.
        watch: called on the drawing thread at each glimpse, once for all pictures that share it, with the glimpse's index, the whole
            batch's glimpses, the pictures' rows in the batch and their sample indices.
    """

    prompt: Prompt
    seed: int
    sample: int = 0
    watch: Callable[[int, Glimpses, Sequence[int], Sequence[int]], None] | None = None


class BatchQueue:
    """Collect the pictures of concurrent requests into batches and draw one batch at a time.

    The first picture waits up to `wait_ms` for others. After a batch the queue waits up to `RETURN_WAIT` of the batch's time for as many
    pictures as it drew and left waiting: clients that receive their answers together send their next requests one after the other, and
    would otherwise alternate between two half-empty batches.

    Args:
        draw: draws one batch.
        size: the largest batch.
        wait_ms: in milliseconds.
    """

    def __init__(self, draw: Callable[[list[Picture]], Awaitable[list[Drawing]]], *, size: int, wait_ms: float) -> None:
        self._draw, self._size, self._wait_s = draw, size, wait_ms / 1000
        self._entries: list[tuple[Picture, asyncio.Future[Drawing]]] = []
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def draw(self, pictures: Sequence[Picture]) -> list[Drawing]:
        """Return the drawings of pictures. Cancelling drops those that are not being drawn yet."""
        loop = asyncio.get_running_loop()
        if self._task is None:
            self._task = loop.create_task(self._run())
        futures: list[asyncio.Future[Drawing]] = [loop.create_future() for _ in pictures]
        self._entries += zip(pictures, futures, strict=True)
        self._arrived.set()
        try:
            return list(await asyncio.gather(*futures))
        finally:
            for future in futures:
                future.cancel()

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        expected, deadline = 0, 0.0
        while True:
            await self._wait_for(1)
            left = deadline - clock()
            if expected > 1 and left > 0:
                await self._wait_for(expected, max(left, self._wait_s))
            else:
                await self._wait_for(self._size, self._wait_s)
            if self._waiting() == 0:
                continue  # all clients disconnected meanwhile
            batch, self._entries = self._entries[: self._size], self._entries[self._size :]
            start = clock()
            try:
                for (_, future), drawing in zip(batch, await self._draw([picture for picture, _ in batch]), strict=True):
                    if not future.done():
                        future.set_result(drawing)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
            expected, deadline = min(self._size, self._waiting() + len(batch)), clock() + RETURN_WAIT * (clock() - start)

    async def _wait_for(self, pictures: int, seconds: float | None = None) -> None:
        """Wait until that many pictures wait, at most for that long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._waiting() < pictures:
                    self._arrived.clear()
                    await self._arrived.wait()

    def _waiting(self) -> int:
        """Drop cancelled pictures and return the number of those left."""
        self._entries = [entry for entry in self._entries if not entry[1].done()]
        return len(self._entries)
