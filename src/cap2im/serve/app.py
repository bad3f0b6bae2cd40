"""The application with all its routes and middleware, and the uvicorn server that runs it."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from anyio import to_thread
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

import cap2im
from cap2im.files import shortened
from cap2im.serve import released, store
from cap2im.serve.api import drawing_router, model_router
from cap2im.serve.engine import Engine
from cap2im.serve.guard import DOCS, Guard
from cap2im.serve.metrics import FOLDER, Metrics
from cap2im.serve.page import page_router
from cap2im.serve.settings import ServeSettings

HEAD_BYTES = 64 * 1024  # of a request line with headers, of a chunk's header, of trailers
CONNECTION: Any = "cap2im.serve.guard:Connection"  # by name: uvicorn kills a worker that needs 5 s for the imports of what is passed to it
LEAVING_S = 1.0  # for a process that has stopped to end by itself
UNREADABLE = "There was an error parsing the body"  # FastAPI's words for all that json raises besides JSONDecodeError
NOT_READ = "the body is no JSON text in UTF-8, or its numbers are too long or its brackets nested too deeply"
_log = logging.getLogger(__name__)


def create_app(settings: ServeSettings, *, ends_process: bool = False) -> FastAPI:
    """Return the application, with its models loaded; takes seconds.

    Args:
        settings: of the server.
        ends_process: whether the process ends when the application has stopped, whatever its threads still do.

    Raises:
        ValueError: the store cannot be used, or a model cannot be loaded.
    """
    metrics = Metrics()
    pictures = _store(settings)
    engine = Engine(settings, metrics)
    engine.load()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, float]]:
        process = f" (process {os.getpid()})" if settings.workers > 1 else ""
        print(f"{', '.join(engine.models)}: ready on {address(settings)}{process}", flush=True)
        yield {"stall_s": settings.stall_s}  # for each `Connection`
        engine.close()
        if ends_process:
            _end_process(0)

    app = FastAPIOffline(  # its /docs needs no CDN
        docs_url=DOCS,
        title="cap2im",
        description="Images from captions with attention.",
        version=cap2im.__version__,
        lifespan=lifespan,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # FastAPI would read the environment at every request
        redirect_slashes=False,  # the redirect would repeat the request's Host, and name http behind a proxy that speaks https
    )
    app.state.settings, app.state.engine, app.state.metrics, app.state.store = settings, engine, metrics, pictures
    for router in (drawing_router(settings), model_router(settings), released.router(settings), page_router()):
        app.include_router(router)
    if pictures is not None and pictures.public == settings.root_path + store.FILES:
        app.include_router(store.router())

    @app.get("/healthz", response_class=JSONResponse)
    async def healthz() -> dict[str, str]:
        """The server is alive."""
        return {"status": "alive"}

    @app.get("/readyz", response_class=JSONResponse)
    async def readyz() -> dict[str, str]:
        """The server draws: its models are loaded before it answers any request."""
        return {"status": "ready"}

    @app.get("/metrics", include_in_schema=False)
    async def counts() -> Response:
        """What Prometheus reads."""
        return Response(await to_thread.run_sync(metrics.text), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.exception_handler(RequestValidationError)
    async def wrong_request(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": _one_sentence(error)}, 422)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        detail = NOT_READ if error.detail == UNREADABLE else error.detail
        return JSONResponse({"detail": detail}, error.status_code, error.headers)

    @app.exception_handler(store.StoreError)
    async def not_kept(_: Request, error: store.StoreError) -> JSONResponse:
        return JSONResponse({"detail": error.detail}, error.status, {"Retry-After": "10"} if error.status == 503 else None)

    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Retry-After"],
        )
    app.add_middleware(Guard, settings=settings, metrics=metrics)
    return app


def _store(settings: ServeSettings) -> store.Store | None:
    if settings.store is None:
        return None
    return store.Store.open(
        settings.store,
        public=settings.store_public,
        root_path=settings.root_path,
        link_s=settings.store_link_s,
        timeout_s=settings.store_timeout_s,
    )


def app_of_environment() -> FastAPI:
    """Return the application of a worker process, which ends when the process that started it is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end_with_parent, daemon=True).start()
    # a terminal interrupts all processes: the first SIGINT is the parent's, which then stops this one; the second ends it at once
    signal.signal(signal.SIGINT, lambda *_: signal.signal(signal.SIGINT, signal.SIG_DFL))
    try:
        return _loaded(ServeSettings.from_environment(), ends_process=True)
    except (ValueError, OSError) as error:
        print(f"cap2im: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        sys.exit(STARTUP_FAILURE)  # uvicorn then stops, and does not start the worker again


def _end_process(status: int) -> None:
    """End this process soon: Python alone would wait for threads that draw and encode what nobody waits for any more."""
    leaving = threading.Timer(LEAVING_S, os._exit, [status])
    leaving.daemon = True
    leaving.start()


def _loaded(settings: ServeSettings, *, ends_process: bool = False) -> FastAPI:
    """Call `create_app`; what is no ValueError or OSError becomes a ValueError, with a traceback in the log."""
    try:
        return create_app(settings, ends_process=ends_process)
    except (ValueError, OSError):
        raise
    except Exception as error:
        _log.exception("the models cannot be loaded")
        raise ValueError(f"the models cannot be loaded: {error}") from None


def address(settings: ServeSettings) -> str:
    """Return the URL at which a browser finds the server."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"


def _one_sentence(error: RequestValidationError) -> str:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return f"the body is not JSON: {first['ctx']['error']} at character {first['loc'][1]}"
    if first["loc"] == ("body",):  # missing, no object, or of a type that a browser would send for any site
        return "expected a JSON object, with the header Content-Type: application/json"
    problems = []
    for problem in error.errors()[:3]:
        place = [shortened(str(part)) for part in problem["loc"] if part not in ("body", "path", "query")]
        text = str(problem["msg"])
        problems.append(f"{'.'.join(place)}: {text}" if place else text)
    more = len(error.errors()) - len(problems)
    return "; ".join(problems) + (f"; and {more} more" if more else "")


def configuration(app: Any, settings: ServeSettings, **more: Any) -> uvicorn.Config:
    """Return uvicorn's configuration. h11 is the parser that bounds heads, chunk headers and trailers."""
    return uvicorn.Config(
        app,
        http=CONNECTION,
        h11_max_incomplete_event_size=HEAD_BYTES,
        ws="none",
        root_path=settings.root_path,
        proxy_headers=False,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_s)),
        **more,
    )


