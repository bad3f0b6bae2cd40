"""Statistics of real images are stored by everything that decides them."""

from __future__ import annotations

import numpy as np
import torch

from cap2im.evaluation.image_statistics import stored_statistics
from cap2im.metrics.distributed import ProcessGroup
from cap2im.metrics.fid import Statistics
from cap2im.randomness import generator


def test_statistics_are_measured_once_for_what_they_are_about(tmp_path):
    measured = []

    def measure(count: int) -> Statistics:
        measured.append(count)
        return Statistics.of(torch.randn(count, 5, generator=generator("features"), dtype=torch.float64))

    def stored(count: int, **about: object) -> Statistics:
        return stored_statistics(tmp_path / "stored", about, lambda: measure(count), ProcessGroup())

    first = stored(7, weights="a", split="test")
    again = stored(8, split="test", weights="a")  # in any order
    assert measured == [7]
    torch.testing.assert_close(again.scatter, first.scatter)
    assert (again.count, stored(8, weights="b", split="test").count) == (7, 8)
    (one, _) = sorted((tmp_path / "stored").iterdir(), key=lambda path: path.stat().st_mtime)
    with np.load(one) as file:  # in the layout of pytorch-fid
        np.testing.assert_allclose(file["mu"], first.mean)
        np.testing.assert_allclose(file["sigma"], first.covariance)
    one.write_bytes(one.read_bytes()[:100])
    assert stored(9, weights="a", split="test").count == 9, "a damaged file is measured again"
    assert len(list((tmp_path / "stored").iterdir())) == 2
