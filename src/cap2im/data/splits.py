"""Names of the splits, and the split that a folder or a cell names."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


def split_of(relative: PurePosixPath | Path) -> Split:
    """Return the split named by the first folder of a relative path, or train."""
    return SPLIT_NAMES.get(relative.parts[0].lower(), "train") if len(relative.parts) > 1 else "train"


def parse_split(value: Any) -> Split | None:
    """Return the split that a cell names, or None. Karpathy's `restval` is training data."""
    return ({"restval": "train"} | SPLIT_NAMES).get(value.strip().lower()) if isinstance(value, str) else None  # type: ignore[return-value]
