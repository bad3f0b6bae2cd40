"""Model folders and training checkpoints: complete, atomic, checksummed, and without anything that is executed on loading.

A model folder holds `config.json` (what the model is, its vocabulary, the SHA-256 of its weights) and `model.safetensors`, in
the layout of the Hugging Face hub. A training checkpoint is a model folder with two more files: `training.safetensors` (the
weights in training, optimizer, random states) and `training.json` (step, recipe). It is written beside its final place and
renamed, so that it is either whole or absent.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import load_file, save_file
from safetensors.torch import save as dump_tensors
from torch import Tensor

import cap2im
from cap2im.files import file_sha256, sha256

FORMAT = 1
CONFIG, WEIGHTS, TRAINING_STATE, TRAINING_TENSORS = "config.json", "model.safetensors", "training.json", "training.safetensors"
SENTENCE_ENCODER = "sentence-encoder"  # a folder inside of a model's, for the models that need one
KEPT_CHECKPOINTS = 2


def _own_sha256(document: Mapping[str, Any]) -> str:
    """The checksum of a JSON document without its checksums."""
    return sha256(json.dumps({key: value for key, value in document.items() if key != "sha256"}, sort_keys=True).encode())


def _write_json(path: Path, document: Mapping[str, Any], checksums: Mapping[str, str]) -> None:
    """Writes a document with the checksums of the tensors beside it and its own."""
    whole = {"format": FORMAT, **document}
    whole["sha256"] = {**checksums, path.name: _own_sha256(whole)}
    _write(path, (json.dumps(whole, indent=1, ensure_ascii=False) + "\n").encode())


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A new folder to write into, which takes the place of `target` when the block ends well and leaves no trace when it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        draft.chmod(0o755)
        yield draft
        for path in (*draft.rglob("*"), draft):
            _flush(path)
        if target.exists():
            retired = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
            os.replace(target, retired / "old")
            os.replace(draft, target)
            shutil.rmtree(retired)
        else:
            os.replace(draft, target)
        _flush(target.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path.name} ({error.strerror})", str(path.parent.parent)) from None


def _contiguous(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Copies on the CPU; floating point as dtype where one is given."""
    return {
        name: t.detach().to("cpu", dtype if dtype and t.is_floating_point() else None, copy=True).contiguous()
        for name, t in tensors.items()
    }


def write_model(
    folder: Path, weights: Mapping[str, Tensor], config: Mapping[str, Any], card: str = "", dtype: torch.dtype | None = None
) -> None:
    """Writes a model into an existing folder.

    Args:
        folder: where to.
        weights: a state dict.
        config: JSON-ready; gets `format`, `version` and the weights' SHA-256 added.
        card: text of README.md; empty for none.
        dtype: type in which floating point weights are stored; None keeps theirs.
    """
    data = dump_tensors(_contiguous(weights, dtype))
    _write(folder / WEIGHTS, data)
    _write_json(folder / CONFIG, {"version": cap2im.__version__, **config}, {WEIGHTS: sha256(data)})
    if card:
        _write(folder / "README.md", card.encode())


def write_large_model(folder: Path, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """As `write_model`, for weights that memory may not hold twice: they go to the disk from where they are, mapped files included."""
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / WEIGHTS)
    _write_json(folder / CONFIG, {"version": cap2im.__version__, **config}, {WEIGHTS: file_sha256(folder / WEIGHTS)})


def read_config(folder: Path) -> dict[str, Any]:
    """The config of a model folder.

    Raises:
        ValueError: it is missing, damaged, or written by a later version.
    """
    return _read_json(folder / CONFIG)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path.parent}: no {path.name} in this folder, so it is no model or checkpoint of cap2im") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise ValueError(f"{path}: format {found!r}, this version of cap2im reads format {FORMAT}")
    if _checksum(document, path.name, path) != _own_sha256(document):
        raise ValueError(f"{path}: altered: it does not have the SHA-256 that it names")
    return document


