"""Every benchmark runs at toy size, and prints the tables of benchmarks/README.md."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import benchmarks
import pytest
import torch

from cap2im.config import load_recipe
from cap2im.metrics.measurement import Measurement
from cap2im.models import attngan as layers
from tests.data.sources import coco
from tests.tiny import CHANGES

README = (Path(__file__).parent.parent / "benchmarks" / "README.md").read_text("utf-8")
NETWORK = [change for change in CHANGES if change.startswith("model.") and "blank" not in change] + ["model.glimpses=2"]
WRK = """import json, sys, urllib.request
url, script = sys.argv[-3], sys.argv[sys.argv.index("-s") + 1]
body = json.dumps({"captions": [open(sys.argv[-1]).readline().strip()], "seed": 1}).encode()
urllib.request.urlopen(urllib.request.Request(url + "/v1/draw", body, {"Content-Type": "application/json"})).close()
print(json.dumps({"failed": 0, "pictures": 1, "seconds": 0.01, "p50": 1, "p99": 2}))
"""
TESTED_ELSEWHERE = {
    "plain": "speed",
    "exported": "tests/export/test_onnx.py",
    "exported_page": "tests/export/test_page.py",
    "reproduce": "test_record",
    "choose_things": "test_choose_things",
    "average_scenes": "test_average_scenes",
    "serve": "test_serve_measures_rounds",
    "time_to_quality": "test_time_to_quality_suspends_the_training",
}


def toy_recipes(monkeypatch: pytest.MonkeyPatch, module: Any, *changes: str) -> None:
    monkeypatch.setattr(module, "load_recipe", lambda name, more=(): load_recipe(name, [*more, *changes]))


def toy_speed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    speed = import_module("benchmarks.speed")
    toy_recipes(monkeypatch, speed, *NETWORK)
    monkeypatch.setattr(speed, "EPOCH", 6)
    monkeypatch.setattr(speed.subprocess, "run", lambda command, **_: None)  # cap2im draw
    return ["--runs", "1"]


def toy_attngan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    attngan = import_module("benchmarks.attngan")
    monkeypatch.setattr(attngan, "VOCABULARY", 9)
    monkeypatch.setattr(attngan, "keep_freed_memory", lambda: None)  # of this process
    toy_recipes(
        monkeypatch, attngan, "model.width=2", "model.condition=3", "model.noise=4", "model.text.features=6", "train.discriminator_width=2"
    )

    def row(command: list[str], **_: Any) -> SimpleNamespace:
        """Measure a row in this process, with the layers as they were before and after."""
        with monkeypatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
            for owner in (layers.UpBlock, layers.ResidualBlock, layers.FirstStage):
                patch.setattr(owner, "forward", owner.forward)
            for name in ("PLACES_AT_ONCE", "glu"):
                patch.setattr(layers, name, getattr(layers, name))
            patch.setattr(sys, "argv", command[2:])
            attngan.main()
        return SimpleNamespace(stdout=printed.getvalue())

    monkeypatch.setattr(attngan.subprocess, "run", row)
    return ["--runs", "1", "--batch", "2"]


def toy_retrieval(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    retrieval = import_module("benchmarks.retrieval")
    toy_recipes(monkeypatch, retrieval, *NETWORK)
    monkeypatch.setattr(retrieval, "COCO_WORDS", 20)
    monkeypatch.setattr(retrieval, "IMAGES", 6)
    return ["--captions", "2", "3", "--candidates", "4"]


def toy_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    data = import_module("benchmarks.data")
    toy_recipes(monkeypatch, data, *NETWORK)
    monkeypatch.setattr(data, "COCO_WORDS", 20)
    monkeypatch.setattr(data, "BATCH", 2)
    return [str(coco(tmp_path / "coco")), "--workers", "1", "--repeat", "2"]


def toy_matching(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    return ["--runs", "1", "--batch", "3", "--features", "4", "--side", "3", "--words", "5"]


def toy_sampling(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    monkeypatch.setattr(import_module("benchmarks.sampling").Pipeline, "compile", lambda self, batch: None)  # takes a minute
    return ["--runs", "1", "--model", "aligndraw-scenes", "--pictures", "1", "2"]


TOYS: dict[str, Callable[[pytest.MonkeyPatch, Path], list[str]]] = {
    "speed": toy_speed,
    "attngan": toy_attngan,
    "retrieval": toy_retrieval,
    "data": toy_data,
    "matching": toy_matching,
    "sampling": toy_sampling,
}


def test_serve_measures_rounds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    serve = import_module("benchmarks.serve")
    tool = tmp_path / "wrk"  # draws one picture, and prints what the script of the real tool does
    tool.write_text(f"#!{sys.executable}\n{WRK}")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(serve, "WARM_SECONDS", 0.01)
    arguments = ["--clients", "1", "--requests", "2", "--rounds", "1", "--seconds", "0.01", "--threads", str(torch.get_num_threads())]
    monkeypatch.setattr(sys, "argv", ["serve", *arguments])
    serve.main()
    out = capsys.readouterr().out
    assert "| what | pictures a second | ms of the processor a picture | p50, ms | p99, ms |" in out
    assert out.count("| ") > 10
    assert "MiB in the server's memory" in out


def test_every_benchmark_is_tested() -> None:
    assert {module.name for module in pkgutil.iter_modules(benchmarks.__path__)} == TOYS.keys() | TESTED_ELSEWHERE.keys()


def test_commands_of_the_readme_exist() -> None:
    commands = re.findall(r"^ *(git checkout .*)?python -m benchmarks\.(\w+)|^\| `python -m benchmarks\.(\w+)`", README, re.M)
    named = {name or listed for old, name, listed in commands if not old}
    assert named == {*TOYS, "exported", "exported_page", "serve", "time_to_quality"}


TRAINS = """import pathlib, sys, time
for step in (5, 10, 15):
    folder = pathlib.Path(sys.argv[1], "checkpoints", f"step-{step:08}")
    folder.mkdir(parents=True)
    (folder / "training.json").touch()
    time.sleep(0.2)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the state of a process from Linux")
