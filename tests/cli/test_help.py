"""Commands that need no model: help, list, version."""

from __future__ import annotations

import subprocess
import sys

import pytest

import cap2im
from tests.data.sources import picture

CAPTION = "the digit three is at the top of the digit one"

WITHOUT_TORCH = """
import sys
from cap2im import cli
try:
    cli.main()
finally:
    assert "torch" not in sys.modules
"""


def test_list(run):
    code, out, _ = run("list")
    assert code == 0
    for name in ("aligndraw-mnist-paper", "reader-mnist", "skipthoughts-small", "2,370,722"):
        assert name in out


@pytest.mark.parametrize("arguments", [["list"], ["--help"], ["draw", "--help"], ["draw"], ["--version"]])
def test_light_commands_do_not_import_torch(arguments):
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *arguments], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert done.stdout or done.stderr


@pytest.mark.parametrize("arguments", [["check"], ["prepare", "pairs", "--out", "prepared"]])
def test_data_commands_do_not_import_torch(tmp_path, arguments):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "1.txt").write_text("a red square\n", "utf-8")
    picture(1).save(photos / "1.png")
    command = [sys.executable, "-c", WITHOUT_TORCH, *arguments, str(photos), "--workers", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode == 0


def test_version(run):
    assert run("--version")[1].strip() == cap2im.__version__


@pytest.mark.parametrize("command", ["draw", "train", "evaluate", "convert", "list"])
def test_help_has_examples(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "Example" in out
    assert f"cap2im {command}" in " ".join(out.split())
