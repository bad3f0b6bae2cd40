"""Find a model (bundled, folder, run, Hugging Face hub) and load it: the only loader.

The network is first built on the meta device and compared with the header of its weights; see `cap2im.blueprint`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from cap2im.blueprint import build_on_meta
from cap2im.checkpoint import CONFIG, SENTENCE_ENCODER, WEIGHTS, checkpoints, map_weights, read_config, read_weights
from cap2im.data.vocabulary import Vocabulary
from cap2im.files import describe, existing_folder, shortened
from cap2im.hub import ENCODER_FILES, download, is_repository
from cap2im.models.interface import DrawingModel
from cap2im.registry import MODELS, Spec

Network_co = TypeVar("Network_co", bound=nn.Module, covariant=True)
Network = TypeVar("Network", bound=nn.Module)

BUNDLED = Path(__file__).parent / "pretrained"
PAGE_MODEL = "aligndraw-scenes"  # pages open with it, because it draws in colour
FORMER_KINDS = {"sentence-encoder": "skipthoughts"}  # names of kinds in folders that earlier versions wrote
MOST_CANVAS_VALUES = 2**25  # T x C x A x A of one picture's canvases; the largest recipe has less than a million


class ModelConfig(BaseModel):
    """The fields of `config.json`.

    Attributes:
        kind: a key of the registry.
        model: configuration of the network, validated by the class of its kind.
        vocabulary: validated by `Vocabulary`.
        data: description of the training data.
        sha256: file name -> SHA-256.
        description: one sentence for people.
        parameters: number of parameters.
        trained: steps, seconds and machine of the training.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    kind: str
    model: dict[str, Any] = Field(default_factory=dict)
    vocabulary: dict[str, Any] | None = None
    data: dict[str, Any] = Field(default_factory=dict)
    sha256: dict[str, str] = Field(default_factory=dict)
    description: str = ""
    parameters: int | None = Field(None, ge=0)
    trained: dict[str, Any] | None = None


@dataclass(frozen=True)
class LoadedModel(Generic[Network_co]):
    """A network with its weights, in evaluation mode and frozen.

    Attributes:
        name: display name.
        folder: the model's folder.
        network: in float32.
        config: the validated `config.json`.
        vocabulary: the words that it knows; None if the folder has none.
        sha256: SHA-256 of its weights.
    """

    name: str
    folder: Path
    network: Network_co
    config: ModelConfig
    vocabulary: Vocabulary | None
    sha256: str


def bundled_models() -> list[str]:
    """Return the names of the models inside the package that draw."""
    return [name for name, folder in _bundled().items() if MODELS[read_config(folder)["kind"]].draws]


def _bundled() -> dict[str, Path]:
    return {path.parent.name: path.parent for path in sorted(BUNDLED.glob(f"*/{CONFIG}"))}


def find_model(name: str, expected: type[nn.Module] = DrawingModel) -> Path:
    """Return the folder of a model.

    Args:
        name: a bundled model, a model folder, a run (its finished model, else its last checkpoint), OWNER/NAME or
            OWNER/NAME@REVISION on the Hugging Face hub.
        expected: type of its network, which only the message about an unknown name uses.

    Raises:
        ValueError: no such model exists; the message lists the bundled ones, or the expected kinds if none of these draws.
    """
    if name in (bundled := _bundled()):
        return bundled[name]
    path = existing_folder(Path(name))
    if path.is_dir():
        for folder in (path, existing_folder(path / "model")):
            if (folder / CONFIG).is_file():
                return folder
        if found := checkpoints(path):
            return found[-1]
        raise ValueError(f"{path}: neither a model (no {CONFIG}) nor a run (no checkpoint)")
    if is_repository(name):
        return download(name, [CONFIG, WEIGHTS, "README.md", *(f"{SENTENCE_ENCODER}/{pattern}" for pattern in ENCODER_FILES)])
    kinds = _kinds(expected)
    draws = any(MODELS[kind].draws for kind in kinds)
    wanted = f"bundled: {', '.join(bundled_models())}; or" if draws else f"expected a model of kind {', '.join(kinds)}:"
    raise ValueError(f"unknown model {name!r}; {wanted} a folder, or OWNER/NAME on the Hugging Face hub")


def _kinds(expected: type[nn.Module]) -> list[str]:
    return [kind for kind, each in MODELS.items() if issubclass(each.network_class, expected)]


def display_name(name: str, folder: Path) -> str:
    """Return the display name of a model that `find_model` found in a folder; RUN/model is named after its run."""
    if folder.parent == BUNDLED:
        return folder.name
    path = Path(name).resolve()
    return path.parent.name if path.name == "model" and (path.parent / "checkpoints").is_dir() else path.name


