"""Read the tensors of legacy HDF5 and PyTorch files without executing anything.

HDF5 is read as arrays only, PyTorch files with `torch.load(weights_only=True)`. The sizes that a file states are compared with its own size
before a network is built.
"""

from __future__ import annotations

import io
import itertools
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError  # only the exception
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cap2im.arrays import open_hdf5
from cap2im.convert.pickle_limits import MOST_BYTES, RefusedError, check_pickle
from cap2im.files import brief, check_regular_file, shortened

HDF5 = b"\x89HDF\r\n\x1a\n"
ZIP = b"PK\x03\x04"  # PyTorch since 1.6
OLD_PYTORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
OLD_PICKLES = 5  # at the start of an old PyTorch file: magic number, version, system, content, storage keys
MOST_SHARING = 8  # bytes of float32 weights per byte of a PyTorch file; half precision has 2, tied weights more
DEEPEST_NETWORK = 3  # keys that lead to a network in a checkpoint
NETWORK_KEYS = ("netG", "generator", "model", "state_dict", "weights")  # which network of several is read
WRAPPERS = {"module", "_orig_mod", "model", "netG", "generator"}  # prefixes that wrappers add to all names
PLAIN_TYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the named tensors of an HDF5 or a PyTorch file, on the CPU.

    Args:
        path: the file. Of a PyTorch checkpoint the generator or model is read; see `_find_network`.

    Returns:
        Name -> tensor: float32 from HDF5; from PyTorch with the file's types, memory-mapped if the format allows it.

    Raises:
        ValueError: not a regular file, another format, damaged, a request to execute code, sizes that exceed the file's size, or several
            networks.
    """
    check_regular_file(path)
    with path.open("rb") as file:
        start = file.read(len(OLD_PYTORCH))
    if start.startswith(HDF5):
        return _read_hdf5(path)
    if start.startswith((ZIP, OLD_PYTORCH)):
        return _read_pytorch(path, zipped=start.startswith(ZIP))
    raise ValueError(f"{path}: expected an HDF5 or a PyTorch file, got one that begins with {start[:8]!r}")


def _read_hdf5(path: Path) -> dict[str, Tensor]:
    datasets = open_hdf5(path)
    try:
        return {name: torch.from_numpy(np.array(dataset, dtype=np.float32)) for name, dataset in datasets.items()}
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged, or not weights: {shortened(' '.join(str(error).split()), 300)}") from None
    finally:
        for dataset in datasets.values():
            dataset.file.close()
            break


def _read_pytorch(path: Path, *, zipped: bool) -> dict[str, Tensor]:
    try:
        _check_pytorch(path, zipped)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations of tensor types
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except (UnpicklingError, RefusedError) as error:
        function = re.search(r"GLOBAL (\S+)", str(error))
        reason = str(error) if isinstance(error, RefusedError) else "it holds more than tensors, or is damaged"
        reason = shortened(f"it asks for {function[1]}" if function else reason, 200)
        raise ValueError(f"{path}: refused: {reason}; only tensors are read from PyTorch files, and nothing was executed") from None
    except Exception as error:  # torch raises many types for damaged files
        raise ValueError(f"{path}: damaged, or not of PyTorch: {shortened(' '.join(str(error).split()), 200)}") from None
    tensors = _find_network(path, content)
    for name, tensor in tensors.items():
        _check_plain(path, name, tensor)
    total, most = sum(4 * tensor.numel() for tensor in tensors.values()), MOST_SHARING * path.stat().st_size
    if total > most:
        raise ValueError(f"{path}: states {total:,} bytes of weights; at most {most:,} are read from a file of its size")
    return tensors


def _check_pytorch(path: Path, zipped: bool) -> None:
    """Check the pickles of a PyTorch file; see `check_pickle` for the errors."""
    if not zipped:
        with path.open("rb") as file:
            for _ in range(OLD_PICKLES):
                check_pickle(file, _refuse_growth)
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len({member.filename.lower() for member in members}) < len(members):
            raise ValueError("two members of its archive have the same name")
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED or member.file_size > path.stat().st_size:
                raise ValueError(f"{member.filename} is compressed, unlike those of PyTorch")
            if member.filename.lower().endswith(".pkl"):
                if member.file_size > MOST_BYTES:
                    raise ValueError(f"{member.filename} has {member.file_size:,} bytes; at most {MOST_BYTES:,} are read")
                check_pickle(io.BytesIO(archive.read(member)), _refuse_growth)


def _refuse_growth(name: str) -> None:
    """Refuse functions that torch allows and that build a large object from a number, or take quadratic time."""
    if name == "_codecs.encode" or name.rpartition(".")[2] == "bytearray":
        raise RefusedError(f"it asks for {shortened(name)}")


def _find_network(path: Path, content: Any) -> dict[str, Tensor]:
    """Return the state dict in a PyTorch file, without the prefixes of wrappers.

    Of several state dicts, the one under the first of `NETWORK_KEYS` is read.

    Raises:
        ValueError: there is none, or there are several; the message names them.
    """
    networks = dict(_state_dicts(content, (), []))
    if not networks:
        held = few(map(brief, itertools.islice(content, 1000))) if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise ValueError(f"{path}: has no state dict; it holds {held}")
    for key in NETWORK_KEYS if len(networks) > 1 else ():
        if chosen := {place: state for place, state in networks.items() if key in place}:
            networks = chosen
            break
    if len(networks) > 1:
        places = few(".".join(place) for place in networks)
        raise ValueError(f"{path}: holds several networks: {places}; save the one to convert in its own file")
    ((_, tensors),) = networks.items()
    while tensors and len(wrappers := {name.partition(".")[0] for name in tensors}) == 1 and wrappers <= WRAPPERS:
        tensors = {name.partition(".")[2]: tensor for name, tensor in tensors.items()}
    return tensors


def _state_dicts(content: Any, place: tuple[str, ...], seen: list[Any]) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Yield the state dicts in a checkpoint, except those of optimizers, with their keys."""
    if len(place) > DEEPEST_NETWORK or any(content is each for each in seen) or len(seen) > 1000:
        return
    if isinstance(content, Mapping):
        seen.append(content)
        if content and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
            yield place, dict(content)
        elif "param_groups" not in content:
            for key, value in content.items():
                yield from _state_dicts(value, (*place, key if isinstance(key, str) else brief(key)), seen)
    elif isinstance(content, list | tuple):
        seen.append(content)
        for number, value in enumerate(content):
            yield from _state_dicts(value, (*place, str(number)), seen)


def _check_plain(path: Path, name: str, tensor: Tensor) -> None:
    """Raise ValueError unless a tensor is a dense array of numbers that is stored completely."""
    shown = shortened(name)
    plain = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_nested and tensor.device.type == "cpu"
    if not plain or tensor.dtype not in PLAIN_TYPES:
        raise ValueError(f"{path}: {shown} is not a dense array of real numbers (sparse, quantised, nested, complex, no storage)")
    if (size := tensor.numel() * tensor.element_size()) > (stored := tensor.untyped_storage().nbytes()):  # strides of 0
        raise ValueError(f"{path}: {shown} states {size:,} bytes, and {stored:,} are stored")


def few(names: Iterable[object]) -> str:
    """Return the first names for a message."""
    listed = sorted(shortened(str(name)) for name in names)
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4:,} more" if len(listed) > 4 else "") if listed else "nothing"
