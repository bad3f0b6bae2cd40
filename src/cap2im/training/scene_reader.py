"""Trainer of the scene reader of `cap2im.metrics.scene_accuracy`, on the images and captions of a prepared dataset.

Source: this project; neither paper has a reader. Half of the images are blurred, because drawings are blurrier than photographs.

Shapes: N images of a split, B batch, C colours, A side, W words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F

from cap2im.config import SceneReaderRecipe
from cap2im.data.augmentation import blur_images
from cap2im.data.captioned_images import CaptionedImages
from cap2im.data.dataset import PreparedDataset
from cap2im.data.splits import Split
from cap2im.metrics.scene_accuracy import average_precision, balanced_accuracy, held_words
from cap2im.models.precision import autocast
from cap2im.models.scene_reader import SIDE, SceneReader
from cap2im.randomness import generator
from cap2im.training.data import DataSource, TrainingData, planned
from cap2im.training.labelled_batches import LabelledBatch, LabelledBatches
from cap2im.training.schedules import cosine, set_learning_rate
from cap2im.training.state import TrainState
from cap2im.training.trainer import Losses, Trainer

READ_AT_ONCE = 500


@dataclass(frozen=True)
class ReadImages:
    """All images of a split, in memory, and the words that their captions hold.

    Attributes:
        pixels: [N, 3, A, A] uint8.
        words: [N, W] bool.
    """

    pixels: Tensor
    words: Tensor

    @classmethod
    def of(cls, dataset: PreparedDataset, split: Split, words: tuple[tuple[str, ...], ...]) -> ReadImages:
        """Read a split.

        Raises:
            ValueError: the split is missing or damaged, or a word is in no caption or in captions of all images.
        """
        images = CaptionedImages(dataset, split)
        held = held_words(images.captions, images.image_of, len(images), words)
        for (word, *_), count in zip(words, held.sum(dim=0).tolist(), strict=True):
            if count in (0, len(images)):
                extent = "no image" if count == 0 else "every image"
                raise ValueError(f"{dataset.folder}: {extent} of the {split} images has a caption with {word!r} (model.words)")
        return cls(images.all_pixels(3, SIDE), held)


class SceneReaderTrainer(Trainer):
    """Trains the scene reader by binary cross-entropy. Best is the highest mean average precision of the validation images."""

    score, higher_is_better = "average_precision", True
    options = frozenset()
    required_data = "captioned images (a prepared dataset)"
    saved_dtype = torch.float32

    def __init__(self, recipe: SceneReaderRecipe, data: TrainingData, accelerator: Accelerator) -> None:
        super().__init__(recipe, data, accelerator)
        train = recipe.train
        self.model = SceneReader(recipe.model)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model.log_odds.copy_(data.batches.labels.mean(dim=0).logit())  # type: ignore[attr-defined]
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay)
        self.state = TrainState(self.model, optimizer)
        (self.network,) = self.state.prepare(accelerator, self.model)

    @classmethod
    def load_data(cls, recipe: SceneReaderRecipe, source: DataSource, accelerator: Accelerator) -> TrainingData:
        """Return the images that a recipe trains on; validation data are a dict of the splits to measure on.

        Raises:
            ValueError: the dataset is missing or damaged, or its captions lack a word.
        """
        dataset, train = PreparedDataset.open(str(source.path)), recipe.train
        images = ReadImages.of(dataset, "train", recipe.model.words)
        batches = LabelledBatches(
            images.pixels,
            images.words.float(),
            batch_size=train.batch_size,
            seed=train.seed,
            crop=train.crop,
            flip=train.flip,
            padding="reflect",
        )
        splits: tuple[Split, ...] = ("validation", "test") if dataset.has("test") else ("validation",)
        measured = {split: ReadImages.of(dataset, split, recipe.model.words) for split in splits}
        return TrainingData(planned(recipe, batches), batches, measured, dataset.about())

    def update(self, batch: LabelledBatch) -> Losses:
        """Make one update by binary cross-entropy, on images of which half are blurred."""
        train, state = self.recipe.train, self.state
        rate = cosine(train.learning_rate, 0.0, state.step, train.total(self.data.batches.steps_per_epoch), train.warmup_steps)
        images = batch.images
        if train.blur:
            random = generator("blur", train.seed, state.step, self.accelerator.process_index)
            chosen = torch.rand(len(images), generator=random) < 0.5
            deviations = torch.rand(len(images), generator=random) * train.blur * chosen
            images = blur_images(images, deviations.to(images.device))
        with autocast(self.accelerator.device, train.precision):
            logits = self.network(images)
        loss = F.binary_cross_entropy_with_logits(logits.float(), batch.labels)
        self.check_finite("loss", loss)

        state.optimizer.zero_grad()
        self.accelerator.backward(loss)
        set_learning_rate(state.optimizer, rate)
        state.optimizer.step()
        return {"loss": loss, "learning_rate": rate}

    def validate(self) -> dict[str, float]:
        """Return the mean average precision and the mean balanced accuracy of the words; every process computes both."""
        images: ReadImages = self.data.validation["validation"]
        evidence = self._read(images)
        return {
            "average_precision": average_precision(evidence, images.words).mean().item(),
            "balanced_accuracy": balanced_accuracy(evidence > 0, images.words).mean().item(),
        }

    def measure(self) -> dict[str, Any]:
        """Return the share of images that hold each word, and how well it is read, on validation and test images."""
        measures: dict[str, dict[str, dict[str, float]]] = {}
        for split, images in self.data.validation.items():
            evidence = self._read(images)
            scores = {
                "share": images.words.double().mean(dim=0),
                "average_precision": average_precision(evidence, images.words),
                "balanced_accuracy": balanced_accuracy(evidence > 0, images.words),
            }
            words = enumerate(self.recipe.model.names)
            measures[split] = {word: {name: values[row].item() for name, values in scores.items()} for row, word in words}
        return {"words": measures}

    @torch.no_grad()
    def _read(self, images: ReadImages) -> Tensor:
        """Return the evidence [N, W] of images for words, on the CPU."""
        model, device = self.model.eval(), self.accelerator.device
        evidence = torch.cat([model.evidence(part.to(device).float() / 255).cpu() for part in images.pixels.split(READ_AT_ONCE)])
        model.train()
        return evidence

    def progress(self, losses: Mapping[str, float]) -> str:
        """Return the loss of an update."""
        return f"loss {losses['loss']:.3f}"
