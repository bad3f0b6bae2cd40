"""Model folders and training checkpoints: complete, atomic, checksummed, and without anything that is executed on loading.

A model folder holds `config.json` (what the model is, its vocabulary, the SHA-256 of its weights) and `model.safetensors`, in
the layout of the Hugging Face hub. A training checkpoint is a model folder with two more files: `training.safetensors` (the
weights in training, optimizer, random states) and `training.json` (step, recipe).

A folder is written beside its final place, as `.NAME.draft`, and renamed, so that it is either whole or absent. If a folder of that
name exists, Linux and macOS exchange the two in one step: at no moment is there none. Where the system or the file system cannot do
that (Windows, NFS), the old folder is first renamed to `.NAME.retired`; a kill between the two renames leaves it there, and every
reader here finds it (`existing_folder`). What a killed process leaves is removed by the next write of the folder.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
    check_regular_file,
    dump_json,
    file_sha256,
    flush,
    lock,
    naming,
    parse_json,
    read_json,
    sha256,
    shortened,
    validate,
)

FORMAT = 1
CONFIG, WEIGHTS, TRAINING_STATE, TRAINING_TENSORS = "config.json", "model.safetensors", "training.json", "training.safetensors"
SENTENCE_ENCODER = "sentence-encoder"  # a folder inside of a model's, for the models that need one
KEPT_CHECKPOINTS = 2


def _own_sha256(document: Mapping[str, Any]) -> str:
    """Return the checksum of a JSON document without its checksums."""
    return sha256(json.dumps({key: value for key, value in document.items() if key != "sha256"}, sort_keys=True).encode())


def _write_json(path: Path, document: Mapping[str, Any], checksums: Mapping[str, str]) -> None:
    """Write a document with the checksums of the tensors beside it and its own, of what is read back."""
    whole = parse_json(dump_json({"format": FORMAT, **document}), JSONObject, str(path)).root
    whole["sha256"] = {**checksums, path.name: _own_sha256(whole)}
    _write(path, (dump_json(whole) + "\n").encode())


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder to write into, which takes the place of `target` when the block ends well and leaves no trace when it does not.

    Raises:
        ValueError: another process writes this folder, or `target` is a file.
        OSError: the disk is full, or the folder cannot be written.
    """
    shown, target = target, target.resolve()  # a link stays a link
    draft, retired = (target.with_name(f".{target.name}.{state}") for state in ("draft", "retired"))
    if target.exists() and not target.is_dir():
        raise ValueError(f"{shown}: is a file, and a folder is needed")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft.mkdir(exist_ok=True)  # one that is there was left by a process that was killed
    with _locked_folder(draft, shown):
        try:
            for left in draft.iterdir():
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
            yield draft
            for path in (*draft.rglob("*"), draft):
                flush(path)
            if target.exists() and not _exchange(draft, target):
                shutil.rmtree(retired, ignore_errors=True)
                os.replace(target, retired)
                try:
                    os.replace(draft, target)
                except OSError:
                    os.replace(retired, target)
                    raise
            elif not target.exists():
                os.replace(draft, target)
            flush(target.parent)
            shutil.rmtree(retired, ignore_errors=True)
        except OSError as error:
            if error.errno is None or not isinstance(error.filename, str):
                raise
            name = error.filename
            name = str(shown / Path(name).relative_to(draft)) if Path(name).is_relative_to(draft) else name
            raise OSError(error.errno, error.strerror, name) from None
        finally:
            shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _locked_folder(folder: Path, target: Path) -> Iterator[None]:
    """Keep other processes from writing a folder at the same time.

    Raises:
        ValueError: another process writes it.
    """
    if os.name == "nt":  # Windows opens no folders
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not lock(descriptor):
            raise ValueError(f"{target}: another process is writing this folder")
        yield
    finally:
        os.close(descriptor)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two folders in one step, and return whether the system and the file system can do that."""
    if sys.platform == "linux":
        name, here, exchange = "renameat2", (ctypes.c_int(-100),), ctypes.c_uint(2)  # AT_FDCWD, RENAME_EXCHANGE
    elif sys.platform == "darwin":
        name, here, exchange = "renamex_np", (), ctypes.c_uint(2)  # RENAME_SWAP
    else:
        return False
    rename = getattr(ctypes.CDLL(None), name, None)  # old C libraries have none
    return rename is not None and rename(*here, os.fsencode(first), *here, os.fsencode(second), exchange) == 0


def existing_folder(folder: Path) -> Path:
    """Return a model folder, or what a kill amid its replacement left in its place; see the module's docstring."""
    retired = folder.with_name(f".{folder.name}.retired") if folder.name else folder
    return retired if not folder.exists() and retired.is_dir() else folder


