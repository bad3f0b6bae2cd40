"""How the server reads HTTP: with httptools, a fifth faster than with h11, and as careful."""

from __future__ import annotations

import asyncio
import json

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 64 * 1024  # of a request line and its headers, as h11 has it; httptools would take any number into memory
HEAD_SECONDS = 10  # from its first byte, or from the connection's beginning, to the last: for uvicorn alone it might take days


class BoundedHead(HttpToolsProtocol):
    """Ends a connection whose request does not get past its headers within `HEAD_BYTES` and `HEAD_SECONDS`."""

    _head = 0  # bytes since a request began whose headers are not complete
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._late = self.loop.call_later(HEAD_SECONDS, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head == 0 and self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self.transport.close)
        self._head += len(data)
        super().data_received(data)
        if self._head > HEAD_BYTES:
            self.send_400_response("the request's headers are too long")

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._in_time()
        self._head = -1 << 62  # a body may follow, whose size the application limits

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._head = 0

    def send_400_response(self, msg: str) -> None:
        """Tells what is wrong as every other error does, and closes the connection."""
        content = json.dumps({"detail": msg[0].lower() + msg[1:].removesuffix(".")}).encode()
        head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % len(content) + content)
        self.transport.close()

    def _in_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
