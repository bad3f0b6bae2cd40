"""Batches of MNIST with captions, drawn anew for every epoch.

Source: alignDRAW (arXiv:1511.02793), appendix A: 10,000 fresh samples an epoch.

Shapes: B batch, N samples, L words.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cap2im.data.batch import ALL, Batch, fixed_noise, pad, step_noise
from cap2im.data.mnist_captions import CanvasMaker, CaptionedCanvases
from cap2im.data.vocabulary import Vocabulary
from cap2im.randomness import generator


def caption_tokens(canvases: CaptionedCanvases, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
    """Return the tokens and the mask [N, L] of captions. Each of the few different captions is tokenised once."""
    captions = canvases.captions()
    rows = {caption: row for row, caption in enumerate(dict.fromkeys(captions))}
    tokens, mask = pad([caption.numbers for caption in vocabulary.encode(rows)])
    order = torch.tensor([rows[caption] for caption in captions])
    return tokens[order], mask[order]


@dataclass(frozen=True)
class _Epoch:
    """The samples of one epoch: canvases, and tokens and mask of their captions."""

    number: int
    canvases: CaptionedCanvases
    tokens: Tensor
    mask: Tensor


class CanvasBatches:
    """Batches of fresh canvases; every batch is a function of the seed and the step.

    Args:
        maker: draws the canvases.
        vocabulary: numbers the words.
        noise_shape: (T, Z) of the model's noise.
        samples_per_epoch: canvases drawn at once.
        batch_size: over all processes.
        seed: of canvases and noise.
    """

    def __init__(
        self, maker: CanvasMaker, vocabulary: Vocabulary, noise_shape: tuple[int, int], samples_per_epoch: int, batch_size: int, seed: int
    ) -> None:
        self.maker, self.vocabulary, self.noise_shape = maker, vocabulary, noise_shape
        self.samples_per_epoch, self.batch_size, self.seed = samples_per_epoch, batch_size, seed
        self.steps_per_epoch = samples_per_epoch // batch_size
        self._last: _Epoch | None = None

    def _epoch(self, number: int) -> _Epoch:
        if self._last is None or self._last.number != number:
            canvases = self.maker.make(self.samples_per_epoch, generator("canvases", self.seed, number))
            self._last = _Epoch(number, canvases, *caption_tokens(canvases, self.vocabulary))
        return self._last

    def at(self, step: int, rows: slice = ALL) -> Batch:
        """Return the batch for update `step` + 1, or some rows of it."""
        number, index = divmod(step, self.steps_per_epoch)
        epoch = self._epoch(number)
        noise = step_noise(self.seed, step, self.batch_size, self.noise_shape)
        batch = slice(index * self.batch_size, (index + 1) * self.batch_size)
        return _batch(epoch.canvases[batch], epoch.tokens[batch], epoch.mask[batch], noise)[rows]

    def fixed(self, count: int) -> Batch:
        """Return a batch for validation: the same canvases and noise at every call and for any seed."""
        canvases = self.maker.make(count, generator("fixed canvases"))
        return _batch(canvases, *caption_tokens(canvases, self.vocabulary), fixed_noise(count, self.noise_shape))


def _batch(canvases: CaptionedCanvases, tokens: Tensor, mask: Tensor, noise: Tensor) -> Batch:
    return Batch(canvases.images.float() / 255, tokens, mask, noise, classes=canvases.scenes())
