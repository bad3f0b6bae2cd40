"""Trainer of the VGG-like network on images with classes.

Source: http://torch.ch/blog/2015/07/30/cifar.html, which flips images, and halves its learning rate every 25 epochs. Differences: a random
crop of the padded image comes before the flip, and the learning rate falls as a half cosine.

Batch normalisation sees a process's share of a batch: there the number of processes counts.

Shapes: N images of a dataset, A side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch.nn import functional as F

from cap2im.config import ClassifierRecipe
from cap2im.data.captioned_images import CaptionedImages
from cap2im.data.dataset import PreparedDataset
from cap2im.data.splits import Split
from cap2im.metrics.intervals import wilson
from cap2im.models.precision import autocast
from cap2im.models.vgg import SIDE, VGG
from cap2im.training.data import DataSource, TrainingData, planned
from cap2im.training.labelled_batches import LabelledBatch, LabelledBatches
from cap2im.training.schedules import cosine, set_learning_rate
from cap2im.training.state import TrainState
from cap2im.training.trainer import Losses, Trainer

VALIDATION_BATCH = 500


class LabelledImages:
    """All images of a split with their classes, in memory.

    Attributes:
        pixels: [N, 3, A, A] uint8.
        classes: [N].

    Raises:
        ValueError: the split is missing, its images are not squares of `SIDE` pixels, or a class is not below `classes`.
    """

    def __init__(self, dataset: PreparedDataset, split: Split, classes: int) -> None:
        dataset.require_size(SIDE, "a picture of this classifier")
        images = CaptionedImages(dataset, split)
        self.classes = torch.from_numpy(images.classes.copy())
        low, high = int(self.classes.min()), int(self.classes.max())
        if low < 0 or high >= classes:
            actual = f"images have classes {low} to {high}" if low >= 0 else "images have no classes"
            raise ValueError(f"{dataset.folder}: {split} {actual}, 0 to {classes - 1} are needed (model.classes)")
        self.pixels = images.all_pixels(3)

    def __len__(self) -> int:
        return len(self.pixels)


class ClassifierTrainer(Trainer):
    """Trains a classifier by cross-entropy. Best is the highest validation accuracy."""

    score, higher_is_better = "accuracy", True
    options = frozenset()
    required_data = "images with classes (a prepared dataset)"
    saved_dtype = torch.float32

    def __init__(self, recipe: ClassifierRecipe, data: TrainingData, accelerator: Accelerator) -> None:
        super().__init__(recipe, data, accelerator)
        train = recipe.train
        self.model = VGG(recipe.model)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=train.learning_rate,
            momentum=train.momentum,
            weight_decay=train.weight_decay,
            nesterov=bool(train.momentum),
        )
        self.state = TrainState(self.model, optimizer)
        (self.network,) = self.state.prepare(accelerator, self.model)

    @classmethod
    def load_data(cls, recipe: ClassifierRecipe, source: DataSource, accelerator: Accelerator) -> TrainingData:
        """Return the images that a recipe trains on; validation data are a dict of the splits to measure on.

        Raises:
            ValueError: the dataset is missing or damaged, or its images have another size or no classes.
        """
        dataset = PreparedDataset.open(str(source.path))
        train, images = recipe.train, LabelledImages(dataset, "train", recipe.model.classes)
        batches = LabelledBatches(
            images.pixels,
            images.classes,
            batch_size=train.batch_size,
            seed=train.seed,
            crop=train.crop,
            flip=train.flip,
            padding="constant",
        )
        measured: dict[str, LabelledImages] = {"validation": LabelledImages(dataset, "validation", recipe.model.classes)}
        if any(shard.split == "test" and shard.rows for shard in dataset.manifest.shards):
            measured["test"] = LabelledImages(dataset, "test", recipe.model.classes)
        return TrainingData(planned(recipe, batches), batches, measured, dataset.about())

    def update(self, batch: LabelledBatch) -> Losses:
        """Make one update by cross-entropy."""
        train, state = self.recipe.train, self.state
        total = train.total(self.data.batches.steps_per_epoch)
        rate = cosine(train.learning_rate, 0.0, state.step, total, train.warmup_steps)
        with autocast(self.accelerator.device, train.precision):
            logits = self.network(batch.images)
        loss = F.cross_entropy(logits.float(), batch.labels)
        self.check_finite("loss", loss)

        state.optimizer.zero_grad()
        self.accelerator.backward(loss)
        set_learning_rate(state.optimizer, rate)
        state.optimizer.step()
        return {"loss": loss, "accuracy": (logits.argmax(dim=1) == batch.labels).float().mean(), "learning_rate": rate}

    def validate(self) -> dict[str, float]:
        """Return the accuracy on the validation images."""
        images = self.data.validation["validation"]
        return {"accuracy": self._count_correct(images) / len(images)}

    def measure(self) -> dict[str, Any]:
        """Return the accuracy on validation and test images with 95 % intervals."""
        accuracy = {}
        for split, images in self.data.validation.items():
            correct, n = self._count_correct(images), len(images)
            low, high = wilson(correct, n)
            accuracy[split] = {"rate": correct / n, "low": low, "high": high, "n": n}
        return {"accuracy": accuracy}

    @torch.no_grad()
    def _count_correct(self, images: LabelledImages) -> int:
        """Return how many images the network classifies correctly (a collective call)."""
        model, rank, processes = self.model.eval(), self.accelerator.process_index, self.accelerator.num_processes
        correct = torch.zeros((), device=self.accelerator.device, dtype=torch.long)
        for start in range(VALIDATION_BATCH * rank, len(images), VALIDATION_BATCH * processes):
            rows = slice(start, start + VALIDATION_BATCH)
            logits = model(images.pixels[rows].to(self.accelerator.device).float() / 255)
            correct += (logits.argmax(dim=1) == images.classes[rows].to(self.accelerator.device)).sum()
        model.train()
        return int(self.accelerator.reduce(correct, "sum"))

    def progress(self, losses: Mapping[str, float]) -> str:
        """Return loss and accuracy of an update."""
        return f"loss {losses['loss']:.3f}, accuracy {losses['accuracy']:.0%}"
