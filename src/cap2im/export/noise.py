"""The random numbers of a picture, without torch.

A drawing depends only on its caption, its seed and the model. Programs in other languages draw the same picture if they make the same
noise; docs/reference/noise.md specifies it.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BLOCK = 16  # numbers that are made together
MANTISSA = 24  # bits of a uniform number


def picture_noise(seed: int, shape: Sequence[int]) -> NDArray[np.float32]:
    """Return the standard normal noise of the picture of a seed: `cap2im.randomness.picture_noise` within rounding.

    Args:
        seed: 0 or more.
        shape: of the noise.

    Raises:
        ValueError: fewer than 16 numbers.
    """
    count = math.prod(shape)
    if count < BLOCK:
        raise ValueError(f"noise of shape {list(shape)} has {count} numbers; at least {BLOCK} are needed")
    state = np.random.SeedSequence([zlib.crc32(b"picture"), seed]).generate_state(1, np.uint64)[0]
    twister = np.random.RandomState(int(state) & 0xFFFFFFFF)  # torch seeds its Mersenne Twister with the low 32 bits
    noise = _uniform(twister, count)
    for start in range(0, count - BLOCK + 1, BLOCK):
        noise[start : start + BLOCK] = _normal(noise[start : start + BLOCK])
    if count % BLOCK:
        noise[-BLOCK:] = _normal(_uniform(twister, BLOCK))
    return noise.reshape(shape)


def _uniform(twister: np.random.RandomState, count: int) -> NDArray[np.float32]:
    bits = twister.randint(0, 2**32, count, dtype=np.uint32)
    uniform: NDArray[np.float32] = (bits & (2**MANTISSA - 1)).astype(np.float32) * np.float32(2**-MANTISSA)
    return uniform


def _normal(uniform: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return normal numbers [16] of uniform numbers [16], by the Box-Muller transform of its halves."""
    half = BLOCK // 2
    radius = np.sqrt(-2 * np.log(1 - uniform[:half]))
    angle = np.float32(2 * math.pi) * uniform[half:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
