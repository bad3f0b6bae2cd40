"""What every request passes first: the connection, and the middleware with Host check, limits, response headers and metrics."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from cap2im.serve.api import GONE, ClientLeftError
from cap2im.serve.metrics import Metrics
from cap2im.serve.settings import ServeSettings

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",  # the page sets its own
}
DOCS = "/docs"
SWAGGER = "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
CUT_OFF_S = 1.0  # after `stall_s`: the middleware's time limit comes first, and counts the request as 499
PIECE_BYTES = 64 * 1024  # of an answer, handed to the connection at a time: a client that stops reading holds no more than two of them

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_.-]+))(?::([0-9]{0,5}))?")
_log = logging.getLogger(__name__)


@lru_cache(maxsize=256)
def host_name(host: str) -> str | None:
    """Return the name or IP address of a `Host` header without its port, in lower case; None if the header is malformed."""
    match = _HOST.fullmatch(host)
    if match is None:
        return None
    literal, name, port = match.groups()
    if port and int(port) > 65_535:
        return None
    if literal is None:
        return name.lower().removesuffix(".") or None
    try:
        return str(IPv6Address(literal))
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


class Connection(H11Protocol):
    """A connection that is cut off when its client accepts too little of an answer for `stall_s`.

    uvicorn alone would wait for the client, and so would a server that is to stop: to close a connection is to send what is left first.
    """

    _cut_off: asyncio.TimerHandle | None = None

    def _await_client(self) -> None:
        if self._cut_off is None:
            self._cut_off = self.loop.call_later(self.app_state["stall_s"] + CUT_OFF_S, self.transport.abort)

    def _client_accepts(self) -> None:
        if self._cut_off is not None:
            self._cut_off.cancel()
            self._cut_off = None

    def pause_writing(self) -> None:
        """Start the time limit: the client does not keep up."""
        super().pause_writing()
        self._await_client()

    def resume_writing(self) -> None:
        """End the time limit, unless the rest of the last answer is still to be sent."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._client_accepts()

    def on_response_complete(self) -> None:
        """Start the time limit for the rest of the last answer."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._await_client()

    def shutdown(self) -> None:
        """Start the time limit for the rest of the last answer: the server stops."""
        super().shutdown()
        if self.transport.is_closing():
            self._await_client()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the time limit."""
        self._client_accepts()
        super().connection_lost(exc)


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self.docs = settings.root_path + DOCS
        self.headers, self.docs_headers = (
            [(name.lower().encode(), value.encode()) for name, value in headers.items()]
            for headers in (HEADERS, HEADERS | {"Content-Security-Policy": SWAGGER})
        )

    def refusal(self, headers: Headers) -> HTTPException | None:
        """Return why a request is refused before its route is looked for, or None.

        A web site can let its own name resolve to 127.0.0.1 and then read what a local server answers to its visitors' browsers. So a
        server for this machine answers only to localhost, IP addresses and `allowed_hosts`.
        """
        if "transfer-encoding" in headers and "content-length" in headers:  # a proxy may have read the other of the two
            return HTTPException(400, "the request has both Content-Length and Transfer-Encoding", {"Connection": "close"})
        name = host_name(headers.get("host", ""))
        if name is None:
            return HTTPException(400, "the request has no valid Host header")
        settings = self.settings
        if not (settings.private or settings.allowed_hosts) or name == "localhost" or name in settings.allowed_hosts or _is_address(name):
            return None
        return HTTPException(421, "this server answers to localhost, IP addresses and the names in its setting allowed_hosts")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # the routes of GET answer it; uvicorn drops the body
            scope = {**scope, "method": "GET"}
        start, status, started = time.perf_counter(), 500, False
        settings, headers = self.settings, Headers(scope=scope)
        declared = headers.get("content-length", "0")
        size, complete = 0, declared == "0" and "transfer-encoding" not in headers
        deadline = asyncio.get_running_loop().time() + settings.body_timeout_s
        too_large = HTTPException(413, f"the request's body is larger than {settings.body_bytes:,} bytes", {"Connection": "close"})

        async def limited() -> Message:
            nonlocal size, complete
            if complete:
                return await receive()
            if declared.isdecimal() and int(declared) > settings.body_bytes:
                raise too_large
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                text = f"the request's body did not arrive within {settings.body_timeout_s:g} s"
                raise HTTPException(408, text, {"Connection": "close"}) from None
            size += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if size > settings.body_bytes:
                raise too_large
            return message

        async def in_time(message: Message) -> None:
            nonlocal status
            try:
                async with asyncio.timeout(settings.stall_s):
                    await send(message)
            except TimeoutError:
                status = GONE
                raise ClientLeftError from None

        async def answered(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                present = {name for name, _ in message["headers"]}
                added = self.docs_headers if scope["path"] == self.docs else self.headers
                message["headers"] += [header for header in added if header[0] not in present]
                if not complete and b"connection" not in present:  # whatever is left of the body would be read for nothing
                    message["headers"].append((b"connection", b"close"))
            body = message.get("body", b"")
            while len(body) > PIECE_BYTES:
                await in_time({**message, "body": body[:PIECE_BYTES], "more_body": True})
                body = body[PIECE_BYTES:]
            await in_time({**message, "body": body} if body else message)

        async def answer(error: HTTPException) -> None:
            await JSONResponse({"detail": error.detail}, error.status_code, error.headers)(scope, limited, answered)

        try:
            refused = self.refusal(headers)
            await (self.app(scope, limited, answered) if refused is None else answer(refused))
        except ClientLeftError:
            pass  # uvicorn closes the connection of an incomplete answer, and logs one line
        except asyncio.CancelledError:
            pass  # the server stops, of which uvicorn logs a line; raised again it would log a traceback
        except Exception:
            if started:
                raise
            _log.exception("%s %s failed", scope["method"], getattr(scope.get("route"), "path", "of an unknown route"))
            await answer(HTTPException(500, "the server failed; what happened is in its log"))
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, status).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - start)
