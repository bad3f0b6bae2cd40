"""Which training a recipe asks for, and what that can be told beside the recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from cap2im.config import (
    AttnGANRecipe,
    BoundRecipe,
    ClassifierRecipe,
    DAMSMRecipe,
    GANRecipe,
    ReaderRecipe,
    Recipe,
    SkipThoughtsRecipe,
)
from cap2im.training import card

OPTIONS = {"resume": "--resume", "start_from": "--from", "compile_model": "--compile", "stream": "--stream"}  # that not all have


@dataclass(frozen=True)
class Training:
    """A module with a `train(recipe, run, data=, command=, card=, ...)`.

    Attributes:
        module: its name; imported when it is needed, for some want libraries that others do not.
        card: makes the model card's text of the recipe's name, the recipe and the figures that training measured.
        takes: what else its `train` can be told.
        data: what it learns from, where that has to be given.
    """

    module: str
    card: Callable[[str, Any, dict[str, Any]], str]
    takes: frozenset[str]
    data: str | None = None


TRAININGS: dict[Any, Training] = {
    BoundRecipe: Training("bound", card.bound_card, frozenset({*OPTIONS, "device", "workers"})),
    GANRecipe: Training("gan", card.gan_card, frozenset({"resume", "stream", "device", "workers"})),
    DAMSMRecipe: Training("matching", card.matching_card, frozenset({"resume", "stream", "device", "workers"})),
    AttnGANRecipe: Training("attngan", card.attngan_card, frozenset({"resume", "device", "workers"})),
    SkipThoughtsRecipe: Training(
        "skipthoughts", card.sentences_card, frozenset({"resume", "device"}), "sentences: give a text, a token file or a prepared dataset"
    ),
    ClassifierRecipe: Training(
        "classifier", card.classifier_card, frozenset({"resume", "device"}), "images with classes: give a prepared dataset"
    ),
    ReaderRecipe: Training("reader", card.reader_card, frozenset()),
}


def start(recipe: Recipe, run: Path, *, name: str, data: str | None, command: str, **options: Any) -> Path:
    """Trains a recipe; returns the folder of the finished model.

    Args:
        recipe: what to train.
        run: folder for checkpoints, log and the result.
        name: of the recipe, for the card.
        data: as the recipe's own `train` takes it, which also says what may be wrong with it.
        command: as typed, for the card.
        options: what some `train` take: those of `OPTIONS`, device and workers.

    Raises:
        ValueError: an option that this kind does not have, or no data where some is needed; and those of the training itself.
    """
    training = next(each for kind, each in TRAININGS.items() if isinstance(recipe, kind))
    lacking = [flag for option, flag in OPTIONS.items() if options.get(option) and option not in training.takes]
    if lacking:
        raise ValueError(f"{name}: a recipe of kind {recipe.kind!r} has no {' and no '.join(lacking)}")
    if data is None and training.data is not None:
        raise ValueError(f"{name} learns from {training.data} with --data")
    given = {option: value for option, value in options.items() if option in training.takes}
    module = import_module(f"cap2im.training.{training.module}")
    result: Path = module.train(recipe, run, data=data, command=command, card=partial(training.card, name, recipe), **given)
    return result
