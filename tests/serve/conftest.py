"""Servers on loopback, in this process or their own, and an HTTP client."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient

from cap2im.pipeline import Pipeline
from cap2im.serve.app import create_app, listen, server_config
from cap2im.serve.settings import ServeSettings
from tests.tiny import tiny_model

CAPTION = "the digit 3 is at the top of the digit 1"
PATIENCE = 120  # seconds, of waits that a busy machine prolongs


@dataclass
class Answer:
    """Status, headers in lower case, body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def detail(self) -> str:
        return self.json["detail"]


@dataclass
class Client:
    """An HTTP client of a server."""

    port: int
    headers: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        given = {"Content-Type": "application/json", **self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        connection.request(method, path, content, given)
        response = connection.getresponse()
        answer = Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
        connection.close()
        return answer

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def draw(self, captions: Sequence[str] = (CAPTION,), path: str = "/v1/draw", **wanted: Any) -> Answer:
        return self.ask("POST", path, {"captions": list(captions), **wanted})

    def begin(self, path: str, body: Any) -> socket.socket:
        """Send a request and return its connection without reading."""
        content = json.dumps(body).encode()
        common = "Host: localhost\r\nConnection: close\r\nContent-Type: application/json"
        head = f"POST {path} HTTP/1.1\r\n{common}\r\nContent-Length: {len(content)}\r\n\r\n"
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        connection.sendall(head.encode() + content)
        return connection

    def events(self, captions: Sequence[str] = (CAPTION,), **wanted: Any) -> Iterator[tuple[str, Any]]:
        """Yield the events of a stream."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        content = json.dumps({"captions": list(captions), **wanted})
        connection.request("POST", "/v1/draw/stream", content, {"Content-Type": "application/json", **self.headers})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        assert response.getheader("Content-Type", "").startswith("text/event-stream")
        name = ""
        while line := response.readline().decode():
            if line.startswith("event: "):
                name = line[7:].strip()
            elif line.startswith("data: "):
                yield name, json.loads(line[6:])
        connection.close()

    def count(self, name: str) -> float:
        """Return a metric, summed over labels."""
        lines = [line for line in self.get("/metrics").body.decode().splitlines() if line.startswith((name + " ", name + "{"))]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


class Gate:
    """Records every batch, and holds it while closed."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[str, int]]] = []
        self.opened = threading.Event()
        self.opened.set()
        self.reached = threading.Event()
        self.glimpse: Callable[[], None] = lambda: None
        self.fail: Exception | None = None

    def close(self) -> None:
        self.opened.clear()
        self.reached.clear()

    @property
    def drawn(self) -> list[tuple[str, int]]:
        return [picture for batch in self.batches for picture in batch]


@pytest.fixture
def gate(monkeypatch) -> Iterator[Gate]:
    """A gate for the batches of every pipeline."""
    gate, real = Gate(), Pipeline.drawings

    def drawings(self, prompts, seeds, *, watch=None):
        gate.batches.append([(prompt.caption, seed) for prompt, seed in zip(prompts, seeds, strict=True)])
        gate.reached.set()
        assert gate.opened.wait(PATIENCE)
        if gate.fail is not None:
            raise gate.fail

        def watched(glimpses):
            watch(glimpses)
            gate.glimpse()

        return real(self, prompts, seeds, watch=None if watch is None else watched)

    monkeypatch.setattr(Pipeline, "drawings", drawings)
    yield gate
    gate.opened.set()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A tiny untrained alignDRAW of three glimpses."""
    return tiny_model(tmp_path_factory.mktemp("serve") / "tiny")


@contextmanager
def served(settings: ServeSettings) -> Iterator[Client]:
    """A server in a thread of this process."""
    listening = listen(settings.model_copy(update={"host": "127.0.0.1", "port": 0}))
    server = uvicorn.Server(server_config(create_app(settings), settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    client = Client(listening.getsockname()[1])
    try:
        wait_until(lambda: server.started)
        yield client
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def serve(tiny) -> Iterator[Callable[..., Client]]:
    """Start a server of the tiny model with these settings."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(served(ServeSettings.of({"models": (str(tiny),), "shutdown_s": 5, **settings})))


@pytest.fixture(scope="module")
def bundled() -> Iterator[TestClient]:
    """A client of an application with the bundled models, without a network."""
    with TestClient(create_app(ServeSettings()), "http://localhost") as client:
        yield client


@contextmanager
def process(*arguments: str, workers: int = 1, before: Sequence[str] = ()) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    """Run `cap2im serve` in its own process until it is ready; `before` is a command that starts it."""
    command = [*before, sys.executable, "-m", "cap2im", "serve", "--port", "0", "--workers", str(workers), *arguments]
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        output = (line for line in iter(started.stdout.readline, "") if ": compiled in " not in line)  # type: ignore[union-attr]
        lines = [next(output, "") for _ in range(workers)]
        assert all("ready on http://127.0.0.1:" in line for line in lines), (lines, started.stderr.read())  # type: ignore[union-attr]
        yield started, Client(int(lines[0].split("http://127.0.0.1:")[1].split()[0]))
    finally:
        started.terminate()  # not killed: its workers would go on, and hold its output open
        started.communicate(timeout=PATIENCE)


def wait_until(holds: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Wait until a condition is true."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.01)


def together(*asks: Callable[[], Any]) -> list[Any]:
    """Run functions at the same time and return their results."""
    answers: list[Any] = [None] * len(asks)

    def ask(number: int) -> None:
        answers[number] = asks[number]()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(asks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers
