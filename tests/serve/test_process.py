"""`cap2im serve` as a process: start, workers, stop."""

from __future__ import annotations

import base64
import errno
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from functools import partial

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

import cap2im.serve.metrics
from cap2im.extras import missing_compiler
from cap2im.loading import bundled_models
from cap2im.pipeline import Pipeline
from cap2im.serve.app import create_app
from cap2im.serve.settings import ServeSettings
from tests.serve.conftest import CAPTION, PATIENCE, Client, process, together, wait_until

PATIENT = ("--set", f"body_timeout_s={2 * PATIENCE}", "--set", f"shutdown_s={2 * PATIENCE}")  # requests outlast what a test waits for


def test_stop_signal_lets_accepted_requests_finish(tiny):
    with process("--model", str(tiny), "--batch", "4", "--set", "wait_ms=0") as (server, client):
        accepted = [client.begin("/v1/draw", {"captions": [CAPTION] * 4, "samples": 4, "seed": n, "steps": True}) for n in range(12)]
        accepted += [client.begin("/v1/draw/stream", {"captions": [CAPTION] * 4, "samples": 4}) for _ in range(3)]
        wait_until(lambda: client.count("cap2im_queued") + 16 * client.count("cap2im_requests_total") >= 16 * len(accepted))
        server.send_signal(signal.SIGTERM)
        answers = [connection.makefile("rb").read() for connection in accepted]
        assert server.wait(PATIENCE) == 0
        assert server.stderr.read() == ""
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
    assert all(answer.count(b'"seed"') == 16 for answer in answers[:12])
    assert all(b"event: end" in answer for answer in answers[12:])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", client.port))


def refuses(port: int) -> bool:
    """Whether a port refuses connections."""
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


def draws(client: Client) -> bool:
    """Whether a drawing is returned; a killed worker drops connections that it had accepted."""
    try:
        return client.draw().status == 200
    except OSError:
        return False


def test_two_workers_serve_and_their_counts_add_up(tiny):
    with process("--model", str(tiny), *PATIENT, workers=2) as (server, client):
        workers = [int(name) for name in os.popen(f"pgrep -P {server.pid} -f multiprocessing.spawn").read().split()]
        assert len(workers) == 2
        answers = together(*(partial(client.draw, seed=n) for n in range(24)))
        assert {answer.status for answer in answers} == {200}
        assert client.count("cap2im_pictures_total") == 24
        assert {client.count("cap2im_pictures_total") for _ in range(8)} == {24}, "from any worker"
        os.kill(workers[0], signal.SIGKILL)
        wait_until(lambda: draws(client))
        with socket.create_connection(("127.0.0.1", client.port), timeout=PATIENCE) as slow:
            body = json.dumps({"captions": [CAPTION]}).encode()
            head = f"POST /v1/draw HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            slow.sendall(head.encode() + body[:-1])
            wait_until(lambda: client.get("/healthz").status == 200)
            server.send_signal(signal.SIGTERM)
            wait_until(lambda: refuses(client.port))  # new clients do not wait for stopping workers
            slow.sendall(body[-1:])
            assert slow.recv(12) == b"HTTP/1.1 200", "accepted requests are finished"
        assert server.wait(PATIENCE) == 0


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_interrupted_again_it_gives_up_without_a_traceback(tiny, workers):
    with process("--model", str(tiny), *PATIENT, workers=workers, before=["setsid"]) as (server, client):
        with socket.create_connection(("127.0.0.1", client.port), timeout=PATIENCE) as slow:
            slow.sendall(b"POST /v1/draw HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
            wait_until(lambda: client.get("/healthz").status == 200)
            os.killpg(server.pid, signal.SIGINT)
            wait_until(lambda: refuses(client.port))
            assert server.poll() is None, "it finishes accepted requests"
            os.killpg(server.pid, signal.SIGINT)
            assert server.wait(PATIENCE) == (130 if workers == 1 else 0)
        assert server.stderr.read() == ("cap2im: interrupted\n" if workers == 1 else "")


def test_workers_exit_when_their_parent_is_killed(tiny):
    with process("--model", str(tiny), workers=2) as (server, client):
        assert not refuses(client.port)
        server.kill()
        wait_until(lambda: refuses(client.port))


def test_queue_of_a_killed_worker_is_not_counted(tmp_path):
    program = (
        "import os, time, cap2im.serve.metrics as m; c = m.Metrics(); c.queued.set({}); c.refused.inc(); print(flush=True); time.sleep({})"
    )
    environment = {**os.environ, cap2im.serve.metrics.FOLDER: str(tmp_path)}
    workers = [
        subprocess.Popen([sys.executable, "-c", program.format(queued, 60)], env=environment, stdout=subprocess.PIPE) for queued in (3, 5)
    ]
    read = "import cap2im.serve.metrics as m; print(m.Metrics().text().decode())"

    def counts() -> tuple[str, ...]:
        text = subprocess.run([sys.executable, "-c", read], env=environment, capture_output=True, text=True, check=True).stdout
        return tuple(re.search(rf"^{name} (\S+)$", text, re.MULTILINE)[1] for name in ("cap2im_queued", "cap2im_refused_total"))

    for worker in workers:
        worker.stdout.readline()
    assert counts() == ("8.0", "2.0")
    workers[0].kill()
    workers[0].wait()
    assert counts() == ("5.0", "2.0")
    workers[1].kill()
    workers[1].communicate()


def test_a_model_that_fails_to_load_unexpectedly_stops_it(tiny):
    """Such as one that does not fit into memory."""
    program = """
import sys, cap2im.loading
def read_weights(*arguments): raise MemoryError
cap2im.loading.read_weights = read_weights
from cap2im.cli import main
main()
"""
    command = [sys.executable, "-c", program, "serve", "--model", str(tiny), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    assert done.stderr == "cap2im: out of memory: lower --batch or --workers, or serve fewer models\n"
    assert not done.stdout


def test_bundled_models_are_served_by_default(run, tiny, tmp_path, monkeypatch):
    for name in ("a-tiny-one", "aligndraw-mnist", "aligndraw-scenes"):
        shutil.copytree(tiny, tmp_path / name)
    served = []
    monkeypatch.setattr("cap2im.loading.BUNDLED", tmp_path)
    monkeypatch.setattr("cap2im.serve.app.serve", lambda settings: served.append(settings.models))
    for more in ([], ["--model", str(tiny)], ["--sharpen", str(tiny)]):
        assert run("serve", *more)[0] == 0
    assert served == [("aligndraw-scenes", "a-tiny-one", "aligndraw-mnist"), (str(tiny),), ("aligndraw-mnist",)]
    assert ServeSettings().models == served[0]


def test_models_are_compiled_before_it_is_ready(tiny, monkeypatch, capsys):
    compiled, later = [], []
    monkeypatch.setattr(Pipeline, "compile", lambda self, batch: compiled.append((self.name, batch, threading.current_thread().name)))
    try:
        with TestClient(create_app(ServeSettings(models=(str(tiny),), compile=True, batch=7)), "http://localhost"):
            torch.compile(torch.sin, backend=lambda *_: later.append("compiled"))(torch.zeros(2))
    finally:
        torch.compiler.set_stance("default")
    ((name, batch, thread),) = compiled
    assert (name, batch) == ("tiny", 7)
    assert thread.startswith("draws on cpu")
    assert re.fullmatch(r"tiny: compiled in \d+ s\ntiny: ready on http://127.0.0.1:8000\n", capsys.readouterr().out)
    assert not later, "requests do not wait for a compiler"


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_compiler("cpu")), reason="torch.compile needs a C++ compiler")
def test_a_compiled_server_draws_the_same(tiny):
    wanted = Pipeline.load(str(tiny)).draw(CAPTION, samples=3, seed=2)
    with process("--model", str(tiny), "--compile") as (_, client):
        for samples in (1, 3):
            answer = client.draw(samples=samples, seed=2).json["results"][0]["drawings"]
            for drawing, other in zip(answer, wanted, strict=False):
                image = Image.open(io.BytesIO(base64.b64decode(drawing["image"]["base64"])))
                assert np.abs(np.asarray(image).astype(int) - other.canvases[-1, :, :, 0]).max() <= 1
        glimpses = [data["glimpse"] for name, data in client.events() if name == "glimpse"]
        assert glimpses == [0, 1, 2]