def serve(settings: ServeSettings) -> None:
    """Serve until a signal stops the process, which ends soon after.

    Raises:
        ValueError: the port or the store cannot be used, or a model cannot be loaded.
    """
    listening = listen(settings)
    settings = settings.model_copy(update={"port": listening.getsockname()[1]})
    if not settings.private and settings.api_key is None:
        warning = f"listening on {settings.host} without an API key: everyone who reaches this machine can draw; see --api-key-file"
        print(f"cap2im: warning: {warning}", file=sys.stderr, flush=True)
    if settings.workers == 1:
        server = uvicorn.Server(configuration(_loaded(settings), settings))
        # uvicorn finishes what it accepted and then raises the signal again, which is no failure
        signal.signal(signal.SIGTERM, lambda *_: None)
        # interrupted again, it cancels what it does; its tracebacks of that tell nobody anything
        logging.getLogger("uvicorn.error").addFilter(lambda _: not server.force_exit)
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            _end_process(130)
            raise
        _end_process(0)
        return
    _store(settings)  # report its errors once, and not from every worker
    settings.to_environment()
    config = configuration("cap2im.serve.app:app_of_environment", settings, factory=True, workers=settings.workers)
    with tempfile.TemporaryDirectory(prefix="cap2im-metrics-") as folder:
        os.environ[FOLDER] = folder
        workers = Multiprocess(config, sockets=[listening])
        for number in (signal.SIGINT, signal.SIGTERM):
            _close_on_signal(listening, number)
        try:
            workers.run()
        except (ValueError, OSError):
            workers.terminate_all()
            workers.join_all()
            if listening.fileno() != -1:
                raise  # else it was stopped while it started a worker, which found the socket closed
    if any(process.exitcode == STARTUP_FAILURE for process in workers.processes):
        raise ValueError("the models cannot be loaded")


def _close_on_signal(listening: socket.socket, number: int) -> None:
    """Close this process's socket at a signal, before the signal's present handler: no client shall wait for workers that are stopping.

    A second SIGINT ends the process at once, and its workers, which a terminal interrupts too.
    """
    stop: Any = signal.getsignal(number)

    def handle(*arguments: Any) -> None:
        if listening.fileno() == -1 and number == signal.SIGINT:
            raise KeyboardInterrupt
        listening.close()
        stop(*arguments)

    signal.signal(number, handle)


def listen(settings: ServeSettings) -> socket.socket:
    """Return the listening socket.

    On Linux the kernel ends each of its connections whose client accepts no byte of its answer for `stall_s`, and frees what it has
    still to send; see also `Connection`.

    Raises:
        ValueError: the port cannot be used.
    """
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        reason = str(error.strerror or error).split(" (while")[0]  # Python repeats the address
        raise ValueError(f"cannot listen on {address(settings)}: {reason}") from None
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(1000 * settings.stall_s)))
    return listening
