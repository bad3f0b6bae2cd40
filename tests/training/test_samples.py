"""Sample grids: captions, the real image and the drawings stand where they belong."""

from __future__ import annotations

import numpy as np
import torch

from cap2im.training.samples import LINE, grid


def test_rows_stand_below_their_captions():
    rows = torch.tensor([[0.2, 0.4, 0.6], [0.8, 0.5, 0.0]])[:, :, None, None, None].expand(-1, -1, 3, 8, 8)
    pixels = grid("the real image, then 2 drawings", ["red", "a blue square on the left"], rows)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (3 * LINE + 2 * 64, 3 * 64, 3))
    for row, values in enumerate(rows[:, :, 0, 0, 0].tolist()):
        top = LINE + row * (LINE + 64) + LINE
        for column, value in enumerate(values):
            tile = pixels[top : top + 64, column * 64 : (column + 1) * 64]
            assert (tile == round(value * 255)).all()
        assert (pixels[top - LINE : top] < 128).any(), "a caption is written"
        assert (pixels[top - LINE : top] == 255).mean() > 0.5


def test_grey_images_and_long_captions_and_those_of_other_scripts():
    rows = torch.zeros(2, 1, 1, 60, 60)
    pixels = grid("", ["word " * 300, "\u8d64\u3044\u30d0\u30b9 \U0001f68c \u0627\u062d\u0645\u0631"], rows)
    assert pixels.shape == (4 * LINE + 2 * 120, 120, 3)
    assert (pixels[3 * LINE : 3 * LINE + 120] == 0).all()
