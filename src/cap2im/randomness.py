"""Random generators by key: the same key gives the same numbers, whatever was drawn before and on any number of processes.

Everything random is drawn on the CPU from such a generator. A resumed training therefore needs only its step, and a picture does not depend
on its batch.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor


def generator(*key: int | str) -> torch.Generator:
    """Return a new generator for a key, for example `generator("noise", seed, step)`; integers must not be negative."""
    entropy = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def item_noise(name: str, seed: int, items: Iterable[int], sample: int, shape: Sequence[int]) -> Tensor:
    """Return standard normal noise [B, *shape], one sample for each item of a measurement, independent of batch and process."""
    return torch.stack([torch.randn(*shape, generator=generator(name, seed, item, sample)) for item in items])


def picture_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Return standard normal noise [B, *shape], one seed for each picture."""
    return torch.stack([torch.randn(*shape, generator=generator("picture", seed)) for seed in seeds])
