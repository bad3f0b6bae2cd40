"""Model folders and training checkpoints: complete, atomic, checksummed, and without anything that is executed on loading.

A model folder holds `config.json` (kind, sizes, vocabulary, SHA-256 of the weights) and `model.safetensors`, in the layout of the Hugging
Face hub. A checkpoint is a model folder with two more files: `training.safetensors` (weights in training, optimizer, random states) and
`training.json` (step, recipe).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, NonNegativeInt
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import load_file, save_file
from safetensors.torch import save as dump_tensors
from torch import Tensor

from cap2im._version import __version__
from cap2im.files import (
    JSONObject,
    atomic_folder,
    check_regular_file,
    dump_json,
    existing_folder,
    file_sha256,
    naming,
    parse_json,
    read_json,
    sha256,
    shortened,
    validate,
)

FORMAT = 1
CONFIG, WEIGHTS, TRAINING_STATE, TRAINING_TENSORS = "config.json", "model.safetensors", "training.json", "training.safetensors"
SENTENCE_ENCODER = "sentence-encoder"  # folder in a model folder, for models that need one
KEPT_CHECKPOINTS = 2


def _own_sha256(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 hex digest of a JSON document without its checksums."""
    return sha256(json.dumps({key: value for key, value in document.items() if key != "sha256"}, sort_keys=True).encode())


def _write_json(path: Path, document: Mapping[str, Any], checksums: Mapping[str, str]) -> None:
    """Write a document with its own checksum, as it will be read back, and those of the tensors beside it."""
    stored = parse_json(dump_json({"format": FORMAT, **document}), JSONObject, str(path)).root
    stored["sha256"] = {**checksums, path.name: _own_sha256(stored)}
    _write(path, (dump_json(stored) + "\n").encode())


def _write(path: Path, data: bytes) -> None:
    with naming(path):
        path.write_bytes(data)


