"""Finished pictures side by side."""

from __future__ import annotations

import numpy as np
import pytest

from cap2im.rendering.grid import grid
from tests.rendering.samples import blobs


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (3, 3, 1), (4, 2, 2), (5, 3, 2), (8, 4, 2), (9, 3, 3), (16, 4, 4)])
def test_grid_places_every_sample(count: int, columns: int, rows: int) -> None:
    drawings = blobs(count)
    whole = grid(drawings)
    assert whole.size == (columns * 246 - 6, rows * 246 - 6)  # 20 pixels x 12, gaps of 6
    for index, blob in enumerate(drawings):
        left, top = index % columns * 246, index // columns * 246
        np.testing.assert_array_equal(np.asarray(whole)[top : top + 240 : 12, left : left + 240 : 12, :1], blob.canvases[-1])


def test_large_canvases_keep_their_size() -> None:
    assert grid(blobs(1, side=300)).size == (300, 300)