def read_tensors(path: Path, expected_sha256: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ValueError: it is missing, truncated or altered.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path}: missing") from None
    if (found := sha256(data)) != expected_sha256:
        raise ValueError(f"{path}: truncated or altered: SHA-256 {found[:12]}…, expected {expected_sha256[:12]}…")
    try:
        return load_tensors(data)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file: {error}") from None


def read_weights(folder: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of a model folder, checked against its config."""
    return read_tensors(folder / WEIGHTS, _checksum(config, WEIGHTS, folder / CONFIG))


def map_weights(folder: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """As `read_weights`, for weights that memory may not hold: they stay in their file, and what is used of them is read then.

    Raises:
        ValueError: the file is missing, truncated or altered.
    """
    path = folder / WEIGHTS
    expected = _checksum(config, WEIGHTS, folder / CONFIG)
    if not path.is_file():
        raise ValueError(f"{path}: missing")
    if (found := file_sha256(path)) != expected:
        raise ValueError(f"{path}: truncated or altered: SHA-256 {found[:12]}…, expected {expected[:12]}…")
    return load_file(path)


def _checksum(document: Mapping[str, Any], name: str, where: Path) -> str:
    checksums = document.get("sha256")
    if not isinstance(checksums, Mapping) or not isinstance(checksums.get(name), str):
        raise ValueError(f"{where}: no SHA-256 for {name}")
    return checksums[name]


@dataclass(frozen=True)
class TrainingState:
    """Everything beside the drawing weights that an exact resume needs.

    Attributes:
        step: number of updates made.
        recipe: the recipe as a table.
        tensors: the weights in training, the optimizer's state and the random states of every process, by name.
        numbers: scalars that belong to them (JSON-ready).
    """

    step: int
    recipe: dict[str, Any]
    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


def save_checkpoint(run: Path, state: TrainingState, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> Path:
    """Writes a checkpoint of a run, then removes all but the newest. A failure leaves the older ones as they are.

    Args:
        run: the run's folder.
        state: what training resumes from.
        weights: the state dict that draws (the average, where there is one).
        config: of the model; see `write_model`.

    Raises:
        ValueError: weights are not finite.
        OSError: the disk is full, or the folder cannot be written.
    """
    if spoiled := [name for name, tensor in state.tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]:
        raise ValueError(f"{run}: not finite after step {state.step}: {', '.join(spoiled[:3])}; the last checkpoint was kept")
    target = run / "checkpoints" / f"step-{state.step:08d}"
    for draft in target.parent.glob(".step-*"):  # of a process that was killed while it wrote
        shutil.rmtree(draft, ignore_errors=True)
    with whole_folder(target) as folder:
        write_model(folder, weights, config)
        data = dump_tensors(_contiguous(state.tensors))
        _write(folder / TRAINING_TENSORS, data)
        document = {"step": state.step, "recipe": state.recipe, "numbers": state.numbers}
        _write_json(folder / TRAINING_STATE, document, {TRAINING_TENSORS: sha256(data)})
    for old in checkpoints(run)[:-KEPT_CHECKPOINTS]:
        retired = old.with_name(f".{old.name}")
        os.replace(old, retired)  # out of sight at once: a kill amid the deletion must not leave half a checkpoint
        shutil.rmtree(retired, ignore_errors=True)
    return target


def checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(path for path in (run / "checkpoints").glob("step-*") if (path / TRAINING_STATE).is_file())


def read_recipe(folder: Path) -> dict[str, Any]:
    """Return the recipe of a checkpoint as a table; see `load_checkpoint` for errors."""
    recipe: dict[str, Any] = _read_json(folder / TRAINING_STATE)["recipe"]
    return recipe


def load_checkpoint(folder: Path) -> TrainingState:
    """The training state of a checkpoint.

    Raises:
        ValueError: a file is missing, truncated or altered.
    """
    document = _read_json(folder / TRAINING_STATE)
    tensors = read_tensors(folder / TRAINING_TENSORS, _checksum(document, TRAINING_TENSORS, folder / TRAINING_STATE))
    return TrainingState(document["step"], document["recipe"], tensors, document["numbers"])
