"""The neural distance learns which caption belongs to which picture."""

from __future__ import annotations

import torch

from cap2im.metrics import neural_distance as metric
from cap2im.metrics.neural_distance import fit_heads, neural_distance, ranking_loss


def test_neural_distance_separates_own_and_other_captions(monkeypatch):
    monkeypatch.setattr(metric, "HEADS", metric.HEADS._replace(width=32, steps=200))
    torch.manual_seed(0)
    hidden = torch.randn(300, 6)
    images, sentences = hidden @ torch.randn(6, 12), hidden @ torch.randn(6, 10)
    heads = fit_heads(images[:200], sentences[:200], seed=1)
    new = images[200:], sentences[200:]
    own, others = neural_distance(heads, *new)
    assert own.value > others.value + 0.5
    assert 0 < own.deviation < 1
    assert (own.n, others.group) == (100, "other captions")
    assert neural_distance(fit_heads(images[:200], sentences[:200], seed=1), *new) == [own, others], "seeds repeat"
    assert neural_distance(fit_heads(images[:200], sentences[:200], seed=2), *new) != [own, others]
    vectors, _ = heads(*new)
    assert ranking_loss(vectors, vectors, 0.0) == 0, "perfect pairs have no loss"
