"""What a checkpoint holds of a training: weights, optimizer, EMA, step and random state."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from pydantic import BaseModel, NonNegativeFloat, NonNegativeInt
from torch import Tensor, nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel

from cap2im.checkpoint import (
    TRAINING_STATE,
    Checkpoint,
    checkpoints,
    load_checkpoint,
    read_config,
    read_weights,
    save_checkpoint,
)
from cap2im.config import Recipe, Section, differences, parse_recipe
from cap2im.files import check_unicode_path, validate


def check_run(run: Path, resume: bool) -> None:
    """Check that a folder holds a run to resume, or none to start a new one.

    Raises:
        ValueError: the folder has a checkpoint and `resume` is false, or has none and it is true; or the path is not UTF-8.
    """
    check_unicode_path(run)
    existing = checkpoints(run)
    if resume and not existing:
        raise ValueError(f"{run}: no checkpoint to resume from; the command of the run without --resume starts it again")
    if existing and not resume:
        raise ValueError(
            f"{run}: holds a run already ({existing[-1].name}); cap2im train --resume {run} resumes it, or choose another --run"
        )


def resume_checkpoint(run: Path, recipe: Section, resume: bool) -> Path | None:
    """Return the checkpoint that a run resumes from, or None for a new run.

    Raises:
        ValueError: see `check_run`; or the checkpoint is damaged or was made by another recipe.
    """
    check_run(run, resume)
    if not resume:
        return None
    newest = checkpoints(run)[-1]
    old = checkpoint_recipe(newest)
    if differing := differences(old, recipe):
        raise ValueError(f"{run}: was made by another recipe (its own is {run / 'recipe.toml'}); differences: {'; '.join(differing)}")
    return newest


def checkpoint_recipe(checkpoint: Path) -> Recipe:
    """Return the recipe of a checkpoint.

    Raises:
        ValueError: the checkpoint is damaged; the message names an older undamaged one, if any.
    """
    with _suggest_older(checkpoint):
        return parse_recipe(load_checkpoint(checkpoint).recipe, str(checkpoint))


@contextmanager
def _suggest_older(checkpoint: Path) -> Iterator[None]:
    """Add the newest older undamaged checkpoint to the message of a ValueError in the block."""
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
        raise ValueError(f"{error}; {older.name} beside it is undamaged: to resume from there, remove {checkpoint}") from None


class _Numbers(BaseModel):
    """The numbers of a checkpoint."""

    seconds: NonNegativeFloat
    origin: dict[str, Any]
    groups: list[dict[str, int | float | bool | list[int | float] | None]]  # of the optimizer
    averaged: NonNegativeInt | None = None


def warmed_up_decay(ema_decay: float, updates: int) -> float:
    """Return the decay of the next update of an EMA that was updated `updates` times.

    The decay rises to `ema_decay`: with 0.999 from the start, the EMA is the untrained network for the first thousand updates.
    """
    return min(ema_decay, (1 + updates) / (10 + updates))


def make_ema(network: nn.Module, decay: float, *, warm_up: bool = True) -> AveragedModel:
    """Return an exponential moving average (EMA) of a network's parameters; buffers are copied.

    Args:
        network: to average. The first `update_parameters` copies its parameters.
        decay: share of the old average in the new one.
        warm_up: use `warmed_up_decay`; else the decay is constant.
    """

    @torch.no_grad()
    def update(averages: PARAM_LIST, parameters: PARAM_LIST, _: Tensor | int) -> None:
        updates = int(ema.n_averaged)  # on the CPU; the argument is a copy on the device, which the program would wait for
        torch._foreach_lerp_(averages, parameters, 1 - (warmed_up_decay(decay, updates) if warm_up else decay))

    ema = AveragedModel(network, multi_avg_fn=update)
    return ema


class TrainState:
    """Weights, optimizer, EMA and step of a training.

    Args:
        model: the networks in training.
        optimizer: moves the weights of `model`.
        inference_model: the part of `model` that is saved as the finished model; None is all of it.
        ema_decay: of the EMA of `inference_model`; 0 keeps no EMA.
        warm_up: see `make_ema`.

    Attributes:
        model: the networks in training.
        optimizer: after `prepare`, Accelerate's wrapper of it.
        inference_model: the part of `model` that is saved as the finished model.
        ema: the EMA of `inference_model`, or None.
        step: number of updates made.
        origin: command, and what the weights started from; JSON-ready.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        inference_model: nn.Module | None = None,
        ema_decay: float = 0.0,
        warm_up: bool = True,
    ) -> None:
        self.model, self.inference_model = model, model if inference_model is None else inference_model
        self.ema = make_ema(self.inference_model, ema_decay, warm_up=warm_up) if ema_decay else None
        self.optimizer: Any = optimizer
        self.step, self.origin = 0, dict[str, Any]()
        self._started, self._seconds_before = time.time(), 0.0

    @property
    def seconds(self) -> float:
        """Time spent on the run, over all resumptions."""
        return self._seconds_before + time.time() - self._started

    @property
    def ema_model(self) -> Any:
        """The network that validates, draws and is saved: the EMA, or `inference_model` if there is none."""
        return self.inference_model if self.ema is None else self.ema.module

    def prepare(self, accelerator: Accelerator, *networks: nn.Module) -> list[Any]:
        """Move everything to the device, and return `networks`, parts of the model, wrapped so that processes share gradients."""
        self.model.to(accelerator.device)
        prepared = [accelerator.prepare(network) for network in networks]
        self.optimizer = accelerator.prepare(self.optimizer)
        if self.ema is not None:
            self.ema.module.to(accelerator.device)  # its count of updates stays on the CPU
        return prepared

    def update_ema(self) -> None:
        """Update the EMA, if there is one, with the weights in training."""
        if self.ema is not None:
            self.ema.update_parameters(self.inference_model)

    def round_weights(self, dtype: torch.dtype) -> None:
        """Round the weights of `ema_model` to the precision in which they are saved, so that what is measured is what users get."""
        weights = self.ema_model.state_dict()
        rounded = {name: value.to(dtype).to(value.dtype) for name, value in weights.items() if value.is_floating_point()}
        self.ema_model.load_state_dict(weights | rounded)

    def save(self, run: Path, recipe: Section, config: Mapping[str, Any], accelerator: Accelerator) -> None:
        """Write a checkpoint (a collective call).

        Args:
            run: the run's folder.
            recipe: of the run.
            config: of the model folder that the checkpoint is as well.
            accelerator: of the run.
        """
        tensors, numbers = _optimizer_tensors(self.optimizer.optimizer)
        tensors |= {f"model.{name}": value for name, value in self.model.state_dict().items()} | _random_states(accelerator)
        if accelerator.is_main_process:
            numbers |= {"seconds": self.seconds, "origin": self.origin}
            if self.ema is not None:
                numbers["averaged"] = int(self.ema.n_averaged)
            state = Checkpoint(self.step, recipe.model_dump(), tensors, numbers)
            save_checkpoint(run, state, self.ema_model.state_dict(), config)
        accelerator.wait_for_everyone()

    def restore(self, checkpoint: Path, recipe: Section, accelerator: Accelerator) -> None:
        """Restore weights, optimizer, EMA and random state.

        Args:
            checkpoint: of the run.
            recipe: of the resumed run; if its length is another one, its command is appended to `origin`.
            accelerator: of the run.

        Raises:
            ValueError: the checkpoint is damaged, or its tensors and numbers do not fit this network.
        """
        state = load_checkpoint(checkpoint)
        validate(state.numbers, _Numbers, str(checkpoint / TRAINING_STATE))
        try:
            self._restore(checkpoint, state, accelerator)
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"{checkpoint}: does not fit the recipe's network: {' '.join(str(error).split())[:300]}") from None
        command = self.origin.get("command", "")
        self.step, self._seconds_before, self.origin = state.step, state.numbers["seconds"], dict(state.numbers["origin"])
        before, now = state.recipe["train"], recipe.model_dump()["train"]
        if any(before.get(key) != now.get(key) for key in ("epochs", "updates")):  # the first command would make another model
            self.origin["command"] = f"{self.origin['command']}; {command}"

    def _restore(self, checkpoint: Path, state: Checkpoint, accelerator: Accelerator) -> None:
        self.model.load_state_dict({k.removeprefix("model."): v for k, v in state.tensors.items() if k.startswith("model.")})
        if self.ema is not None:
            with _suggest_older(checkpoint):
                weights = read_weights(checkpoint, read_config(checkpoint))
            self.ema.module.load_state_dict(weights)
            self.ema.n_averaged.fill_(state.numbers.get("averaged", state.step))  # without the key, the EMA was updated at each step
        _restore_optimizer(self.optimizer.optimizer, state.tensors, state.numbers)
        _restore_random_states(state.tensors, accelerator)


