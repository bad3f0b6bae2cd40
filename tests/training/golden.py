"""Golden losses: what each kind of training reports of its first updates. A refactor must not move them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden_losses.json"


def has_the_golden_losses(kind: str, run: Path) -> None:
    """Compares every logged update of a run with the golden ones; a change of numerics writes them anew and says why."""
    golden = json.loads(GOLDEN.read_text())[kind]
    assert len(golden) == 10
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    logged = [{name: line[name] for name in golden[0]} for line in lines if all(name in line for name in golden[0])]
    assert [line["step"] for line in logged] == [line["step"] for line in golden]
    for line, expected in zip(logged, golden, strict=True):
        assert line == pytest.approx(expected, rel=1e-4)
