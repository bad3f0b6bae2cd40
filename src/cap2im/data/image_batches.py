"""Batches of images, each with one of its captions, randomly cropped and flipped.

Source: AttnGAN (arXiv:1711.10485), taoxugit/AttnGAN, code/datasets.py.

The released program differs: before torch 1.9, its workers shared numpy's seed and drew the same captions again and again. In evaluation it
crops and flips at random too, and leaves out the last images; `fixed` crops all images in the middle.

Shapes: B batch, C colours, A side, N images, M captions, L words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cap2im.data.batch import ALL, Batch, fixed_noise, pad, step_noise
from cap2im.data.captioned_images import CaptionedImages, NumberedCaptions
from cap2im.data.vocabulary import LONGEST_CAPTION, Vocabulary
from cap2im.randomness import generator


def pyramid(images: Tensor, sides: Sequence[int | tuple[int, int]]) -> list[Tensor]:
    """Return images in several sizes.

    Reduction is antialiased and bilinear, as Pillow does it in the released program, without Pillow's rounding to whole levels.

    Args:
        images: [B, C, A, A].
        sides: of the squares, or heights and widths.

    Returns:
        [B, C, a, a] for each of the sides.
    """
    return [functional.interpolate(images, side, mode="bilinear", antialias=True) for side in sides]


class ImageBatches:
    """Batches of images with one caption each; every batch is a function of the seed and the step.

    Images are resized to a shorter side of `enlarge` * `side`, and a random square is cropped. Captions of more than `words` words keep a
    random choice of them, in order.

    Args:
        images: of a split.
        vocabulary: numbers the words; images whose captions have no known word are never used.
        noise_shape: (T, Z) of the model's noise.
        side: of the square, in pixels.
        colours: 1 or 3.
        batch_size: over all processes; images that do not fill a batch are left out of that epoch.
        seed: of order, captions, crops, flips and noise.
        words: most words of a caption.
        enlarge: shorter side of the resized image by side of the crop, 1 or more.
        flip: mirror half of the images.

    Raises:
        ValueError: no caption has a known word, or too few images for a batch.
    """

    def __init__(
        self,
        images: CaptionedImages,
        vocabulary: Vocabulary,
        noise_shape: tuple[int, int],
        *,
        side: int,
        colours: int,
        batch_size: int,
        seed: int = 0,
        words: int = LONGEST_CAPTION,
        enlarge: float = 1.0,
        flip: bool = False,
    ) -> None:
        self.images, self.captions = images, images.captions
        self.noise_shape, self.side, self.colours = noise_shape, side, colours
        self.batch_size, self.seed = batch_size, seed
        self.most_words, self.resized, self.flip = words, int(side * enlarge), flip
        self._vocabulary, self._words = vocabulary, NumberedCaptions(images.captions, vocabulary)
        known = np.flatnonzero(self._words.lengths)
        counts = np.bincount(images.image_of[known], minlength=len(images))
        self._known = torch.from_numpy(known)  # captions, image after image
        self._counts, self._starts = (
            torch.from_numpy(counts),
            torch.from_numpy(counts.cumsum() - counts),
        )  # [N] of each image, among the known captions
        self._usable = self._counts.nonzero().flatten()  # images
        if not len(self._usable):
            raise ValueError(f"{images.name}: the vocabulary of {len(vocabulary)} words has none of its captions' words")
        self.steps_per_epoch = len(self._usable) // batch_size
        if self.steps_per_epoch == 0:
            few = f"{len(self._usable)} images do not fill a batch of {batch_size}"
            raise ValueError(f"{images.name}: {few}; a smaller batch may: --set train.batch_size=16")

    def at(self, step: int, rows: slice = ALL) -> Batch:
        """Return the batch for update `step` + 1, or some rows of it."""
        epoch, index = divmod(step, self.steps_per_epoch)
        order = torch.randperm(len(self._usable), generator=generator("pictures", self.seed, epoch))
        images = self._usable[order[index * self.batch_size : (index + 1) * self.batch_size]]
        draws = _draws(len(images), generator("pairs", self.seed, step))
        noise = step_noise(self.seed, step, self.batch_size, self.noise_shape)
        return self._batch(images[rows], draws[rows], noise[rows])

    def fixed(self, count: int) -> Batch:
        """Return at most `count` images, evenly spaced and cropped in the middle, with the same captions and noise at every call."""
        places = torch.linspace(0, len(self._usable) - 1, min(count, len(self._usable))).long()
        draws = _draws(len(places), generator("fixed pairs"))
        draws[:, 1:4] = 0.5
        return self._batch(self._usable[places], draws, fixed_noise(len(places), self.noise_shape))

    def examples(self, count: int) -> tuple[list[str], Tensor]:
        """Return captions with the middle squares of their images; see `CaptionedImages.examples`."""
        return self.images.examples(count, self._vocabulary, self.colours, self.side)

    def _batch(self, images: Tensor, draws: Tensor, noise: Tensor) -> Batch:
        captions = self._known[self._starts[images] + (draws[:, 0] * self._counts[images]).long()]
        pictures = self.images.pictures(images.tolist(), self.colours, self.resized)
        pixels = torch.stack([self._square(picture, *place) for picture, place in zip(pictures, draws[:, 1:4].tolist(), strict=True)])
        numbers = [self._choose_words(int(caption), order) for caption, order in zip(captions, draws[:, 4:], strict=True)]
        return Batch(pixels.float() / 255, *pad(numbers), noise, classes=self.images.matches[images])

    def _square(self, picture: Tensor, down: float, across: float, turn: float) -> Tensor:
        """Crop a square [C, A, A] of a picture [C, H, W].

        Args:
            picture: to crop.
            down: top edge, 0..1 of the free rows.
            across: left edge, 0..1 of the free columns.
            turn: below 0.5, the square is mirrored if `flip` is set.
        """
        top, left = (int(fraction * (length - self.side + 1)) for fraction, length in zip((down, across), picture.shape[1:], strict=True))
        square = picture[:, top : top + self.side, left : left + self.side]
        return square.flip(2) if self.flip and turn < 0.5 else square

    def _choose_words(self, caption: int, order: Tensor) -> list[int]:
        """Return the words of a caption; of a long one, the words with the highest random numbers."""
        numbers = self._words[caption]
        if len(numbers) <= self.most_words:
            return numbers
        return [numbers[place] for place in order[: len(numbers)].topk(self.most_words).indices.sort().values.tolist()]


def _draws(count: int, random: torch.Generator) -> Tensor:
    """Return the random numbers [B, 4 + L] of a batch, 0..1: caption, crop down and across, flip, and choice of words."""
    return torch.rand(count, 4 + LONGEST_CAPTION, generator=random)
