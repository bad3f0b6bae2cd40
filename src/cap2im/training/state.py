"""What a checkpoint holds of a network in training, and going on from one; the same for all loops."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from pydantic import BaseModel, NonNegativeFloat, NonNegativeInt
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import PARAM_LIST, AveragedModel

from cap2im.checkpoint import (
    SENTENCE_ENCODER,
    TRAINING_STATE,
    TrainingState,
    checkpoints,
    load_checkpoint,
    read_config,
    read_recipe,
    read_weights,
    save_checkpoint,
    whole_folder,
    write_model,
)
from cap2im.config import DrawingRecipe, Recipe, Section, changed, differences, parse_recipe
from cap2im.data.vocabulary import Vocabulary
from cap2im.files import check_unicode_path, read_json, validate
from cap2im.sentence_encoders import copy_encoder
from cap2im.training.card import description
from cap2im.training.run import SOURCE, machine, optimizer_tensors, random_states, restore_optimizer, restore_random_states


def check_run(run: Path, resume: bool) -> None:
    """Check that a folder holds a run to go on with, or none to begin anew.

    Raises:
        ValueError: there is a checkpoint and `resume` is false, or none and it is true; or the path is not UTF-8.
    """
    check_unicode_path(run)
    found = checkpoints(run)
    if resume and not found:
        raise ValueError(f"{run}: no checkpoint to resume from")
    if found and not resume:
        raise ValueError(
            f"{run}: holds a run already ({found[-1].name}); cap2im train --resume {run} goes on with it, or choose another --run"
        )


def resume_state(run: Path, recipe: Section, resume: bool) -> Path | None:
    """Return the checkpoint that a run goes on from, or None for a new run.

    Raises:
        ValueError: there is a checkpoint and `resume` is false, or none and it is true, or it was made by another recipe.
    """
    check_run(run, resume)
    if not resume:
        return None
    found = checkpoints(run)
    with _naming_an_older_one(found[-1]):
        state = load_checkpoint(found[-1])
    old = parse_recipe(state.recipe, str(found[-1]))
    if differing := differences(old, recipe):
        raise ValueError(f"{run}: was made by another recipe (its own is {run / 'recipe.toml'}); differences: {'; '.join(differing)}")
    return found[-1]


class Source(BaseModel):
    """Where the data of a run lies, and how many updates an epoch of it has, as `RunLog` keeps them."""

    data: str | None = None
    stream: bool = False
    steps_per_epoch: int = 1


def open_run(run: Path, changes: Sequence[str] | Mapping[str, Any] = ()) -> tuple[Recipe, Source]:
    """Return the recipe of a run's last checkpoint with changes applied, and where its data lies.

    Raises:
        ValueError: there is no checkpoint, it is damaged, or a change does not fit.
    """
    check_run(run, resume=True)
    found = checkpoints(run)
    with _naming_an_older_one(found[-1]):
        table = read_recipe(found[-1])
    return parse_recipe(changed(table, changes), str(run)), source_of(run)


def source_of(run: Path) -> Source:
    """Return where the data of a run lies; runs of older versions do not say it."""
    return read_json(run / SOURCE, Source) if (run / SOURCE).exists() else Source()


@contextmanager
def _naming_an_older_one(checkpoint: Path) -> Iterator[None]:
    """Where reading a checkpoint fails, the message also names the newest older one that is whole, and how to go on from it."""
    try:
        yield
    except ValueError as error:
        for older in reversed([path for path in checkpoints(checkpoint.parent.parent) if path.name < checkpoint.name]):
            with suppress(ValueError):
                load_checkpoint(older)
                read_weights(older, read_config(older))
                break
        else:
            raise
        raise ValueError(f"{error}; {older.name} beside it is whole: to go on from there, remove {checkpoint}") from None


class _Numbers(BaseModel):
    """The numbers of a checkpoint that all trainings write."""

    seconds: NonNegativeFloat
    origin: dict[str, Any]
    groups: list[dict[str, int | float | bool | list[int | float] | None]]  # of the optimizer
    averaged: NonNegativeInt | None = None


def decay_at(ema_decay: float, updates: int) -> float:
    """Return the decay of the next update of an average that was updated `updates` times.

    The decay rises to `ema_decay`: with 0.999 from the start, the average is the untrained network for the first thousand updates.
    """
    return min(ema_decay, (1 + updates) / (10 + updates))


def moving_average(network: nn.Module, ema_decay: float, *, warm_up: bool = True) -> AveragedModel:
    """Return an exponential moving average of a network's parameters; buffers are copied.

    Args:
        network: to average. The first `update_parameters` copies its parameters.
        ema_decay: share of the old average in the new one.
        warm_up: use `decay_at`; else the decay is constant.
    """

    @torch.no_grad()
    def update(averages: PARAM_LIST, parameters: PARAM_LIST, updates: Tensor | int) -> None:
        decay = decay_at(ema_decay, int(updates)) if warm_up else ema_decay
        torch._foreach_lerp_(averages, parameters, 1 - decay)

    return AveragedModel(network, multi_avg_fn=update)


class Trainee(ABC):
    """A network in training, with everything that a checkpoint holds of it.

    Attributes:
        model: whose weights the optimizer moves.
        average: the moving average of what is handed out of it, or None.
        step: number of updates made.
        origin: where it comes from, for the model card: the command, and the weights it started from.
    """

    def __init__(self, recipe: Section, model: nn.Module, optimizer: Optimizer, command: str, average_decay: float = 0.0) -> None:
        self.recipe, self.model = recipe, model
        self.average = moving_average(self.learned, average_decay, warm_up=self.warms_up) if average_decay else None
        self.optimizer: Any = optimizer
        self.step, self.origin = 0, {"command": command}
        self._started, self._seconds_before = time.time(), 0.0

    @property
    def seconds(self) -> float:
        """Time spent, in all of the run's processes after each other."""
        return self._seconds_before + time.time() - self._started

    def effort(self, batch_size: int) -> dict[str, Any]:
        """What the training took, for the folder of the finished model; seconds include validating and saving."""
        return {"steps": self.step, "batch_size": batch_size, "seconds": round(self.seconds), "machine": machine()}

    @property
    def warms_up(self) -> bool:
        """Whether the decay of the average is warmed up."""
        return True

    @property
    def learned(self) -> nn.Module:
        """The part of the model that is handed out."""
        return self.model

    @property
    def published(self) -> nn.Module:
        """The network whose weights a model folder holds."""
        return self.learned if self.average is None else self.average.module

    def round(self) -> None:
        """Rounds the weights to the half precision in which they are handed out, so that what is measured is what people get."""
        weights = self.published.state_dict()
        rounded = {name: value.half().float() for name, value in weights.items() if value.is_floating_point()}
        self.published.load_state_dict(weights | rounded)

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """What a folder of this network says of it."""

    def restore(self, checkpoint: Path, accelerator: Accelerator) -> None:
        """Restore weights, optimizer, EMA and random state.

        Raises:
            ValueError: the checkpoint is damaged, or its tensors and numbers do not fit this network.
        """
        state = load_checkpoint(checkpoint)
        validate(state.numbers, _Numbers, str(checkpoint / TRAINING_STATE))
        try:
            self._restore(checkpoint, state, accelerator)
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"{checkpoint}: does not fit the recipe's network: {' '.join(str(error).split())[:300]}") from None

    def _restore(self, checkpoint: Path, state: TrainingState, accelerator: Accelerator) -> None:
        self.model.load_state_dict({k.removeprefix("model."): v for k, v in state.tensors.items() if k.startswith("model.")})
        if self.average is not None:
            with _naming_an_older_one(checkpoint):
                weights = read_weights(checkpoint, read_config(checkpoint))
            self.average.module.load_state_dict(weights)
            updates = state.numbers.get("averaged", state.step)  # without the key, the average was updated at each step
            self.average.n_averaged.fill_(updates)
        restore_optimizer(self.optimizer, state.tensors, state.numbers)
        restore_random_states(state.tensors, accelerator)
        command = self.origin["command"]
        self.step, self._seconds_before, self.origin = state.step, state.numbers["seconds"], dict(state.numbers["origin"])
        before, now = state.recipe["train"], self.recipe.model_dump()["train"]
        if any(before.get(key) != now.get(key) for key in ("epochs", "updates")):  # the first command alone makes another model
            self.origin["command"] = f"{self.origin['command']}; {command}"

    def prepare(self, accelerator: Accelerator) -> Any:
        """Moves to the device; answers the network to call, which shares gradients among the processes."""
        prepared = accelerator.prepare(self.model)
        self.optimizer = accelerator.prepare(self.optimizer)
        if self.average is not None:
            self.average.to(accelerator.device)
        return prepared

    def save(self, run: Path, accelerator: Accelerator) -> None:
        """Writes a checkpoint (a collective call)."""
        tensors, numbers = optimizer_tensors(self.optimizer.optimizer)
        tensors |= {f"model.{name}": value for name, value in self.model.state_dict().items()} | random_states(accelerator)
        if accelerator.is_main_process:
            numbers |= {"seconds": self.seconds, "origin": self.origin}
            if self.average is not None:
                numbers["averaged"] = int(self.average.n_averaged)
            state = TrainingState(self.step, self.recipe.model_dump(), tensors, numbers)
            save_checkpoint(run, state, self.published.state_dict(), self.config())
        accelerator.wait_for_everyone()