@pytest.mark.parametrize("goal", [90, 99])
def test_time_to_quality_suspends_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], goal: float
) -> None:
    module, states = import_module("benchmarks.time_to_quality"), []
    training = subprocess.Popen([sys.executable, "-c", TRAINS, tmp_path])

    def accuracy(checkpoint: Path, data: Path, samples: int) -> dict[str, Measurement]:
        time.sleep(0.05)  # until the signal has arrived
        states.append(Path(f"/proc/{training.pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0])
        rate = 0.95 if checkpoint.name.endswith("10") else 0.5
        both = [Measurement(name="joint", group=g, value=v, n=100, unit="proportion") for g, v in (("seen", rate), ("held out", 0.1))]
        return {each.title: each for each in both}

    monkeypatch.setattr(module, "POLL", 0.01)
    monkeypatch.setattr(module, "accuracy", accuracy)
    try:
        assert module.measure(training, tmp_path, tmp_path, goal, 1, 2.0) == (goal == 90)
    finally:
        training.kill()
        training.wait()
    assert states[0] == "T"
    rows = [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == (["| 5", "| 10"] if goal == 90 else ["| 5", "| 10", "| 15"])


@pytest.mark.skipif(shutil.which("timeout") is None, reason="for a system with GNU coreutils")
@pytest.mark.parametrize("status", [0, 3])
def test_gpu_script_measures_then_trains_until_the_end(tmp_path: Path, status: int) -> None:
    """The programs that it starts are stand-ins; each real one has a test of its own."""
    programs = {"python": f"echo '| a row |'; exit {status}", "cap2im": "trap 'echo saved; exit 130' TERM; echo training; sleep 60 & wait"}
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    script = [Path(benchmarks.__path__[0]) / "gpu.sh", tmp_path, tmp_path / "out", "2", "cpu"]
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(script, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=50)
    assert done.returncode == (status != 0), done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("+ ")] == [
        "python",
        "env",
        "python",
        "python",
        "cap2im",
    ]
    assert "+ env TORCHINDUCTOR_CUDAGRAPHS=1 python -m benchmarks.speed --device cpu --compile\n" in done.stdout
    assert (tmp_path / "out" / "attngan-coco.md").read_text() == "| a row |\n"
    assert (tmp_path / "out" / "training.txt").read_text().split() == ["training", "saved"]
    assert done.stderr.count("failed with status 3: ") == (4 if status else 0)


@pytest.mark.parametrize("name", TOYS)
def test_benchmark_runs_at_toy_size(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    speed, module = import_module("benchmarks.speed"), import_module(f"benchmarks.{name}")
    for constant, value in (("SIDE", 16), ("BATCH", 3), ("COCO_WORDS", 20)):
        monkeypatch.setattr(speed, constant, value)
    monkeypatch.setattr(speed, "supports_bf16", lambda device: False)
    arguments = TOYS[name](monkeypatch, tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *arguments, "--threads", str(torch.get_num_threads())])
    module.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert rows
    assert all(re.search(r"\d", row) for row in rows if "---" not in row and row not in README.splitlines()), "a row without a number"
    headers = [first for first, second in itertools.pairwise(rows) if set(second) <= set("| -")]
    assert headers
    assert [header for header in headers if header not in README and "time goes" not in header] == []
