"""The FastAPI application, and the uvicorn server that runs it."""

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
import time
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

from cap2im._version import __version__
from cap2im.files import shortened
from cap2im.serve import released, store
from cap2im.serve.api import drawing_router, model_router
from cap2im.serve.engine import Engine
from cap2im.serve.metrics import FOLDER, Metrics
from cap2im.serve.middleware import DOCS, SECURITY_HEADERS, RequestMiddleware
from cap2im.serve.page import page_router
from cap2im.serve.settings import ServeSettings

logger = logging.getLogger(__name__)

HEAD_BYTES = 64 * 1024  # limit of a request line with headers, of a chunk header, and of trailers
WORKER_ANSWERS_S = 30  # a silent worker is restarted after this; uvicorn's 5 s are too short for one that imports torch on a busy machine
PARSING_FAILED = "There was an error parsing the body"  # FastAPI's detail for everything that json raises besides JSONDecodeError
NOT_READABLE = "the body is not JSON in UTF-8, or has numbers that are too long or brackets that are nested too deeply"


def create_app(settings: ServeSettings) -> FastAPI:
    """Return the application with its models loaded, which takes seconds, and compiled if the settings say so, which takes minutes.

    Raises:
        ValueError: the store cannot be used, or a model cannot be loaded or compiled.
    """
    metrics = Metrics()
    pictures = open_store(settings)
    engine = Engine(settings, metrics)
    engine.load()
    if settings.compile:
        start = time.perf_counter()
        engine.compile()
        print(f"{', '.join(engine.models)}: compiled in {time.perf_counter() - start:.0f} s", flush=True)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        process = f" (process {os.getpid()})" if settings.workers > 1 else ""
        print(f"{', '.join(engine.models)}: ready on {address(settings)}{process}", flush=True)
        yield
        engine.close()

    app = FastAPIOffline(  # serves the scripts of /docs itself, without a CDN
        docs_url=DOCS,
        title="cap2im",
        description="Images from captions with attention.",
        version=__version__,
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would repeat the request's Host, and name http behind an https proxy
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
        """The server can draw: models are loaded before it accepts requests."""
        return {"status": "ready"}

    @app.get("/metrics", include_in_schema=False)
    async def prometheus() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(await to_thread.run_sync(metrics.text), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.exception_handler(RequestValidationError)
    async def invalid_request(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": _one_sentence(error)}, 422)

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        detail = NOT_READABLE if error.detail == PARSING_FAILED else error.detail
        return JSONResponse({"detail": detail}, error.status_code, error.headers)

    @app.exception_handler(store.StoreError)
    async def store_error(_: Request, error: store.StoreError) -> JSONResponse:
        return JSONResponse({"detail": error.detail}, error.status, {"Retry-After": "10"} if error.status == 503 else None)

    @app.exception_handler(Exception)
    async def server_error(_: Request, error: Exception) -> JSONResponse:  # sent outside of all middleware; uvicorn logs the traceback
        return JSONResponse({"detail": "the server failed; its log has the traceback"}, 500, SECURITY_HEADERS)

    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Retry-After"],
        )
    app.add_middleware(RequestMiddleware, settings=settings, metrics=metrics)
    return app


def open_store(settings: ServeSettings) -> store.Store | None:
    """Return the store for pictures, or None.

    Raises:
        ValueError: the store cannot be used.
    """
    if settings.store is None:
        return None
    return store.Store.open(
        settings.store,
        public=settings.store_public,
        root_path=settings.root_path,
        link_s=settings.store_link_s,
        timeout_s=settings.store_timeout_s,
    )


def address(settings: ServeSettings) -> str:
    """Return the server's URL."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"


def _one_sentence(error: RequestValidationError) -> str:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return f"the body is not JSON: {first['ctx']['error']} at character {first['loc'][1]}"
    if first["loc"] == ("body",):  # missing, not an object, or of a content type that browsers send to any site without asking it
        return "expected a JSON object, with the header Content-Type: application/json"
    problems = []
    for problem in error.errors()[:3]:
        place = [shortened(str(part)) for part in problem["loc"] if part not in ("body", "path", "query")]
        text = str(problem["msg"])
        problems.append(f"{'.'.join(place)}: {text}" if place else text)
    more = len(error.errors()) - len(problems)
    return "; ".join(problems) + (f"; and {more} more" if more else "")


def server_config(app: Any, settings: ServeSettings, **more: Any) -> uvicorn.Config:
    """Return uvicorn's configuration. Of its HTTP parsers, h11 bounds heads, chunk headers and trailers."""
    return uvicorn.Config(
        app,
        http="h11",
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
    """Serve until SIGINT or SIGTERM, then finish accepted requests.

    Raises:
        ValueError: the port or the store cannot be used, or a model cannot be loaded.
    """
    listening = listen(settings)
    settings = settings.model_copy(update={"port": listening.getsockname()[1]})
    if not settings.is_loopback and settings.api_key is None:
        logger.warning(
            "warning: listening on %s without an API key: everyone who can reach this machine can draw; see --api-key-file", settings.host
        )
    if settings.workers > 1:
        _serve_with_workers(settings, listening)
        return
    server = uvicorn.Server(server_config(create_app(settings), settings))
    logging.getLogger("uvicorn.error").addFilter(lambda _: not server.force_exit)  # no tracebacks of what a second Ctrl-C cancels
    default = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # uvicorn raises it again after a graceful stop, which is no failure
    try:
        server.run(sockets=[listening])
    finally:
        signal.signal(signal.SIGTERM, default)


def _serve_with_workers(settings: ServeSettings, listening: socket.socket) -> None:
    open_store(settings)  # report its errors once, not from every worker
    settings.to_environment()
    config = server_config(
        "cap2im.serve.app:worker_app",
        settings,
        factory=True,
        workers=settings.workers,
        timeout_worker_healthcheck=WORKER_ANSWERS_S,
    )
    with tempfile.TemporaryDirectory(prefix="cap2im-metrics-") as folder:
        os.environ[FOLDER] = folder
        supervisor = Multiprocess(config, sockets=[listening])

        def close_when_stopping() -> None:  # otherwise this process's socket keeps new clients waiting until all workers have ended
            supervisor.should_exit.wait()
            listening.close()

        threading.Thread(target=close_when_stopping, daemon=True).start()
        supervisor.run()
    if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
        raise ValueError("the models cannot be loaded")


def worker_app() -> FastAPI:
    """Return the application of a worker process, which stops when its parent process has ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def stop_with_parent() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_with_parent, daemon=True).start()
    try:
        return create_app(ServeSettings.from_environment())
    except Exception as error:  # with any other exit status uvicorn would start the worker again
        print(f"cap2im: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        sys.exit(STARTUP_FAILURE)


def listen(settings: ServeSettings) -> socket.socket:
    """Return the listening socket.

    On Linux the kernel closes a connection whose client does not acknowledge any data for `send_timeout_s`.

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
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(1000 * settings.send_timeout_s)))
    return listening
