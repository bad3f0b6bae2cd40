"""Golden losses of the first updates of each kind. A refactor must not change them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parent / "golden_losses.json"


UPDATES = 10
_STORED = json.loads(GOLDEN.read_text())


def golden_losses(kind: str) -> list[Any]:
    """Return the golden losses of every update, for comparison with `logged_losses`. A change of numerics rewrites them and says why."""
    assert len(_STORED[kind]) == UPDATES
    return [pytest.approx(losses, rel=1e-4) for losses in _STORED[kind]]


def logged_losses(kind: str, run: Path) -> list[dict[str, float]]:
    """Return the losses that a run logged, as far as its kind has golden ones."""
    names = _STORED[kind][0]
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in names} for line in lines if all(name in line for name in names)]
