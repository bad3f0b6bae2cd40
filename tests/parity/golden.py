"""Reading the golden vectors, and comparing with them. Every size, name and count comes from the files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cap2im.convert.theano import released_layout
from cap2im.models.aligndraw import DRAW, DRAWConfig
from cap2im.models.filterbank import Variant
from tests.real_data import data_folder, find_data_folder

FORWARD, SCALAR, GRADIENT, UPDATE = 1e-9, 1e-10, 1e-8, 1e-8  # the README's tolerances for float64
STORED_FLOAT32 = 1e-7  # for float64 results that are stored as float32

# The golden files' names of the variants
VARIANTS: dict[str, Variant] = {"paper_px1": "paper", "paper": "paper_px0", "released": "released"}


class Golden(Mapping[str, Tensor]):
    """One golden file: arrays as tensors (float64 or int64), and which of them a test has looked at."""

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as file:
            self.arrays = {name: file[name] for name in file.files}
        self.meta = json.loads(str(self.arrays.pop("meta", "{}")))
        self.seen: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.seen.add(name)
        array = self.arrays[name]
        return torch.from_numpy(array.astype(np.int64 if array.dtype.kind == "i" else np.float64))

    def __iter__(self):
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The arrays whose names begin with a prefix, by the rest of their names."""
        return {name.removeprefix(prefix): self[name] for name in self if name.startswith(prefix)}

    def forward_tolerance(self, name: str) -> float:
        """Relative tolerance of an array of a forward pass."""
        return STORED_FLOAT32 if self.arrays[name].dtype == np.float32 else FORWARD


def golden(name: str, kind: str = "draw") -> Golden:
    """The golden file; a failure where the data folder exists and the file does not."""
    path = data_folder() / "parity" / kind / f"{name}.npz"
    if not path.is_file():
        pytest.fail(f"golden file missing: {path}")
    return Golden(path)


def file_names(pattern: str, kind: str = "draw") -> list[str]:
    """Names of golden files, to parametrise tests by; the pattern itself if there is none, with which `golden` skips or fails."""
    folder = find_data_folder()
    found = [] if folder is None else sorted(path.stem for path in (folder / "parity" / kind).glob(f"{pattern}.npz"))
    return found or [pattern]


def groups(name: str, prefix: str = "", kind: str = "attngan") -> list[str]:
    """The names up to the next "/" of a file's arrays under a prefix, to parametrise tests by; ["missing"] if there are none."""
    folder = find_data_folder()
    path = folder / "parity" / kind / f"{name}.npz" if folder else None
    if path is None or not path.is_file():
        return ["missing"]
    with np.load(path, allow_pickle=False) as file:
        return sorted({key.removeprefix(prefix).partition("/")[0] for key in file.files if key.startswith(prefix)}) or ["missing"]


def variants(name: str) -> list[str]:
    """The variants of a golden file of DRAW."""
    return [group for group in groups(name, kind="draw") if group in VARIANTS] or ["released"]


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Relative Euclidean error, the README's measure."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    assert ours.dtype == torch.float64
    return float((ours - theirs).norm() / theirs.norm().clamp_min(1e-30))


def golden_model(file: Golden, variant: str) -> DRAW:
    """Our model in float64 with the golden weights."""
    m = file.meta
    conditional = m["kind"] != "draw"
    side = round((m["dimX"] / m["ch"]) ** 0.5)
    text = {"vocabulary_size": m["vocab"], "language_units": m["lang"], "align_features": m["align"]} if conditional else {}
    config = DRAWConfig(
        conditioning="align" if conditional else "none",
        side=side,
        colours=m["ch"],
        glimpses=m["T"],
        read_patch=m["N"],
        write_patch=m["N"],
        inference_units=m["enc"],
        generative_units=m["dec"],
        latent=m["z"],
        variant=VARIANTS[variant],
        **text,
    )
    model = DRAW(config).double()
    views, weights = released_layout(model), file.under("param/")
    assert weights.keys() == views.keys()
    for name, view in views.items():
        view.copy_(weights[name])
    return model


def pixels(canvas: Tensor) -> Tensor:
    return canvas.flatten(-3)
