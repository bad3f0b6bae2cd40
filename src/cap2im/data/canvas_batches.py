"""Batches of captioned canvases by step number, so that position in the data is a single number."""

from __future__ import annotations

import torch
from torch import Tensor

from cap2im.data.batch import ALL, Batch, fixed_noise, step_noise
from cap2im.data.mnist_captions import CanvasMaker, CaptionedCanvases
from cap2im.data.vocabulary import Vocabulary, pad
from cap2im.randomness import generator


def caption_tokens(canvases: CaptionedCanvases, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
    """Tokens and mask [N, L] of the canvases' captions; each of the few different captions is tokenised once."""
    captions = canvases.captions()
    different = list(dict.fromkeys(captions))
    tokens, mask = pad([t.numbers for t in vocabulary.encode(different)])
    place = {caption: row for row, caption in enumerate(different)}
    rows = torch.tensor([place[caption] for caption in captions])
    return tokens[rows], mask[rows]


class CanvasBatches:
    """Freshly made canvases, an epoch at a time; every batch is a function of the seed and the step.

    Args:
        maker: makes the canvases.
        vocabulary: numbers the words.
        noise_shape: (T, Z) of the model's noise.
        samples_per_epoch: canvases made at once.
        batch_size: over all processes.
        seed: of canvases and noise.
    """

    def __init__(
        self, maker: CanvasMaker, vocabulary: Vocabulary, noise_shape: tuple[int, int], samples_per_epoch: int, batch_size: int, seed: int
    ) -> None:
        self.maker, self.vocabulary, self.noise_shape = maker, vocabulary, noise_shape
        self.samples_per_epoch, self.batch_size, self.seed = samples_per_epoch, batch_size, seed
        self.steps_per_epoch = samples_per_epoch // batch_size
        self._epoch: tuple[int, Tensor, Tensor, Tensor, Tensor] | None = None

    def at(self, step: int, rows: slice = ALL) -> Batch:
        """The batch of the update that follows `step` updates, or some rows of it."""
        number, index = divmod(step, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != number:
            canvases = self.maker.make(self.samples_per_epoch, generator("canvases", self.seed, number))
            self._epoch = (number, canvases.images, *caption_tokens(canvases, self.vocabulary), canvases.scenes())
        _, images, tokens, mask, scenes = self._epoch
        here = slice(index * self.batch_size, (index + 1) * self.batch_size)
        noise = step_noise(self.seed, step, self.batch_size, self.noise_shape)
        return Batch(images[here][rows].float() / 255, tokens[here][rows], mask[here][rows], noise[rows], classes=scenes[here][rows])

    def fixed(self, count: int) -> Batch:
        """The same canvases and noise at every call, to validate on; independent of the seed."""
        canvases = self.maker.make(count, generator("fixed canvases"))
        noise = fixed_noise(count, self.noise_shape)
        return Batch(canvases.images.float() / 255, *caption_tokens(canvases, self.vocabulary), noise, classes=canvases.scenes())
