"""Sentence encoders for models that are conditioned on sentence vectors: skip-thoughts, sentence-transformers and CLIP.

No code of a model folder is executed: code is refused, and weights are read only from safetensors files.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cap2im.checkpoint import SENTENCE_ENCODER, TRAINING_STATE
from cap2im.data.batch import pad
from cap2im.data.sentence_vectors import SentenceEncoder
from cap2im.data.tokenizer import normalise
from cap2im.encoder_files import (
    KNOWN_MODULES,
    MODULES,
    bounded_network,
    encoder_config,
    find_encoder,
    read_modules,
    refuse_functions,
    refuse_pickles,
    weights_sha256,
)
from cap2im.extras import require
from cap2im.files import brief, shortened
from cap2im.loading import LoadedModel, load_model
from cap2im.models.skipthoughts import SkipThoughts

BATCH_SIZE = 64
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

    @torch.inference_mode()
    def nearest(self, word: str, known: Sequence[str], count: int = 3) -> list[str]:
        """Return the known words whose vectors have the largest cosine with the word's; empty for a word that has no vector."""
        numbers = self.vocabulary.numbers
        known = [each for each in known if each in numbers and each != word]
        if not self.vocabulary.is_plain(word) or not known:
            return []
        rows = torch.tensor([numbers[each] for each in (word, *known)])
        tables = [encoder.table.weight[rows].float() for encoder in self.model.encoders_by_name().values()]
        vectors = normalize(torch.cat(tables, dim=1))  # [1 + N, E] or [1 + N, 2 E]
        best = (vectors[1:] @ vectors[0]).topk(min(count, len(known))).indices
        return [known[row] for row in best.tolist()]


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

        for module in read_modules(folder):
            package, _, class_name = module.type.rpartition(".")
            if not f"{package}.".startswith("sentence_transformers.") or class_name not in KNOWN_MODULES:
                raise ValueError(f"{folder / MODULES}: module {shortened(repr(module.type))}: allowed are {', '.join(KNOWN_MODULES)}")
            refuse_pickles(folder / module.path)
            refuse_functions(folder / module.path)
        try:
            with _Quiet(), bounded_network(folder):
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
        return weights_sha256(self._folder)

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

        refuse_pickles(folder)
        try:
            with _Quiet(), bounded_network(folder):
                self._tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
                model = CLIPTextModelWithProjection.from_pretrained(str(folder), local_files_only=True, use_safetensors=True)
        except Exception as error:  # the library names no base class
            raise _unreadable(folder, error) from None
        self._model, self._folder = model.float().eval(), folder
        self.name, self.features = name, int(model.text_projection.out_features)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the weights, wherever the folder is."""
        return weights_sha256(self._folder)

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


def load_sentence_encoder(name: str, *, ask_hub: bool = True) -> SentenceEncoder:
    """Load a sentence encoder.

    Args:
        name: a folder of skip-thoughts (a model or a run), of a model of sentence-transformers or of a CLIP; or OWNER/NAME or
            OWNER/NAME@REVISION of one of them on the Hugging Face hub.
        ask_hub: false reads OWNER/NAME only from the cache, for names that come from a file.

    Raises:
        ValueError: the encoder does not exist, its files are damaged or hold code, or a package is not installed.
    """
    folder = find_encoder(name, ask_hub=ask_hub)
    display_name = Path(name).resolve().name if Path(name).is_dir() else name
    if (folder / MODULES).is_file():
        return SentenceTransformersEncoder(display_name, folder)
    config = encoder_config(folder)
    if config.get("model_type") in CLIP_TYPES:
        return CLIPEncoder(display_name, folder)
    if "kind" in config:
        return SkipThoughtsEncoder(display_name, folder)
    allowed = f"skip-thoughts of cap2im, a model of sentence-transformers ({MODULES}), or a CLIP (config.json with model_type clip)"
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


def _refuse_empty(captions: Sequence[str]) -> None:
    if any(not caption.strip() for caption in captions):
        raise ValueError("a caption is empty")


def _unreadable(folder: Path, error: Exception) -> ValueError:
    return ValueError(f"{folder}: cannot be read: {' '.join(str(error).split())[:300]}")
