"""Sentence encoders for models that are conditioned on sentence vectors: skip-thoughts, sentence-transformers and CLIP.

No code of a model folder is executed: code is refused, and weights are read only from safetensors files.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, RootModel
from torch import Tensor

from cap2im.blueprint import bounded_parameters, weights_header
from cap2im.checkpoint import CONFIG, SENTENCE_ENCODER, TRAINING_STATE, WEIGHTS, checkpoints
from cap2im.data.sentence_vectors import SentenceEncoder
from cap2im.data.tokenizer import normalise
from cap2im.data.vocabulary import pad
from cap2im.extras import require
from cap2im.files import JSONObject, brief, check_regular_file, existing_folder, file_sha256, read_json, sha256, shortened
from cap2im.hub import ENCODER_FILES, download, is_repository
from cap2im.loading import LoadedModel, load_model
from cap2im.models.skipthoughts import SkipThoughts

BATCH_SIZE = 64
MODULES = "modules.json"  # lists the modules of a model of sentence-transformers
CARD = "README.md"
KNOWN_MODULES = ("Transformer", "Pooling", "Dense", "Normalize")
ACTIVATIONS = ("torch.nn.modules.activation.", "torch.nn.modules.linear.Identity")  # allowed in a Dense module
CLIP_TYPES = ("clip", "clip_text_model")


class SkipThoughtsEncoder(SentenceEncoder):
    """Skip-thoughts, trained here or converted from the released tables. Unknown words are encoded as `UNK`.

    The vector of each of its encoders has length 1.

    Args:
        name: display name.
        folder: a model folder.

    Raises:
        ValueError: see `load_model`.
    """

    def __init__(self, name: str, folder: Path) -> None:
        loaded = load_model(folder, SkipThoughts, mapped=True)
        assert loaded.vocabulary is not None
        self.vocabulary, self.model = loaded.vocabulary, loaded.network
        for parameter_name, parameter in self.model.named_parameters():
            if not parameter_name.endswith("table.weight"):  # word vectors stay in their file, in the precision they have there
                parameter.data = parameter.data.float()
        self.name, self.features, self._sha256 = name, self.model.config.features, loaded.sha256

    @property
    def sha256(self) -> str:
        """SHA-256 of the weights."""
        return self._sha256

    @torch.inference_mode()
    def encode(self, captions: Sequence[str]) -> Tensor:
        """Return vectors [N, features]; see `SentenceEncoder`."""
        tokens = [t.numbers for t in self.vocabulary.encode(captions, "mark")]
        order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
        vectors = torch.empty(len(tokens), self.features)
        for start in range(0, len(order), BATCH_SIZE):
            rows = order[start : start + BATCH_SIZE]
            vectors[rows] = self.model(*pad([tokens[row] for row in rows]))
        return vectors.clone()


class SentenceTransformersEncoder(SentenceEncoder):
    """A model of sentence-transformers.

    Args:
        name: display name.
        folder: folder with `modules.json`.

    Raises:
        ValueError: sentence-transformers is not installed, or the model is damaged or holds code.
    """

    def __init__(self, name: str, folder: Path) -> None:
        require(f"{folder}: a model of sentence-transformers", "sentences", "sentence_transformers")
        from sentence_transformers import SentenceTransformer

        for module in _modules(folder):
            package, _, class_name = module.type.rpartition(".")
            if not f"{package}.".startswith("sentence_transformers.") or class_name not in KNOWN_MODULES:
                raise ValueError(f"{folder / MODULES}: module {shortened(repr(module.type))}: allowed are {', '.join(KNOWN_MODULES)}")
            _refuse_pickles(folder / module.path)
            _refuse_functions(folder / module.path)
        try:
            with _Quiet(), _bounded_network(folder):
                self._model = SentenceTransformer(
                    str(folder), device="cpu", local_files_only=True, trust_remote_code=False, model_kwargs={"use_safetensors": True}
                ).float()
        except Exception as error:  # the library names no base class
            raise _unreadable(folder, error) from None
        self._model.eval()
        self._folder = folder
        self.name, self.features = name, self.encode(["a"]).shape[1]

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the weights, wherever the folder is."""
        return _weights_sha256(self._folder)

    @torch.inference_mode()
    def encode(self, captions: Sequence[str]) -> Tensor:
        """Return vectors [N, features]; see `SentenceEncoder`."""
        _refuse_empty(captions)
        if not captions:
            return torch.empty(0, self.features)
        vectors = self._model.encode(
            [normalise(c, lower=False) for c in captions], batch_size=BATCH_SIZE, convert_to_tensor=True, show_progress_bar=False
        )
        return vectors.float().clone()


