"""Trainer of the composition reader of `cap2im.metrics.compositional_accuracy`, on the pictures of `composition_scenes`.

Source: this project; neither paper has a reader. The reader learns from cut-outs in all styles of drawing, also in the one that models of
captioned scenes do not see, and on scenes that are held out from these models.

Shapes: N pictures, P = 5 places, W windows of a picture, A side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F

from cap2im.config import CompositionReaderRecipe
from cap2im.data.cutouts import Cutouts
from cap2im.data.scenes import BACKGROUND_NAMES, PLACES
from cap2im.metrics.compositional_accuracy import SIDE, Targets, place_windows, read_pictures, score, targets_of
from cap2im.metrics.measurement import proportion
from cap2im.models.composition_reader import CompositionReader
from cap2im.models.precision import autocast
from cap2im.randomness import generator
from cap2im.training.composition_scenes import UNLABELLED, SceneMix, any_scenes
from cap2im.training.data import DataSource, TrainingData, planned
from cap2im.training.schedules import cosine, set_learning_rate
from cap2im.training.state import TrainState
from cap2im.training.trainer import Losses, Trainer

STEPS_PER_EPOCH = 100  # every update has new pictures, so that an epoch is only a number of updates


@dataclass(frozen=True)
class WindowBatch:
    """Windows of pictures.

    Attributes:
        windows: [N, W, 3, side, side] in 0..1; the first is that of the middle.
        things: labels [N, W].
        backgrounds: labels [N].
    """

    windows: Tensor
    things: Tensor
    backgrounds: Tensor

    def to(self, device: torch.device) -> WindowBatch:
        """Return the batch on a device."""
        return WindowBatch(self.windows.to(device), self.things.to(device), self.backgrounds.to(device))


class WindowBatches:
    """Batches of windows of new pictures; every batch is a function of the seed and the step.

    Args:
        mix: paints the pictures.
        batch_size: N, over all processes.
        windows: W, places of a picture to train on: the middle, and others, mostly those that hold something.
        side: of the windows, in pixels.
        seed: of the pictures.
    """

    steps_per_epoch = STEPS_PER_EPOCH

    def __init__(self, mix: SceneMix, batch_size: int, windows: int, side: int, seed: int) -> None:
        self.mix, self.batch_size, self.windows, self.side, self.seed = mix, batch_size, windows, side, seed

    def at(self, step: int, rows: slice) -> WindowBatch:
        """Return some rows of the batch for update `step` + 1."""
        random = generator("windows", self.seed, step)
        scenes = self.mix.make(self.batch_size, random)
        order = torch.rand(scenes.things.shape, generator=random) + 0.7 * (scenes.things != self.mix.nothing)
        order[:, MIDDLE] = 2
        places = order.topk(self.windows, dim=1).indices[rows]  # [N, W]
        windows = place_windows(scenes.images[rows], self.side).take_along_dim(places[..., None, None, None], dim=1)
        return WindowBatch(windows, scenes.things[rows].take_along_dim(places, dim=1), scenes.backgrounds[rows])


MIDDLE = list(PLACES).index("middle")


@dataclass(frozen=True)
class StyleScenes:
    """Scenes in one style of drawing: pictures [N, 3, A, A] in 0..1, and the content of their captions."""

    images: Tensor
    targets: Targets


class CompositionReaderTrainer(Trainer):
    """Trains the composition reader by cross-entropy. Best is the highest share of real scenes that are read exactly, over all styles."""

    score, higher_is_better = "joint", True
    options = frozenset()
    required_data = "cut-outs (a folder that cap2im prepare cutouts made)"

    def __init__(self, recipe: CompositionReaderRecipe, data: TrainingData, accelerator: Accelerator) -> None:
        super().__init__(recipe, data, accelerator)
        train = recipe.train
        self.model = CompositionReader(recipe.model)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay)
        self.state = TrainState(self.model, optimizer)
        (self.network,) = self.state.prepare(accelerator, self.model)

    @classmethod
    def load_data(cls, recipe: CompositionReaderRecipe, source: DataSource, accelerator: Accelerator) -> TrainingData:
        """Return the pictures that a recipe trains on; validation data are scenes of each style.

        Raises:
            ValueError: the cut-outs are missing or damaged, or lack a thing.
        """
        train = recipe.train
        cutouts = Cutouts.open(str(source.path)).choose(recipe.model.things)
        names = {"things": cutouts.things, "backgrounds": BACKGROUND_NAMES}
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update=names)})
        mix = SceneMix(any_scenes(cutouts, SIDE))
        batches = WindowBatches(mix, train.batch_size, train.windows, recipe.model.window, train.seed)
        styles = {}
        for index, style in enumerate(cutouts.styles):
            drawn = [cutouts.things[thing] for thing in cutouts.thing[cutouts.style == index].unique().tolist()]
            maker = any_scenes(cutouts.choose(drawn, [style]), SIDE)
            painted = maker.make(train.validation_samples, generator("validation scenes", train.seed))
            targets = targets_of(maker.held_out.scenes(painted.arrangements), drawn, recipe.model)
            styles[style] = StyleScenes(painted.images.float() / 255, targets)
        return TrainingData(planned(recipe, batches), batches, styles, cutouts.about())

    def update(self, batch: WindowBatch) -> Losses:
        """Make one update by the sum of the cross-entropies of things and of backgrounds."""
        train, state = self.recipe.train, self.state
        rate = cosine(train.learning_rate, 0.0, state.step, train.total(STEPS_PER_EPOCH), train.warmup_steps)
        windows = batch.windows.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        with autocast(self.accelerator.device, train.precision):
            things, backgrounds = self.network(windows)
        backgrounds = backgrounds.unflatten(0, batch.things.shape)[:, 0]  # of the middle's window
        of_things = F.cross_entropy(things.float(), batch.things.flatten(), ignore_index=UNLABELLED)
        of_backgrounds = F.cross_entropy(backgrounds.float(), batch.backgrounds, ignore_index=UNLABELLED)
        loss = of_things + 0.2 * of_backgrounds
        self.check_finite("loss", loss)

        state.optimizer.zero_grad()
        self.accelerator.backward(loss)
        set_learning_rate(state.optimizer, rate)
        state.optimizer.step()
        return {"loss": loss, "things": of_things, "backgrounds": of_backgrounds, "learning_rate": rate}

    def validate(self) -> dict[str, float]:
        """Return the share of real scenes read exactly, over all styles; every process computes it."""
        figures = self._joint()
        return {"joint": sum(each["rate"] for each in figures.values()) / len(figures)}

    def measure(self) -> dict[str, Any]:
        """Return the share of real scenes of each style read exactly, with 95 % intervals, and the digest that names the reader."""
        return {"joint": self._joint(), "digest": self.model.digest()}

    def _joint(self) -> dict[str, dict[str, float]]:
        styles: dict[str, StyleScenes] = self.data.validation
        self.model.eval()
        figures = {}
        for style, scenes in styles.items():
            joint = score(read_pictures(self.model, scenes.images.to(self.accelerator.device)), scenes.targets).joint
            figures[style] = proportion("joint", int(joint.sum()), len(joint)).figures
        self.model.train()
        return figures
