"""The folder of a sentence encoder: find it, list, check and copy its files.

No code of a folder is executed: code is refused, and weights are read only from safetensors files.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, RootModel

from cap2im.blueprint import bounded_parameters, weights_header
from cap2im.checkpoint import CONFIG, WEIGHTS, checkpoints
from cap2im.files import JSONObject, check_regular_file, existing_folder, file_sha256, read_json, sha256, shortened
from cap2im.hub import ENCODER_FILES, download, is_repository

MODULES = "modules.json"  # lists the modules of a model of sentence-transformers
CARD = "README.md"
KNOWN_MODULES = ("Transformer", "Pooling", "Dense", "Normalize")
ACTIVATIONS = ("torch.nn.modules.activation.", "torch.nn.modules.linear.Identity")  # allowed in a Dense module


def find_encoder(name: str, *, ask_hub: bool = True) -> Path:
    """Return the folder of a sentence encoder; names and errors are those of `load_sentence_encoder`."""
    path = existing_folder(Path(name))
    if path.is_dir():
        for folder in (path, existing_folder(path / "model")):
            if (folder / CONFIG).is_file() or (folder / MODULES).is_file():
                return folder
        return next(reversed(checkpoints(path)), path)
    if is_repository(name):
        return download(name, ENCODER_FILES, ["onnx/*", "openvino/*"], ask_hub=ask_hub)
    raise ValueError(f"unknown sentence encoder {name!r}; give a folder, or OWNER/NAME on the Hugging Face hub")


def copy_encoder(source: Path, target: Path) -> None:
    """Copy the files that `load_sentence_encoder` reads, and the model card; neither code nor training state.

    Args:
        source: folder of an encoder, as `find_encoder` returns it.
        target: a new folder; its files are hard links if the disk supports them.
    """
    target.mkdir()
    for file in encoder_files(source):
        copy, original = target / file.relative_to(source), file.resolve()  # in the hub's cache files are symbolic links
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(original, copy)
        except OSError:  # another disk, or one without links
            shutil.copyfile(original, copy)


@contextmanager
def bounded_network(folder: Path) -> Iterator[None]:
    """Raise ValueError in the block as soon as a library builds a network that is far larger than the encoder's weights.

    The files that the libraries will read are checked first: FIFOs and JSON documents that take too much memory are refused.
    """
    shapes = []
    for file in encoder_files(folder):
        check_regular_file(file)
        if file.suffix == ".json":
            read_json(file, _AnyJSON)
        if file.suffix == ".safetensors":
            shapes += [shape for _, shape in weights_header(file).values()]
    with bounded_parameters(len(shapes), sum(map(math.prod, shapes))):
        yield


def encoder_config(folder: Path) -> dict[str, Any]:
    """Return the `config.json` of an encoder, empty if there is none."""
    return read_json(folder / CONFIG, JSONObject).root if (folder / CONFIG).exists() else {}


def encoder_files(folder: Path) -> list[Path]:
    """Return the files of an encoder and its card."""
    folders, patterns = [folder], [*ENCODER_FILES, CARD]
    if (folder / MODULES).is_file():
        folders += [folder / module.path for module in read_modules(folder)]
    elif "kind" in encoder_config(folder):
        patterns = [CONFIG, WEIGHTS, CARD]
    return [file for each in dict.fromkeys(folders) for pattern in patterns for file in sorted(each.glob(pattern))]


def weights_sha256(folder: Path) -> str:
    """Return the SHA-256 hex digest of the digests of all weights of an encoder."""
    return sha256("".join(file_sha256(file) for file in encoder_files(folder) if file.suffix == ".safetensors").encode())


class _AnyJSON(RootModel[Any]):
    """Any JSON document."""


class _Module(BaseModel):
    """A module of a model of sentence-transformers.

    Attributes:
        path: its folder, relative to the model's.
        type: name of a Python class.
    """

    path: str
    type: str


class _Modules(RootModel[list[_Module]]):
    """The content of `modules.json`."""


def read_modules(folder: Path) -> list[_Module]:
    """Return the modules of a model of sentence-transformers.

    Raises:
        ValueError: `modules.json` is damaged or empty, or a module is outside of the folder.
    """
    path = folder / MODULES
    modules = read_json(path, _Modules).root
    if not modules:
        raise ValueError(f"{path}: lists no modules")
    for module in modules:
        if "\0" in module.path or not (folder / module.path).resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{path}: module {shortened(repr(module.path))} is outside of the folder")
    return modules


def refuse_pickles(folder: Path) -> None:
    """Raise ValueError if the weights exist only as pickles, which can execute code on loading."""
    pickles = [path.name for path in folder.glob("*.bin")]
    if pickles and not list(folder.glob("*.safetensors")):
        raise ValueError(f"{folder}: weights are in {pickles[0]}, which is a pickle; only safetensors files are read")


def refuse_functions(folder: Path) -> None:
    """Raise ValueError if a module names a function that is no activation; sentence-transformers would call any function of torch."""
    name = encoder_config(folder).get("activation_function", ACTIVATIONS[1])
    if not isinstance(name, str) or not name.startswith(ACTIVATIONS):
        raise ValueError(f"{folder / CONFIG}: activation_function {shortened(repr(name))}: allowed are {' and '.join(ACTIVATIONS)}")
