"""Which training a recipe asks for, and what that can be told beside the recipe."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from cap2im.config import (
    AttnGANRecipe,
    ClassifierRecipe,
    DAMSMRecipe,
    DigitReaderRecipe,
    GANRecipe,
    Recipe,
    SkipThoughtsRecipe,
    VariationalRecipe,
)
from cap2im.training import card
from cap2im.training.state import Source, check_run, open_run, source_of

REHEARSED = 4  # updates
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
    VariationalRecipe: Training("variational", card.bound_card, frozenset({*OPTIONS, "device", "workers"})),
    GANRecipe: Training("lapgan", card.gan_card, frozenset({"resume", "stream", "device", "workers"})),
    DAMSMRecipe: Training("damsm", card.matching_card, frozenset({"resume", "stream", "device", "workers"})),
    AttnGANRecipe: Training("attngan", card.attngan_card, frozenset({"resume", "device", "workers"})),
    SkipThoughtsRecipe: Training(
        "skipthoughts", card.sentences_card, frozenset({"resume", "device"}), "sentences: give a text, a token file or a prepared dataset"
    ),
    ClassifierRecipe: Training(
        "classifier", card.classifier_card, frozenset({"resume", "device"}), "images with classes: give a prepared dataset"
    ),
    DigitReaderRecipe: Training("digit_reader", card.reader_card, frozenset()),
}


def start(recipe: Recipe, run: Path, *, name: str, data: str | None, command: str, **options: Any) -> Path:
    """Train a recipe and return the folder of the finished model.

    Args:
        recipe: what to train.
        run: folder for checkpoints, log and the result; its name is the model's, unless the recipe has one.
        name: of the recipe, for messages.
        data: as the recipe's own `train` takes it, which also says what may be wrong with it. To resume, None is where it lay before.
        command: as typed, for the card.
        options: what some `train` take: those of `OPTIONS`, device and workers.

    Raises:
        ValueError: an option that this kind does not have, or no data where some is needed; and those of the training itself.
    """
    training = next(each for kind, each in TRAININGS.items() if isinstance(recipe, kind))
    lacking = [flag for option, flag in OPTIONS.items() if options.get(option) and option not in training.takes]
    if lacking:
        raise ValueError(f"{name}: a recipe of kind {recipe.kind!r} has no {' and no '.join(lacking)}")
    if "resume" in training.takes:
        check_run(run, options.get("resume", False))
        data = located(data, source_of(run), run) if options.get("resume") else data
    if data is None and training.data is not None:
        raise ValueError(f"{name} learns from {training.data} with --data")
    if data is not None and getattr(getattr(recipe, "data", None), "source", "mnist") == "digits":
        raise ValueError(f"--data {data}: {name} takes its digits from scikit-learn, not from a folder")
    given = {option: value for option, value in options.items() if option in training.takes}
    module = import_module(f"cap2im.training.{training.module}")
    card = partial(training.card, recipe.name or run.resolve().name, recipe)
    result: Path = module.train(recipe, run, data=data, command=command, card=card, **given)
    return result


def resume(
    run: Path, changes: Sequence[str] | Mapping[str, Any] = (), *, name: str = "", data: str | None = None, stream: bool = False, **how: Any
) -> Path:
    """Go on with a run by its own recipe, on the data that it was begun with, and return the folder of the finished model.

    Args:
        run: folder of the run.
        changes: of the recipe, see `load_recipe`; length, cadence and logging may change.
        name: of the model; empty keeps it.
        data: where the data lies now; None is where it lay before.
        stream: read the dataset shard by shard, as before.
        how: see `start`.

    Raises:
        ValueError: see `open_run` and `start`; or the data is not where it was.
    """
    recipe, source = open_run(run, changes)
    return start(named(recipe, name), run, name=str(run), data=data, resume=True, stream=stream or source.stream, **how)


def named(recipe: Recipe, name: str) -> Recipe:
    """Return a recipe whose model has a name, unless it is empty."""
    return recipe.model_copy(update={"name": name}) if name else recipe


def located(data: str | None, source: Source, run: Path) -> str | None:
    """Return where the data of a resumed run lies: as given, or else as before.

    Raises:
        ValueError: it is not there any more.
    """
    if data is not None or source.data is None:
        return data
    if "://" not in source.data and not Path(source.data).exists():
        raise ValueError(f"{run}: its data lay in {source.data}, which is not there; --data tells where it lies now")
    return source.data


def shareable(argument: str) -> str:
    """Return an argument of a command as a model card may show it: of an absolute path, or one through `~` or `..`, the last part."""
    key, equals, value = argument.rpartition("=")
    path = value.strip("'\"").replace("\\", "/")
    if not re.match(r"/|~|\.\./|file:|[A-Za-z]:/", path):
        return argument
    return f"{key}{equals}{PurePosixPath(path).name}"


def rehearse(recipe: Recipe, *, name: str, data: str | None, stream: bool = False, device: str = "auto") -> tuple[Recipe, int, float]:
    """Train for a few updates in a temporary folder.

    Returns:
        the recipe with all that the data decides, the number of its updates, and the seconds of one.

    Raises:
        ValueError: see `start`; or the recipe has no epochs.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if isinstance(recipe, DigitReaderRecipe):
        raise ValueError(f"{name}: a recipe of kind 'reader' is not rehearsed; --dry-run without --data prints it")
    length = {"epochs": None, "updates": REHEARSED, "log_every": 1, "validate_every": 10**9, "checkpoint_every": 10**9}
    brief: Recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update=length)})
    if not isinstance(recipe, ClassifierRecipe):
        samples = min(20, recipe.data.validation_samples)
        brief = brief.model_copy(update={"data": recipe.data.model_copy(update={"validation_samples": samples})})
    with TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        run = Path(folder) / "run"
        start(brief, run, name=name, data=data, command="", stream=stream, device=device, workers=0)
        made, source = open_run(run)
        events = EventAccumulator(str(run / "tensorboard"))
        events.Reload()
        tag = next(tag for tag in events.Tags()["scalars"] if tag.startswith("train/"))
        times = [event.wall_time for event in events.Scalars(tag)]
    train = recipe.train.planned(source.steps_per_epoch)
    same = {} if isinstance(recipe, ClassifierRecipe) else {"data": recipe.data}
    whole: Recipe = made.model_copy(update={"train": train, **same})
    return whole, train.total(source.steps_per_epoch), min(b - a for a, b in pairwise(times))