def _write(path: Path, data: bytes) -> None:
    with naming(path):
        path.write_bytes(data)


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
    _write_json(folder / CONFIG, {"version": __version__, **config}, {WEIGHTS: sha256(data)})
    if card:
        _write(folder / "README.md", card.encode("utf-8", "backslashreplace"))


def write_large_model(folder: Path, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """As `write_model`, for weights that memory may not hold twice: they go to the disk from where they are, mapped files included."""
    path = folder / WEIGHTS
    try:
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    except SafetensorError as error:  # of the disk: "I/O error: No space left on device (os error 28)"
        raise OSError(f"{path}: cannot write ({' '.join(str(error).split())})") from None
    _write_json(folder / CONFIG, {"version": __version__, **config}, {WEIGHTS: file_sha256(folder / WEIGHTS)})


def read_config(folder: Path) -> dict[str, Any]:
    """Return the config of a model folder.

    Raises:
        ValueError: it is missing, damaged, or written by a later version.
    """
    return _read_json(existing_folder(folder) / CONFIG)


def _read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object that names its format, its own checksum and those of the tensors beside it."""
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
    if (found := sha256(data)) != expected_sha256:
        raise ValueError(f"{path}: truncated or altered: SHA-256 {found[:12]}…, expected {expected_sha256[:12]}…")
    try:
        return load_tensors(data)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file: {error}") from None


def read_weights(folder: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of a model folder, checked against its config."""
    folder = existing_folder(folder)
    return read_tensors(folder / WEIGHTS, _checksum(config, WEIGHTS, folder / CONFIG))


def map_weights(folder: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """As `read_weights`, for weights that memory may not hold: they stay in their file, and what is used of them is read then.

    Raises:
        ValueError: the file is missing, truncated or altered.
    """
    path = existing_folder(folder) / WEIGHTS
    expected = _checksum(config, WEIGHTS, folder / CONFIG)
    if not path.exists():
        raise ValueError(f"{path}: missing")
    check_regular_file(path)
    if (found := file_sha256(path)) != expected:
        raise ValueError(f"{path}: truncated or altered: SHA-256 {found[:12]}…, expected {expected[:12]}…")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file: {error}") from None


def _checksum(document: Mapping[str, Any], name: str, where: Path) -> str:
    checksums = document.get("sha256")
    checksum = checksums.get(name) if isinstance(checksums, Mapping) else None
    if not isinstance(checksum, str):
        raise ValueError(f"{where}: no SHA-256 for {name}")
    return checksum


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
    try:
        for left in target.parent.glob(".step-*"):  # by a process that was killed while it wrote
            shutil.rmtree(left, ignore_errors=True)
        with whole_folder(target) as folder:
            write_model(folder, weights, config)
            data = dump_tensors(_contiguous(state.tensors))
            _write(folder / TRAINING_TENSORS, data)
            document = {"step": state.step, "recipe": state.recipe, "numbers": state.numbers}
            _write_json(folder / TRAINING_STATE, document, {TRAINING_TENSORS: sha256(data)})
    except OSError as error:
        kept = [path.name for path in checkpoints(run) if path != target][-1:]
        advice = f"{kept[0]} is kept: when that is mended, --resume goes on from there" if kept else "no checkpoint to --resume from yet"
        raise OSError(error.errno, f"{error.strerror or error}; {advice}", error.filename) from None
    for old in checkpoints(run)[:-KEPT_CHECKPOINTS]:
        retired = old.with_name(f".{old.name}")
        os.replace(old, retired)  # out of sight at once: a kill amid the deletion must not leave half a checkpoint
        shutil.rmtree(retired, ignore_errors=True)
    return target


def checkpoints(run: Path) -> list[Path]:
    """Return the complete checkpoints of a run, oldest first."""
    folders = (path for path in (run / "checkpoints").glob("step-*") if re.fullmatch(r"step-[0-9]{8,18}", path.name))
    return sorted((path for path in folders if (path / TRAINING_STATE).is_file()), key=lambda path: int(path.name.removeprefix("step-")))


class _TrainingDocument(BaseModel):
    """What `training.json` holds beside format and checksums."""

    step: NonNegativeInt
    recipe: dict[str, Any]
    numbers: dict[str, Any]


def read_recipe(folder: Path) -> dict[str, Any]:
    """Return the recipe of a checkpoint as a table; see `load_checkpoint` for errors."""
    path = folder / TRAINING_STATE
    return validate(_read_json(path), _TrainingDocument, str(path)).recipe


def load_checkpoint(folder: Path) -> TrainingState:
    """Return the training state of a checkpoint.

    Raises:
        ValueError: a file is missing, truncated, altered, or of another structure.
    """
    path = folder / TRAINING_STATE
    document = _read_json(path)
    found = validate(document, _TrainingDocument, str(path))
    tensors = read_tensors(folder / TRAINING_TENSORS, _checksum(document, TRAINING_TENSORS, path))
    return TrainingState(found.step, found.recipe, tensors, found.numbers)
