"""Differences between models that were measured by one protocol, with paired-bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import torch

from cap2im.metrics.measurement import Measurement
from cap2im.metrics.paired_bootstrap import paired_bootstrap


@dataclass(frozen=True)
class Difference:
    """The difference of a number between two models.

    Attributes:
        models: the first and the second.
        value: first minus second.
        interval: 95 %, of resampled items.
        quantity: the number of the first model, whose unit and decimal places a print has.
    """

    models: tuple[str, str]
    value: float
    interval: tuple[float, float]
    quantity: Measurement

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval does not contain zero."""
        return self.interval[0] > 0 or self.interval[1] < 0

    @property
    def text(self) -> str:
        """Difference and interval in print, e.g. "+1.2 (-0.3 to +2.7)"."""
        return f"{self._signed(self.value)} ({self._signed(self.interval[0])} to {self._signed(self.interval[1])})"

    def _signed(self, value: float) -> str:
        size = self.quantity.number(abs(value))
        if not size.strip("0.,"):  # rounded to zero
            return size
        return f"{'-' if value < 0 else '+'}{size}"


def paired_differences(cells: Mapping[str, Measurement]) -> tuple[Difference, ...]:
    """Return the differences between each pair of models whose values of single items were kept.

    Args:
        cells: numbers of one name and one protocol, hence of the same items, by model.

    Raises:
        ValueError: numbers of items differ.
    """
    kept = {model: cell.per_item for model, cell in cells.items() if cell.per_item is not None}
    if len(kept) < 2:
        return ()
    first = next(iter(kept.values()))
    if len({len(each.values) for each in kept.values()}) > 1:
        raise ValueError(f"{', '.join(kept)}: different numbers of values of one protocol; delete the files of these evaluations")
    values, intervals = paired_bootstrap(torch.tensor([each.values for each in kept.values()]), first.statistic)
    differences = []
    for (i, one), (j, other) in combinations(enumerate(kept), 2):
        low, high = intervals[i, j].tolist()
        differences.append(Difference((one, other), values[i, j].item(), (low, high), cells[one]))
    return tuple(differences)
