"""Difference of two models that were measured on the same items, with its paired-bootstrap interval (Koehn, EMNLP 2004).

Values of two models on one caption vary together: a caption that is hard for one is mostly hard for the other. Every resample therefore
draws the same items for both, and the interval is the middle 95 % of `RESAMPLES` differences. It covers the choice of the items, not
another training of the models.

Shapes: N items, R resamples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cap2im.metrics.measurement import Statistic
from cap2im.randomness import generator

RESAMPLES = 2_000
VALUES_AT_ONCE = 2**22  # of a block of resamples


def paired_bootstrap(first: Tensor, second: Tensor, statistic: Statistic = "mean", seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Return the difference of a statistic, first minus second, and its 95 % interval.

    Args:
        first: [N] values of one model.
        second: [N] values of the other model on the same items.
        statistic: of the values.
        seed: of the resamples; equal seeds and N draw equal items.

    Raises:
        ValueError: the numbers of items differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"{len(first)} and {len(second)} values: a paired bootstrap needs the same items")
    values, n = torch.stack([first, second]).double(), len(first)
    random = generator("paired bootstrap", seed)
    differences = []
    for block in torch.arange(RESAMPLES).split(max(1, VALUES_AT_ONCE // n)):
        items = torch.randint(n, (len(block), n), generator=random)
        differences.append(_difference(values[:, items], statistic))  # of [2, R, N]
    low, high = torch.cat(differences).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return _difference(values, statistic).item(), (low, high)


def _difference(values: Tensor, statistic: Statistic) -> Tensor:
    """Return the differences [...] of the statistics of values [2, ..., N]."""
    statistics = values.mean(dim=-1) if statistic == "mean" else values.quantile(0.5, dim=-1)
    return statistics[0] - statistics[1]
