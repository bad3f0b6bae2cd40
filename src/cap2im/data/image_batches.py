"""Images of a prepared dataset, each once an epoch, with one of its captions: a random one, and a random square of the image.

Source: AttnGAN (arXiv:1711.10485), taoxugit/AttnGAN, code/datasets.py.

What the released program does differently: its workers drew the same captions again and again (before torch 1.9 they shared numpy's seed);
while testing it draws, cuts and turns at random too, and leaves out the last images, where `fixed` takes all images from their middle.

Shapes: B batch, C colours, A side, N images, M captions, L words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cap2im.data.batch import ALL, Batch, fixed_noise, step_noise
from cap2im.data.captioned_images import CaptionedImages, NumberedCaptions
from cap2im.data.vocabulary import LONGEST_CAPTION, Vocabulary, pad
from cap2im.randomness import generator


def pyramid(images: Tensor, sides: Sequence[int | tuple[int, int]]) -> list[Tensor]:
    """The same images in several sizes, as a model of rising sizes is trained on them.

    Reducing is antialiased and bilinear, as Pillow does it for the released program, but for Pillow's rounding to whole levels.

    Args:
        images: [B, C, A, A].
        sides: of the squares, or heights and widths; images that have the size already are answered as they are.

    Returns:
        [B, C, a, a] for each of the sides.
    """
    return [functional.interpolate(images, side, mode="bilinear", antialias=True) for side in sides]


class ImageBatches:
    """Batches of images with one caption each; every batch is a function of the seed and the step.

    Images are resized so that the shorter side is `enlarge` sides of the square long, of which a random place is cut out. A caption of more
    than `words` words keeps a random choice of them in their order.

    Args:
        images: of a split.
        vocabulary: numbers the words; images without a caption of which it knows a word are never used.
        noise_shape: (T, Z) of the model's noise.
        side: of the square, in pixels.
        colours: 1 or 3.
        batch_size: over all processes; images that do not fill a batch wait for another epoch.
        seed: of order, captions, places, turning and noise.
        words: most words of a caption.
        enlarge: 1 or more.
        flip: turn half of the images, left to right.

    Raises:
        ValueError: no caption has a word that is known, or too few images for a batch.
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
        self._counts, self._starts = torch.from_numpy(counts), torch.from_numpy(counts.cumsum() - counts)  # [N] of an image's among them
        self._usable = self._counts.nonzero().flatten()  # images
        if not len(self._usable):
            raise ValueError(f"{images.name}: the vocabulary of {len(vocabulary)} words has none of its captions' words")
        self.steps_per_epoch = len(self._usable) // batch_size
        if self.steps_per_epoch == 0:
            told = f"{images.name}: {len(self._usable)} images do not fill a batch of {batch_size}"
            raise ValueError(f"{told}; a smaller batch may: --set train.batch_size=16")

    def at(self, step: int, rows: slice = ALL) -> Batch:
        """The batch of the update that follows `step` updates, or some rows of it."""
        epoch, index = divmod(step, self.steps_per_epoch)
        order = torch.randperm(len(self._usable), generator=generator("pictures", self.seed, epoch))
        images = self._usable[order[index * self.batch_size : (index + 1) * self.batch_size]]
        luck = _luck(len(images), generator("pairs", self.seed, step))
        noise = step_noise(self.seed, step, self.batch_size, self.noise_shape)
        return self._batch(images[rows], luck[rows], noise[rows])

    def fixed(self, count: int) -> Batch:
        """At most `count` images, spread evenly over all of them, with the same caption and noise at every call; cut from the middle."""
        places = torch.linspace(0, len(self._usable) - 1, min(count, len(self._usable))).long()
        luck = _luck(len(places), generator("fixed pairs"))
        luck[:, 1:4] = 0.5
        return self._batch(self._usable[places], luck, fixed_noise(len(places), self.noise_shape))

    def examples(self, count: int) -> tuple[list[str], Tensor]:
        """Return captions with the middle squares of their images, see `CaptionedImages.examples`."""
        return self.images.examples(count, self._vocabulary, self.colours, self.side)

    def _batch(self, images: Tensor, luck: Tensor, noise: Tensor) -> Batch:
        captions = self._known[self._starts[images] + (luck[:, 0] * self._counts[images]).long()]
        pictures = self.images.pictures(images.tolist(), self.colours, self.resized)
        pixels = torch.stack([self._square(picture, *place) for picture, place in zip(pictures, luck[:, 1:4].tolist(), strict=True)])
        numbers = [self._chosen(int(caption), order) for caption, order in zip(captions, luck[:, 4:], strict=True)]
        return Batch(pixels.float() / 255, *pad(numbers), noise, classes=self.images.matches[images])

    def _square(self, picture: Tensor, down: float, across: float, turn: float) -> Tensor:
        """[C, A, A] of a picture [C, H, W], at fractions of the way that is left down and across."""
        top, left = (int(way * (length - self.side + 1)) for way, length in zip((down, across), picture.shape[1:], strict=True))
        square = picture[:, top : top + self.side, left : left + self.side]
        return square.flip(2) if self.flip and turn < 0.5 else square

    def _chosen(self, caption: int, order: Tensor) -> list[int]:
        """The words of a caption; of a long one, those that come first in a random order."""
        numbers = self._words[caption]
        if len(numbers) <= self.most_words:
            return numbers
        return [numbers[place] for place in order[: len(numbers)].topk(self.most_words).indices.sort().values.tolist()]


def _luck(count: int, random: torch.Generator) -> Tensor:
    """[B, 4 + L] all chances of a batch, 0..1: which caption, how far down and across, whether turned, and the order of its words."""
    return torch.rand(count, 4 + LONGEST_CAPTION, generator=random)
