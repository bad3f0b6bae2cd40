"""Sentence encoders: captions to vectors, for the models that are conditioned on a whole sentence.

One interface for our skip-thoughts and for ready encoders: any model of sentence-transformers, or the text tower of a CLIP. Nothing that
comes with a model is executed: code in it is refused, and weights are read from safetensors files alone.
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
from cap2im.checkpoint import CONFIG, SENTENCE_ENCODER, TRAINING_STATE, WEIGHTS, checkpoints, existing_folder
from cap2im.data.sentence_vectors import SentenceEncoder
from cap2im.data.tokenizer import normalise
from cap2im.data.vocabulary import pad
from cap2im.files import JSONObject, brief, check_regular_file, file_sha256, read_json, sha256, shortened
from cap2im.hub import ENCODER_FILES, download, is_repository
from cap2im.loading import LoadedModel, load_model
from cap2im.models.skipthoughts import SkipThoughts

SENTENCES_AT_ONCE = 64
MODULES = "modules.json"  # what sentence-transformers calls the list of a model's parts
CARD = "README.md"
KNOWN_MODULES = ("Transformer", "Pooling", "Dense", "Normalize")
ACTIVATIONS = ("torch.nn.modules.activation.", "torch.nn.modules.linear.Identity")  # what a Dense may call
CLIP_TYPES = ("clip", "clip_text_model")
NEEDED = "needs more than the core; in the checkout: pip install -c constraints.txt '.[sentences]'"


class SkipThoughtsEncoder(SentenceEncoder):
    """Our skip-thoughts, or the released ones. The vector of each of its encoders has length 1; unknown words count as `UNK`."""

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
        return self._sha256

    @torch.inference_mode()
    def encode(self, captions: Sequence[str]) -> Tensor:
        tokens = [t.numbers for t in self.vocabulary.encode(captions, "mark")]
        order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
        vectors = torch.empty(len(tokens), self.features)
        for start in range(0, len(order), SENTENCES_AT_ONCE):
            rows = order[start : start + SENTENCES_AT_ONCE]
            vectors[rows] = self.model(*pad([tokens[row] for row in rows]))
        return vectors.clone()


class SentenceTransformersEncoder(SentenceEncoder):
    """A model of sentence-transformers, encoding as it says itself."""

    def __init__(self, name: str, folder: Path) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise ValueError(f"{folder}: a model of sentence-transformers {NEEDED}") from None
        for module in _modules(folder):
            package, _, kind = module.type.rpartition(".")
            if not f"{package}.".startswith("sentence_transformers.") or kind not in KNOWN_MODULES:
                raise ValueError(f"{folder / MODULES}: part {shortened(repr(module.type))} is not allowed; {', '.join(KNOWN_MODULES)} are")
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
        return _weights_sha256(self._folder)

    @torch.inference_mode()
    def encode(self, captions: Sequence[str]) -> Tensor:
        _refuse_empty(captions)
        if not captions:
            return torch.empty(0, self.features)
        vectors = self._model.encode(
            [normalise(c, lower=False) for c in captions], batch_size=SENTENCES_AT_ONCE, convert_to_tensor=True, show_progress_bar=False
        )
        return vectors.float().clone()


class CLIPEncoder(SentenceEncoder):
    """The text tower of a CLIP with its projection; captions that are too long for it are cut off."""

    def __init__(self, name: str, folder: Path) -> None:
        try:
            from transformers import AutoTokenizer, CLIPTextModelWithProjection
        except ImportError:
            raise ValueError(f"{folder}: a CLIP {NEEDED}") from None
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
        return _weights_sha256(self._folder)

    @torch.inference_mode()
    def encode(self, captions: Sequence[str]) -> Tensor:
        _refuse_empty(captions)
        longest = self._model.config.max_position_embeddings
        vectors = torch.empty(len(captions), self.features)
        for start in range(0, len(captions), SENTENCES_AT_ONCE):
            rows = slice(start, start + SENTENCES_AT_ONCE)
            words = self._tokenizer(
                [normalise(c, lower=False) for c in captions[rows]], padding=True, truncation=True, max_length=longest, return_tensors="pt"
            )
            vectors[rows] = self._model(input_ids=words["input_ids"], attention_mask=words["attention_mask"]).text_embeds
        return vectors.clone()


def find_encoder(name: str, *, ask_hub: bool = True) -> Path:
    """The folder of a sentence encoder, inside of a run where it is one's; names and errors are those of `load_sentence_encoder`."""
    path = existing_folder(Path(name))
    if path.is_dir():
        found = [
            folder for folder in (path, existing_folder(path / "model")) if (folder / CONFIG).is_file() or (folder / MODULES).is_file()
        ]
        return found[0] if found else next(reversed(checkpoints(path)), path)
    if is_repository(name):
        return download(name, ENCODER_FILES, ["onnx/*", "openvino/*"], ask=ask_hub)
    raise ValueError(f"unknown sentence encoder {name!r}; give a folder, or OWNER/NAME on the Hugging Face hub")