def _random_states(accelerator: Accelerator) -> dict[str, Tensor]:
    """Return the states of torch's global random generators in all processes (a collective call)."""
    own = {f"random.{accelerator.process_index}.cpu": torch.get_rng_state()}
    if accelerator.device.type == "cuda":
        own[f"random.{accelerator.process_index}.cuda"] = torch.cuda.get_rng_state(accelerator.device)
    states: dict[str, Tensor] = {}
    for part in gather_object([own]):
        states |= part
    return states


def _restore_random_states(tensors: Mapping[str, Tensor], accelerator: Accelerator) -> None:
    """Restore this process's random generators; a process that did not exist when the checkpoint was saved keeps its own."""
    if (state := tensors.get(f"random.{accelerator.process_index}.cpu")) is not None:
        torch.set_rng_state(state)
    if accelerator.device.type == "cuda" and (state := tensors.get(f"random.{accelerator.process_index}.cuda")) is not None:
        torch.cuda.set_rng_state(state, accelerator.device)


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return an optimizer's state as named tensors (`optimizer.INDEX.NAME`), and its parameter groups, JSON-ready."""
    state = optimizer.state_dict()
    tensors = {f"optimizer.{index}.{name}": value for index, entry in state["state"].items() for name, value in entry.items()}
    return tensors, {"groups": state["param_groups"]}


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """Restore what `_optimizer_tensors` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": numbers["groups"]})