class CLIPEncoder(SentenceEncoder):
    """The text tower of a CLIP with its projection; longer captions than its context are cut off.

    Args:
        name: display name.
        folder: folder with `config.json` of a CLIP.

    Raises:
        ValueError: transformers is not installed, or the model is damaged.
    """

    def __init__(self, name: str, folder: Path) -> None:
        require(f"{folder}: a CLIP text model", "sentences", "transformers")
        from transformers import AutoTokenizer, CLIPTextModelWithProjection

        _refuse_pickles(folder)
        try:
            with _Quiet(), _bounded_network(folder):
                self._tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
                model = CLIPTextModelWithProjection.from_pretrained(str(folder), local_files_only=True, use_safetensors=True)
        except Exception as error:  # the library names no base class
            raise _unreadable(folder, error) from None
        self._model, self._folder = model.float().eval(), folder
        self.name, self.features = name, int(model.text_projection.out_features)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the weights, wherever the folder is."""
        return _weights_sha256(self._folder)

    @torch.inference_mode()
    def encode(self, captions: Sequence[str]) -> Tensor:
        """Return vectors [N, features]; see `SentenceEncoder`."""
        _refuse_empty(captions)
        longest = self._model.config.max_position_embeddings
        vectors = torch.empty(len(captions), self.features)
        for start in range(0, len(captions), BATCH_SIZE):
            rows = slice(start, start + BATCH_SIZE)
            words = self._tokenizer(
                [normalise(c, lower=False) for c in captions[rows]], padding=True, truncation=True, max_length=longest, return_tensors="pt"
            )
            vectors[rows] = self._model(input_ids=words["input_ids"], attention_mask=words["attention_mask"]).text_embeds
        return vectors.clone()


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


def load_sentence_encoder(name: str, *, ask_hub: bool = True) -> SentenceEncoder:
    """Load a sentence encoder.

    Args:
        name: a folder of skip-thoughts (a model or a run), of a model of sentence-transformers or of a CLIP; or OWNER/NAME of one of them
            on the Hugging Face hub.
        ask_hub: false reads OWNER/NAME only from the cache, for names that come from a file.

    Raises:
        ValueError: the encoder does not exist, its files are damaged or hold code, or a package is not installed.
    """
    folder = find_encoder(name, ask_hub=ask_hub)
    display_name = Path(name).resolve().name if Path(name).is_dir() else name
    if (folder / MODULES).is_file():
        return SentenceTransformersEncoder(display_name, folder)
    config = _config(folder)
    if config.get("model_type") in CLIP_TYPES:
        return CLIPEncoder(display_name, folder)
    if "kind" in config:
        return SkipThoughtsEncoder(display_name, folder)
    allowed = f"skip-thoughts of cap2im, a model of sentence-transformers ({MODULES}), or a CLIP ({CONFIG} with model_type clip)"
    raise ValueError(f"{folder}: no sentence encoder in this folder; allowed: {allowed}")


def load_own_encoder(model: LoadedModel[Any], features: int) -> SentenceEncoder:
    """Load the sentence encoder of a model that is conditioned on sentence vectors.

    A finished model has its encoder in its folder. For a checkpoint, which has none, the encoder that its recipe names is read from this
    machine. What a config names is never fetched from the hub.

    Args:
        model: the model.
        features: width of the vectors that it needs.

    Raises:
        ValueError: there is no encoder, or its vectors are of another width.
    """
    own, named = model.folder / SENTENCE_ENCODER, model.config.data.get("sentence_encoder")
    if own.is_dir():
        name = str(own)
    elif isinstance(named, str) and named and (model.folder / TRAINING_STATE).is_file():
        name = named
    else:
        trained = f"; it was trained with {brief(named)}" if named else ""
        raise ValueError(
            f"{model.folder}: needs sentence vectors and has no encoder of them: put one into {own} "
            f"(cap2im convert makes one of the authors' skip-thought tables{trained})"
        )
    encoder = load_sentence_encoder(name, ask_hub=False)
    if encoder.features != features:
        raise ValueError(f"{name}: encodes {encoder.features} features, the model in {model.folder} needs {features}")
    return encoder


def copy_encoder(source: Path, target: Path) -> None:
    """Copy the files that `load_sentence_encoder` reads, and the model card; neither code nor training state.

    Args:
        source: folder of an encoder, as `find_encoder` returns it.
        target: a new folder; its files are hard links if the disk supports them.
    """
    target.mkdir()
    for file in _files(source):
        copy, original = target / file.relative_to(source), file.resolve()  # in the hub's cache files are symbolic links
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(original, copy)
        except OSError:  # another disk, or one without links
            shutil.copyfile(original, copy)


class _Quiet:
    """Silence the reports of transformers on unused weights, such as the image tower of a CLIP."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._verbosity, self._bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging

        logging.set_verbosity(self._verbosity)
        if self._bars:
            logging.enable_progress_bar()