def test_what_cannot_be_compiled_is_told(run, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    status, out, err = run("serve", "--model", str(tiny), "--port", "0", "--compile")
    assert (status, out) == (2, "")
    assert err == "cap2im: --compile needs a C++ compiler (no-such-compiler was not found); --no-compile draws without\n"


def test_a_port_that_is_taken(run, tiny):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, _, err = run("serve", "--model", str(tiny), "--port", str(port))
    assert (status, err) == (2, f"cap2im: cannot listen on http://127.0.0.1:{port}: Address already in use\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "aligndraw-mnits"], f"unknown model 'aligndraw-mnits'; bundled: {', '.join(bundled_models())}"),
        (["--sharpen", "nothing"], "unknown model 'nothing'; expected a model of kind sharpener"),
        (["--device", "tpu"], "no device 'tpu' on this machine; there is cpu"),
        (["--port", "70000"], "'--port'"),
        (["--set", "samples=0"], "samples: Input should be greater than or equal to 1, got '0'"),
        (["--set", "smaples=3"], "unknown setting smaples; there are allowed_hosts, cors_origins, wait_ms, captions, samples, "),
        (["--set", "samples"], "--set samples: expected KEY=VALUE"),
        (["--set", "port=1"], "--set port=1: expected KEY=VALUE of a setting that has no option of its own"),
        (["--api-key-file", "missing"], "missing: no such file or folder"),
        (["--host", "no.such.host.invalid"], "cannot listen on http://no.such.host.invalid:8000"),
    ],
)
def test_refused_commands(run, arguments, message):
    status, out, err = run("serve", *arguments)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert not out


def test_unusable_keys(run, tmp_path, monkeypatch):
    (tmp_path / "key").write_text("two words\n")
    assert run("serve", "--api-key-file", "key")[::2] == (
        2,
        "cap2im: key: expected an API key of at most 4,096 visible ASCII characters without spaces\n",
    )
    assert "/dev/zero: expected an API key" in run("serve", "--api-key-file", "/dev/zero")[2]
    monkeypatch.setenv("CAP2IM_API_KEY", "")
    assert "CAP2IM_API_KEY: expected an API key" in run("serve")[2]


def test_missing_extra_error_names_the_install_command(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "cap2im.serve.app", None)
    for name in [name for name in sys.modules if name.startswith("fastapi") or name == "cap2im.serve.app"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    status, _, err = run("serve")
    assert (status, err) == (2, 'cap2im: serving needs more than the core: pip install "cap2im[serve]"\n')


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_damaged_weights_stop_it_in_one_line(tiny, tmp_path, workers):
    (tmp_path / "config.json").write_bytes((tiny / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    command = [sys.executable, "-m", "cap2im", "serve", "--model", str(tmp_path), "--port", "0", "--workers", str(workers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert all(line.startswith("cap2im: ") or "Child process" in line for line in lines), done.stderr
    assert "model.safetensors" in lines[0]
    assert not done.stdout
