"""Hostile requests: they hold no memory or connection, and get one sentence."""

from __future__ import annotations

import gzip
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import psutil
import pytest

from cap2im.serve.app import HEAD_BYTES, NOT_READABLE
from cap2im.serve.middleware import host_name
from cap2im.serve.settings import ServeSettings
from tests.serve.conftest import CAPTION, Answer, Client, served, wait_until

MEBIBYTE = 2**20
HEAD = b"POST /v1/draw HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
BODY = json.dumps({"captions": [CAPTION]}).encode()
CHUNK = b"%x\r\n%s\r\n" % (len(BODY), BODY)
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def server(tiny) -> Iterator[Client]:
    with served(ServeSettings.of({"models": (str(tiny),), "shutdown_s": 5})) as client:
        yield client


@pytest.fixture(scope="module")
def keyed(tiny) -> Iterator[Client]:
    with served(ServeSettings.of({"models": (str(tiny),), "shutdown_s": 5, "api_key": "open-sesame", "body_bytes": 1000})) as client:
        yield client


def connected(port: int, receive_buffer: int | None = None) -> socket.socket:
    """Connect, with a small receive buffer if given, so that the server can send little that is not read."""
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", port))
    return connection


def raw(client: Client, data: bytes) -> bytes:
    """Send bytes and return the first line of the response; empty if the connection is reset."""
    with connected(client.port) as connection:
        try:
            connection.sendall(data)
            return connection.recv(65_536).split(b"\r\n")[0]
        except OSError:
            return b""


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        pytest.param(CHUNKED + CHUNK + b"0\r\n", b"X-Trailer: " + b"a" * 1000 + b"\r\n", id="trailers"),
        pytest.param(CHUNKED + CHUNK + b"0\r\n", b"a: b\r\n", id="short trailers"),
        pytest.param(CHUNKED + b"1;x=", b"a" * 1000, id="chunk extension"),
        pytest.param(HEALTH + b"X: ", b"a" * 1000, id="header"),
        pytest.param(HEALTH, b"X: a\r\n", id="header lines"),
        pytest.param(b"GET /healthz?", b"a" * 1000, id="address"),
        pytest.param(HEALTH + b"Transfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"a" * 4096 + b"\r\n", id="unused chunks"),
        pytest.param(HEALTH + b"Content-Length: 99999999999\r\n\r\n", b"a" * 4096, id="unused body"),
    ],
)
def test_endless_responses_are_cut_off(server, start, piece):
    before, sent = psutil.Process().memory_info().rss, 0
    block = piece * (65_536 // len(piece))
    with connected(server.port) as connection:
        connection.sendall(start)
        with suppress(ConnectionResetError, BrokenPipeError):
            while sent < 53 * MEBIBYTE:
                connection.sendall(block)
                sent += len(block)
    assert sent < 32 * MEBIBYTE, "the system's buffers may hold some, the server must not"
    assert psutil.Process().memory_info().rss - before < 20 * MEBIBYTE
    assert server.get("/healthz").status == 200


def test_heads_within_the_bound_and_larger_bodies_are_taken(serve):
    client = serve(body_bytes=4 * HEAD_BYTES)
    assert client.get("/healthz", X_Long="a" * (HEAD_BYTES // 2)).status == 200
    assert client.get("/healthz?" + "a" * (HEAD_BYTES // 2)).status == 200
    assert client.ask("POST", "/v1/draw", BODY + b" " * 3 * HEAD_BYTES).status == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        HEAD + b"Content-Length: %d\r\nContent-Length: 3\r\n\r\n" % len(BODY) + BODY,
        HEAD + b"Content-Length: +%d\r\n\r\n" % len(BODY) + BODY,
        HEAD + b"Content-Length: -1\r\n\r\n" + BODY,
        HEAD + b"Content-Length: 4_3\r\n\r\n" + BODY,
        HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n" + BODY,
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNK + b"0\r\n\r\n",
        HEAD + b"Transfer-Encoding : chunked\r\n\r\n" + CHUNK + b"0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + CHUNK + b"0\r\n\r\n",
        *(CHUNKED + size + b"\r\n" + BODY + b"\r\n0\r\n\r\n" for size in (b"0x3f", b"+3f", b"-1", b" 3f", b"", b"f" * 40, b"3g")),
        CHUNKED + b"1\r\n{BAD0\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.0\r\n\r\n",
        HEALTH + b"Host: evil.example\r\n\r\n",
        HEALTH + b"X: a\0b\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_ambiguous_and_malformed_requests_get_400(server, request_bytes):
    assert raw(server, request_bytes) == b"HTTP/1.1 400 Bad Request"


def test_pipelined_requests_are_handled_in_order(server):
    count = 2000
    with connected(server.port) as connection:
        connection.sendall((HEALTH + b"\r\n") * count)
        answers = b""
        while answers.count(b'{"status":"alive"}') < count:
            answers += connection.recv(65_536)
    assert answers.count(b"HTTP/1.1 200 OK") == count


@pytest.fixture
def large_answers(monkeypatch) -> None:
    """Make responses of 8 MB and streams of 20 MB, more than the system's buffers hold."""

    async def flood(*_):
        for _ in range(200):
            yield b": " + b"x" * 100_000 + b"\n\n"

    monkeypatch.setattr("cap2im.serve.api.render_response", lambda *_: b" " * 8_000_000)
    monkeypatch.setattr("cap2im.serve.stream.drawing_events", flood)


def unread(port: int, request_bytes: bytes) -> socket.socket:
    """Send requests and return the connection without reading the responses."""
    connection = connected(port, 4096)
    connection.sendall(request_bytes)
    assert connection.recv(15, socket.MSG_PEEK) == b"HTTP/1.1 200 OK"
    return connection


def open_connections(port: int) -> int:
    """Count this process's connections at its port."""
    return sum(each.laddr.port == port and each.status != psutil.CONN_LISTEN for each in psutil.Process().net_connections("tcp"))


DRAW = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(DRAW, id="answer"),
        pytest.param(DRAW.replace(b"/v1/draw", b"/v1/draw/stream"), id="stream"),
        pytest.param(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000, id="pipeline"),
    ],
)
@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux closes such connections")
def test_a_client_that_stops_reading_is_cut_off(serve, large_answers, request_bytes):
    client = serve(send_timeout_s=1)
    stalled = [unread(client.port, request_bytes) for _ in range(3)]
    wait_until(lambda: open_connections(client.port) == 0)
    assert client.count("cap2im_queued") == 0
    assert client.get("/healthz").status == 200
    for connection in stalled:
        connection.close()


def test_a_stream_that_is_not_read_frees_its_slots_on_any_system(serve, large_answers, monkeypatch):
    monkeypatch.delattr(socket, "TCP_USER_TIMEOUT", raising=False)
    client = serve(timeout_s=0.5, send_timeout_s=0.5)
    with unread(client.port, DRAW.replace(b"/v1/draw", b"/v1/draw/stream")):
        wait_until(lambda: client.count("cap2im_queued") == 1)
        wait_until(lambda: client.count("cap2im_queued") == 0)


def test_a_client_that_does_not_read_does_not_hold_up_a_stop(tiny, large_answers):
    settings = ServeSettings.of({"models": (str(tiny),), "send_timeout_s": 1, "shutdown_s": 600})
    with ExitStack() as stack:
        client = stack.enter_context(served(settings))
        stalled = unread(client.port, DRAW)
        stopping = threading.Thread(target=stack.pop_all().close, daemon=True)
        stopping.start()
        wait_until(lambda: not stopping.is_alive(), 30)
        stalled.close()


# Bodies


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        (b'{"captions": ["\\ud800"]}', 422, "captions.0: "),
        (b'{"captions": ["a"], "\\ud800": 1}', 422, "expected a JSON object"),
        (b'{"captions": ["a"], "' + b"k" * 5000 + b'": 1}', 422, "k" * 59 + "…: Extra inputs are not permitted"),
        (b'{"captions": ["the digit three"], "model": "\\ud800"}', 404, "unknown model '\\ud800'"),
        (b'{"captions": ["\\u0000 a"]}', 422, r"caption '\x00 a': unknown word"),
        (b'{"captions": ["a"], "seed": NaN}', 422, "seed: "),
        (b'{"captions": ["a"], "seed": Infinity}', 422, "seed: "),
        (b'{"captions": ["a"], "seed": 1e400}', 422, "seed: "),
        (b'{"captions": ["a"], "seed": 9007199254740993}', 422, "seed: "),
        (b'{"captions": ["a"], "seed": ' + b"9" * 5000 + b"}", 400, NOT_READABLE),
        (b'{"captions": ["a"], "samples": true}', 422, "samples: "),
        (b'{"captions": ' + b'["a",' * 5 + b"]}", 422, "the body is not JSON"),
        (b'{"captions": ["a"' + b',"a"' * 10_000 + b"]}", 422, "captions: List should have at most 16 items"),
        (b"[" * 60_000, 400, NOT_READABLE),
        (b'{"a":' * 12_000, 400, NOT_READABLE),
        (b"\xff\xfe{\x00", 422, "the body is not JSON"),
        (b"\xff\xff\xff", 400, NOT_READABLE),
        (gzip.compress(BODY, mtime=0), 400, NOT_READABLE),
        (b"null", 422, "expected a JSON object"),
        (b"", 422, "expected a JSON object"),
    ],
)
def test_hostile_bodies_get_one_sentence(server, body, status, detail):
    for path in ("/v1/draw", "/v1/draw/stream"):
        answer = server.ask("POST", path, body)
        assert answer.status == status, answer.body
        assert answer.detail.startswith(detail)
        assert len(answer.detail) < 400


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_bodies_in_other_unicode_encodings_are_read(server, encoding):
    assert server.ask("POST", "/v1/draw", BODY.decode().encode(encoding)).status == 200


@pytest.mark.parametrize("path", ["/v1/read", "/api/v1.0/bird"])
def test_hostile_captions_of_other_routes(server, path):
    for body in (b'{"caption": "\\ud800"}', b'{"caption": 1}', b'{"caption": ["a"]}', b'{"caption": null}', b'{"\\udfff": "a"}'):
        assert server.ask("POST", path, body).status == 422


# The key


@pytest.mark.parametrize("path", ["/v1/draw", "/v1/draw/stream", "/api/v1.0/bird", "/api/v1.0/birds"])
def test_the_key_is_checked_before_the_body(keyed, path):
    for body in (b"[", b"{}", b"\xff", b" " * 2000, b"[" * 900):
        assert keyed.ask("POST", path, body).status == 401
        assert keyed.ask("POST", path, body, Authorization="Bearer open-sesame").status in (400, 413, 422)
    with connected(keyed.port) as unsent:
        unsent.sendall(HEAD.replace(b"/v1/draw", path.encode()) + b"Content-Length: 100\r\n\r\n")
        answer = unsent.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 401")
    assert b"connection: close" in answer.lower()


@pytest.mark.parametrize("value", ["bearer open-sesame", "BEARER open-sesame", "Bearer  open-sesame"])
def test_the_scheme_of_the_key_has_no_case(keyed, value):
    assert keyed.ask("POST", "/v1/draw", BODY, Authorization=value).status == 200


# Names


@pytest.mark.parametrize(
    "path",
    ["/docs/", "/v1/models/", "//v1/models", "//evil.example/..", "/healthz/", "/v1/models/../models", "/static-offline-docs",
     "/static-offline-docs/../core.py", "/static-offline-docs/%2e%2e/core.py", "/static-offline-docs/..%2fcore.py",
     "/static-offline-docs/%00", "/page/..%2f..%2fapp.py", "/page/%00", "/v1/models/..%2f..%2ftiny/words", "/v1/models/%00/words",
     "/v1/models/%ff/words", "/v1/files/x"],
)  # fmt: skip
def test_no_path_redirects_or_leads_elsewhere(server, path):
    answer = server.get(path)
    assert answer.status == 404, answer.body[:200]
    assert "location" not in answer.headers


def test_foreign_files_in_a_store_are_not_served(serve, tmp_path):
    client = serve(store=str(tmp_path / "store"), root_path="/draw")
    url = client.draw().json["results"][0]["drawings"][0]["image"]["url"]
    assert url.startswith("/draw/v1/files/")
    path = url.removeprefix("/draw")
    assert client.get(path).status == 200
    name, file = path.rsplit("/", 1)[1], tmp_path / "store" / path.rsplit("/", 1)[1]
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for plant in (lambda: file.symlink_to(secret), lambda: os.mkfifo(file), file.mkdir):
        file.unlink()
        plant()
        assert client.get(path).status == 404
        if file.is_dir():
            file.rmdir()
            file.write_bytes(b"")
    for other in (f"..%2f{name}", f"%2e%2e/{name}", f"{name}%00", f"{name}%2f", ".cap2im", "%2e", f"{name}/", name.upper()):
        assert client.get(f"/v1/files/{other}").status == 404


def test_metrics_have_no_label_of_a_client(server):
    for n in range(20):
        server.get(f"/nothing/{n}")
        server.get(f"/v1/models/other{n}/words")
        server.get(f"/static-offline-docs/{n}")
    text = server.get("/metrics").body.decode()
    assert "other1" not in text
    routes = {line.split('route="')[1].split('"')[0] for line in text.splitlines() if 'route="' in line}
    assert {"other", "/v1/models/{name}/words"} <= routes
    assert len(routes) < 15


# Browsers of other origins


def preflight(client: Client, origin: str) -> Answer:
    asked = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "authorization,content-type"}
    return client.ask("OPTIONS", "/v1/draw", Origin=origin, **asked)


