"""What networks say of drawings: FID, Inception Score, R-precision and neural distance of a model, on the command line, too."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cap2im.checkpoint import write_model
from cap2im.data.captioned_images import CaptionedImages
from cap2im.data.dataset import PreparedDataset
from cap2im.data.mnist_captions import HeldOut
from cap2im.data.vocabulary import Vocabulary
from cap2im.evaluation.comparison import compare
from cap2im.evaluation.evaluate import evaluate
from cap2im.files import file_sha256
from cap2im.metrics import fid
from cap2im.metrics.sample_quality import Captions, Matcher, draw
from cap2im.models.attngan import AttnGAN, AttnGANConfig
from cap2im.models.attngan_text import TextEncoderConfig
from cap2im.models.damsm import DAMSM, DAMSMConfig
from cap2im.models.interface import DrawingModel, DrawnSequence
from cap2im.pipeline import Pipeline
from tests.evaluation.test_evaluate import Darkening
from tests.inception import quick_look, write_inception
from tests.metrics.test_distributed import models
from tests.prepared import prepared_dataset
from tests.tiny import tiny_model


@pytest.mark.slow
def test_fid_and_inception_score_on_the_command_line(run, tmp_path):
    words, digits, data, _ = models(tmp_path)
    weights = str(write_inception(tmp_path / "inception.pth"))
    measure = ("evaluate", str(words), "--data", str(data), "--fid", "--inception", weights, "--bound-samples", "1")
    code, out, err = run(*measure, "--images", "10", "--out", "e.json")
    assert code == 0, err
    result = json.loads((tmp_path / "e.json").read_text())
    fid, score = result["fid"], result["inception_score"]
    told = fid["protocol"]
    assert (fid["drawings"], told["drawings"], told["real_images"], told["split"], told["features"]) == (10, 10, 7, "test", 2048)
    assert told["inception"] == score["protocol"]["inception"] == file_sha256(Path(weights))
    assert told["data"]["sha256"] == PreparedDataset.open(data).sha256
    assert told["captions"] == result["likelihood"]["protocol"]["captions"]
    assert score["protocol"]["parts"] == 10
    assert fid["distance"] > 0
    assert score["mean"] == pytest.approx(1), "of parts of one picture each"
    assert f"FID {fid['distance']:.2f}; 10 drawings of test captions, 7 images" in out
    assert f"Inception Score {score['mean']:.2f} ± " in out
    assert "FID of so few pictures is far too high: it has 2,048 features" in out
    assert len(list((data / "image-statistics").glob("*.npz"))) == 1
    for arguments, problem in (
        ((*measure[:4], "--inception", weights), f"--inception {weights}: without --fid nothing is looked at"),
        (("compare", str(words), "--inception", weights), "without --fid nothing is looked at"),
        ((*measure, "--images", "9"), "9 captions: FID and Inception Score need drawings of 10 at least"),
        ((*measure[:5], "--inception", "nowhere.pth"), "nowhere.pth: no such file"),
        (("evaluate", str(digits), "--fid", "--inception", weights), "retrieval, similarity and FID are for prepared datasets"),
    ):
        code, _, err = run(*arguments)
        assert code == 2
        assert problem in err.splitlines()[-1]


class Copies(DrawingModel):
    """Draws given pictures [N, C, A, A] uint8 in the order in which captions are."""

    def __init__(self, model: DrawingModel, pictures: torch.Tensor) -> None:
        super().__init__()
        self.model, self.config = model, model.config
        self.pictures, self.drawn = pictures, 0

    def encode(self, tokens, mask, vectors=None, *, independent=False):
        return self.model.encode(tokens, mask, vectors, independent=independent)

    def sample(self, text, noise):
        self.drawn += len(noise)
        return DrawnSequence(self.pictures[self.drawn - len(noise) : self.drawn, None] / 255, logits=False)


@pytest.fixture
def quick_eyes(monkeypatch):
    return quick_look(monkeypatch.setattr)


def test_drawings_that_are_the_images_themselves_have_the_least_distance(tmp_path, quick_eyes):
    words, _, data, _ = models(tmp_path)
    pipeline = Pipeline.load(str(words))
    whole = CaptionedImages(PreparedDataset.open(data), "test")
    images = torch.stack(whole.pictures(whole.image_of.tolist(), 3, 12))  # each twice, for each has two captions
    assert len(images) == 14

    def measured(drawn: torch.Tensor, **how) -> dict:
        drawer = dataclasses.replace(pipeline, model=Copies(pipeline.model, drawn))
        return evaluate(drawer, data=data, fid=True, images=14, bound_samples=1, **how)

    same, pale, dark = (measured(images // by) for by in (1, 2, 1000))
    assert quick_eyes == [7, 14, 14, 14], "the split's images were looked at once"
    assert same["fid"]["distance"] == pytest.approx(0, abs=0.01 * pale["fid"]["distance"])  # a covariance of 14 is 12 / 13 of that of 7
    assert pale["fid"]["distance"] < dark["fid"]["distance"]
    assert dark["inception_score"]["mean"] == pytest.approx(1), "pictures that are all alike"
    assert same["inception_score"]["mean"] > 1
    twice = dataclasses.replace(pipeline, model=Copies(pipeline.model, torch.cat([images, images])), sharpening=Darkening())
    sharpened = evaluate(twice, data=data, fid=True, images=14, bound_samples=1)
    assert sharpened["fid"]["distance"] == same["fid"]["distance"]
    assert sharpened["fid"]["sharpened"]["distance"] == pytest.approx(pale["fid"]["distance"], rel=0.05)
    assert sharpened["inception_score"]["sharpened"]["sharpener"] == {"name": "darkening", "sha256": "0" * 64}
    measured(images, inception="other weights")
    assert quick_eyes[-2:] == [7, 14], "other weights, other statistics"


def test_as_many_are_drawn_at_once_as_the_pipeline_says(tmp_path, quick_eyes, monkeypatch):
    words, _, data, _ = models(tmp_path)
    pipeline, drawn = Pipeline.load(str(words)), []
    sample_images = Pipeline.sample_images

    def watched(self, text, noise):
        drawn.append(len(noise))
        return sample_images(self, text, noise)

    monkeypatch.setattr(Pipeline, "sample_images", watched)
    found = []
    for most in (100, 5):
        monkeypatch.setattr("cap2im.models.interface.PICTURES_AT_ONCE", most)
        found.append(evaluate(pipeline, data=data, fid=True, images=14, bound_samples=1)["fid"]["distance"])
    assert drawn == [14, 5, 5, 4]
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_captions_that_are_drawn_are_spread_evenly_and_known(tmp_path, quick_eyes):
    words, _, data, _ = models(tmp_path)
    pipeline = Pipeline.load(str(words))
    dataset = PreparedDataset.open(data)
    captions = Captions.spread(dataset, "test", 5, pipeline.vocabulary)
    assert captions.rows.tolist() == [0, 3, 6, 9, 13]
    whole = draw(pipeline, captions, range(5), 3)
    torch.testing.assert_close(draw(pipeline, captions, range(2, 4), 3), whole[2:4], rtol=0, atol=1e-5)
    assert not torch.equal(draw(pipeline, captions, range(5), 4), whole)
    middle = Captions.spread(dataset, "test", 99, pipeline.vocabulary, Vocabulary(words=("middle",)))
    assert len(middle) == 3
    assert all("middle" in text for text in middle.texts)
    with pytest.raises(ValueError, match="test: none of its captions has a word that is known"):
        Captions.spread(dataset, "test", 5, pipeline.vocabulary, Vocabulary(words=("zebra",)))


def test_photographs_of_any_shape_are_cut_to_the_drawings_side(tmp_path, quick_eyes, monkeypatch):
    """As AttnGAN is trained on them: the shorter side is longer than a drawing's."""
    words, _, data, _ = models(tmp_path)
    pipeline = Pipeline.load(str(words))
    stored = io.BytesIO()
    across = np.broadcast_to(np.arange(20, dtype=np.uint8)[:, None], (12, 20, 3))  # wider than high: 4 columns go on either side
    Image.fromarray(across).save(stored, "PNG")
    monkeypatch.setattr(
        "cap2im.data.captioned_images.CaptionedImages._stored", lambda self, rows: [("wide", stored.getvalue())] * len(rows)
    )
    drawn = torch.arange(4, 16, dtype=torch.uint8).expand(14, 3, 12, 12)
    result = evaluate(dataclasses.replace(pipeline, model=Copies(pipeline.model, drawn)), data=data, fid=True, images=14, bound_samples=1)
    assert result["fid"]["distance"] == pytest.approx(0, abs=1e-9)
    manifest = json.loads((Path(data) / "manifest.json").read_text())
    (Path(data) / "manifest.json").write_text(json.dumps(manifest | {"fit": "shorter", "side": 12}))
    copies = dataclasses.replace(pipeline, model=Copies(pipeline.model, drawn))
    found = evaluate(copies, data=data, similarity=True, samples=1, images=14)["similarity"]
    assert (found["ssim"]["mean"], found["psnr"]["mean"]) == (pytest.approx(1), pytest.approx(100))
    with pytest.raises(ValueError, match="its images are not square, a drawing of words is 12"):
        evaluate(pipeline, data=data, similarity=True, samples=1, images=14, bound_samples=1)