def _contiguous(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Return contiguous copies on the CPU, floating point tensors as `dtype` unless it is None."""
    return {
        name: t.detach().to("cpu", dtype if dtype and t.is_floating_point() else None, copy=True).contiguous()
        for name, t in tensors.items()
    }


def write_model(
    folder: Path, weights: Mapping[str, Tensor], config: Mapping[str, Any], card: str = "", dtype: torch.dtype | None = None
) -> None:
    """Write a model into an existing folder.

    Args:
        folder: an existing folder.
        weights: a state dict.
        config: JSON-ready; `format`, `version` and the SHA-256 of the weights are added.
        card: text of README.md; empty writes none.
        dtype: type of stored floating point weights; None keeps their own.
    """
    data = dump_tensors(_contiguous(weights, dtype))
    _write(folder / WEIGHTS, data)
    _write_json(folder / CONFIG, {"version": __version__, **config}, {WEIGHTS: sha256(data)})
    if card:
        _write(folder / "README.md", card.encode("utf-8", "backslashreplace"))


def write_large_model(folder: Path, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write a model without a copy of its weights in memory; they may be memory maps of files."""
    path = folder / WEIGHTS
    try:
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    except SafetensorError as error:  # "I/O error: No space left on device (os error 28)"
        raise OSError(f"{path}: cannot write ({' '.join(str(error).split())})") from None
    _write_json(folder / CONFIG, {"version": __version__, **config}, {WEIGHTS: file_sha256(folder / WEIGHTS)})


def read_config(folder: Path) -> dict[str, Any]:
    """Return the config of a model folder.

    Raises:
        ValueError: it is missing, damaged, or written by a later version.
    """
    return _read_json(existing_folder(folder) / CONFIG)


def _read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object with format and checksums, checked against its own checksum."""
    if not path.exists():
        raise ValueError(f"{path.parent}: no {path.name} in this folder, so it is no model or checkpoint of cap2im")
    document = read_json(path, JSONObject).root
    if document.get("format") != FORMAT:
        raise ValueError(f"{path}: format {shortened(repr(document.get('format')))}, this version of cap2im reads format {FORMAT}")
    if _checksum(document, path.name, path) != _own_sha256(document):
        raise ValueError(f"{path}: altered: it does not have the SHA-256 that it names")
    return document


def read_tensors(path: Path, expected_sha256: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Raises:
        ValueError: it is missing, not a regular file, truncated or altered.
    """
    if not path.exists():
        raise ValueError(f"{path}: missing")
    check_regular_file(path)
    data = path.read_bytes()
    _check_sha256(path, sha256(data), expected_sha256)
    try:
        return load_tensors(data)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file: {error}") from None


def read_weights(folder: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights of a model folder, checked against the SHA-256 in its config; see `read_tensors` for errors."""
    folder = existing_folder(folder)
    return read_tensors(folder / WEIGHTS, _checksum(config, WEIGHTS, folder / CONFIG))


def map_weights(folder: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights of a model folder as memory maps of their file, which are read on use.

    Raises:
        ValueError: the file is missing, truncated or altered.
    """
    path = existing_folder(folder) / WEIGHTS
    expected = _checksum(config, WEIGHTS, folder / CONFIG)
    if not path.exists():
        raise ValueError(f"{path}: missing")
    check_regular_file(path)
    _check_sha256(path, file_sha256(path), expected)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file: {error}") from None


def _check_sha256(path: Path, actual: str, expected: str) -> None:
    if actual != expected:
        raise ValueError(f"{path}: truncated or altered: SHA-256 {actual[:12]}…, expected {expected[:12]}…")


def _checksum(document: Mapping[str, Any], name: str, where: Path) -> str:
    checksums = document.get("sha256")
    checksum = checksums.get(name) if isinstance(checksums, Mapping) else None
    if not isinstance(checksum, str):
        raise ValueError(f"{where}: no SHA-256 for {name}")
    return checksum


@dataclass(frozen=True)
class Checkpoint:
    """Everything besides the model folder that an exact resume needs.

    Attributes:
        step: number of updates made.
        recipe: the recipe as a table.
        tensors: weights in training, optimizer state and random states of all processes, by name.
        numbers: their scalars, JSON-ready.
    """

    step: int
    recipe: dict[str, Any]
    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


def save_checkpoint(run: Path, checkpoint: Checkpoint, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> Path:
    """Write a checkpoint of a run, then remove all but the newest. A failure leaves the older ones unchanged.

    Args:
        run: the run's folder.
        checkpoint: of the training.
        weights: state dict of the model folder: the EMA, if there is one.
        config: of the model; see `write_model`.

    Returns:
        the folder of the checkpoint.

    Raises:
        ValueError: weights are not finite.
        OSError: the disk is full, or the folder cannot be written.
    """
    tensors = checkpoint.tensors
    if broken := [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]:
        raise ValueError(f"{run}: not finite after step {checkpoint.step}: {', '.join(broken[:3])}; the last checkpoint was kept")
    target = run / "checkpoints" / f"step-{checkpoint.step:08d}"
    try:
        for left in target.parent.glob(".step-*"):  # by a killed process
            shutil.rmtree(left, ignore_errors=True)
        with atomic_folder(target) as folder:
            write_model(folder, weights, config)
            data = dump_tensors(_contiguous(tensors))
            _write(folder / TRAINING_TENSORS, data)
            document = {"step": checkpoint.step, "recipe": checkpoint.recipe, "numbers": checkpoint.numbers}
            _write_json(folder / TRAINING_STATE, document, {TRAINING_TENSORS: sha256(data)})
    except OSError as error:
        older = [path.name for path in checkpoints(run) if path != target][-1:]
        advice = f"{older[0]} is kept: with more space, --resume continues from it" if older else "no checkpoint to --resume from yet"
        raise OSError(error.errno, f"{error.strerror or error}; {advice}", error.filename) from None
    for old in checkpoints(run)[:-KEPT_CHECKPOINTS]:
        retired = old.with_name(f".{old.name}")
        os.replace(old, retired)  # first, so that a kill during the deletion leaves no incomplete checkpoint
        shutil.rmtree(retired, ignore_errors=True)
    return target


def checkpoints(run: Path) -> list[Path]:
    """Return the complete checkpoints of a run, oldest first."""
    folders = (path for path in (run / "checkpoints").glob("step-*") if re.fullmatch(r"step-[0-9]{8,18}", path.name))
    return sorted((path for path in folders if (path / TRAINING_STATE).is_file()), key=lambda path: int(path.name.removeprefix("step-")))


class _TrainingDocument(BaseModel):
    """The content of `training.json` besides format and checksums."""

    step: NonNegativeInt
    recipe: dict[str, Any]
    numbers: dict[str, Any]


def load_checkpoint(folder: Path) -> Checkpoint:
    """Return what a checkpoint holds besides its model folder.

    Raises:
        ValueError: a file is missing, truncated, altered, or of another structure.
    """
    path = folder / TRAINING_STATE
    document = _read_json(path)
    training = validate(document, _TrainingDocument, str(path))
    tensors = read_tensors(folder / TRAINING_TENSORS, _checksum(document, TRAINING_TENSORS, path))
    return Checkpoint(training.step, training.recipe, tensors, training.numbers)
