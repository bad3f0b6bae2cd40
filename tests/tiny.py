"""A tiny alignDRAW, as a recipe's changes and as a model folder, so that tests take moments."""

from __future__ import annotations

from pathlib import Path

import torch

from cap2im.checkpoint import write_model
from cap2im.config import DRAWRecipe, load_recipe
from cap2im.data.vocabulary import Vocabulary
from cap2im.models.skipthoughts import SkipThoughts, SkipThoughtsConfig
from cap2im.training.accelerator import make_accelerator
from cap2im.training.data import DataSource, TrainingData, load_training_data
from cap2im.training.variational import VariationalTrainer

CHANGES = (
    "model.blank=0.0",
    "model.glimpses=3",
    "model.inference_units=12",
    "model.generative_units=12",
    "model.latent=5",
    "model.language_units=8",
    "model.align_features=8",
    "model.read_patch=4",
    "model.write_patch=4",
    "data.samples_per_epoch=20",
    "data.validation_samples=6",
    "train.epochs=2",
    "train.batch_size=4",
    "train.kl_weights=[[0, 0.02], [3, 1.0]]",
    "train.precision='fp32'",
    "train.log_every=1",
    "train.validate_every=5",
    "train.checkpoint_every=3",
)


def tiny_recipe(*changes: str) -> DRAWRecipe:
    """aligndraw-digits made tiny: ten updates of four canvases."""
    recipe = load_recipe("aligndraw-digits", [*CHANGES, *changes])
    assert isinstance(recipe, DRAWRecipe)
    return recipe


def tiny_model(folder: Path, *changes: str) -> Path:
    """Writes an untrained tiny model into a new folder."""
    recipe = tiny_recipe(*changes, "train.seed=1")
    trainer = tiny_trainer(recipe)
    with torch.no_grad():
        trainer.model.patch.weight.mul_(1000)  # a wide window dilutes what it writes; this makes differences visible
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder, trainer.model.state_dict(), trainer.config())
    return folder


def tiny_trainer(recipe: DRAWRecipe, data: TrainingData | None = None) -> VariationalTrainer:
    """The trainer of a recipe before its first update, on the CPU."""
    data = load_training_data(recipe, DataSource()) if data is None else data
    return VariationalTrainer(data.recipe, data, make_accelerator("cpu", 4))


def tiny_encoder(folder: Path, features: int) -> Path:
    """Writes untrained skip-thoughts into a new folder, which answer so many features and know few words."""
    torch.manual_seed(0)
    sizes, words = SkipThoughtsConfig(uni=features - 4, bi=2, embedding=3), Vocabulary.build(["a red bus", "a blue square", "green ."])
    folder.mkdir(parents=True)
    config = {"kind": "skipthoughts", "model": sizes.model_dump(), "vocabulary": words.model_dump()}
    write_model(folder, SkipThoughts(sizes, len(words)).state_dict(), config)
    return folder
