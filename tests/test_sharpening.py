"""Sharpening drawings: one more canvas that is a function of picture and caption, and one line for a sharpener that does not fit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from cap2im.checkpoint import write_model
from cap2im.data.vocabulary import Vocabulary
from cap2im.models.aligndraw import DRAW, DRAWConfig
from cap2im.models.lapgan import Sharpener, SharpenerConfig
from cap2im.pipeline import Pipeline
from cap2im.sharpening import Sharpening
from tests.convert.legacy import golden_arrays, write_hdf5
from tests.parity.golden import distance, golden
from tests.tiny import tiny_encoder, tiny_model

CAPTIONS = ["the digit three is at the top of the digit one", "the digit 7 is at the bottom left of the image ."]
WORDS = Vocabulary.build(
    ["a red bus", "the digit three is at the top of the digit one", "the digit 7 is at the bottom left of the image ."]
)


def write(folder, kind, model, **config):
    folder.mkdir(parents=True)
    write_model(folder, model.state_dict(), {"kind": kind, "model": model.config.model_dump(), **config})
    return folder


def sharpener(folder, **changes):
    """One that reads words, of grey 60 x 60."""
    torch.manual_seed(0)
    sizes = {"side": 60, "colours": 1, "conditioning": "mean", "vocabulary_size": len(WORDS), "language_units": 4}
    model = Sharpener(SharpenerConfig(**{**sizes, "features": (4, 3), "kernels": (5, 3, 3), **changes}))
    return write(folder, "sharpener", model, vocabulary=WORDS.model_dump())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return str(tiny_model(folder / "tiny")), str(sharpener(folder / "keen"))


def test_a_sharpened_drawing_has_one_more_canvas(folders):
    plain, sharp = Pipeline.load(folders[0]), Pipeline.load(folders[0], sharpen=folders[1])
    assert sharp.name == "tiny+keen"
    assert sharp.glimpses == plain.glimpses + 1
    before, after = (pipeline.draw(CAPTIONS, samples=2, seed=3) for pipeline in (plain, sharp))
    for one, two in zip(before, after, strict=True):
        assert two.glimpses == one.glimpses + 1
        assert (two.canvases[:-1] == one.canvases).all()
        assert (two.canvases[-1] != one.canvases[-1]).any()
        assert (two.attention[:-1] == one.attention).all()
        np.testing.assert_allclose(two.attention[-1], 1 / len(two.words))
        assert two.boxes[-1].tolist() == [0, 0, 60, 60]
    images, unsharpened = (each.images(each.prompts(CAPTIONS), [3, 3]) for each in (sharp, plain))
    expected = sharp.sharpening.sharpen(unsharpened, CAPTIONS)
    assert torch.equal(images, expected)
    assert np.abs(after[0].canvases[-1, :, :, 0] - 255 * images[0, 0].numpy()).max() <= 0.51


def test_sharpening_is_deterministic_in_any_batch(folders):
    sharpening = Sharpening.load(folders[1])
    images = torch.rand(3, 1, 60, 60, generator=torch.Generator().manual_seed(0))
    captions = [*CAPTIONS, "a red bus"]  # of three lengths
    together = sharpening.sharpen(images, captions)
    assert torch.equal(together, sharpening.sharpen(images, captions))
    for row in range(3):
        one = slice(row, row + 1)
        alone = sharpening.sharpen(images[one], captions[one])
        torch.testing.assert_close(alone, together[one], atol=1e-5, rtol=0)
    assert not torch.allclose(sharpening.sharpen(images, captions[::-1]), together, atol=1e-4), "the caption counts"
    sharpen = sharpening.conditioned_on(captions)
    for rows in (slice(1, 3), torch.tensor([1, 2])):
        torch.testing.assert_close(sharpen(images[1:], rows), together[1:], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"keen sharpens \[2, 1, 60, 60\], an image for each caption; got \[3, 1, 60, 60\]"):
        sharpening.sharpen(images, captions[:2])


def test_the_authors_sharpening_network_sharpens_drawings(run, tmp_path):
    """Converted weights hear sentence vectors: their encoder lies in the model's folder."""
    file = golden("G_sharpen")
    gan = write_hdf5(tmp_path / "gan.hdf5", golden_arrays(file))
    assert run("convert", str(gan), "--out", "sharpener")[0] == 0
    assert "vectors of 16 features" in (tmp_path / "sharpener" / "README.md").read_text()
    torch.manual_seed(0)
    sizes = {"conditioning": "none", "side": 12, "colours": 3, "glimpses": 2, "read_patch": 3, "write_patch": 3}
    draw = DRAW(DRAWConfig(**sizes, inference_units=4, generative_units=4, latent=2, vocabulary_size=len(WORDS)))
    write(tmp_path / "colourful", "draw", draw, vocabulary=WORDS.model_dump(), data={})
    arguments = ["draw", "a red bus", "--model", "colourful", "--sharpen", "sharpener", "-n", "1", "--json"]
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err == (
        "cap2im: sharpener: needs sentence vectors and has no encoder of them: put one into sharpener/sentence-encoder "
        "(cap2im convert makes one of the authors' skip-thought tables)\n"
    )
    tiny_encoder(tmp_path / "sharpener" / "sentence-encoder", 16)
    code, out, err = run(*arguments)
    assert code == 0, err
    (sample,) = [path for path in json.loads(out)[0]["files"] if path.endswith("sample-1.png")]
    pipeline = Pipeline.load("colourful")
    sharpening = Sharpening.load("sharpener")
    drawn = pipeline.images(pipeline.prompts(["a red bus"]), [0])
    vectors = sharpening.encoder.encode(["a red bus"])
    expected = (drawn + sharpening.model(drawn, vectors)).clamp(0, 1)[0].permute(1, 2, 0)
    assert np.abs(np.asarray(Image.open(tmp_path / sample)) - 255 * expected.numpy()).max() <= 0.51
    blurry, sharp = (file[name].view(-1, 3, 12, 12) for name in ("in/x_blurry", "released/out/sharp"))
    assert distance(sharpening.model.double().sharpen(blurry, file["in/skipthought"]), sharp) < 1e-6, "the weights are the authors'"