# R-precision and neural distance


def gan(folder: Path, words: Vocabulary, side: int = 16, colours: int = 3) -> Path:
    """Writes an untrained AttnGAN of one size, which knows these words."""
    text = TextEncoderConfig(vocabulary_size=len(words), word_features=4, features=6)
    sizes = AttnGANConfig(text=text, condition=3, noise=4, width=2, residuals=1, branches=1, first_side=side, colours=colours)
    folder.mkdir(parents=True)
    config = {"kind": "attngan", "model": sizes.model_dump(), "vocabulary": words.model_dump()}
    write_model(folder, AttnGAN(sizes).state_dict(), config)
    return folder


def matching_model(folder: Path, words: Vocabulary, side: int = 16, colours: int = 3) -> Path:
    """Writes an untrained matching model with the small image encoder, which knows these words."""
    text = TextEncoderConfig(vocabulary_size=len(words), word_features=4, features=6)
    sizes = DAMSMConfig(text=text, image_encoder="small", side=side, colours=colours, width=2)
    folder.mkdir(parents=True)
    config = {"kind": "damsm", "model": sizes.model_dump(), "vocabulary": words.model_dump()}
    write_model(folder, DAMSM(sizes).state_dict(), config)
    return folder


@pytest.fixture(scope="module")
def squares_of_16(tmp_path_factory) -> Path:
    """A dataset of many test images."""
    return prepared_dataset(tmp_path_factory.mktemp("squares") / "data", side=16, test=70)


