"""Where the real test data lies. It is never part of the project."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def find_data_folder() -> Path | None:
    """The folder that CAP2IM_DATA names, else ../shared/data beside the checkout, else nothing."""
    named = os.environ.get("CAP2IM_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    return folder if folder.is_dir() else None


def data_folder() -> Path:
    """The data folder, or a skip that says why."""
    folder = find_data_folder()
    if folder is None:
        pytest.skip("real test data not found: set CAP2IM_DATA")
    return folder
