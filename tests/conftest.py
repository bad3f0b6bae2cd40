"""What tests of several modules need."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from cap2im import cli


def pytest_configure() -> None:
    """Shares the cores among the processes of a suite that runs side by side and those that its tests start, before one loads torch.

    Also lets SIGINT interrupt them, as in a terminal: a shell's background jobs ignore it.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if together := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(together))))


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs `cap2im ARGUMENTS` in an empty folder; answers exit status, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, stdin: str | bytes = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cap2im", *arguments])
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def bf16(monkeypatch):
    """Networks multiply in bf16 also on a processor that has to emulate it."""
    monkeypatch.setattr("cap2im.models.precision.supports_bf16", lambda device: True)


@pytest.fixture
def without_bf16(monkeypatch):
    """The machine does not multiply in bf16, whichever it is."""
    monkeypatch.setattr("cap2im.models.precision.supports_bf16", lambda device: False)


@pytest.fixture
def tiny_reader(monkeypatch, tmp_path_factory) -> str:
    """Caption accuracy reads drawings with an untrained network of one feature map, in a tenth of the time; its folder."""
    from cap2im.checkpoint import write_model  # imports torch, for which `pytest_configure` chooses the threads
    from cap2im.models.digit_reader import DigitReader, DigitReaderConfig

    network, folder = DigitReader(DigitReaderConfig(channels=1)), tmp_path_factory.mktemp("reader")
    write_model(folder, network.state_dict(), {"kind": "reader", "model": network.config.model_dump()})
    monkeypatch.setattr("cap2im.evaluation.digits.READER", str(folder))
    return str(folder)


@pytest.fixture(scope="module")  # while it runs no test can have an event loop of its own
def browser() -> Iterator[Any]:
    """A chromium without a window."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("the browser tests need chromium on the PATH")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()
