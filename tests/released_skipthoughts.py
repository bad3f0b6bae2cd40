"""The golden skip-thoughts as a model, and as files in the layout in which the authors released theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cap2im.convert.skipthoughts import fill_encoders
from cap2im.models.skipthoughts import SkipThoughts, SkipThoughtsConfig
from tests.parity.golden import Golden


def golden_skipthoughts(file: Golden) -> tuple[SkipThoughts, dict[str, int]]:
    """The model, in float64, and the numbers of its words."""
    m = file.meta
    model = SkipThoughts(SkipThoughtsConfig(uni=m["dim_uni"], bi=m["dim_bi"], embedding=m["dim_word"]), m["n_words"])
    fill_encoders(model, {name: released_arrays(file, name) for name in ("uni", "bi")}, {"uni": "uni", "bi": "bi"})
    for name, encoder in model.encoders_by_name().items():
        encoder.table.weight.data.copy_(torch.from_numpy(file.arrays[f"{name[0]}table"]))
    return model.double(), {str(word): row for row, word in enumerate(file.arrays["dictionary"])}


def released_arrays(file: Golden, name: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(f"{name}/"): value for key, value in file.arrays.items() if key.startswith(f"{name}/")}


def write_released(file: Golden, folder: Path) -> Path:
    """Writes `uni_skip.npz`, `bi_skip.npz`, `utable.npy`, `btable.npy` and `dictionary.txt` of the golden weights."""
    folder.mkdir(exist_ok=True)
    for name in ("uni", "bi"):
        np.savez(folder / f"{name}_skip.npz", **released_arrays(file, name))
        np.save(folder / f"{name[0]}table.npy", file.arrays[f"{name[0]}table"])
    (folder / "dictionary.txt").write_text("".join(f"{word}\n" for word in file.arrays["dictionary"]), "utf-8")
    return folder
