"""From a request to its drawings, for all routes that draw: API key, checks, queue slots, time limit, disconnects."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from anyio import to_thread
from fastapi import Depends, HTTPException, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param
from starlette.types import Receive

from cap2im.data.vocabulary import Unknown
from cap2im.rendering.drawing import Drawing
from cap2im.serve.engine import BusyError, DrawingError, DrawRequest, Engine, QueueSlots
from cap2im.serve.schemas import LARGEST_SEED
from cap2im.serve.settings import ServeSettings
from cap2im.serve.store import Files

CLIENT_CLOSED = 499  # nginx's status for a client that disconnected before its response
T = TypeVar("T")


class ClientDisconnectedError(Exception):
    """The client closed the connection."""


def get_engine(request: Request) -> Engine:
    """Return the application's engine."""
    engine: Engine = request.app.state.engine
    return engine


def key_options(settings: ServeSettings) -> dict[str, Any]:
    """Return the arguments of an `APIRouter` whose routes require the API key; empty if the server has no key.

    FastAPI reads the body before it calls dependencies, so a custom route checks the key. The dependency is for the schema.
    """
    if settings.api_key is None:
        return {}
    expected = settings.api_key.get_secret_value().encode()

    class KeyRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handler = super().get_route_handler()

            async def check_key(request: Request) -> Response:
                scheme, key = get_authorization_scheme_param(request.headers.get("authorization"))
                if scheme.lower() != "bearer" or not key:
                    detail = "this server requires an API key (Authorization: Bearer KEY)"
                    raise HTTPException(401, detail, {"WWW-Authenticate": "Bearer"})
                if not secrets.compare_digest(key.encode(), expected):
                    raise HTTPException(401, "the API key is wrong", {"WWW-Authenticate": "Bearer"})
                return await handler(request)

            return check_key

    bearer = HTTPBearer(auto_error=False, description="The API key.")
    return {"route_class": KeyRoute, "dependencies": [Depends(bearer)]}


def check_model(engine: Engine, name: str | None) -> str:
    """Return the name of a model, the default's for None.

    Raises:
        HTTPException: 404 for a model that is not served.
    """
    if name is None:
        return engine.default
    if name not in engine.models:
        raise HTTPException(404, f"unknown model {name[:60]!r}; served: {', '.join(engine.models)}")
    return name


async def accept(
    request: Request, captions: Sequence[str], *, samples: int = 1, seed: int = 0, model: str | None, unknown: Unknown
) -> DrawRequest:
    """Check a request.

    Raises:
        HTTPException: the status and the sentence for the client.
    """
    engine = get_engine(request)
    most = engine.settings.max_pictures
    if len(captions) * samples > most:
        raise HTTPException(422, f"captions: {len(captions)} with {samples} samples exceed the {most} pictures of a request")
    if seed + samples - 1 > LARGEST_SEED:
        raise HTTPException(422, f"seed: {seed} with {samples} samples exceeds the largest seed, {LARGEST_SEED}")
    name = check_model(engine, model)
    try:
        if any(engine.pipeline(name).unknown_words(caption) for caption in captions):  # suggestions for unknown words take a while
            work = engine.run_reader(engine.accept, name, captions, samples, seed, unknown)
            return await read_in_time(request, engine, work)
        return engine.accept(name, captions, samples, seed, unknown)
    except ValueError as error:
        raise HTTPException(422, str(error)) from None


async def draw(request: Request, drawing: DrawRequest, render: Callable[[list[list[Drawing]], Files], T]) -> T:
    """Draw a request, render its drawings on a thread and keep its files.

    The slots are held until the files are kept, so that a slow store fills the queue and not the memory. A client that disconnects frees
    them.

    Raises:
        HTTPException: 503 if the queue is full, 504 after the time limit, 500 if the model failed.
    """
    engine, files = get_engine(request), Files(request.app.state.store)
    with hold_slots(engine, drawing):
        try:
            drawings = await unless_disconnected(request.receive, engine.draw(drawing), engine.settings.timeout_s)
        except DrawingError as error:
            raise HTTPException(500, str(error)) from None
        except ClientDisconnectedError:
            raise HTTPException(CLIENT_CLOSED, "the client disconnected") from None
        content = await to_thread.run_sync(render, drawings, files)
        await files.keep()
        return content


@contextmanager
def hold_slots(engine: Engine, drawing: DrawRequest, *, stream: bool = False) -> Iterator[QueueSlots]:
    """Hold queue slots for all pictures of a request.

    Raises:
        HTTPException: 503 if the queue is full.
    """
    try:
        with engine.slots(drawing, stream=stream) as slots:
            yield slots
    except BusyError as busy:
        raise HTTPException(503, str(busy), busy.headers) from None


async def read_in_time(request: Request, engine: Engine, work: Coroutine[Any, Any, T]) -> T:
    """Await the reading of captions.

    Raises:
        HTTPException: 503 if too many captions wait, 504 after the time limit.
    """
    try:
        return await unless_disconnected(request.receive, work, engine.settings.timeout_s)
    except BusyError as busy:
        raise HTTPException(503, str(busy), busy.headers) from None
    except ClientDisconnectedError:
        raise HTTPException(CLIENT_CLOSED, "the client disconnected") from None


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
    """Await work and cancel it when the client disconnects or time is up.

    Raises:
        ClientDisconnectedError: the client disconnected first.
        HTTPException: 504 after the time limit.
    """

    async def disconnect() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task, disconnected = asyncio.ensure_future(work), asyncio.ensure_future(disconnect())
    try:
        await asyncio.wait({task, disconnected}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if disconnected.done():
            raise ClientDisconnectedError
        raise HTTPException(504, f"the drawing took longer than {timeout_s:g} s; ask for fewer pictures or try again later")
    finally:
        task.cancel()
        disconnected.cancel()