def test_r_precision_and_neural_distance_on_the_command_line(run, tmp_path, squares_of_16, quick_eyes, monkeypatch):
    monkeypatch.setattr(fid, "HEADS", fid.HEADS._replace(width=8, steps=20))
    words = PreparedDataset.open(squares_of_16).vocabulary
    model, damsm = gan(tmp_path / "gan", words), matching_model(tmp_path / "damsm", words)
    measure = ("evaluate", str(model), "--data", str(squares_of_16), "--damsm", str(damsm))
    code, out, err = run(*measure, "--fid", "--neural-distance", "--out", "e.json")
    assert code == 0, err
    result = json.loads((tmp_path / "e.json").read_text())
    precision, distance = result["r_precision"], result["neural_distance"]
    assert (precision["drawings"], precision["n"], precision["chance"]) == (140, 140, 0.01)
    assert 0 <= precision["low"] <= precision["rate"] <= precision["high"] < 0.2, "untrained"
    weights = json.loads((damsm / "config.json").read_text())["sha256"]["model.safetensors"]
    assert precision["protocol"]["damsm"] == distance["protocol"]["damsm"] == weights
    assert precision["protocol"]["wrong_captions"] == 99
    assert distance["protocol"]["layers"]["steps"] == 20
    assert -1 <= distance["mean"] <= 1
    assert f"R-precision {100 * precision['rate']:.1f} % (" in out
    assert f"neural distance {distance['mean']:.3f} ± " in out
    assert quick_eyes == [70, 24, 100, 40], "test images, training images, drawings"
    alone = evaluate(Pipeline.load(str(model)), data=squares_of_16, damsm=str(damsm))
    assert alone.keys() == {"model", "weights_sha256", "r_precision"}
    assert alone["r_precision"] == precision
    columns = {column.title: column.cells["gan"].shown for column in compare([result]).columns}
    assert columns["R-precision, %"].startswith(f"{100 * precision['rate']:.1f} (")
    assert columns["FID"] == f"{result['fid']['distance']:.2f}"
    grey = matching_model(tmp_path / "grey", words, colours=1)
    small = matching_model(tmp_path / "small", words, side=32)
    for arguments, problem in (
        ((*measure, "--images", "120"), "120 captions, of which one has 88 wrong ones beside it: R-precision needs 99"),
        ((*measure, "--neural-distance"), "--neural-distance wants features of pictures and of captions: give --fid and --damsm, too"),
        ((*measure[:4], "--damsm", str(grey)), "grey sees 16 x 16 pixels in 1 colours, and gan draws 16 x 16 in 3"),
        ((*measure[:4], "--damsm", str(small)), "small sees 32 x 32 pixels in 3 colours, and gan draws 16 x 16 in 3"),
        ((*measure[:4], "--damsm", str(model)), "is a model of kind 'attngan'; expected damsm"),
    ):
        code, _, err = run(*arguments)
        assert (code, len(err.splitlines()[-1:])) == (2, 1)
        assert problem in err.splitlines()[-1]


class Perfect(Matcher):
    """Knows each image by its pixels, and each caption by its image."""

    def __init__(self, captions: Captions, images: torch.Tensor) -> None:
        text = TextEncoderConfig(vocabulary_size=1, features=images[0].numel())
        model = torch.nn.Module()
        model.config = DAMSMConfig(text=text, image_encoder="small")
        super().__init__(model, Vocabulary(words=tuple(dict.fromkeys(" ".join(captions.texts).split()))), "perfect")
        object.__setattr__(self, "images", images)

    def codes(self, pictures):
        return pictures.flatten(1).float() - 100

    def sentences(self, captions):
        return self.codes(self.images)


