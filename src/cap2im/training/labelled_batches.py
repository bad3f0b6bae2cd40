"""Batches of images with labels, shifted and mirrored at random.

The images of an update, their shifts and mirror images are functions of the seed and the update's number.

Shapes: N images, B batch, C colours, A side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cap2im.data.augmentation import change_images, draw_changes
from cap2im.randomness import generator


@dataclass(frozen=True)
class LabelledBatch:
    """Images [B, C, A, A] in 0..1 and their labels [B, ...]."""

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> LabelledBatch:
        """Return the batch on a device."""
        return LabelledBatch(self.images.to(device), self.labels.to(device))


class LabelledBatches:
    """Batches of images by number; every image comes once an epoch, but for those that fill no batch.

    Args:
        pixels: [N, C, A, A] uint8.
        labels: [N, ...].
        batch_size: over all processes.
        seed: of the order, the shifts and the mirror images.
        crop: pixels that an image is shifted by at most.
        flip: mirror half of the images left to right.
        padding: what fills the edges of shifted images, see `change_images`.

    Raises:
        ValueError: the images do not fill a batch.
    """

    def __init__(
        self,
        pixels: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        seed: int,
        crop: int,
        flip: bool,
        padding: Literal["reflect", "constant"],
    ) -> None:
        self.pixels, self.labels = pixels, labels
        self.batch_size, self.seed = batch_size, seed
        self.crop, self.flip, self.padding = crop, flip, padding
        self.steps_per_epoch = len(pixels) // batch_size
        if self.steps_per_epoch == 0:
            raise ValueError(f"{len(pixels)} images do not fill a batch of {batch_size}; try --set train.batch_size=16")

    def at(self, step: int, rows: slice) -> LabelledBatch:
        """Return some rows of the batch of the update that follows `step` updates."""
        epoch, index = divmod(step, self.steps_per_epoch)
        order = torch.randperm(len(self.pixels), generator=generator("images", self.seed, epoch))
        chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
        corners, mirrored = draw_changes(self.batch_size, self.crop, generator("augmentation", self.seed, step))
        pixels = change_images(self.pixels[chosen], self.crop, corners, mirrored & self.flip, self.padding)
        return LabelledBatch(pixels[rows].float() / 255, self.labels[chosen][rows])
