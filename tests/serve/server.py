"""A real `cap2im serve` on loopback, and what its clients need."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

STARTS_WITHIN = 60  # seconds


@dataclass(frozen=True)
class Answer:
    """Status, headers and JSON body of an answer."""

    status: int
    headers: Message
    json: Any


@dataclass(frozen=True)
class Server:
    """A server that was ready."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def ask(self, path: str, body: object = None, *, timeout: float = 60) -> Answer:
        """GETs a path, or POSTs JSON to it; a status of any kind is an answer, a connection that breaks raises OSError."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return Answer(answer.status, answer.headers, json.loads(answer.read()))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, json.loads(error.read()))

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        with urllib.request.urlopen(self.url + "/metrics", timeout=60) as answer:
            found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", answer.read().decode(), re.MULTILINE)
        return sum(map(float, found))


@contextmanager
def serving(folder: Path, *options: str, before: Sequence[str] = (), workers: int = 1) -> Iterator[Server]:
    """A server that is ready, and is stopped at the end; `before` is the command in front of it."""
    log = folder / "server.log"
    command = [*before, sys.executable, "-m", "cap2im", "serve", "--port", "0", "--workers", str(workers), *options]
    with (
        log.open("wb") as out,
        subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process,
    ):
        try:
            yield Server(process, _ready(process, log, workers), log)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def _ready(process: subprocess.Popen[bytes], log: Path, workers: int) -> str:
    end = time.monotonic() + STARTS_WITHIN
    while len(found := re.findall(r"ready on (http://\S+)", log.read_text())) < workers:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)
    return found[0]


def picture(file: dict[str, str]) -> np.ndarray:
    """The pixels of an inline picture."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(file["base64"]))))
