"""Golden losses: what each kind of training reports of its first updates. A refactor must not move them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parent / "golden_losses.json"


UPDATES = 10
_STORED = json.loads(GOLDEN.read_text())


def golden_losses(kind: str) -> list[Any]:
    """Of every update, to be compared with `logged_losses`; a change of numerics writes them anew and says why."""
    assert len(_STORED[kind]) == UPDATES
    return [pytest.approx(losses, rel=1e-4) for losses in _STORED[kind]]


def logged_losses(kind: str, run: Path) -> list[dict[str, float]]:
    """What a run logged of every update, of what is golden for its kind."""
    names = _STORED[kind][0]
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in names} for line in lines if all(name in line for name in names)]
