"""Intervals against published values."""

from __future__ import annotations

import pytest

from cap2im.metrics.intervals import wilson


def test_wilson_interval():
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)  # Brown, Cai & DasGupta 2001
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    with pytest.raises(ValueError, match="at least 1 trial, got 0"):
        wilson(0, 0)
