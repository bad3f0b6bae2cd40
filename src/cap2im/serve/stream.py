"""Server-sent events of a drawing: each glimpse while it is drawn."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing, suppress
from typing import Any

from anyio import to_thread
from fastapi import HTTPException
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.types import Receive, Scope, Send

from cap2im.rendering.images import canvas_uri
from cap2im.rendering.page import page_data, rounded_attention, rounded_boxes
from cap2im.serve.engine import DrawingError, DrawnEvent, DrawRequest, Engine, GlimpseEvent, QueueSlots
from cap2im.serve.requests import ClientDisconnectedError, hold_slots, unless_disconnected

KEEPALIVE_S = 15.0  # between comments of a stream without events, for the time limits of proxies


class DrawStream(StreamingResponse):
    """The event stream of a request. It holds queue slots until it ends, and ends when its client disconnects.

    Args:
        engine: the engine that draws.
        drawing: the request.

    Raises:
        HTTPException: 503 if the queue is full.
    """

    media_type = "text/event-stream"

    def __init__(self, engine: Engine, drawing: DrawRequest) -> None:
        self._stack = ExitStack()
        slots = self._stack.enter_context(hold_slots(engine, drawing, stream=True))
        # `drawing_events` ends in time, but waits for a client that stops reading
        self._timeout_s = engine.settings.timeout_s + engine.settings.send_timeout_s
        super().__init__(drawing_events(engine, drawing, slots), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        with self._stack, suppress(ClientDisconnectedError, HTTPException):
            await unless_disconnected(receive, super().__call__(scope, receive, send), self._timeout_s)


async def drawing_events(engine: Engine, drawing: DrawRequest, slots: QueueSlots) -> AsyncIterator[bytes]:
    """Yield the events `start`, `glimpse` and `drawn` as they come, and `end`; or `error`."""
    pipeline = drawing.drawer.pipeline
    side, glimpses = pipeline.model.config.side, pipeline.glimpses
    seeds = [drawing.seed + k for k in range(drawing.samples)]
    results = [
        {"caption": prompt.caption, "words": prompt.tokens.words, "width": side, "height": side, "glimpses": glimpses, "seeds": seeds}
        for prompt in drawing.prompts
    ]
    yield _sse("start", {"model": pipeline.name, "results": results})
    loop = asyncio.get_running_loop()
    deadline = loop.time() + engine.settings.timeout_s
    async with aclosing(engine.watch(drawing, slots)) as events:
        while True:
            following = asyncio.ensure_future(anext(events, None))
            try:
                while not following.done() and (left := deadline - loop.time()) > 0:
                    if not (await asyncio.wait({following}, timeout=min(KEEPALIVE_S, left)))[0] and left > KEEPALIVE_S:
                        yield KEEPALIVE_COMMENT
                if not following.done():
                    yield _sse("error", {"detail": f"the drawing took longer than {engine.settings.timeout_s:g} s"})
                    return
                event = following.result()
            except DrawingError as error:
                yield _sse("error", {"detail": str(error)})
                return
            finally:
                following.cancel()
                await asyncio.wait({following})
            if event is None:
                break
            yield await to_thread.run_sync(_encode, event)
    yield _sse("end", {})


def _encode(event: GlimpseEvent | DrawnEvent) -> bytes:
    if isinstance(event, DrawnEvent):
        return _sse("drawn", {"result": event.result, "data": page_data(event.drawings)})
    attention, boxes = rounded_attention(event.words), rounded_boxes(event.boxes)
    samples = [
        {
            "image": canvas_uri(canvas),
            "attention": None if attention is None else attention[k],
            "box": None if boxes is None else boxes[k],
        }
        for k, canvas in enumerate(event.canvases)
    ]
    return _sse("glimpse", {"result": event.result, "glimpse": event.glimpse, "samples": samples})


def _sse(name: str, data: Any) -> bytes:
    return format_sse_event(event=name, data_str=json.dumps(data, separators=(",", ":"), allow_nan=False))
