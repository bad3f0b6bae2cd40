"""Intervals of means and proportions."""

from __future__ import annotations

import math

from torch import Tensor

NORMAL_95 = 1.959964  # standard errors on each side of a mean


def wilson(successes: float, n: float, z: float = NORMAL_95) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion (Wilson 1927); the default z gives 95 %.

    Args:
        successes: may be fractional; a tie can count as part of a success.
        n: number of trials; may be fractional, an effective number.
        z: standard errors on each side.

    Returns:
        The lower and the upper end.

    Raises:
        ValueError: `n` is below 1.
    """
    if n < 1:
        raise ValueError(f"an interval of a proportion needs at least 1 trial, got {n}")
    rate = successes / n
    centre = rate + z * z / (2 * n)
    spread = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # rounding must not exclude the rate itself
    return min(rate, max(0.0, (centre - spread) / scale)), max(rate, min(1.0, (centre + spread) / scale))


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Return the mean of values [N] and its standard error, which is NaN if N is 1."""
    return values.mean().item(), values.std().item() / len(values) ** 0.5 if len(values) > 1 else float("nan")
