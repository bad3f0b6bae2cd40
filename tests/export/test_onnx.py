"""Exported models draw what the model draws, without torch."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest

from cap2im.export.noise import picture_noise
from cap2im.export.onnx import export_onnx
from cap2im.export.onnx_drawing import OnnxDrawer
from cap2im.pipeline import Pipeline
from cap2im.randomness import picture_noise as noise_of_torch
from tests.export.conftest import MODELS_TO_EXPORT

CAPTIONS = ["the digit three is at the top of the digit one", "the digit 7 is at the bottom left of the image", "the digit 0"]


@pytest.mark.parametrize("shape", [(3, 16), (1, 37), (32, 150), (1, 16)])
@pytest.mark.parametrize("seed", [0, 7, 2**31, 2**40 + 3])
def test_noise_is_that_of_torch(seed, shape):
    assert np.abs(picture_noise(seed, shape) - noise_of_torch([seed], shape)[0].numpy()).max() < 1e-5


def test_noise_of_few_numbers_is_refused():
    with pytest.raises(ValueError, match=r"\[3, 5\] has 15 numbers"):
        picture_noise(0, (3, 5))


@pytest.mark.parametrize("name", MODELS_TO_EXPORT)
def test_exported_drawings_are_the_models(exported, name):
    pipeline, folder = exported(name)
    drawer = OnnxDrawer.load(folder)
    for one, other in zip(pipeline.draw(CAPTIONS, seed=5), drawer.draw(CAPTIONS, seed=5), strict=True):
        assert np.abs(one.canvases.astype(int) - other.canvases).max() <= 1, "grey level"
        assert one.canvases.std() > 0.3, "something was drawn"
        assert (one.words, one.caption, one.seed) == (other.words, other.caption, other.seed)
        for ours, theirs in ((one.attention, other.attention), (one.boxes, other.boxes)):
            assert (ours is None) == (theirs is None)
            assert ours is None or np.allclose(ours, theirs, atol=1e-3)
    if not drawer.about.reads_words:
        assert len(drawer.draw("a caption of unknown words")) == 1, "no caption is read"
    else:
        with pytest.raises(ValueError, match="has 18 words; this exported model reads 14"):
            drawer.draw("the digit three is at the top of the digit one on the left of the digit")


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # not installed
from cap2im.export.onnx_drawing import OnnxDrawer
drawing = OnnxDrawer.load(sys.argv[1]).draw("the digit three is at the top of the digit one")[0]
drawing.save(sys.argv[2])
"""


def test_an_export_replaces_nothing(tmp_path):
    pipeline = Pipeline.load(str(MODELS_TO_EXPORT["VAE"](tmp_path / "model")))
    with pytest.raises(ValueError, match="model: exists already; give a new or an empty folder"):
        export_onnx(pipeline, tmp_path / "model")


def test_drawing_needs_no_torch(exported, tmp_path):
    _, folder = exported("VAE")
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, str(folder), str(tmp_path / "drawn.png")], check=True)
    assert (tmp_path / "drawn.png").exists()


def test_a_damaged_export_is_named(exported, tmp_path):
    folder = shutil.copytree(exported("VAE")[1], tmp_path / "copy")
    (folder / "text.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"text\.onnx: missing or damaged"):
        OnnxDrawer.load(folder)
    with pytest.raises(ValueError, match=r"no model\.json in it; cap2im export"):
        OnnxDrawer.load(tmp_path)