def test_a_perfect_judge_of_right_and_of_shuffled_drawings(squares_of_16, tmp_path, monkeypatch):
    dataset = PreparedDataset.open(squares_of_16)
    pipeline = Pipeline.load(str(gan(tmp_path / "gan", dataset.vocabulary)))
    captions = Captions.spread(dataset, "test", 140, dataset.vocabulary)
    images = torch.stack(captions.whole.pictures(captions.images.tolist(), 3, 16))
    monkeypatch.setattr("cap2im.metrics.sample_quality.Matcher.load", lambda name, pipeline: Perfect(captions, images))

    def precision(drawn: torch.Tensor) -> float:
        drawer = dataclasses.replace(pipeline, model=Copies(pipeline.model, drawn))
        return evaluate(drawer, data=squares_of_16, damsm="perfect")["r_precision"]["rate"]

    assert precision(images) == 1
    assert precision(images.roll(2, 0)) < 0.05, "drawings of the next image's caption"


@pytest.mark.usefixtures("bf16")
def test_r_precision_of_captioned_digits(tmp_path):
    digits = Pipeline.load(str(tiny_model(tmp_path / "digits")), precision="bf16")
    damsm = matching_model(tmp_path / "damsm", digits.vocabulary, side=60, colours=1)
    result = evaluate(digits, data=None, damsm=str(damsm), samples=1, images=2, bound_samples=1)
    found = result["r_precision"]
    assert (found["n"], found["seen"]["n"] + found["held_out"]["n"], found["chance"]) == (440, 440, 0.01)
    together = found["seen"]["rate"] * found["seen"]["n"] + found["held_out"]["rate"] * found["held_out"]["n"]
    assert together == pytest.approx(found["rate"] * 440)
    assert found["rate"] < 0.1
    assert found["protocol"]["captions"] == 440
    assert found["protocol"]["precision"] == result["caption_accuracy"]["protocol"]["precision"] == "bf16"


@pytest.mark.usefixtures("bf16")
def test_what_was_drawn_in_half_precision_says_so_and_bounds_are_not(tmp_path):
    words, _, data, _ = models(tmp_path)
    pipelines = [Pipeline.load(str(words), precision=precision) for precision in ("fp32", "bf16")]
    how = {"data": data, "images": 5, "bound_samples": 1, "samples": 2, "similarity": True}
    whole, half = (evaluate(pipeline, **how) for pipeline in pipelines)
    assert half["likelihood"] == whole["likelihood"]
    assert half["similarity"]["protocol"] == whole["similarity"]["protocol"] | {"precision": "bf16"}
    assert 0 < abs(half["similarity"]["psnr"]["mean"] - whole["similarity"]["psnr"]["mean"]) < 0.1
    captions = Captions.spread(PreparedDataset.open(data), "test", 4, pipelines[0].vocabulary)
    pictures = [draw(pipeline, captions, range(4), seed=0) for pipeline in pipelines]  # for the other measures
    assert 0 < (pictures[0] - pictures[1]).abs().max() < 0.1


def test_captions_of_one_scene_are_no_wrong_match(tmp_path, monkeypatch):
    """Canvases named from either side look alike: who knows the scenes alone is right of all captions."""
    digits = Pipeline.load(str(tiny_model(tmp_path / "digits")))
    held_out = HeldOut(tuple(tuple(hidden) for hidden in digits.config.data["held_out"]))
    pictures = {c.caption: frozenset(zip(c.places, c.digits, strict=True)) for c in held_out.configurations()}
    scenes = list(dict.fromkeys(pictures.values()))
    of_caption = {caption: scenes.index(picture) for caption, picture in pictures.items()}
    assert len(scenes) == 240
    codes = torch.eye(240)

    class OfScenes(Perfect):
        def __init__(self) -> None:
            model = torch.nn.Module()
            model.config = DAMSMConfig(text=TextEncoderConfig(vocabulary_size=1, features=240), image_encoder="small")
            Matcher.__init__(self, model, digits.vocabulary, "scenes")
            object.__setattr__(self, "drawn", iter(of_caption.values()))

        def codes(self, pictures):
            return torch.stack([codes[next(self.drawn)] for _ in pictures])

        def sentences(self, captions):
            return torch.stack([codes[of_caption[caption]] for caption in captions])

    monkeypatch.setattr("cap2im.evaluation.evaluate.Matcher.load", lambda name, pipeline: OfScenes())
    found = evaluate(digits, data=None, damsm="scenes", samples=1, images=2, bound_samples=1)["r_precision"]
    assert found["rate"] == found["held_out"]["rate"] == 1
