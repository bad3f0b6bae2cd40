"""The record of a drawing."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cap2im.rendering.drawing import Drawings
from tests.rendering.samples import blobs, growing_blob, last_stage_alone, staged


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"canvases": np.zeros((3, 8, 8), np.uint8)}, r"canvases: expected \[T, H, W, C\].*got \[3, 8, 8\]"),
        ({"canvases": np.zeros((0, 8, 8, 1), np.uint8)}, "canvases: expected"),
        ({"canvases": np.zeros((3, 8, 8, 2), np.uint8)}, "canvases: expected"),
        ({"canvases": np.zeros((3, 8, 8, 1), np.float32)}, "canvases: expected uint8, got float32"),
        ({"attention": np.full((3, 2), 0.5)}, r"attention: expected shape \[12, 6\].*got \[3, 2\]"),
        ({"words": ()}, r"attention: expected shape \[12, 0\] with at least one column"),
        ({"attention": np.full((12, 6), -0.1)}, "attention: expected weights >= 0, got -0.1"),
        ({"attention": np.full((12, 6), np.nan)}, "attention: expected finite values"),
        ({"boxes": np.zeros((12, 5))}, r"boxes: expected shape \[12, 4\].*got \[12, 5\]"),
        ({"boxes": np.full((12, 4), np.inf)}, "boxes: expected finite values"),
        ({"stages": (np.zeros((4, 4, 3), np.uint8),)}, r"stages: expected uint8 \[h, w, 1\], got uint8 \[4, 4, 3\]"),
        ({"stages": (np.zeros((4, 4, 1)),)}, r"stages: expected uint8 \[h, w, 1\], got float64 \[4, 4, 1\]"),
        ({"stages": (np.zeros((4, 4, 1), np.uint8),) * 13}, "stages: expected at most one for each of 12 canvases, got 13"),
        ({"maps": (np.zeros((6, 4, 4)),)}, "maps: expected stages that they belong to, got none"),
    ],
)
def test_arrays_of_wrong_shape_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(growing_blob(), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (np.zeros((5, 4, 4)), r"maps: expected \[6, h, w\], got \[5, 4, 4\]"),
        (np.zeros((6, 4)), r"maps: expected \[6, h, w\], got \[6, 4\]"),
        (np.full((6, 4, 4), -0.1), "maps: expected finite weights >= 0"),
        (np.full((6, 4, 4), np.nan), "maps: expected finite weights >= 0"),
    ],
)
def test_maps_of_wrong_shape_are_refused(maps: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(staged(), maps=(maps,))


def test_maps_belong_to_the_last_stages() -> None:
    drawing = staged()
    assert [(len(stage), maps.shape) for stage, maps in drawing.stage_maps] == [(16, (6, 8, 8)), (32, (6, 16, 16))]
    assert growing_blob().stage_maps == []
    (one, first), (other, second) = last_stage_alone().stage_maps
    assert (one is other, first.shape, second.shape) == (True, (6, 8, 8), (6, 16, 16))


@pytest.mark.parametrize(("colours", "mode"), [(1, "L"), (3, "RGB")])
def test_image_is_the_last_canvas(colours: int, mode: str) -> None:
    blob = growing_blob(colours=colours)
    assert blob.image.mode == mode
    np.testing.assert_array_equal(np.asarray(blob.image).reshape(20, 20, colours), blob.canvases[-1])


def test_frames_are_enlarged_without_blur() -> None:
    blob = growing_blob()
    frames = blob.frames(3)
    assert [frame.size for frame in frames] == [(60, 60)] * 12
    for frame, canvas in zip(frames, blob.canvases, strict=True):
        np.testing.assert_array_equal(np.asarray(frame)[..., :1], canvas.repeat(3, axis=0).repeat(3, axis=1))


def test_png_holds_caption_seed_and_model(tmp_path: Path) -> None:
    blob = growing_blob(caption="ein Käfer 🐞")
    with Image.open(blob.save(tmp_path / "blob.png")) as picture:
        assert picture.text == {"caption": "ein Käfer 🐞", "seed": "7", "model": "blob"}  # type: ignore[attr-defined]
        np.testing.assert_array_equal(np.asarray(picture), blob.canvases[-1, :, :, 0])
    with pytest.raises(ValueError, match=r"saved as \.png, got .*blob\.jpg"):
        blob.save(tmp_path / "blob.jpg")


def test_notebook_html_is_escaped() -> None:
    html = growing_blob(caption='<script>alert(1)</script>" onload=x', reads=False)._repr_html_()
    assert "<script" not in html
    assert re.search(r'alt="[^"]*&quot; onload=x"', html)
    assert "<iframe" in html
    still = growing_blob(glimpses=1, reads=False)._repr_html_()
    assert "<iframe" not in still
    assert "data:image/png;base64," in still
    assert growing_blob()._repr_png_().startswith(b"\x89PNG")


def test_notebook_shows_samples_of_a_caption_in_one_viewer() -> None:
    samples = Drawings(blobs(3))
    assert samples._repr_html_().count("<iframe") == 1
    two_captions = Drawings([*samples, growing_blob(caption="another caption")])
    assert two_captions._repr_html_().count("data:image/gif") == 4
    many = Drawings(blobs(1) * 17)._repr_html_()
    assert (many.count("<iframe"), many.count("data:image/png")) == (0, 17)
    assert "<figure" not in Drawings()._repr_html_()


def test_ten_drawings_in_a_notebook_stay_small() -> None:
    assert sum(len(drawing._repr_html_()) for drawing in blobs(10, glimpses=32, side=60)) < 500_000


def test_import_needs_neither_torch_nor_matplotlib() -> None:
    code = "import sys, cap2im.rendering.drawing; print([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