def find_device(name: str) -> torch.device:
    """Return a device of this machine; "cuda" distributes the devices over the processes of `accelerate launch`.

    Raises:
        ValueError: no such device exists; the message lists those that do.
    """
    cuda = torch.cuda.device_count()
    available = ["cpu", *(f"cuda:{i}" for i in range(cuda)), *(["mps"] if torch.backends.mps.is_available() else [])]
    full_name = f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % max(1, cuda)}" if name == "cuda" else name
    if full_name not in available:
        raise ValueError(f"no device {name!r} on this machine; there is {', '.join(available)}")
    return torch.device(full_name)


def load_model(model: str | Path, expected: type[Network], *, device: str = "cpu", mapped: bool = False) -> LoadedModel[Network]:
    """Load a model whose network is of an expected type.

    Args:
        model: a name as `find_model` takes it, or the path of a model folder.
        expected: type of the network, for example `DrawingModel` or `DAMSM`.
        device: cpu, cuda, cuda:1, mps.
        mapped: leave the weights in their file, in the precision they have there, and read them on use.

    Raises:
        ValueError: the model or the device does not exist, a file is missing, damaged or altered, the model is of another kind, or config,
            vocabulary and weights do not fit.
    """
    target = find_device(device)
    folder = find_model(model, expected) if isinstance(model, str) else existing_folder(model)
    document = read_config(folder)
    config = _validated(folder, document)
    spec = MODELS.get(FORMER_KINDS.get(config.kind, config.kind))
    if spec is None or not issubclass(spec.network_class, expected):
        raise ValueError(f"{folder}: is a model of kind {shortened(repr(config.kind))}; expected {', '.join(_kinds(expected))}")
    vocabulary = _vocabulary(folder, config)
    blueprint = build_on_meta(folder, lambda: _build(spec, config, vocabulary))
    _check_words(folder, blueprint, vocabulary)
    if isinstance(blueprint, DrawingModel):
        require_canvases(folder, blueprint.glimpses, blueprint.config.side, blueprint.config.colours)
    if mapped:
        network = blueprint
        network.load_state_dict(map_weights(folder, document), assign=True)
    else:
        network = _build(spec, config, vocabulary)
        network.load_state_dict(read_weights(folder, document))
    name = display_name(str(model), folder)
    return LoadedModel(name, folder, network.eval().requires_grad_(False).to(target), config, vocabulary, config.sha256[WEIGHTS])


def _build(spec: Spec, config: ModelConfig, vocabulary: Vocabulary | None) -> Any:
    """Build the network of a model folder; one whose constructor takes `vocabulary_size` has none in its configuration."""
    arguments: list[Any] = [spec.config_class.model_validate(config.model)]
    if "vocabulary_size" in signature(spec.network_class).parameters:
        if vocabulary is None:
            raise ValueError("config.json has no vocabulary")
        arguments.append(len(vocabulary))
    return spec.network_class(*arguments)


def _validated(folder: Path, document: Mapping[str, Any]) -> ModelConfig:
    try:
        config = ModelConfig.model_validate(document)
    except ValidationError as error:
        raise ValueError(f"{folder}: config and weights do not fit: config.json: {describe(error)}") from None
    if WEIGHTS not in config.sha256:
        raise ValueError(f"{folder}: config.json names no SHA-256 for {WEIGHTS}")
    return config


def _vocabulary(folder: Path, config: ModelConfig) -> Vocabulary | None:
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


def _check_words(folder: Path, network: nn.Module, vocabulary: Vocabulary | None) -> None:
    """Raise ValueError if a network that reads words has no vocabulary, or one of another size."""
    sizes: Any = getattr(network, "config", None)
    reads_words = getattr(sizes, "reads_words", False)
    if vocabulary is None and (reads_words or isinstance(network, DrawingModel)):
        raise ValueError(f"{folder}: config and weights do not fit: config.json has no vocabulary")
    if vocabulary is not None and reads_words and sizes.vocabulary_size != len(vocabulary):
        raise ValueError(f"{folder}: {sizes.vocabulary_size} word vectors for {len(vocabulary)} words")


def require_canvases(folder: Path, glimpses: int, side: int, colours: int) -> None:
    """Raise ValueError if the canvases of one picture would take too much memory."""
    if (values := glimpses * side**2 * colours) > MOST_CANVAS_VALUES:
        sizes = f"{glimpses:,} canvases of {side:,} x {side:,} pixels in {colours} colour{'s' if colours > 1 else ''}"
        raise ValueError(f"{folder}: draws {sizes}, {values:,} numbers a picture; at most {MOST_CANVAS_VALUES:,} are drawn")
