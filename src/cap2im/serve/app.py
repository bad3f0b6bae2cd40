"""The server put together: routes, limits, headers, what happens when it starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from functools import lru_cache
from ipaddress import ip_address
from types import FrameType
from typing import Any, NoReturn
from urllib.parse import urlsplit

import uvicorn
from anyio import to_thread
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

import cap2im
from cap2im.serve import released, store
from cap2im.serve.api import GONE, ClientLeftError, router
from cap2im.serve.engine import Engine
from cap2im.serve.metrics import FOLDER, Metrics
from cap2im.serve.page import page_router
from cap2im.serve.protocol import BoundedHead
from cap2im.serve.settings import ServeSettings

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",  # a page says its own
}
DOCS = "/docs"
SWAGGER = "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
_log = logging.getLogger(__name__)


def create_app(settings: ServeSettings) -> FastAPI:
    """The server of some settings; it loads its models when it starts.

    Raises:
        ValueError: the store cannot be used.
    """
    metrics = Metrics()
    engine = Engine(settings, metrics)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(_load(engine))
        yield
        loading.cancel()
        engine.close()

    app = FastAPIOffline(  # whose /docs needs no CDN
        title="cap2im",
        description="Images from captions with attention.",
        version=cap2im.__version__,
        lifespan=lifespan,
        redoc_url=None,
        telemetry=dict.fromkeys(("tracing", "metrics", "logs"), False),  # else the environment is asked at every request
    )
    app.state.settings, app.state.engine, app.state.metrics, app.state.store = settings, engine, metrics, _store(settings)
    routers = [router(settings), released.router(settings), page_router()]
    if app.state.store is not None and app.state.store.public == store.FILES:
        routers.append(store.router())
    for each in routers:
        app.routes.extend(each.routes)  # `include_router` would look for each request's route twice

    @app.get("/healthz", response_class=JSONResponse)
    async def healthz() -> dict[str, str]:
        """The server is alive."""
        return {"status": "alive"}

    @app.get("/readyz", response_class=JSONResponse, responses={503: {"description": "The models are still loading."}})
    async def readyz() -> JSONResponse:
        """The server draws."""
        return JSONResponse({"status": "ready" if engine.ready else "loading"}, 200 if engine.ready else 503)

    @app.get("/metrics", include_in_schema=False)
    async def counts() -> Response:
        """What Prometheus reads."""
        return Response(await to_thread.run_sync(metrics.text), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.exception_handler(RequestValidationError)
    async def wrong_request(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": _one_sentence(error)}, 422)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"detail": error.detail}, error.status_code, error.headers)

    @app.exception_handler(store.StoreError)
    async def not_kept(_: Request, error: store.StoreError) -> JSONResponse:
        return JSONResponse({"detail": error.detail}, error.status, {"Retry-After": "10"} if error.status == 503 else None)

    app.add_middleware(Guard, settings=settings, metrics=metrics)
    return app


def _store(settings: ServeSettings) -> store.Store | None:
    if settings.store is None:
        return None
    return store.Store.open(settings.store, public=settings.store_public, link_s=settings.store_link_s, timeout_s=settings.store_timeout_s)


def app_of_environment() -> FastAPI:
    """What a worker process serves; it leaves when the process that started it, and would start it anew, is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave_with_parent() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=leave_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which a terminal sends to all: the process that started this one tells it what to do
    return create_app(ServeSettings.from_environment())


async def _load(engine: Engine) -> None:
    settings = engine.settings
    try:
        await to_thread.run_sync(engine.load)
    except Exception as error:
        if not isinstance(error, ValueError | OSError):  # whose message says what a user can do
            _log.exception("the models cannot be loaded")
        # at once: `print` may let another process write before the line's end
        sys.stderr.write(f"cap2im: {' '.join(str(error).split())}\n")
        sys.stderr.flush()
        os._exit(2 if settings.workers == 1 else STARTUP_FAILURE)  # of which the parent process knows that to try again is useless
    one_of = f" (process {os.getpid()})" if settings.workers > 1 else ""
    sys.stdout.write(f"{', '.join(engine.models)}: ready on {address(settings)}{one_of}\n")
    sys.stdout.flush()


def address(settings: ServeSettings) -> str:
    """Where a browser finds the server."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"


@lru_cache(maxsize=256)
def _names_this_machine(host: str) -> bool:
    """Whether a Host header is localhost or an IP address: no site can have these lead elsewhere than to themselves."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or bool(ip_address(name))
    except ValueError:
        return False


def _one_sentence(error: RequestValidationError) -> str:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return f"the body is not JSON: {first['ctx']['error']} at character {first['loc'][1]}"
    if first["loc"] == ("body",):  # it is missing, no object, or was not read, which a browser would send for any site
        return "expected a JSON object, with the header Content-Type: application/json"
    told = []
    for problem in error.errors()[:3]:
        place = [str(part) for part in problem["loc"] if part not in ("body", "path", "query")]
        text = str(problem["msg"])
        told.append(f"{'.'.join(place)}: {text}" if place else text)
    more = len(error.errors()) - len(told)
    return "; ".join(told) + (f"; and {more} more" if more else "")


