"""Differences of models on the same items."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cap2im.metrics import paired_bootstrap as module
from cap2im.metrics.measurement import Statistic
from cap2im.metrics.paired_bootstrap import paired_bootstrap


def difference(first: Tensor, second: Tensor, statistic: Statistic = "mean") -> tuple[float, tuple[float, float]]:
    values, intervals = paired_bootstrap(torch.stack([first, second]), statistic)
    low, high = intervals[0, 1].tolist()
    assert values[1, 0] == -values[0, 1]
    assert intervals[1, 0].tolist() == pytest.approx([-high, -low])
    return values[0, 1].item(), (low, high)


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_a_constant_difference_has_no_uncertainty(statistic):
    """However much the items vary."""
    values = 100 * torch.randn(50, generator=torch.Generator().manual_seed(0)).double()
    value, interval = difference(values + 2, values, statistic)
    assert value == pytest.approx(2)
    assert interval == pytest.approx((2, 2))


def test_two_items_by_hand():
    """The four resamples of the differences 0 and 4 have the means 0, 2, 2 and 4."""
    first, second = torch.tensor([5.0, 7.0]), torch.tensor([5.0, 3.0])
    assert difference(first, second) == (2.0, (0.0, 4.0))


def test_medians_by_hand():
    """The difference of the medians 4 and 1, not the median of the differences 0, 9 and 2."""
    assert difference(torch.tensor([1.0, 9.0, 4.0]), torch.tensor([1.0, 0.0, 2.0]), "median")[0] == 3.0


def test_the_interval_of_means_is_that_of_a_paired_test():
    random = torch.Generator().manual_seed(0)
    common, noise = 10 * torch.randn(400, generator=random), torch.randn(400, generator=random)
    value, (low, high) = difference(common + noise, common)
    error = noise.std().item() / 20
    assert low == pytest.approx(value - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(value + 1.96 * error, abs=0.1 * error)


def test_blocks_do_not_change_the_interval(monkeypatch):
    values = torch.randn(3, 30, generator=torch.Generator().manual_seed(0))
    whole = paired_bootstrap(values)
    monkeypatch.setattr(module, "VALUES_AT_ONCE", 700)
    assert all(torch.equal(one, other) for one, other in zip(paired_bootstrap(values), whole, strict=True))


def test_other_models_do_not_change_a_difference():
    values = torch.randn(3, 30, generator=torch.Generator().manual_seed(0))
    assert torch.equal(paired_bootstrap(values)[1][:2, :2], paired_bootstrap(values[:2])[1])
