"""Load networks from model folders: the one place where a configuration, its weights and a network meet.

A configuration of a few bytes can ask for a network that no machine holds. So a network is first made on the meta device, where it takes
no memory, and compared with the header of its weights; what is made then is no larger than what the folder holds.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_buffer_registration_hook, register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from cap2im.checkpoint import WEIGHTS, existing_folder, read_config, read_weights
from cap2im.data.vocabulary import Vocabulary
from cap2im.files import check_regular_file, check_unicode_path, describe, shortened

Network = TypeVar("Network", bound=nn.Module)
Header = Mapping[str, tuple[bool, tuple[int, ...]]]

FRACTIONS = {"F16", "BF16", "F32", "F64"}  # types of weights in a safetensors file
INTEGERS = {"U8", "I8", "I16", "I32", "I64", "BOOL"}
SHARED = 2  # parameters for each tensor in a file: a network may use one twice and store it once
MOST_CANVAS_VALUES = 2**25  # T x C x A x A of one picture's canvases; the largest recipe has less than a million


class ModelConfig(BaseModel):
    """The fields of `config.json` that loading reads; `model` and `vocabulary` are validated by the classes of their kinds."""

    model_config = ConfigDict(extra="allow", strict=True)

    kind: str
    model: dict[str, Any] = Field(default_factory=dict)
    vocabulary: dict[str, Any] | None = None
    data: dict[str, Any] = Field(default_factory=dict)
    sha256: dict[str, str]
    description: str = ""
    parameters: int = Field(0, ge=0)


@dataclass(frozen=True)
class LoadedModel(Generic[Network]):
    """A network with its weights, in evaluation mode and frozen.

    Attributes:
        network: on the CPU, in float32.
        config: the whole config.json.
        vocabulary: the words that it knows; None where the folder has none.
        sha256: of its weights.
    """

    network: Network
    config: dict[str, Any]
    vocabulary: Vocabulary | None
    sha256: str


def load_network(
    folder: Path,
    makers: Mapping[str, Callable[[dict[str, Any]], Network]],
    needed: str,
    check: Callable[[Network], None] = lambda _: None,
) -> LoadedModel[Network]:
    """Load the network of a model folder.

    Args:
        folder: of the model.
        makers: kind -> what makes a network of the `model` field of a config.
        needed: what a model of another kind is told after "a model of kind 'x'".
        check: is called with the network on the meta device, and may raise ValueError.

    Raises:
        ValueError: a file is missing, damaged or altered, the model is of another kind, or config, vocabulary and weights do not fit.
    """
    folder = existing_folder(folder)
    document = read_config(folder)
    config = checked_config(folder, document)
    if (maker := makers.get(config.kind)) is None:
        raise ValueError(f"{folder}: a model of kind {shortened(repr(config.kind))}{needed}")
    vocabulary = checked_vocabulary(folder, config)
    blueprint = network_blueprint(folder, lambda: maker(config.model))
    sizes = getattr(blueprint, "config", None)
    if sizes is not None and getattr(sizes, "reads_words", False):
        if vocabulary is None:
            raise ValueError(f"{folder}: config and weights do not fit: a network that reads words has no vocabulary")
        if sizes.vocabulary_size != len(vocabulary):
            raise ValueError(f"{folder}: {sizes.vocabulary_size} word vectors for {len(vocabulary)} words")
    check(blueprint)
    network = maker(config.model)
    network.load_state_dict(read_weights(folder, document))
    return LoadedModel(network.eval().requires_grad_(False), document, vocabulary, config.sha256[WEIGHTS])


def checked_config(folder: Path, document: Mapping[str, Any]) -> ModelConfig:
    """Return the validated fields of a config.json.

    Raises:
        ValueError: a field is missing or of another type, or no SHA-256 of the weights is named.
    """
    try:
        config = ModelConfig.model_validate(document)
    except ValidationError as error:
        raise ValueError(f"{folder}: config and weights do not fit: config.json: {describe(error)}") from None
    if WEIGHTS not in config.sha256:
        raise ValueError(f"{folder}: config.json names no SHA-256 for {WEIGHTS}")
    return config


def checked_vocabulary(folder: Path, config: ModelConfig) -> Vocabulary | None:
    """Return the vocabulary of a config.json, None if it has none.

    Raises:
        ValueError: it has another structure.
    """
    if config.vocabulary is None:
        return None
    for name, values in (("words", config.vocabulary.get("words")), ("aliases", config.vocabulary.get("aliases"))):
        for word in values if isinstance(values, list) else values.values() if isinstance(values, dict) else ():
            if not isinstance(word, str):  # pydantic would collect an error for each of millions
                raise ValueError(f"{folder}: config.json: vocabulary.{name}: {shortened(repr(word)[:200])} is no word")
    try:
        return Vocabulary.model_validate(config.vocabulary)
    except ValidationError as error:
        raise ValueError(f"{folder}: config.json: vocabulary: {shortened(describe(error), 300)}") from None


def weights_header(path: Path) -> Header:
    """Return of each tensor in a safetensors file whether it holds fractions, and its shape; the weights are not read.

    Raises:
        ValueError: no regular file, of a path that is not UTF-8, damaged, or of a type that no network here has.
    """
    check_regular_file(path)
    check_unicode_path(path)
    header = {}
    try:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  # not a mapping
                tensor = file.get_slice(name)
                kind = tensor.get_dtype()
                if kind not in FRACTIONS | INTEGERS:
                    raise ValueError(f"{shortened(name)} is of type {kind}")
                header[name] = (kind in FRACTIONS, tuple(tensor.get_shape()))
    except Exception as error:  # safetensors has an exception of its own, which is no ValueError
        reason = shortened(" ".join(str(error).split()), 200)
        raise ValueError(f"{path}: truncated or altered: no safetensors file of weights: {reason}") from None
    return header


def network_blueprint(folder: Path, make: Callable[[], Network]) -> Network:
    """Make a network on the meta device, and compare it with the weights of a model folder.

    Args:
        folder: of the model.
        make: makes the network.

    Raises:
        ValueError: `make` refuses the configuration, or the weights have other names, shapes or types than the network.
    """
    header = weights_header(folder / WEIGHTS)
    fault = f"{folder}: config and weights do not fit"
    try:
        with (
            bounded_parameters(len(header), sum(math.prod(shape) for _, shape in header.values())),
            torch.device("meta"),
            _NoRandomValues(),
        ):
            network = make()
    except ValidationError as error:
        raise ValueError(f"{fault}: {describe(error)}") from None
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:  # torch's, of sizes beyond what a number can say
        raise ValueError(f"{fault}: {shortened(' '.join(str(error).split()), 200)}") from None
    expected = {name: (value.is_floating_point(), tuple(value.shape)) for name, value in network.state_dict().items()}
    problems = [
        f"{label} {_few(names)}"
        for label, names in (("without", set(expected) - set(header)), ("surplus", set(header) - set(expected)))
        if names
    ]
    problems += [
        f"{shortened(name)} has shape {list(header[name][1])} in the weights and {list(shape)} by the config"
        for name, (_, shape) in expected.items()
        if name in header and header[name][1] != shape
    ][:3]
    types = [name for name, (fractions, _) in expected.items() if name in header and header[name][0] != fractions]
    problems += [f"{shortened(name)} is of another type than the config says" for name in types[:3]]
    if problems:
        raise ValueError(f"{fault}: {'; '.join(problems)}")
    return network


class _NoRandomValues(TorchFunctionMode):
    """Skip random initialisation: on the meta device it changes nothing, and torch imports its compiler for it, which takes a second."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return the tensor itself in place of filling it with random values."""
        kwargs = kwargs or {}
        if function in (Tensor.normal_, Tensor.uniform_) or getattr(function, "__module__", "") == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


@contextmanager
def bounded_parameters(tensors: int, values: int) -> Iterator[None]:
    """Raise ValueError in the block as soon as this thread makes a network of far more parameters and buffers than these.

    Args:
        tensors: number of tensors in a file of weights.
        values: numbers in all of them.
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


def require_canvases(folder: Path, glimpses: int, side: int, colours: int) -> None:
    """Raise ValueError where the canvases of one picture would take too much memory."""
    if (values := glimpses * side**2 * colours) > MOST_CANVAS_VALUES:
        sizes = f"{glimpses:,} canvases of {side:,} x {side:,} pixels in {colours} colour{'s' if colours > 1 else ''}"
        raise ValueError(f"{folder}: draws {sizes}, {values:,} numbers a picture; at most {MOST_CANVAS_VALUES:,} are drawn")


def _few(names: set[str]) -> str:
    listed = sorted(names)
    return ", ".join(map(shortened, listed[:4])) + (f" and {len(listed) - 4:,} more" if len(listed) > 4 else "")
