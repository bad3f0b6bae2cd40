"""Animations."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from cap2im.rendering.colours import WRITE
from cap2im.rendering.drawing import Drawing
from cap2im.rendering.gif import gif
from cap2im.rendering.grid import grid
from tests.rendering.samples import blobs


@pytest.mark.parametrize("colours", [1, 3])
def test_gif_has_a_frame_a_glimpse_and_a_final_pause(colours: int) -> None:
    drawings = blobs(2, colours=colours)
    with Image.open(io.BytesIO(gif(drawings))) as animation:
        assert (animation.n_frames, animation.size) == (12, (486, 240))  # type: ignore[attr-defined]
        assert animation.info["loop"] == 0
        durations, frames = [], []
        for t in range(12):
            animation.seek(t)
            durations.append(animation.info["duration"])
            frames.append(np.asarray(animation.convert("RGB")).astype(int))
    assert durations == [270] * 11 + [2000]
    finished = np.asarray(grid(drawings)).astype(int)
    assert abs(frames[-1] - finished).max() <= (0 if colours == 1 else 12)  # a frame of a GIF holds 256 colours
    brightness = [frame.mean() for frame in frames]
    assert brightness == sorted(brightness)
    assert brightness[0] < brightness[-1]


def test_outline_takes_the_place_of_the_rarest_grey() -> None:
    canvases = np.full((2, 16, 20, 1), 7, np.uint8)
    canvases[0, :13].flat = [level for level in range(256) if level != 200]
    boxes = np.array([[0, 14, 20, 16]] * 2)
    drawing = Drawing("all greys", (), 0, "model", canvases=canvases, boxes=boxes)
    assert worst_error(drawing) == 0
    canvases[0, 13, 0] = 200  # now the rarest, as often as others; the lowest of them gives way
    assert worst_error(Drawing("all greys", (), 0, "model", canvases=canvases, boxes=boxes)) == 1


def worst_error(drawing: Drawing) -> int:
    """Return the largest difference between the canvases and the frames of their GIF, outside of the outline."""
    frames = []
    with Image.open(io.BytesIO(gif([drawing]))) as animation:
        for t in range(2):
            animation.seek(t)
            frames.append(np.asarray(animation.convert("RGB")).astype(int)[6:156:12, 6::12])
    return int(abs(np.stack(frames) - drawing.canvases[:, :13]).max())


def test_gif_of_many_pixels_is_enlarged_less(monkeypatch: pytest.MonkeyPatch) -> None:
    drawings = blobs(4)
    whole = Image.open(io.BytesIO(gif(drawings)))
    pixels = sum(drawing.canvases[..., 0].size for drawing in drawings)
    monkeypatch.setattr("cap2im.rendering.gif.MAX_PIXELS", 4 * pixels + 1)
    smaller = Image.open(io.BytesIO(gif(drawings)))
    side = 2 * 2 * drawings[0].image.width + 6
    assert (smaller.n_frames, smaller.size) == (12, (side, side))  # type: ignore[attr-defined]
    assert whole.size == (406, 406)
    monkeypatch.setattr("cap2im.rendering.gif.MAX_PIXELS", 1)
    assert Image.open(io.BytesIO(gif(drawings))).n_frames == 12  # type: ignore[attr-defined]


@pytest.mark.parametrize("colours", [1, 3])
def test_gif_outlines_the_write_window_until_the_last_frame(colours: int) -> None:
    def orange(drawings: list[Drawing]) -> list[bool]:
        with Image.open(io.BytesIO(gif(drawings))) as animation:
            frames = []
            for t in range(animation.n_frames):  # type: ignore[attr-defined]
                animation.seek(t)
                frames.append(bool((np.asarray(animation.convert("RGB")) == WRITE).all(axis=-1).any()))
        return frames

    assert orange(blobs(1, colours=colours)) == [True] * 11 + [False]
    assert orange(blobs(1, colours=colours, writes=False)) == [False] * 12
