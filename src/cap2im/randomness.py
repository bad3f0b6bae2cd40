"""Random numbers by name: the same key gives the same numbers, whatever was drawn before and on how many processes.

Everything random in the project is drawn on the CPU from such a generator, so that position in the training is all that a resume
has to know, and a picture does not depend on its neighbours in a batch.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor


def generator(*key: int | str) -> torch.Generator:
    """A generator of its own for a key, e.g. `generator("noise", seed, step)`; integers must not be negative."""
    entropy = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def item_noise(name: str, seed: int, items: Iterable[int], sample: int, shape: Sequence[int]) -> Tensor:
    """Standard normal noise [B, *shape] for a sample of each item of a measurement, whatever batch or process the item falls to."""
    return torch.stack([torch.randn(*shape, generator=generator(name, seed, item, sample)) for item in items])


def picture_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Standard normal noise [B, *shape], each picture's from its own seed."""
    return torch.stack([torch.randn(*shape, generator=generator("picture", seed)) for seed in seeds])