@contextmanager
def _bounded_network(folder: Path) -> Iterator[None]:
    """Raise ValueError in the block as soon as a library builds a network that is far larger than the encoder's weights.

    The files that the libraries will read are checked first: FIFOs and JSON documents that take too much memory are refused.
    """
    shapes = []
    for file in _files(folder):
        check_regular_file(file)
        if file.suffix == ".json":
            read_json(file, _AnyJSON)
        if file.suffix == ".safetensors":
            shapes += [shape for _, shape in weights_header(file).values()]
    with bounded_parameters(len(shapes), sum(map(math.prod, shapes))):
        yield


def _config(folder: Path) -> dict[str, Any]:
    return read_json(folder / CONFIG, JSONObject).root if (folder / CONFIG).exists() else {}


def _files(folder: Path) -> list[Path]:
    """Return the files of an encoder and its card."""
    folders, patterns = [folder], [*ENCODER_FILES, CARD]
    if (folder / MODULES).is_file():
        folders += [folder / module.path for module in _modules(folder)]
    elif "kind" in _config(folder):
        patterns = [CONFIG, WEIGHTS, CARD]
    return [file for each in dict.fromkeys(folders) for pattern in patterns for file in sorted(each.glob(pattern))]


def _weights_sha256(folder: Path) -> str:
    return sha256("".join(file_sha256(file) for file in _files(folder) if file.suffix == ".safetensors").encode())


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


def _modules(folder: Path) -> list[_Module]:
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


def _refuse_pickles(folder: Path) -> None:
    """Raise ValueError if the weights exist only as pickles, which can execute code on loading."""
    pickles = [path.name for path in folder.glob("*.bin")]
    if pickles and not list(folder.glob("*.safetensors")):
        raise ValueError(f"{folder}: weights are in {pickles[0]}, which is a pickle; only safetensors files are read")


def _refuse_functions(folder: Path) -> None:
    """Raise ValueError if a module names a function that is no activation; sentence-transformers would call any function of torch."""
    name = _config(folder).get("activation_function", ACTIVATIONS[1])
    if not isinstance(name, str) or not name.startswith(ACTIVATIONS):
        raise ValueError(f"{folder / CONFIG}: activation_function {shortened(repr(name))}: allowed are {' and '.join(ACTIVATIONS)}")


def _refuse_empty(captions: Sequence[str]) -> None:
    if any(not caption.strip() for caption in captions):
        raise ValueError("a caption is empty")


def _unreadable(folder: Path, error: Exception) -> ValueError:
    return ValueError(f"{folder}: cannot be read: {' '.join(str(error).split())[:300]}")
