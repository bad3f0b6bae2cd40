"""Train, resume or rehearse a recipe of any kind."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import torch
from accelerate import Accelerator

from cap2im.checkpoint import checkpoints
from cap2im.config import Recipe, changed, parse_recipe
from cap2im.registry import MODELS
from cap2im.training.accelerator import flush_denormals, make_accelerator
from cap2im.training.data import DataSource, check_same_data
from cap2im.training.log import Tracker, check_tracker
from cap2im.training.run import Run, RunFile
from cap2im.training.state import check_run, checkpoint_recipe, resume_checkpoint
from cap2im.training.trainer import Trainer

REHEARSED = 4  # updates
OPTIONS = {"stream": "--stream", "start_from": "--from", "compile_model": "--compile"}  # of `Trainer.options`


def train(
    recipe: Recipe,
    run: Path,
    *,
    name: str = "",
    data: str | Path | None = None,
    stream: bool = False,
    resume: bool = False,
    start_from: Path | None = None,
    compile_model: bool | None = False,
    device: Literal["auto", "cpu"] = "auto",
    workers: int = 2,
    log: Tracker = "tensorboard",
    command: str = "",
) -> Path:
    """Train a recipe and return the folder of the finished model, RUN/model.

    Args:
        recipe: what to train.
        run: folder for checkpoints, log and the result; its name is the model's, unless the recipe has one.
        name: of the recipe, for messages.
        data: see `DataSource`; for a resumed run, None is where the data were before.
        stream: see `DataSource`.
        resume: continue from the run's last checkpoint.
        start_from: a model folder whose weights a new run starts from.
        compile_model: compile the network; the first update then takes a minute or two. None decides: a resumed run as before, a new one
            if it gains from it.
        device: "cpu", or "auto" for the accelerator if there is one.
        workers: processes that prepare batches.
        log: tracker of the log.
        command: as typed, for the card.

    Raises:
        ValueError: the kind lacks an option; data are missing, damaged or others than before; the folder holds another run; a batch does
            not divide among the processes; a loss is not finite.
        KeyboardInterrupt: a signal has stopped the training after an update, whose checkpoint is saved.
    """
    check_run(run, resume)
    check_tracker(log)
    if resume:
        data = resumed_data(run, data)
    accelerator = make_accelerator(device, recipe.train.batch_size, log_with=log, folder=run)
    options = {"stream": stream, "start_from": start_from, "compile_model": compile_model}
    if resume and compile_model is None:
        compile_model = RunFile.read(run).compiled
    trainer = _make_trainer(recipe, name or recipe.kind, DataSource(data, stream), accelerator, options)
    trainer.state.origin = {"command": command}
    messages: list[str] = []
    if (checkpoint := resume_checkpoint(run, trainer.recipe, resume)) is not None:
        check_same_data(checkpoint, trainer.data.about, run)
        trainer.state.restore(checkpoint, trainer.recipe, accelerator)
    elif start_from is not None:
        messages = trainer.start_from(start_from)
    else:
        with accelerator.main_process_first():
            trainer.initialize()
    if compile_model is None and (compile_model := trainer.gains_from_compiling()):
        messages.append("compiling the network (--no-compile): the first update takes a minute or two, later ones a fifth less")
    if compile_model:
        trainer.compile()
    card = partial(MODELS[recipe.kind].write_card, recipe.name or run.resolve().name, trainer.recipe)
    with Run(run, trainer, workers=workers, card=card, compiled=bool(compile_model)) as loop:
        for message in messages:
            loop.log.print(message)
        for batch in loop.batches():
            loop.after_update(trainer.update(batch))
        model = loop.finish()
    del loop, trainer  # release DDP first; a rank may otherwise abort at exit
    accelerator.free_memory()
    accelerator.end_training()
    return model


def _make_trainer(recipe: Recipe, name: str, source: DataSource, accelerator: Accelerator, options: Mapping[str, Any]) -> Trainer:
    """Load the data of a recipe and return its trainer, untrained.

    Raises:
        ValueError: the trainer lacks an option, or data are missing or damaged.
    """
    trainer_class: type[Trainer] = MODELS[recipe.kind].trainer_class
    if lacking := [flag for option, flag in OPTIONS.items() if options.get(option) and option not in trainer_class.options]:
        raise ValueError(f"{name}: a recipe of kind {recipe.kind!r} has no {' and no '.join(lacking)}")
    if source.path is None and trainer_class.required_data:
        raise ValueError(f"{name}: give {trainer_class.required_data} with --data")
    flush_denormals()
    with accelerator.main_process_first():  # what is prepared once for all processes is then in a cache
        data = replace(trainer_class.load_data(recipe, source, accelerator), source=source)
    return trainer_class(data.recipe, data, accelerator)


def resume(run: Path, changes: Sequence[str] | Mapping[str, Any] = (), *, name: str = "", stream: bool = False, **options: Any) -> Path:
    """Resume a run with its own recipe and data, and return the folder of the finished model.

    Args:
        run: folder of the run.
        changes: of the recipe, see `load_recipe`; length, cadence and logging may change.
        name: of the model; empty keeps it.
        stream: stream the dataset, as before.
        options: see `train`.

    Raises:
        ValueError: see `run_recipe` and `train`.
    """
    recipe = with_name(run_recipe(run, changes), name)
    return train(recipe, run, name=str(run), resume=True, stream=stream or RunFile.read(run).stream, **options)


def run_recipe(run: Path, changes: Sequence[str] | Mapping[str, Any] = ()) -> Recipe:
    """Return the recipe of a run's last checkpoint, with changes applied.

    Raises:
        ValueError: there is no checkpoint, it is damaged, or a change does not fit.
    """
    check_run(run, resume=True)
    recipe = checkpoint_recipe(checkpoints(run)[-1])
    return parse_recipe(changed(recipe.model_dump(), changes), str(run))


def resumed_data(run: Path, data: str | Path | None) -> str | Path | None:
    """Return where the data of a resumed run are: as given, or else as before.

    Raises:
        ValueError: the data are not there any more.
    """
    before = RunFile.read(run).data
    if data is not None or before is None:
        return data
    if "://" not in before and not Path(before).exists():
        raise ValueError(f"{run}: its data were in {before}, which does not exist; give their new place with --data")
    return before


def with_name(recipe: Recipe, name: str) -> Recipe:
    """Return a recipe whose model has a name, unless it is empty."""
    return recipe.model_copy(update={"name": name}) if name else recipe


def without_local_path(argument: str) -> str:
    """Return an argument of a command for a model card: of an absolute path, or one through `~` or `..`, only the last part."""
    key, equals, value = argument.rpartition("=")
    path = value.strip("'\"").replace("\\", "/")
    if not re.match(r"/|~|\.\./|file:|[A-Za-z]:/", path):
        return argument
    return f"{key}{equals}{PurePosixPath(path).name}"


def rehearse(
    recipe: Recipe, *, name: str = "", data: str | Path | None = None, stream: bool = False, device: Literal["auto", "cpu"] = "auto"
) -> tuple[Recipe, int, float]:
    """Make a few updates without writing anything.

    Returns:
        the recipe with everything that the data decides, the number of its updates, and the seconds of one.

    Raises:
        ValueError: see `train`.
    """
    accelerator = make_accelerator(device, recipe.train.batch_size)
    trainer = _make_trainer(recipe, name or recipe.kind, DataSource(data, stream), accelerator, {"stream": stream})
    trainer.initialize()
    batches, seconds = trainer.data.batches, []
    for step in range(REHEARSED):
        start = time.perf_counter()
        trainer.update(batches.at(step, slice(None)).to(accelerator.device))
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        seconds.append(time.perf_counter() - start)
        trainer.state.step += 1
    return trainer.recipe, trainer.recipe.train.total(batches.steps_per_epoch), min(seconds)
