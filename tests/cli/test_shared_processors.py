"""How a training waits beside other programs."""

from __future__ import annotations

import os
import sys

import pytest

from cap2im.cli import train


@pytest.mark.parametrize(
    ("load", "settings", "policy"),
    [
        (2.0, {}, "passive"),
        (0.2, {}, None),
        (2.0, {"OMP_WAIT_POLICY": "active"}, "active"),
        (2.0, {"OMP_NUM_THREADS": "1"}, None),
    ],
    ids=["busy", "quiet", "chosen by the user", "one thread"],
)
def test_threads_sleep_beside_other_programs(monkeypatch, load, settings, policy):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")} | settings
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    message = train._share_processors()
    assert environment.get("OMP_WAIT_POLICY") == policy
    assert bool(message) == (policy == "passive")
