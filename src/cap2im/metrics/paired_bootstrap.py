"""Differences of models that were measured on the same items, with paired-bootstrap intervals (Koehn, EMNLP 2004).

Values of two models on one caption vary together: a caption that is hard for one is mostly hard for the other. Every resample therefore
draws the same items for all models, and an interval is the middle 95 % of `RESAMPLES` differences. It covers the choice of the items, not
another training of the models.

Shapes: M models, N items, R resamples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cap2im.metrics.measurement import Statistic
from cap2im.randomness import generator

RESAMPLES = 2_000
VALUES_AT_ONCE = 2**22  # of a block of resamples


def paired_bootstrap(values: Tensor, statistic: Statistic = "mean", seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return the differences of a statistic between models, and their 95 % intervals.

    Args:
        values: [M, N] of the models on the same items.
        statistic: of the values.
        seed: of the resamples; equal seeds and N draw equal items.

    Returns:
        differences [M, M], row minus column, and intervals [M, M, 2].
    """
    values, n = values.double(), values.shape[1]
    random = generator("paired bootstrap", seed)
    blocks = []
    for block in torch.arange(RESAMPLES).split(max(1, VALUES_AT_ONCE // values.numel())):
        items = torch.randint(n, (len(block), n), generator=random)
        blocks.append(_statistics(values[:, items], statistic))  # of [M, R, N]
    resampled = torch.cat(blocks, dim=1)  # [M, R]
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    intervals = torch.stack([(row - resampled).quantile(ends, dim=1).T for row in resampled])
    whole = _statistics(values, statistic)
    return whole[:, None] - whole, intervals


def _statistics(values: Tensor, statistic: Statistic) -> Tensor:
    """Return the statistics [...] of values [..., N]."""
    return values.mean(dim=-1) if statistic == "mean" else values.quantile(0.5, dim=-1)
