"""Heads of requests: no client fills the memory with one."""

from __future__ import annotations

import json
import socket
from contextlib import suppress

import pytest

import cap2im.serve.protocol
from cap2im.serve.protocol import HEAD_BYTES
from tests.serve.conftest import CAPTION


def sent(port: int, *parts: bytes) -> tuple[bytes, int]:
    """What comes back until the connection ends, and how many bytes could be sent."""
    count = 0
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                count += len(part)
            return connection.recv(65536), count
        except OSError:
            return b"", count


@pytest.mark.parametrize("start", [b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: ", b"GET /healthz?"])
def test_an_endless_head_is_cut_off(serve, start):
    client = serve()
    answer, count = sent(client.port, start, *[b"a" * 65536] * 1000)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
    assert count < 32 * 2**20, "the system's buffers may hold some, the server does not"
    assert client.get("/healthz").status == 200


def test_a_head_that_never_ends_is_not_waited_for(serve, monkeypatch):
    monkeypatch.setattr(cap2im.serve.protocol, "HEAD_SECONDS", 0.3)
    client = serve()
    for begun in (b"", b"GET /healthz HTTP/1.1\r\n", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /heal"):
        with socket.create_connection(("127.0.0.1", client.port), timeout=10) as connection:
            connection.sendall(begun)
            received = b"".join(iter(lambda: connection.recv(65536), b""))  # until the server closes
        assert received.count(b"HTTP/1.1") == (b"\r\n\r\n" in begun)


def test_many_short_headers_count_together(serve):
    client = serve()
    lines = b"".join(b"X-%d: %s\r\n" % (n, b"a" * 1000) for n in range(2 * HEAD_BYTES // 1000))
    answer, _ = sent(
        client.port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", *[lines[i : i + 4096] for i in range(0, len(lines), 4096)]
    )
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")


def test_heads_within_the_bound_and_bodies_beyond_it_are_taken(serve):
    client = serve(body_bytes=4 * HEAD_BYTES)
    assert client.get("/healthz", X_Long="a" * (HEAD_BYTES // 2)).status == 200
    padded = b'{"captions": ["' + CAPTION.encode() + b'"]' + b" " * 3 * HEAD_BYTES + b"}"
    assert client.ask("POST", "/v1/draw", padded).status == 200


def test_requests_on_one_connection_are_counted_apart(serve):
    client = serve()
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"a" * (HEAD_BYTES // 2) + b"\r\n\r\n"
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as connection:
        for _ in range(4):
            connection.sendall(request)
            answer = b""
            while not answer.endswith(b"}"):  # head and body may come apart
                answer += connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200")
        with suppress(OSError):
            connection.sendall(b"GET /healthz?")
            for _ in range(1000):
                connection.sendall(b"a" * 65536)
            pytest.fail("an endless head after others was taken")


@pytest.mark.parametrize(
    ("head", "detail"),
    [
        (b"GET / HTTP/9.9\r\n\r\n", "invalid HTTP request received"),
        (b"nonsense\r\n\r\n", "invalid HTTP request received"),
        (b"GET / HTTP/1.1\r\nX-Long: " + b"a" * (HEAD_BYTES + 1), "the request's headers are too long"),
    ],
)
def test_what_is_no_request_is_told_like_other_errors(serve, head, detail):
    with socket.create_connection(("127.0.0.1", serve().port), timeout=10) as connection:
        connection.sendall(head)
        told, body = b"".join(iter(lambda: connection.recv(65536), b"")).split(b"\r\n\r\n")
    assert told.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/json" in told
    assert b"content-length: %d\r\n" % len(body) in told
    assert json.loads(body) == {"detail": detail}
