"""Differences of two models on the same items."""

from __future__ import annotations

import pytest
import torch

from cap2im.metrics import paired_bootstrap as module
from cap2im.metrics.paired_bootstrap import paired_bootstrap


def test_a_constant_difference_has_no_uncertainty():
    """However much the items vary."""
    values = 100 * torch.randn(50, generator=torch.Generator().manual_seed(0)).double()
    value, interval = paired_bootstrap(values + 2, values)
    assert value == pytest.approx(2)
    assert interval == pytest.approx((2, 2))
    value, interval = paired_bootstrap(values + 2, values, "median")
    assert value == pytest.approx(2)
    assert interval == pytest.approx((2, 2))


def test_two_items_by_hand():
    """The four resamples of the differences 0 and 4 have the means 0, 2, 2 and 4."""
    first, second = torch.tensor([5.0, 7.0]), torch.tensor([5.0, 3.0])
    assert paired_bootstrap(first, second) == (2.0, (0.0, 4.0))
    assert paired_bootstrap(second, first) == (-2.0, (-4.0, 0.0))


def test_medians_by_hand():
    """The difference of the medians 3 and 1, not the median of the differences 0, 9 and 2."""
    assert paired_bootstrap(torch.tensor([1.0, 9.0, 3.0]), torch.tensor([1.0, 0.0, 1.0]), "median")[0] == 2.0


def test_the_interval_of_means_is_that_of_a_paired_test():
    random = torch.Generator().manual_seed(0)
    common, noise = 10 * torch.randn(400, generator=random), torch.randn(400, generator=random)
    value, (low, high) = paired_bootstrap(common + noise, common)
    error = noise.std().item() / 20
    assert low == pytest.approx(value - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(value + 1.96 * error, abs=0.1 * error)


def test_blocks_do_not_change_the_interval(monkeypatch):
    first, second = torch.randn(2, 30, generator=torch.Generator().manual_seed(0))
    whole = paired_bootstrap(first, second)
    monkeypatch.setattr(module, "VALUES_AT_ONCE", 70)
    assert paired_bootstrap(first, second) == whole


def test_different_numbers_of_items_are_not_pairs():
    with pytest.raises(ValueError, match="3 and 2 values: a paired bootstrap needs the same items"):
        paired_bootstrap(torch.zeros(3), torch.zeros(2))
