"""Test that a preparation killed at any file operation is resumed to equal bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

from cap2im.data.prepare import PrepareOptions, prepare_dataset
from tests.data import sources
from tests.kills import kills, run_child


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_kill_at_any_operation_is_resumed_to_equal_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(PrepareOptions, "shard_rows", 2)
    pairs = sources.pairs(tmp_path / "pairs", 4)

    def write(out: Path, resume: bool = False) -> None:
        prepare_dataset(sources.read("pairs", pairs), out, kind="pairs", path=str(pairs), workers=1, resume=resume)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    write(whole)  # imports what is slow, so that the children open equal files
    for kill_at in kills(run_child(lambda: write(tmp_path / "counted"))):
        run_child(lambda: write(killed), kill_at)
        if not (killed / "manifest.json").exists() or (killed / "preparing.json").exists():
            write(killed, resume=True)
        assert files(killed) == files(whole), f"killed at {kill_at}"
        shutil.rmtree(killed)