def load_sentence_encoder(name: str, *, ask_hub: bool = True) -> SentenceEncoder:
    """A sentence encoder.

    Args:
        name: a folder of skip-thoughts (a model, or the run of a training), of a model of sentence-transformers, or of a CLIP; or
            OWNER/NAME of one of them on the Hugging Face hub.
        ask_hub: for OWNER/NAME; False reads what was downloaded before, for a name that no person has typed.

    Raises:
        ValueError: there is no such encoder, its files are damaged or hold code, or what it needs is not installed.
    """
    folder = find_encoder(name, ask_hub=ask_hub)
    shown = Path(name).resolve().name if Path(name).is_dir() else name
    if (folder / MODULES).is_file():
        return SentenceTransformersEncoder(shown, folder)
    config = _config(folder)
    if config.get("model_type") in CLIP_TYPES:
        return CLIPEncoder(shown, folder)
    if "kind" in config:
        return SkipThoughtsEncoder(shown, folder)
    known = f"one of cap2im, of sentence-transformers ({MODULES}), or a CLIP ({CONFIG} with model_type clip)"
    raise ValueError(f"{folder}: no sentence encoder in this folder, which would be {known}")


def load_own_encoder(model: LoadedModel[Any], features: int) -> SentenceEncoder:
    """Load the sentence encoder of a model that is conditioned on sentence vectors.

    A finished model has its encoder in its folder. For a checkpoint, which has none, the encoder that its recipe names is read from this
    machine. What a config names is never fetched from the hub.

    Args:
        model: The model.
        features: Width of the vectors that it needs.

    Raises:
        ValueError: There is no encoder, or its vectors are of another width.
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
    """Copies what `load_sentence_encoder` needs of an encoder, and its card: no code, and nothing of its training.

    Args:
        source: its folder, as `find_encoder` answers it.
        target: a new folder; its files are hard links where the disk has them.
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
    """Keeps transformers from reporting on weights that are not needed, such as a CLIP's eyes."""

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
    """Raise ValueError in the block as soon as a network is made that is far larger than the weights of an encoder.

    The files that the libraries would read are checked first: no FIFO, and no JSON document that takes too much memory.
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
    """What an encoder consists of, and its card."""
    parts, patterns = [folder], [*ENCODER_FILES, CARD]
    if (folder / MODULES).is_file():
        parts += [folder / module.path for module in _modules(folder)]
    elif "kind" in _config(folder):
        patterns = [CONFIG, WEIGHTS, CARD]
    return [file for part in dict.fromkeys(parts) for pattern in patterns for file in sorted(part.glob(pattern))]


def _weights_sha256(folder: Path) -> str:
    return sha256("".join(file_sha256(file) for file in _files(folder) if file.suffix == ".safetensors").encode())


class _AnyJSON(RootModel[Any]):
    """Any JSON document."""


class _Module(BaseModel):
    """A part of a model of sentence-transformers."""

    path: str  # of a folder inside of the model's
    type: str  # the name of a Python class


class _Modules(RootModel[list[_Module]]):
    """What `modules.json` holds."""


def _modules(folder: Path) -> list[_Module]:
    """Return the parts of a model of sentence-transformers.

    Raises:
        ValueError: what lists them is damaged, or a part lies elsewhere.
    """
    path = folder / MODULES
    modules = read_json(path, _Modules).root
    if not modules:
        raise ValueError(f"{path}: lists no parts")
    for module in modules:
        if "\0" in module.path or not (folder / module.path).resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{path}: part {shortened(repr(module.path))} lies outside of the folder")
    return modules


def _refuse_pickles(folder: Path) -> None:
    """Raises where weights are pickled, which could execute anything, and not there as safetensors too."""
    pickled = [path.name for path in folder.glob("*.bin")]
    if pickled and not list(folder.glob("*.safetensors")):
        raise ValueError(f"{folder}: weights are in {pickled[0]}, which is a pickle; only safetensors files are read")


def _refuse_functions(folder: Path) -> None:
    """Raise ValueError where a part asks for a function that is no activation; sentence-transformers calls anything in torch."""
    name = _config(folder).get("activation_function", ACTIVATIONS[1])
    if not isinstance(name, str) or not name.startswith(ACTIVATIONS):
        allowed = " and ".join(ACTIVATIONS)
        raise ValueError(f"{folder / CONFIG}: activation_function {shortened(repr(name))} is not allowed; {allowed} are")


def _refuse_empty(captions: Sequence[str]) -> None:
    if any(not caption.strip() for caption in captions):
        raise ValueError("a caption is empty")


def _unreadable(folder: Path, error: Exception) -> ValueError:
    return ValueError(f"{folder}: cannot be read: {' '.join(str(error).split())[:300]}")