class Guard:
    """What every request meets first: whether it is for this server, limits of its body, headers of its answer, the counts, and the end of
    a client that does not read.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self.private = settings.private
        self.headers, self.docs_headers = (
            [(name.lower().encode(), value.encode()) for name, value in headers.items()]
            for headers in (HEADERS, HEADERS | {"Content-Security-Policy": SWAGGER})
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # the routes of GET answer it, and uvicorn leaves out the body
            scope = {**scope, "method": "GET"}
        start, status, started = time.perf_counter(), 500, False
        size, complete = 0, False
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.settings.body_timeout_s
        most = self.settings.body_bytes

        too_large = HTTPException(413, f"the request's body is larger than {most:,} bytes", {"Connection": "close"})
        given = Headers(scope=scope)
        declared = given.get("content-length", "")

        async def limited() -> Message:
            nonlocal size, complete
            if complete:
                return await receive()
            if declared.isdecimal() and int(declared) > most:
                raise too_large
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                text = f"the request's body did not arrive within {self.settings.body_timeout_s:g} s"
                raise HTTPException(408, text, {"Connection": "close"}) from None
            size += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if size > most:
                raise too_large
            return message

        async def answered(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                there = {name for name, _ in message["headers"]}
                headers = self.docs_headers if scope["path"] == DOCS else self.headers
                message["headers"] += [header for header in headers if header[0] not in there]
            try:
                async with asyncio.timeout(self.settings.timeout_s):
                    await send(message)
            except TimeoutError:
                status = GONE
                raise ClientLeftError from None

        try:
            if self.private and not _names_this_machine(given.get("host", "localhost")):
                response = JSONResponse({"detail": "this server answers this machine alone: ask it as localhost, or by an IP address"}, 421)
                await response(scope, limited, answered)
                return
            await self.app(scope, limited, answered)
        except ClientLeftError:
            pass  # it does not read; uvicorn closes what was not answered to the end, and says so in a line
        except Exception:
            if started:
                raise
            _log.exception("%s %s failed", scope["method"], getattr(scope.get("route"), "path", "of an unknown route"))
            response = JSONResponse({"detail": "the server failed; what happened is in its log"}, 500)
            await response(scope, limited, answered)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, status).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - start)


class Server(uvicorn.Server):
    """uvicorn's, which ends at once when it is interrupted again: by itself it tells in pages of tracebacks what it gives up."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and sig == signal.SIGINT:
            _give_up()
        super().handle_exit(sig, frame)


def _give_up() -> NoReturn:
    os.write(2, b"cap2im: interrupted\n")
    os._exit(130)


class Workers(Multiprocess):
    """uvicorn's worker processes, which stop as one: the port closes at once, and not only when the last of them has finished."""

    def terminate_all(self) -> None:
        for listening in self.sockets:  # this process kept them open for the workers that it might have had to start anew
            listening.close()
        super().terminate_all()

    def join_all(self) -> None:
        while any(each.process.is_alive() for each in self.processes):
            if signal.SIGINT in self.signal_queue:  # once more
                for each in self.processes:
                    each.process.kill()
                _give_up()
            time.sleep(0.1)
        super().join_all()


def configuration(app: Any, settings: ServeSettings, **more: Any) -> uvicorn.Config:
    """uvicorn's settings."""
    shutdown_s = max(1, round(settings.shutdown_s))
    common: dict[str, Any] = {"log_level": "warning", "access_log": False, "server_header": False, "timeout_graceful_shutdown": shutdown_s}
    return uvicorn.Config(app, http=BoundedHead, ws="none", **common, **more)


def serve(settings: ServeSettings) -> None:
    """Serves until it is told to stop.

    Raises:
        ValueError: the port cannot be had, or the store cannot be used.
    """
    _store(settings)  # is tried here, where a failure is told once and not by every worker process again
    listening = _listen(settings)
    settings = settings.model_copy(update={"port": listening.getsockname()[1]})
    # uvicorn finishes what it has accepted and then raises the signal again, which shall not count as a failure
    signal.signal(signal.SIGTERM, lambda *_: None)
    if settings.workers == 1:
        Server(configuration(create_app(settings), settings)).run(sockets=[listening])
        return
    settings.to_environment()
    config = configuration("cap2im.serve.app:app_of_environment", settings, factory=True, workers=settings.workers)
    with tempfile.TemporaryDirectory(prefix="cap2im-metrics-") as folder:
        os.environ[FOLDER] = folder
        workers = Workers(config, sockets=[listening])
        workers.run()
    if any(process.exitcode == STARTUP_FAILURE for process in workers.processes):
        raise ValueError("the models cannot be loaded")


def _listen(settings: ServeSettings) -> socket.socket:
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        reason = str(error.strerror or error).split(" (while")[0]  # Python tells the address once more
        raise ValueError(f"cannot listen on {address(settings)}: {reason}") from None
