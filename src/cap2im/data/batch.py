"""What a training step is given: captioned images with their noise, whatever they were made of.

Shapes: B batch, L words, T glimpses, Z latent, C colours, A canvas side, S features of a sentence vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cap2im.randomness import generator

ALL = slice(None)


@dataclass(frozen=True)
class Batch:
    """Captioned images with their noise.

    Attributes:
        images: [B, C, A, A] in 0..1.
        tokens: [B, L] word numbers.
        mask: [B, L] true for words.
        noise: [B, T, Z] standard normal.
        vectors: [B, S] sentence vectors, for the models that are conditioned on them.
    """

    images: Tensor
    tokens: Tensor
    mask: Tensor
    noise: Tensor
    vectors: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice) -> Batch:
        vectors = None if self.vectors is None else self.vectors[rows]
        return Batch(self.images[rows], self.tokens[rows], self.mask[rows], self.noise[rows], vectors)

    def to(self, device: torch.device) -> Batch:
        vectors = None if self.vectors is None else self.vectors.to(device)
        return Batch(self.images.to(device), self.tokens.to(device), self.mask.to(device), self.noise.to(device), vectors)


class Batches(Protocol):
    """Training batches by number, so that the position in the data is the step alone."""

    steps_per_epoch: int

    def at(self, step: int, rows: slice = ALL) -> Batch:
        """The batch of the update that follows `step` updates, or some rows of it."""
        ...


def step_noise(seed: int, step: int, count: int, shape: tuple[int, int]) -> Tensor:
    """The noise [B, T, Z] of the update that follows `step` updates."""
    return torch.randn(count, *shape, generator=generator("noise", seed, step))


def fixed_noise(count: int, shape: tuple[int, int]) -> Tensor:
    """The same noise [B, T, Z] at every call, to validate with; independent of the seed."""
    return torch.randn(count, *shape, generator=generator("fixed noise"))