def test_no_other_origin_may_ask_by_default(server):
    refused = preflight(server, "https://gallery.example")
    assert refused.status == 405
    assert not [name for name in refused.headers if name.startswith("access-control")]
    assert "access-control-allow-origin" not in server.get("/v1/models", Origin="https://gallery.example").headers


def test_allowed_origins_may_ask_with_the_key(serve):
    client = serve(api_key="open-sesame", cors_origins="https://gallery.example,http://localhost:3000")
    for origin in ("https://gallery.example", "http://localhost:3000"):
        allowed = preflight(client, origin)
        assert (allowed.status, allowed.headers["access-control-allow-origin"]) == (200, origin)
        assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
        for key, status in (("open-sesame", 200), ("wrong", 401)):
            answer = client.ask("POST", "/v1/draw", BODY, Origin=origin, Authorization=f"Bearer {key}")
            assert (answer.status, answer.headers["access-control-allow-origin"]) == (status, origin)
    for origin in ("https://gallery.example.evil", "http://gallery.example", "null", "https://evil.example"):
        assert "access-control-allow-origin" not in preflight(client, origin).headers
        assert "access-control-allow-origin" not in client.get("/v1/models", Origin=origin).headers


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("cors_origins", "gallery.example"),
        ("cors_origins", "https://gallery.example/"),
        ("cors_origins", "https://a,,https://b"),
        ("cors_origins", "null"),
        ("allowed_hosts", "https://draw.example.org"),
        ("allowed_hosts", "draw.example.org:80"),
        ("allowed_hosts", "*"),
        ("allowed_hosts", "Draw.example.org"),
        ("root_path", "draw"),
        ("root_path", "/draw/"),
        ("root_path", "/../draw"),
        ("root_path", "//evil.example"),
        ("root_path", "/a b"),
        ("store_public", "pictures"),
    ],
)
def test_malformed_settings_are_refused(setting, value):
    with pytest.raises(ValueError, match=rf"^{setting}[.0-9]*: expected .*such as .*, got '"):
        ServeSettings.of({setting: value})


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost", "localhost"),
        ("LOCALHOST.:80", "localhost"),
        ("localhost:65536", None),
        ("[0:0::1]:80", "::1"),
        ("a\n", None),
        ("", None),
        ("a b", None),
    ],
)
def test_host_names(header, name):
    assert host_name(header) == name


# Starting


def test_a_public_server_without_a_key_warns(run, monkeypatch, tiny):
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    warning = "warning: listening on 0.0.0.0 without an API key: everyone who can reach this machine can draw; see --api-key-file\n"
    assert run("serve", "--model", str(tiny), "--host", "0.0.0.0", "--port", "0")[2] == warning
    assert run("serve", "--model", str(tiny), "--host", "127.0.0.2", "--port", "0")[2] == ""
    monkeypatch.setenv("CAP2IM_API_KEY", "open-sesame")
    assert run("serve", "--model", str(tiny), "--host", "0.0.0.0", "--port", "0")[2] == ""
