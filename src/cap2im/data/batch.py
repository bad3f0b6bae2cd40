"""A training batch: captioned images with their noise.

Shapes: B batch, L words, T glimpses, Z latent, C colours, A canvas side, S features of a sentence vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

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
        vectors: [B, S] sentence vectors, for models that are conditioned on them.
        classes: [B] int64, equal for pairs that are no wrong match for each other (of one class, image or caption), for losses that match
            images with captions.
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
        """Return some rows of the batch."""
        return self._map(lambda tensor: tensor[rows])

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Return the batch in pinned memory, from which an accelerator copies while the program goes on; DataLoader calls it."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return Batch(**{name: change(tensor) for name, tensor in tensors.items() if tensor is not None})


def pad(captions: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return word numbers as one batch: tokens [B, L], padded with zeros, and the mask [B, L], true for words."""
    lengths = torch.tensor([len(caption) for caption in captions])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    tokens = torch.zeros(mask.shape, dtype=torch.long)
    tokens[mask] = torch.tensor([number for caption in captions for number in caption])
    return tokens, mask


def step_noise(seed: int, step: int, count: int, shape: tuple[int, int]) -> Tensor:
    """Return the noise [B, T, Z] for update `step` + 1."""
    return torch.randn(count, *shape, generator=generator("noise", seed, step))


def fixed_noise(count: int, shape: tuple[int, int]) -> Tensor:
    """Return the noise [B, T, Z] for validation: the same at every call and for any seed."""
    return torch.randn(count, *shape, generator=generator("fixed noise"))
