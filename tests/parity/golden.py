"""Reading the golden vectors, and comparing with them."""

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
from tests.real_data import data_folder

FORWARD, SCALAR, GRADIENT, UPDATE = 1e-9, 1e-10, 1e-8, 1e-8  # the README's tolerances for float64

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

    @property
    def variants(self) -> list[str]:
        return [v for v in VARIANTS if any(f"{v}/" in name for name in self.arrays)]


def golden(name: str, kind: str = "draw") -> Golden:
    """The golden file; a failure where the data folder exists and the file does not."""
    path = data_folder() / "parity" / kind / f"{name}.npz"
    if not path.is_file():
        pytest.fail(f"golden file missing: {path}")
    return Golden(path)


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
    views = released_layout(model)
    names = {name.removeprefix("param/") for name in file if name.startswith("param/")}
    assert names == set(views)
    for name, view in views.items():
        view.copy_(file[f"param/{name}"])
    return model


def pixels(canvas: Tensor) -> Tensor:
    return canvas.flatten(-3)
