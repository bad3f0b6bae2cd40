"""Sample grids: captions, the real image and the drawings stand where they belong."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cap2im.rendering.panels import GAP, MARGIN
from cap2im.training.samples import grid


def test_rows_stand_below_their_captions():
    rows = torch.tensor([[0.2, 0.4, 0.6], [0.8, 0.5, 0.0]])[:, :, None, None, None].expand(-1, -1, 3, 8, 8)
    pixels = grid("the real image, then 2 drawings", ["red", "a blue square on the left"], rows)
    assert (pixels.dtype, pixels.shape[1:]) == (np.uint8, (2 * MARGIN + 3 * 64 + 2 * GAP, 3))
    tops = []
    for values in rows[:, :, 0, 0, 0].tolist():
        first = round(values[0] * 255)
        top = int(np.argwhere((pixels[:, MARGIN : MARGIN + 64] == first).all(axis=(1, 2)))[0, 0])
        for column, value in enumerate(values):
            left = MARGIN + column * (64 + GAP)
            assert (pixels[top : top + 64, left : left + 64] == round(value * 255)).all()
        assert (pixels[top - 25 : top] < 128).any(), "a caption is written"
        tops.append(top)
    assert tops[1] > tops[0] + 64


@pytest.mark.parametrize("caption", ["word " * 300, "\u8d64\u3044\u30d0\u30b9 \U0001f68c \u0627\u062d\u0645\u0631", ""])
def test_grids_take_any_caption(caption):
    pixels = grid("", [caption], torch.zeros(1, 1, 1, 60, 60))
    assert pixels.shape[1] == 2 * MARGIN + 120
    assert pixels.shape[0] < 250
    assert (pixels[-MARGIN - 120 : -MARGIN, MARGIN:-MARGIN] == 0).all()
