"""What a training step is given: captioned images with their noise, whatever they were made of.

Shapes: B batch, L words, T glimpses, Z latent, C colours, A canvas side, S features of a sentence vector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
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
        classes: [B] int64, equal for pairs that are no wrong match for each other (of one class, of one image, of one caption), for the
            losses that match images with captions.
    """

    images: Tensor
    tokens: Tensor
    mask: Tensor
    noise: Tensor
    vectors: Tensor | None = None
    classes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice) -> Batch:
        return self._each(lambda tensor: tensor[rows])

    def to(self, device: torch.device) -> Batch:
        return self._each(lambda tensor: tensor.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        there = {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}
        return Batch(**{name: change(value) for name, value in there.items()})


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
