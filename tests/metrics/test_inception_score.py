"""The Inception Score of known classes."""

from __future__ import annotations

import math

import pytest
import torch

from cap2im.metrics.inception_score import inception_score

SURE = torch.eye(5).repeat(20, 1) * 1000  # logits of 100 pictures of five certain classes in turn


def score(logits: torch.Tensor, parts: int = 10) -> tuple[float, float | None]:
    measurement = inception_score(logits, parts=parts)
    return measurement.value, measurement.deviation


def test_score_has_known_values():
    """1 for equal pictures; K for K certain classes in equal numbers; else exp of the mutual information."""
    assert score(torch.zeros(30, 7)) == pytest.approx((1, 0))
    assert score(SURE) == pytest.approx((5, 0))
    half = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log().repeat(10, 1)
    information = math.log(2) + 0.9 * math.log(0.9) + 0.1 * math.log(0.1)
    assert score(half, 2) == pytest.approx((math.exp(information), 0))
    assert score(torch.cat([SURE[:50], torch.zeros(50, 5)]), 2) == pytest.approx((3, 2)), "of parts with 5 and 1"
    assert score(SURE.view(20, 5, 5).transpose(0, 1).reshape(100, 5), 5)[0] == pytest.approx(1), "each part has one class"


def test_the_seed_orders_the_pictures():
    by_class = SURE.view(20, 5, 5).transpose(0, 1).reshape(100, 5)
    first, again, other = (inception_score(by_class, seed, parts=5).value for seed in (1, 1, 2))
    assert 4 < first == again != other


def test_fewer_pictures_than_parts_are_an_error():
    with pytest.raises(ValueError, match="an Inception Score in 10 parts needs as many pictures, got 9"):
        inception_score(torch.zeros(9, 5))