class DrawingTrainee(Trainee):
    """A model of captioned images in training: one with a bound, or generators with their discriminators."""

    recipe: DrawingRecipe

    def __init__(
        self,
        recipe: DrawingRecipe,
        model: nn.Module,
        optimizer: Optimizer,
        command: str,
        average_decay: float,
        vocabulary: Vocabulary,
        about_data: Mapping[str, Any],
    ) -> None:
        super().__init__(recipe, model, optimizer, command, average_decay)
        self.vocabulary, self.about_data = vocabulary, about_data

    def config(self) -> dict[str, Any]:
        """What a folder of this network says of it."""
        return {
            "kind": self.recipe.kind,
            "description": description(self.recipe.description, self.about_data),
            "parameters": sum(p.numel() for p in self.learned.parameters()),
            "model": self.recipe.model.model_dump(),
            "vocabulary": self.vocabulary.model_dump(),
            "data": dict(self.about_data),
            **self.origin,
        }

    def hand_out(self, result: Path, figures: dict[str, Any], card: Callable[[dict[str, Any]], str], encoder_folder: Path | None) -> None:
        """Writes the finished model, its card and its sentence encoder.

        Args:
            result: the new folder.
            figures: what was measured of it, for the card.
            card: makes the card's text of `figures` and of what the training took.
            encoder_folder: of the sentence encoder that goes with it, if one does.
        """
        effort, config = self.effort(self.recipe.train.batch_size), self.config()
        told = figures | self.origin | effort | {"parameters": config["parameters"], "data": config["data"]}
        if encoder := config["data"].get("sentence_encoder"):  # which has a copy in the folder
            config["data"]["sentence_encoder"] = Path(encoder).name
        with whole_folder(result) as folder:
            write_model(folder, self.published.state_dict(), config | {"trained": effort}, card(told), torch.float16)
            if encoder_folder is not None:
                copy_encoder(encoder_folder, folder / SENTENCE_ENCODER)
