"""Find, check and train the models of `cap2im compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cap2im.cli.train import train
from cap2im.evaluation.registry import METRICS
from cap2im.extras import require

if TYPE_CHECKING:
    from cap2im.evaluation.settings import Settings
    from cap2im.models.lapgan import SharpenerConfig
    from cap2im.pipeline import Pipeline


def model_label(name: str) -> str:
    """Return the name of a model in a table: the last part of its path, also of "." and ".."."""
    return Path(name).resolve().name


def find_models(names: list[str], runs: Path, train_missing: bool) -> tuple[dict[str, str], list[str]]:
    """Find the models of a comparison.

    Args:
        names: models, as for `cap2im evaluate`, or names of recipes.
        runs: folder of the recipes' runs.
        train_missing: whether recipes without a model are trained.

    Returns:
        the folder of each model by its label, and the recipes without a model.

    Raises:
        ValueError: a model is missing, or two have one name; the message has all problems.
    """
    from cap2im.config import load_recipe, recipe_names
    from cap2im.files import existing_folder
    from cap2im.loading import find_model
    from cap2im.registry import MODELS

    folders: dict[str, str] = {}
    missing: list[str] = []
    problems: list[str] = []
    for name in names:
        label, run = model_label(name), runs / name
        if label in (*folders, *missing):
            problems.append(f"two models are called {label!r}")
            continue
        try:
            folders[label] = str(find_model(str(run) if existing_folder(run / "model").is_dir() else name))
        except ValueError as error:
            if name not in recipe_names():
                problems.append(str(error))
            elif not MODELS[kind := load_recipe(name, []).kind].draws:
                problems.append(f"{name}: a recipe of kind {kind!r} trains a model that does not draw")
            else:
                missing.append(name)
    if problems or (missing and not train_missing):
        untrained = f"not trained yet: {', '.join(missing)}; add --train, or train them into {runs}/RECIPE" if missing else ""
        raise ValueError("; ".join([*problems, untrained] if untrained else problems))
    return folders, missing


def data_for(pipeline: Pipeline, data: str | None) -> str | None:
    """Return the data that a model of a comparison is measured on; models of scikit-learn's digits need none."""
    from cap2im.evaluation.subject import Subject

    return None if Subject.of(pipeline).digits == "digits" else data


def check_comparison(
    pipelines: list[Pipeline], missing: list[str], data: str | None, settings: Settings, sharpener: SharpenerConfig | None
) -> None:
    """Make all checks of a comparison that come before training and measuring.

    Args:
        pipelines: models that exist.
        missing: recipes that will be trained.
        data: data for training and measuring.
        settings: what to measure, and how.
        sharpener: of the pictures, or None.

    Raises:
        ValueError: something is missing or does not fit.
    """
    from cap2im.config import DigitsData, DrawingRecipe, PicturesData, ScenesData, load_recipe
    from cap2im.data.dataset import PreparedDataset
    from cap2im.data.mnist import load_digits
    from cap2im.evaluation.subject import Subject
    from cap2im.training.data import fit_to_dataset, sentence_encoder
    from cap2im.training.scene_data import SceneData

    recipes = {name: recipe for name in missing if isinstance(recipe := load_recipe(name, []), DrawingRecipe)}
    if recipes:
        require("training", "train", "accelerate", "tensorboard")
    subjects = [*map(Subject.of, pipelines), *(Subject.of_recipe(name, recipe) for name, recipe in recipes.items())]
    for name in settings.metrics or ():
        if not any(subject.allows(METRICS[name]) for subject in subjects):
            raise ValueError(f"--metric {name}: cannot be measured of any of these models")
    for subject in subjects:
        allowed, own = subject.allowed(settings), None if subject.digits == "digits" else data
        subject.check(own, allowed)
        subject.check_scorers(allowed)
        if subject.digits is not None:
            load_digits(subject.digits, settings.digits_split, None if own is None else Path(own))
        if sharpener is not None and (sharpener.side, sharpener.colours) != (subject.config.side, subject.config.colours):
            raise ValueError(f"the sharpener does not fit {subject.name}: it sharpens {sharpener.side} x {sharpener.side} pixels")
    for recipe in recipes.values():
        if isinstance(recipe.data, ScenesData):
            SceneData.load(recipe.data, data)
        elif not isinstance(recipe.data, DigitsData):
            fit_to_dataset(recipe, PreparedDataset.open(str(data)), resizes=isinstance(recipe.data, PicturesData))
            sentence_encoder(recipe)


def train_recipe(name: str, runs: Path, data: str | None) -> Path:
    """Train a recipe, after the DAMSM of an AttnGAN, and return the folder of the model."""
    from cap2im.checkpoint import checkpoints
    from cap2im.config import AttnGANRecipe, load_recipe
    from cap2im.files import existing_folder

    def trained(name: str, *changes: str) -> Path:
        source = getattr(getattr(load_recipe(name, []), "data", None), "source", None)
        own = None if source == "digits" else data  # scikit-learn's digits need no data
        train(name, list(changes), run=runs / name, data=own, resume=bool(checkpoints(runs / name)))
        return runs / name / "model"

    changes = []
    if isinstance(recipe := load_recipe(name, []), AttnGANRecipe):
        damsm = Path(recipe.train.damsm).name
        changes = [f"train.damsm={runs / damsm}"]
        if not existing_folder(runs / damsm / "model").is_dir():
            trained(damsm)
    return trained(name, *changes)
