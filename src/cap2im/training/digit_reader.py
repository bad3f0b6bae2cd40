"""Trainer of the digit reader of `cap2im.metrics.caption_accuracy`, on the canvases of `digit_canvases`.

Source: this project; neither paper has a reader. The canvases are drawn from torch's global random generator, so that a checkpoint restores
their sequence, and the same recipe, number of threads and version of torch give the same weights on CPU.

Shapes: N canvases, P = 8 places, A canvas side, W window side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F

from cap2im.config import DigitReaderRecipe
from cap2im.data.mnist import Digits, load_mnist
from cap2im.data.mnist_captions import Configuration, HeldOut
from cap2im.metrics.caption_accuracy import caption_accuracy, place_windows, read_canvases, real_canvases, score
from cap2im.models.digit_reader import DigitReader
from cap2im.models.precision import autocast
from cap2im.training.data import DataSource, TrainingData, planned
from cap2im.training.digit_canvases import UNLABELLED, CanvasMix
from cap2im.training.schedules import set_learning_rate
from cap2im.training.state import TrainState
from cap2im.training.trainer import Losses, Trainer

WARMUP = 0.05  # share of the updates
STEPS_PER_EPOCH = 100  # every update has new canvases, so that an epoch is only a number of updates


def learning_rate(highest: float, progress: float) -> float:
    """Return the learning rate after a share of the updates: it rises linearly from 0, then falls as a half cosine."""
    if progress < WARMUP:
        return highest * (progress / WARMUP)
    return highest * (0.5 + 0.5 * math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP)))


@dataclass(frozen=True)
class CanvasBatch:
    """Canvases [N, 1, A, A] in 0..1, the labels of some of their places [N, W], and the numbers of these places [N, W]."""

    images: Tensor
    labels: Tensor
    places: Tensor

    def to(self, device: torch.device) -> CanvasBatch:
        """Return the batch on a device."""
        return CanvasBatch(self.images.to(device), self.labels.to(device), self.places.to(device))


class CanvasBatches:
    """Batches of new canvases from torch's global random generator, which therefore have to be requested in order.

    Args:
        digits: to put on canvases.
        batch_size: N, over all processes.
        windows: W, places of a canvas to train on: first those that hold something, then random others.
    """

    steps_per_epoch = STEPS_PER_EPOCH

    def __init__(self, digits: Digits, batch_size: int, windows: int) -> None:
        self.mix, self.batch_size, self.windows = CanvasMix(digits), batch_size, windows

    def at(self, step: int, rows: slice) -> CanvasBatch:
        """Return some rows of the next batch, whatever its number."""
        images, labels, occupied = self.mix.make(self.batch_size, torch.default_generator)
        places = (torch.rand(occupied.shape) + occupied).topk(self.windows, dim=1).indices  # [N, W]
        return CanvasBatch(images[rows], labels.take_along_dim(places, dim=1)[rows], places[rows])


@dataclass(frozen=True)
class ValidationCanvases:
    """Canvases [N, 1, A, A] of validation digits and their N configurations."""

    images: Tensor
    configurations: list[Configuration]


class DigitReaderTrainer(Trainer):
    """Trains the digit reader by cross-entropy. Best is the highest share of real canvases whose places are all read correctly."""

    score, higher_is_better = "joint", True
    options = frozenset()
    saved_dtype = torch.float32

    def __init__(self, recipe: DigitReaderRecipe, data: TrainingData, accelerator: Accelerator) -> None:
        super().__init__(recipe, data, accelerator)
        train = recipe.train
        self.model = DigitReader(recipe.model)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay)
        self.state = TrainState(self.model, optimizer)
        (self.network,) = self.state.prepare(accelerator, self.model)
        self._joint: dict[str, Any] = {}  # of the last validation, JSON-ready
        torch.manual_seed(train.seed)  # the canvases do not depend on the size of the network

    @classmethod
    def load_data(cls, recipe: DigitReaderRecipe, source: DataSource, accelerator: Accelerator) -> TrainingData:
        """Return the canvases that a recipe trains on.

        Raises:
            ValueError: MNIST is missing or damaged.
        """
        train = recipe.train
        batches = CanvasBatches(load_mnist("train", source.path), train.batch_size, train.windows)
        configurations = [c for c in HeldOut.from_seed(0).configurations() for _ in range(train.validation_samples)]
        canvases = real_canvases(load_mnist("validation", source.path), configurations, train.seed)
        return TrainingData(planned(recipe, batches), batches, ValidationCanvases(canvases, configurations), {})

    def update(self, batch: CanvasBatch) -> Losses:
        """Make one update by cross-entropy on the windows of some places."""
        train, state = self.recipe.train, self.state
        rate = learning_rate(train.learning_rate, state.step / train.total(STEPS_PER_EPOCH))
        windows = place_windows(batch.images, self.recipe.model.window).take_along_dim(batch.places[..., None, None, None], dim=1)
        windows = windows.flatten(0, 1).contiguous(memory_format=torch.channels_last)  # a third faster on CPU
        with autocast(self.accelerator.device, train.precision):
            logits = self.network(windows)
        loss = F.cross_entropy(logits.float(), batch.labels.flatten(), ignore_index=UNLABELLED)
        self.check_finite("loss", loss)

        state.optimizer.zero_grad()
        self.accelerator.backward(loss)
        set_learning_rate(state.optimizer, rate)
        state.optimizer.step()
        return {"loss": loss, "learning_rate": rate}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the share of real canvases read exactly, and that of their digits; every process computes both."""
        validation: ValidationCanvases = self.data.validation
        readings = read_canvases(self.model.eval(), validation.images.to(self.accelerator.device)).cpu()
        self.model.train()
        rates = caption_accuracy(score(readings, validation.images, validation.configurations), validation.configurations)
        by_name = {each.name: each for each in rates if each.group == "all"}
        self._joint = by_name["joint"].figures
        return {"joint": by_name["joint"].value, "digits": by_name["digits"].value}

    def measure(self) -> dict[str, Any]:
        """Return the share of real canvases read exactly with its 95 % interval, and the digest that measurements name the reader by."""
        return {"joint": self._joint, "digest": self.model.digest()}
