"""ASGI middleware around the whole application: Host check, body limits, security headers and request metrics."""

from __future__ import annotations

import asyncio
import re
import time
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cap2im.serve.metrics import Metrics
from cap2im.serve.settings import ServeSettings

DOCS = "/docs"
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",  # the page sets its own
}
DOCS_POLICY = "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_.-]+))(?::([0-9]{0,5}))?")


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


def check_host(header: str, settings: ServeSettings) -> None:
    """Refuse a request whose `Host` header the server does not serve.

    A web site can let its own name resolve to 127.0.0.1 and read a local server through its visitors' browsers (DNS rebinding). So a
    server on a loopback address accepts only localhost, IP addresses and `allowed_hosts`.

    Raises:
        HTTPException: 400 for a missing or malformed header, 421 for another name.
    """
    name = host_name(header)
    if name is None:
        raise HTTPException(400, "the request has no valid Host header")
    if not (settings.is_loopback or settings.allowed_hosts) or name == "localhost" or name in settings.allowed_hosts:
        return
    try:
        ip_address(name)
    except ValueError:
        raise HTTPException(421, "this server accepts localhost, IP addresses and the names in its setting allowed_hosts") from None


class BodyLimit:
    """`receive` of a request, with limits on the size and the arrival time of the body.

    Attributes:
        complete: whether the whole body was received.
    """

    def __init__(self, receive: Receive, headers: Headers, settings: ServeSettings) -> None:
        self._receive, self._settings = receive, settings
        declared = headers.get("content-length", "0")
        self._declared = int(declared) if declared.isdecimal() else 0
        self._size = 0
        self._deadline = asyncio.get_running_loop().time() + settings.body_timeout_s
        self.complete = self._declared == 0 and "transfer-encoding" not in headers

    async def __call__(self) -> Message:
        """Receive the next message.

        Raises:
            HTTPException: 413 for a body that is too large, 408 for one that is too slow.
        """
        if self.complete:
            return await self._receive()
        self._check_size(self._declared)
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, f"the request's body did not arrive within {self._settings.body_timeout_s:g} s") from None
        self._size += len(message.get("body", b""))
        self.complete = not message.get("more_body", False)
        self._check_size(self._size)
        return message

    def _check_size(self, size: int) -> None:
        if size > self._settings.body_bytes:
            self.complete = False
            raise HTTPException(413, f"the request's body is larger than {self._settings.body_bytes:,} bytes")


class RequestMiddleware:
    """Middleware around the whole application, for every request."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self.docs = settings.root_path + DOCS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # served by the routes of GET; uvicorn drops the body
            scope = {**scope, "method": "GET"}
        start, status = time.perf_counter(), 500
        request_headers = Headers(scope=scope)
        body = BodyLimit(receive, request_headers, self.settings)

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                if scope["path"] == self.docs:
                    headers.setdefault("Content-Security-Policy", DOCS_POLICY)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if not body.complete:  # the rest of the body would be received for nothing
                    headers["Connection"] = "close"
            await send(message)

        try:
            check_host(request_headers.get("host", ""), self.settings)
            await self.app(scope, body, send_with_headers)
        except HTTPException as error:
            await JSONResponse({"detail": error.detail}, error.status_code)(scope, body, send_with_headers)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, status).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - start)
