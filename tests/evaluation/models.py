"""Tiny models to evaluate."""

from __future__ import annotations

from pathlib import Path

from cap2im.checkpoint import write_model
from cap2im.config import DRAWRecipe, load_recipe
from cap2im.models.vgg import VGG, VGGConfig
from cap2im.training.data import DataSource, load_training_data
from tests.prepared import COLOURS, prepared_dataset
from tests.tiny import tiny_model, tiny_trainer

SIZES = ("side=12", "glimpses=2", "inference_units=8", "generative_units=8", "latent=3", "language_units=4", "align_features=4")
PATCHES = ("read_patch=3", "write_patch=3")


def models(folder: Path) -> tuple[Path, Path, Path, Path]:
    """Write a model of captioned images, one of captioned digits, a dataset, and a VGG-like network, and return their folders."""
    data = prepared_dataset(folder / "data", side=12, train=8, validation=4, test=7)
    recipe = load_recipe("aligndraw-cifar", [f"model.{change}" for change in SIZES + PATCHES] + ["train.batch_size=4"])
    assert isinstance(recipe, DRAWRecipe)
    trainer = tiny_trainer(recipe, load_training_data(recipe, DataSource(data)))
    words, vgg = folder / "words", folder / "vgg"
    words.mkdir()
    write_model(words, trainer.model.state_dict(), trainer.config())
    network = VGG(VGGConfig(width=1, classes=len(COLOURS)))
    vgg.mkdir()
    write_model(vgg, network.state_dict(), {"kind": "classifier", "model": network.config.model_dump()})
    return words, tiny_model(folder / "digits"), data, vgg
