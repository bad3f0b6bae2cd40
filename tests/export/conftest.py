"""Small models, exported once for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from cap2im.checkpoint import write_model
from cap2im.config import load_recipe
from cap2im.data.mnist_captions import ALIASES, WORDS
from cap2im.data.vocabulary import Vocabulary
from cap2im.export.onnx import export_onnx
from cap2im.pipeline import Pipeline
from cap2im.registry import MODELS
from tests.tiny import tiny_model


def digit_model(folder: Path, kind: str, **sizes: Any) -> Path:
    """Write an untrained model of captioned digits."""
    spec = MODELS[kind]
    torch.manual_seed(0)
    config = spec.config_class(side=60, colours=1, vocabulary_size=len(WORDS), **sizes)
    network = spec.network_class(config)
    folder.mkdir()
    vocabulary = Vocabulary(words=WORDS, aliases=ALIASES).model_dump()
    about = {"kind": kind, "model": config.model_dump(), "vocabulary": vocabulary, "description": kind}
    write_model(folder, network.state_dict(), about)
    return folder


def attngan_model(folder: Path) -> Path:
    """Write an untrained AttnGAN of captioned digits."""
    sizes = ("condition=8", "noise=8", "width=2", "text.word_features=4", "text.features=6", f"text.vocabulary_size={len(WORDS)}")
    config = load_recipe("attngan-mnist", [f"model.{size}" for size in sizes]).model
    torch.manual_seed(0)
    network = MODELS["attngan"].network_class(config)
    folder.mkdir()
    vocabulary = Vocabulary(words=WORDS, aliases=ALIASES).model_dump()
    write_model(
        folder, network.state_dict(), {"kind": "attngan", "model": config.model_dump(), "vocabulary": vocabulary, "description": ""}
    )
    return folder


MODELS_TO_EXPORT = {
    "alignDRAW": lambda folder: tiny_model(folder, "model.latent=6"),
    "noalignDRAW": lambda folder: tiny_model(folder, "model.latent=6", "model.conditioning='mean'"),
    "DRAW": lambda folder: tiny_model(folder, "model.latent=6", "model.conditioning='none'"),
    "VAE": lambda folder: digit_model(folder, "vae", hidden=8, latent=16, language_units=4, conditioning="mean"),
    "LAPGAN": lambda folder: digit_model(
        folder, "lapgan", noise=16, generator_units=8, language_units=4, conditioning="mean", features=(2, 2)
    ),
    "AttnGAN": lambda folder: attngan_model(folder),
}


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Pipeline, Path]]:
    """Export a model of `MODELS_TO_EXPORT`, once for all tests."""
    folder = tmp_path_factory.mktemp("exported")

    @cache
    def export(name: str) -> tuple[Pipeline, Path]:
        pipeline = Pipeline.load(str(MODELS_TO_EXPORT[name](folder / f"{name}-model")))
        with torch.no_grad():  # the first glimpse differs visibly from later ones
            for key, parameter in pipeline.model.named_parameters():
                if key.startswith("start_") or key == "prior.bias":
                    parameter.normal_()
        return pipeline, export_onnx(pipeline, folder / name, words=14)

    return export