def test_sharpeners_that_do_not_fit_are_one_line_errors(run, tmp_path, folders):
    def refused(*changes):
        code, out, err = run("draw", "a red bus", "--model", folders[0], "--sharpen", *changes)
        assert (code, out) == (2, "")
        assert not (tmp_path / "drawings").exists(), "a refusal leaves no folder behind"
        return err.removeprefix("cap2im: ").removesuffix("\n")

    sharpener(tmp_path / "large", side=64, colours=3)
    told = "the sharpener does not fit: large sharpens 64 x 64 pixels in 3 colours and tiny draws 60 x 60 pixels in 1 colour"
    assert refused("large") == told
    assert refused(folders[0]) == f"{folders[0]}: is a model of kind 'draw'; expected sharpener"
    assert refused("nowhere").startswith("unknown model 'nowhere'; expected a model of kind sharpener: a folder, or ")
    heard = write(tmp_path / "deaf", "sharpener", Sharpener(SharpenerConfig(side=60, colours=1, sentence_features=5, features=(2, 2))))
    tiny_encoder(heard / "sentence-encoder", 16)
    assert refused("deaf") == "deaf/sentence-encoder: encodes 16 features, the model in deaf needs 5"
    sharpener(tmp_path / "wrong", vocabulary_size=3)
    assert refused("wrong") == f"wrong: 3 word vectors for {len(WORDS)} words"
    code, _, err = run("draw", "the digit 3", "--model", folders[0], "--sharpen", folders[1])
    assert code == 2
    assert err.startswith("cap2im: sharpener keen: caption 'the digit 3': unknown word '3'")
