"""What tests of several modules need."""

from __future__ import annotations

import io
import sys

import pytest

from cap2im import cli


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs `cap2im ARGUMENTS` in an empty folder; answers exit status, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cap2im", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return call
