"""Build a network on the meta device and compare it with the header of its weights, before either takes memory.

A configuration of a few bytes can ask for a network that no machine holds. A network that passes this comparison is no larger than the
file of its weights.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from pydantic import ValidationError
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_buffer_registration_hook, register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from cap2im.checkpoint import WEIGHTS
from cap2im.files import check_regular_file, check_unicode_path, describe, shortened

Network = TypeVar("Network", bound=nn.Module)

FLOATING_POINT = {"F16", "BF16", "F32", "F64"}  # types in a safetensors file
INTEGER = {"U8", "I8", "I16", "I32", "I64", "BOOL"}
SHARED = 2  # parameters for each tensor in a file: a network may use one twice and store it once


class TensorInfo(NamedTuple):
    """The type and the shape of a stored tensor."""

    is_floating_point: bool
    shape: tuple[int, ...]


def weights_header(path: Path) -> dict[str, TensorInfo]:
    """Return type and shape of each tensor in a safetensors file; the weights are not read.

    Raises:
        ValueError: the path is not UTF-8 or not a regular file, or the file is damaged or holds a type that no network here has.
    """
    check_regular_file(path)
    check_unicode_path(path)
    header = {}
    try:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  # not a mapping
                tensor = file.get_slice(name)
                dtype = tensor.get_dtype()
                if dtype not in FLOATING_POINT | INTEGER:
                    raise ValueError(f"{shortened(name)} is of type {dtype}")
                header[name] = TensorInfo(dtype in FLOATING_POINT, tuple(tensor.get_shape()))
    except Exception as error:  # safetensors' own exception is no ValueError
        reason = shortened(" ".join(str(error).split()), 200)
        raise ValueError(f"{path}: truncated or altered: no safetensors file of weights: {reason}") from None
    return header


def build_on_meta(folder: Path, build: Callable[[], Network]) -> Network:
    """Build a network on the meta device and compare it with the weights of a model folder.

    Args:
        folder: the model's folder.
        build: builds the network; may raise `ValidationError`.

    Raises:
        ValueError: `build` fails, or the weights have other names, shapes or types than the network.
    """
    header = weights_header(folder / WEIGHTS)
    mismatch = f"{folder}: config and weights do not fit"
    try:
        with (
            bounded_parameters(len(header), sum(math.prod(info.shape) for info in header.values())),
            torch.device("meta"),
            _NoRandomValues(),
        ):
            network = build()
    except ValidationError as error:
        raise ValueError(f"{mismatch}: {describe(error)}") from None
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:  # torch raises all of these for sizes that overflow
        raise ValueError(f"{mismatch}: {shortened(' '.join(str(error).split()), 200)}") from None
    if problems := _differences(network, header):
        raise ValueError(f"{mismatch}: {'; '.join(problems)}")
    return network


def _differences(network: nn.Module, header: Mapping[str, TensorInfo]) -> list[str]:
    """Return in words how the tensors of a network differ from those of a header."""
    expected = {name: TensorInfo(value.is_floating_point(), tuple(value.shape)) for name, value in network.state_dict().items()}
    missing, surplus = expected.keys() - header.keys(), header.keys() - expected.keys()
    shared = [(name, expected[name], header[name]) for name in expected if name in header]
    shapes = [
        f"{shortened(name)} has shape {list(stored.shape)} in the weights and {list(built.shape)} by the config"
        for name, built, stored in shared
        if built.shape != stored.shape
    ]
    types = [
        f"{shortened(name)} is of another type than the config says"
        for name, built, stored in shared
        if built.is_floating_point != stored.is_floating_point
    ]
    names = [f"{label} {_first_few(found)}" for label, found in (("without", missing), ("surplus", surplus)) if found]
    return names + shapes[:3] + types[:3]


def _first_few(names: set[str]) -> str:
    listed = sorted(names)
    return ", ".join(map(shortened, listed[:4])) + (f" and {len(listed) - 4:,} more" if len(listed) > 4 else "")


class _NoRandomValues(TorchFunctionMode):
    """Skip random initialisation: on the meta device it has no effect, and torch imports its compiler for it, which takes a second."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return the tensor itself instead of filling it with random values."""
        kwargs = kwargs or {}
        if function in (Tensor.normal_, Tensor.uniform_) or getattr(function, "__module__", "") == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


@contextmanager
def bounded_parameters(tensors: int, values: int) -> Iterator[None]:
    """Limit the parameters and buffers that this thread registers in the block.

    Args:
        tensors: number of tensors in a file of weights.
        values: number of values in all of them.

    Raises:
        ValueError: a network of far more parameters is being built.
    """
    thread, counts = threading.get_ident(), [0, 0]

    def count(_module: nn.Module, _name: str, value: Any) -> None:
        if threading.get_ident() != thread or value is None:
            return
        counts[0] += isinstance(value, nn.Parameter)
        counts[1] += value.numel()
        if counts[0] > SHARED * tensors + 16 or counts[1] > SHARED * values + 2**20:
            held = f"{values:,} numbers in {tensors:,} tensors"
            raise ValueError(f"the config asks for a network of more parameters than the weights hold: {held}")

    handles = [register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
