"""deploy/nginx.conf in front of a server: requests and streams pass, slow, endless and ambiguous ones are ended."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cap2im.serve.settings import ServeSettings
from tests.serve.conftest import CAPTION, Client, served, wait_until

CONFIG = (Path(__file__).resolve().parents[2] / "deploy" / "nginx.conf").read_text("utf-8")
GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "guides" / "serving.md").read_text("utf-8")
PREFIX = GUIDE.split("```nginx\n")[1].split("```")[0]


@pytest.fixture(scope="module")
def proxy(tiny, tmp_path_factory) -> Iterator[Client]:
    """A client of nginx with deploy/nginx.conf, but for its paths, ports and time limits, and with a path prefix."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    folder = tmp_path_factory.mktemp("nginx")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with served(ServeSettings.of({"models": (str(tiny),), "shutdown_s": 5, "root_path": "/draw", "timeout_s": 5})) as client:
        text = CONFIG.replace("/tmp/", f"{folder}/").replace("cap2im:8000", f"127.0.0.1:{client.port}")
        text = text.replace("listen 8080;", f"listen 127.0.0.1:{port};\n{PREFIX}")
        for name, seconds in (("client_header_timeout", 10), ("client_body_timeout", 10), ("send_timeout", 30)):
            assert f"\n    {name} {seconds}s" in text
            text = text.replace(f"\n    {name} {seconds}s", f"\n    {name} {3 if name == 'send_timeout' else 1}s")  # a busy machine pauses
        (folder / "nginx.conf").write_text(text)
        start = [program, "-e", "stderr", "-p", str(folder), "-c", "nginx.conf"]
        checked = subprocess.run([*start, "-t"], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        owner = "user root;" if os.geteuid() == 0 else ""  # or its workers could not write responses into the test's folder
        running = subprocess.Popen([*start, "-g", f"daemon off; {owner}"], stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: reachable(port))
            yield Client(port)
        finally:
            running.terminate()
            running.wait()


def reachable(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def is_open(port: int, client_port: int) -> bool:
    """Whether the proxy has a connection with a client."""
    ends = ((c.laddr.port, c.raddr.port) for c in psutil.net_connections("tcp") if c.status == psutil.CONN_ESTABLISHED)
    return (port, client_port) in ends


def test_requests_and_streams_pass(proxy):
    assert proxy.draw(seed=3).status == 200
    assert [name for name, _ in proxy.events()][-1] == "end"
    assert proxy.get("/healthz").status == 200


def test_metrics_stay_inside(proxy):
    assert proxy.get("/metrics").status == 404
    assert proxy.get("/draw/metrics").status == 404


def test_paths_below_a_prefix(proxy):
    assert proxy.get("/draw/v1/models").json["default"] == "tiny"
    assert proxy.ask("POST", "/draw/v1/draw", {"captions": [CAPTION]}).status == 200
    docs = proxy.get("/draw/docs").body.decode()
    assert proxy.get("/draw/openapi.json").json["servers"] == [{"url": "/draw"}]
    files = re.findall(r'(?:src|href)="(/[^"]+)"', docs)
    assert files
    assert "'/draw/openapi.json'" in docs
    for path in files:
        assert path.startswith("/draw/")
        assert proxy.get(path).status == 200


def test_slow_and_endless_heads_are_cut_off(proxy):
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
        with pytest.raises(ConnectionResetError):
            slow.recv(1000)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as endless:
        endless.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 40_000)
        assert endless.recv(1000).startswith(b"HTTP/1.1 400")


def test_slow_bodies_are_cut_off(proxy):
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as slow:
        slow.sendall(b"POST /v1/draw HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        with pytest.raises(ConnectionResetError):
            slow.recv(1000)


def test_clients_that_stop_reading_are_cut_off(proxy, monkeypatch):
    monkeypatch.setattr("cap2im.serve.api.render_response", lambda *_: b" " * 8_000_000)
    body = json.dumps({"captions": [CAPTION]})
    head = f"POST /v1/draw HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.socket() as unread:
        unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        unread.connect(("127.0.0.1", proxy.port))
        unread.sendall((head + body).encode())
        assert unread.recv(15, socket.MSG_PEEK) == b"HTTP/1.1 200 OK"
        wait_until(lambda: not is_open(proxy.port, unread.getsockname()[1]))
        received = 0
        with suppress(ConnectionResetError):
            while piece := unread.recv(65_536):
                received += len(piece)
        assert received < 8_000_000
    assert len(proxy.draw().body) == 8_000_000, "a client that reads gets all"


def test_large_and_ambiguous_requests_are_refused(proxy):
    assert proxy.ask("POST", "/v1/draw", b" " * 70_000).status == 413
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as both:
        both.sendall(b"POST /v1/draw HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        assert both.recv(1000).startswith(b"HTTP/1.1 400")


def test_page_and_documentation_work_below_a_prefix(proxy, browser):
    root = f"http://127.0.0.1:{proxy.port}/draw/"
    asked: list[str] = []
    failed: list[str] = []
    tab = browser.new_page()
    try:
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("response", lambda response: failed.append(response.url) if response.status >= 400 else None)
        tab.goto(root)
        tab.wait_for_selector("#model-choice option", state="attached")
        tab.fill("#caption", CAPTION)
        tab.press("#caption", "Enter")
        tab.wait_for_selector("#status:has-text('Drawn in')")
        tab.goto(f"{root}docs")
        tab.wait_for_selector(".opblock")
    finally:
        tab.close()
    assert failed == []
    assert [url for url in asked if not url.startswith((root, "data:", "blob:"))] == []
    assert any(url.endswith("/draw/v1/draw/stream") for url in asked)
