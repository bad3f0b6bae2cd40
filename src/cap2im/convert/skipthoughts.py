"""Convert the released skip-thought encoders into a model folder.

Source: ryankiros/skip-thoughts, skipthoughts.py: `uni_skip.npz` and `bi_skip.npz` hold the encoders, `utable.npy` and `btable.npy` the
word vectors of about 930,000 words, `dictionary.txt` one word per line. The release keeps a matrix for both gates and one for the
candidate, stored as (inputs, outputs); our models keep one matrix for all three, stored as (outputs, inputs).

The option files (`.npz.pkl`) are not needed and never opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cap2im.arrays import open_npy, read_npz
from cap2im.checkpoint import write_large_model
from cap2im.data.vocabulary import UNKNOWN
from cap2im.files import atomic_folder, read_text, shortened
from cap2im.models.skipthoughts import GRU, SkipThoughts, SkipThoughtsConfig

PARAMETERS = ("W", "b", "U", "Wx", "bx", "Ux")
DIRECTIONS = {"uni": {"encoder": "forwards"}, "bi": {"encoder": "forwards", "encoder_r": "backwards"}}
FILES = {"uni": ("uni_skip.npz", "utable.npy"), "bi": ("bi_skip.npz", "btable.npy")}
DICTIONARY = "dictionary.txt"


def released_layout(gru: GRU, prefix: str) -> dict[str, Tensor]:
    """Return views, in the released orientation, into the parameters of a GRU. Copying into them fills the GRU."""
    inputs, bias, recurrent = gru.inputs.weight.data.T, gru.inputs.bias.data, gru.recurrent.weight.data.T
    gates = 2 * recurrent.shape[0]
    return {
        f"{prefix}_W": inputs[:, :gates],
        f"{prefix}_b": bias[:gates],
        f"{prefix}_U": recurrent[:, :gates],
        f"{prefix}_Wx": inputs[:, gates:],
        f"{prefix}_bx": bias[gates:],
        f"{prefix}_Ux": recurrent[:, gates:],
    }


def fill_encoders(model: SkipThoughts, parameters: Mapping[str, Mapping[str, np.ndarray]], files: Mapping[str, str]) -> None:
    """Fill the GRUs of "uni" and "bi" from released parameters.

    Args:
        model: the model to fill.
        parameters: the arrays of each encoder.
        files: the file name of each encoder, for errors.

    Raises:
        ValueError: a parameter is missing, or its shape does not match the others.
    """
    for name, encoder in model.encoders_by_name().items():
        for prefix, direction in DIRECTIONS[name].items():
            for key, view in released_layout(getattr(encoder, direction), prefix).items():
                array = parameters[name].get(key)
                if array is None:
                    raise ValueError(f"{files[name]}: has no array {key}; it has {', '.join(sorted(parameters[name])) or 'none'}")
                if array.shape != tuple(view.shape) or array.dtype.kind != "f":
                    shape = f"floating point numbers {tuple(view.shape)}, to match encoder_Ux and the word vectors"
                    raise ValueError(f"{files[name]}: {key} is {_described(array)}, expected {shape}")
                view.copy_(torch.from_numpy(array))


def convert_skipthoughts(folder: Path, out: Path, *, half: bool = False) -> Path:
    """Convert a folder of the released files into a model folder, which `cap2im.sentence_encoders.load_sentence_encoder` reads.

    Args:
        folder: with `uni_skip.npz`, `bi_skip.npz`, `utable.npy`, `btable.npy` and `dictionary.txt`.
        out: the model folder to write. Word vectors are copied without reading them into memory, unless `half` is set.
        half: store the word vectors in half precision, which halves the 4.6 GB.

    Returns:
        The model folder.

    Raises:
        ValueError: a file is missing or damaged, or its shapes do not match.
    """
    expected = [*(file for files in FILES.values() for file in files), DICTIONARY]
    if missing := [file for file in expected if not (folder / file).is_file()]:
        raise ValueError(f"{folder}: no {', '.join(missing)}; the released skip-thoughts are {', '.join(expected)}, AttnGAN's files *.pth")
    words = read_dictionary(folder / DICTIONARY)
    tables, parameters = {}, {}
    for name, (archive, table) in FILES.items():
        tables[name] = _table(folder / table, len(words))
        parameters[name] = read_npz(
            folder / archive, [f"{p}_{part}" for p in DIRECTIONS[name] for part in ("W", "b", "U", "Wx", "bx", "Ux")]
        )
    widths = [table.shape[1] for table in tables.values()]
    if widths[0] != widths[1]:
        raise ValueError(f"{folder}: word vectors of {widths[0]} numbers in utable.npy and of {widths[1]} in btable.npy")
    units = {}
    for name, (archive, _) in FILES.items():
        matrix = parameters[name].get("encoder_Ux")
        if matrix is None or matrix.ndim != 2:
            raise ValueError(f"{folder / archive}: encoder_Ux is {_described(matrix)}, expected a square matrix")
        units[name] = matrix.shape[0]
    config = SkipThoughtsConfig(uni=units["uni"], bi=units["bi"], embedding=widths[0])
    files = {name: str(folder / archive) for name, (archive, _) in FILES.items()}
    try:
        with torch.device("meta"):
            fill_encoders(SkipThoughts(config, 1), parameters, files)  # check shapes before the model takes any memory
    except RuntimeError as error:
        raise ValueError(f"{folder}: sizes that no machine can hold: {shortened(str(error), 200)}") from None
    model = SkipThoughts(config, 1)
    fill_encoders(model, parameters, files)
    weights = {name: value for name, value in model.state_dict().items() if not name.endswith("table.weight")}
    for name, vectors in tables.items():
        rows = torch.from_numpy(vectors)
        weights[f"encoders.{name}.table.weight"] = rows.half() if half else rows
    document: dict[str, Any] = {
        "kind": "skipthoughts",
        "description": f"combine-skip as its authors released it: {config.features} numbers a sentence, {len(words):,} words",
        "parameters": sum(value.numel() for value in weights.values()),
        "model": config.model_dump(),
        "vocabulary": {"words": words, "tokens": "treebank", "unknown": UNKNOWN},
    }
    with atomic_folder(out) as draft:
        write_large_model(draft, weights, document)
    return out


def read_dictionary(path: Path) -> list[str]:
    """Return the words of the released dictionary in the order of the tables' rows.

    Of words that become equal when stripped, the last row keeps the word, as in the release; earlier rows get a name that no caption
    contains.

    Raises:
        ValueError: the file is not UTF-8, or has no word UNK.
    """
    lines = read_text(path).removesuffix("\n").split("\n")
    words = [line.strip() for line in lines]
    last = {word: row for row, word in enumerate(words)}
    if UNKNOWN not in last:
        raise ValueError(f"{path}: no word {UNKNOWN} among its {len(words):,}, so unknown words have no vector")
    return [word if last[word] == row else f"row {row}" for row, word in enumerate(words)]


def _table(path: Path, words: int) -> np.ndarray:
    """Return a memory-mapped table of word vectors."""
    table = open_npy(path)
    if table.ndim != 2 or table.dtype != np.float32 or len(table) != words:
        raise ValueError(
            f"{path}: {_described(table)}, expected a float32 matrix with a row for each of the {words:,} words of {DICTIONARY}"
        )
    return table


def _described(array: Any) -> str:
    return f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "missing" if array is None else type(array).__name__
