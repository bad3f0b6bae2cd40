"""Batches of captions of nearly one length, with their images.

Source: alignDRAW (arXiv:1511.02793), section 4.1 and mansimov/text2image, coco/homogeneous-data.py.

The released program differs: all captions of a batch have one length, of 7 to 29 words, and the last batch of a length may be smaller.
`equal_lengths` gives batches of one length; captions that do not fill a batch are left out of that epoch.

Shapes: B batch, M captions, S features of a sentence vector.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from cap2im.data.augmentation import change_images, draw_changes, names_side
from cap2im.data.batch import ALL, Batch, fixed_noise, pad, step_noise
from cap2im.data.captioned_images import CaptionedImages, NumberedCaptions
from cap2im.data.vocabulary import LONGEST_CAPTION, Vocabulary
from cap2im.randomness import generator


class CaptionBatches:
    """Batches of captions of nearly one length, with their images; every batch is a function of the seed and the step.

    Args:
        images: of a split.
        vocabulary: numbers the words.
        noise_shape: (T, Z) of the model's noise.
        colours: 1 or 3.
        batch_size: over all processes.
        seed: of order and noise.
        lengths: fewest and most words of the captions to use; captions without a known word are never used.
        equal_lengths: all captions of a batch have one length.
        vectors: [M, S] sentence vectors of all captions, for models that are conditioned on them.
        side: of the middle squares of images, in pixels; None uses images as stored, which must have one size.
        crop: pixels that images of `at` are shifted by at most.
        flip: mirror half of the images of `at`, but none whose caption says left or right.

    Raises:
        ValueError: too few captions for a batch.
    """

    def __init__(
        self,
        images: CaptionedImages,
        vocabulary: Vocabulary,
        noise_shape: tuple[int, int],
        *,
        colours: int,
        batch_size: int,
        seed: int = 0,
        lengths: tuple[int, int] = (1, LONGEST_CAPTION),
        equal_lengths: bool = False,
        vectors: np.ndarray | None = None,
        side: int | None = None,
        crop: int = 0,
        flip: bool = False,
    ) -> None:
        self.images, self.captions = images, images.captions
        self.crop, self.flip = crop, flip
        self._mirrorable = torch.tensor([flip and not names_side(caption) for caption in images.captions])
        self.noise_shape, self.colours, self.vectors, self.side = noise_shape, colours, vectors, side
        self.batch_size, self.seed, self.equal_lengths = batch_size, seed, equal_lengths
        self._vocabulary, self._words = vocabulary, NumberedCaptions(images.captions, vocabulary)
        words = self._words.lengths
        self._usable = torch.from_numpy(np.flatnonzero((words >= lengths[0]) & (words <= lengths[1])))  # captions
        self.left_out = len(words) - len(self._usable)  # captions of other lengths, or without a known word
        self._lengths = torch.from_numpy(words)[self._usable]
        self._epoch: tuple[int, Tensor] | None = None
        self.steps_per_epoch = len(self._sort_by_length(torch.arange(len(self._usable)))) // batch_size
        if self.steps_per_epoch == 0:
            kind = " of one length" if equal_lengths else ""
            raise ValueError(
                f"{len(self._usable)} captions of {lengths[0]} to {lengths[1]} words do not fill a batch of {batch_size}{kind}; "
                "a smaller batch may: --set train.batch_size=16"
            )

    def _sort_by_length(self, order: Tensor) -> Tensor:
        """Return an order of the usable captions, stably sorted by length, without those that fill no batch."""
        if not self.equal_lengths:
            order = order[len(order) % self.batch_size :]
        order = order[self._lengths[order].argsort(stable=True)]
        if self.equal_lengths:
            lengths = self._lengths[order]
            counts = lengths.bincount()
            starts = counts.cumsum(0) - counts
            place = torch.arange(len(order)) - starts[lengths]  # among the captions of its length
            order = order[place < counts[lengths] // self.batch_size * self.batch_size]
        return order

    def _batches(self, epoch: int) -> Tensor:
        """Return the captions [steps, B] of an epoch's batches."""
        if self._epoch is None or self._epoch[0] != epoch:
            random = generator("captions", self.seed, epoch)
            order = self._sort_by_length(torch.randperm(len(self._usable), generator=random)).view(-1, self.batch_size)
            self._epoch = (epoch, self._usable[order[torch.randperm(len(order), generator=random)]])
        return self._epoch[1]

    def at(self, step: int, rows: slice = ALL) -> Batch:
        """Return the batch for update `step` + 1, or some rows of it."""
        epoch, index = divmod(step, self.steps_per_epoch)
        noise = step_noise(self.seed, step, self.batch_size, self.noise_shape)
        captions = self._batches(epoch)[index][rows]
        batch = self._batch(captions, noise[rows])
        if not (self.crop or self.flip):
            return batch
        corners, mirrored = draw_changes(self.batch_size, self.crop, generator("augmentation", self.seed, step))
        mirrored = mirrored[rows] & self._mirrorable[captions]
        return dataclasses.replace(batch, images=change_images(batch.images, self.crop, corners[rows], mirrored))

    def examples(self, count: int) -> tuple[list[str], Tensor]:
        """Return captions with their images; see `CaptionedImages.examples`."""
        return self.images.examples(count, self._vocabulary, self.colours, self.side)

    def spread(self, count: int) -> Tensor:
        """Return at most `count` usable captions, evenly spaced."""
        return self._usable[torch.linspace(0, len(self._usable) - 1, min(count, len(self._usable))).long()]

    def fixed(self, count: int) -> Batch:
        """Return the captions of `spread`, with the same noise at every call."""
        captions = self.spread(count)
        return self._batch(captions, fixed_noise(len(captions), self.noise_shape))

    def _batch(self, captions: Tensor, noise: Tensor) -> Batch:
        chosen = captions.numpy()
        rows = self.images.image_of[chosen]
        pixels = self.images.pixels(rows.tolist(), self.colours, self.side)
        numbers = [self._words[caption] for caption in chosen]
        vectors = None if self.vectors is None else torch.from_numpy(self.vectors[chosen].astype(np.float32))
        return Batch(pixels.float() / 255, *pad(numbers), noise, vectors, self.images.matches[rows])
