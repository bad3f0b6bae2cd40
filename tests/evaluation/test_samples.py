"""FID, Inception Score, R-precision and neural distance of a model, also on the command line."""

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
from cap2im.evaluation.evaluation import Evaluation
from cap2im.evaluation.samples import draw
from cap2im.evaluation.scorers import DAMSMScorer
from cap2im.evaluation.selection import CaptionSelection
from cap2im.evaluation.settings import Settings
from cap2im.files import file_sha256
from cap2im.metrics import neural_distance
from cap2im.models.attngan import AttnGAN, AttnGANConfig
from cap2im.models.attngan_text import TextEncoderConfig
from cap2im.models.damsm import DAMSM, DAMSMConfig
from cap2im.models.interface import DrawingModel, DrawnSequence
from cap2im.pipeline import Pipeline
from tests.evaluation.models import models
from tests.evaluation.test_evaluate import Darkening
from tests.inception import use_fast_extractor, write_inception
from tests.prepared import prepared_dataset
from tests.tiny import tiny_model


def measure(pipeline: Pipeline, data: object = None, **settings: object) -> Evaluation:
    return evaluate(pipeline, Settings(**settings), data=data)


@pytest.mark.slow
def test_fid_and_inception_score_on_the_command_line(run, tmp_path):
    words, digits, data, _ = models(tmp_path)
    weights = str(write_inception(tmp_path / "inception.pth"))
    command = ("evaluate", str(words), "--data", str(data), "--bound-samples", "1")
    fid_and_score = ("--metric", "fid", "--metric", "inception-score", "--inception", weights)
    code, out, err = run(*command, "--metric", "bound", *fid_and_score, "--images", "10", "--out", "e.json")
    assert code == 0, err
    evaluation = Evaluation.from_dict(json.loads((tmp_path / "e.json").read_text()))
    fid, score = evaluation.find("FID"), evaluation.find("Inception Score")
    protocol = fid.protocol
    assert (fid.n, protocol["drawings"], protocol["real_images"], protocol["split"], protocol["features"]) == (10, 10, 7, "test", 2048)
    assert protocol["inception"] == score.protocol["inception"] == file_sha256(Path(weights))
    assert protocol["data"]["sha256"] == PreparedDataset.open(data).sha256
    assert protocol["captions"] == evaluation.find("bound", "test").protocol["captions"]
    assert score.protocol["parts"] == 10
    assert fid.value > 0
    assert score.value == pytest.approx(1), "of parts of one picture each"
    assert f"{fid.value:.2f}" in out
    assert f"{score.value:.2f} ± " in out
    assert "(FID of 7 pictures is far too high: it has 2,048 features" in out
    assert len(list((data / "image-statistics").glob("*.npz"))) == 1
    for arguments, problem in (
        (
            (*command, "--inception", weights),
            f"--inception {weights}: no chosen metric reads it; add --metric fid or --metric inception-score",
        ),
        (("compare", str(words), "--inception", weights), "no chosen metric reads it"),
        ((*command, *fid_and_score, "--images", "9"), "FID and Inception Score need at least 10 captions, got 9"),
        ((*command, "--metric", "fid", "--inception", "nowhere.pth"), "nowhere.pth: no such file"),
        (("evaluate", str(digits), *fid_and_score), "draws captioned digits, for which the metrics are caption-accuracy"),
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
def batches(monkeypatch) -> list[int]:
    """Numbers of pictures that the extractor gets at a time."""
    return use_fast_extractor(monkeypatch.setattr)


BOTH = ("fid", "inception-score")


def test_drawings_that_are_the_images_have_the_least_distance(tmp_path, batches):
    words, _, data, _ = models(tmp_path)
    pipeline = Pipeline.load(str(words))
    whole = CaptionedImages(PreparedDataset.open(data), "test")
    images = torch.stack(whole.pictures(whole.image_of.tolist(), 3, 12))  # each twice, for each has two captions
    assert len(images) == 14

    def measured(drawn: torch.Tensor, **settings) -> Evaluation:
        drawer = dataclasses.replace(pipeline, model=Copies(pipeline.model, drawn))
        return measure(drawer, data, metrics=BOTH, images=14, **settings)

    same, pale, dark = (measured(images // by) for by in (1, 2, 1000))
    assert batches == [7, 14, 14, 14], "features of the split's images are computed once"
    distances = [each.find("FID").value for each in (same, pale, dark)]
    assert distances[0] == pytest.approx(0, abs=0.01 * distances[1])  # a covariance of 14 is 12 / 13 of that of 7
    assert distances[1] < distances[2]
    assert dark.find("Inception Score").value == pytest.approx(1), "pictures that are all alike"
    assert same.find("Inception Score").value > 1
    twice = dataclasses.replace(pipeline, model=Copies(pipeline.model, torch.cat([images, images])), sharpening=Darkening())
    sharpened = measure(twice, data, metrics=BOTH, images=14)
    assert sharpened.find("FID").value == distances[0]
    assert sharpened.find("FID", "sharpened").value == pytest.approx(distances[1], rel=0.05)
    assert sharpened.find("Inception Score", "sharpened").protocol["sharpener"] == {"name": "darkening", "sha256": "0" * 64}
    (tmp_path / "weights.pth").write_bytes(b"other")
    measured(images, inception=str(tmp_path / "weights.pth"))
    assert batches[-2:] == [7, 14], "other weights, other statistics"


def test_the_pipeline_decides_the_batch_size(tmp_path, batches, monkeypatch):
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
        found.append(measure(pipeline, data, metrics=BOTH, images=14).find("FID").value)
    assert drawn == [14, 5, 5, 4]
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_drawn_captions_are_spread_evenly_and_known(tmp_path, batches):
    words, _, data, _ = models(tmp_path)
    pipeline = Pipeline.load(str(words))
    dataset = PreparedDataset.open(data)
    captions = CaptionSelection.spread(dataset, "test", 5, pipeline.vocabulary)
    assert captions.rows.tolist() == [0, 3, 6, 9, 13]
    whole = draw(pipeline, captions, range(5), 3)
    torch.testing.assert_close(draw(pipeline, captions, range(2, 4), 3), whole[2:4], rtol=0, atol=1e-5)
    assert not torch.equal(draw(pipeline, captions, range(5), 4), whole)
    middle = CaptionSelection.spread(dataset, "test", 99, pipeline.vocabulary, Vocabulary(words=("middle",)))
    assert len(middle) == 3
    assert all("middle" in text for text in middle.texts)
    with pytest.raises(ValueError, match="test: no caption has a known word"):
        CaptionSelection.spread(dataset, "test", 5, pipeline.vocabulary, Vocabulary(words=("zebra",)))


def test_photographs_are_cropped_to_the_drawings_side(tmp_path, batches, monkeypatch):
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
    evaluation = measure(dataclasses.replace(pipeline, model=Copies(pipeline.model, drawn)), data, metrics=BOTH, images=14)
    assert evaluation.find("FID").value == pytest.approx(0, abs=1e-9)
    manifest = json.loads((Path(data) / "manifest.json").read_text())
    (Path(data) / "manifest.json").write_text(json.dumps(manifest | {"fit": "shorter", "side": 12}))
    copies = dataclasses.replace(pipeline, model=Copies(pipeline.model, drawn))
    evaluation = measure(copies, data, metrics=("ssim",), samples=1, images=14)
    assert (evaluation.find("SSIM").value, evaluation.find("PSNR").value) == (pytest.approx(1), pytest.approx(100))
    with pytest.raises(ValueError, match="its images are not square, a drawing of words is 12"):
        measure(pipeline, data, metrics=("ssim",), samples=1, images=14)


# R-precision and neural distance


def gan(folder: Path, words: Vocabulary, side: int = 16, colours: int = 3) -> Path:
    """Write an untrained AttnGAN of one size with a vocabulary."""
    text = TextEncoderConfig(vocabulary_size=len(words), word_features=4, features=6)
    sizes = AttnGANConfig(text=text, condition=3, noise=4, width=2, residuals=1, branches=1, first_side=side, colours=colours)
    folder.mkdir(parents=True)
    config = {"kind": "attngan", "model": sizes.model_dump(), "vocabulary": words.model_dump()}
    write_model(folder, AttnGAN(sizes).state_dict(), config)
    return folder


def matching_model(folder: Path, words: Vocabulary, side: int = 16, colours: int = 3) -> Path:
    """Write an untrained DAMSM with the small image encoder and a vocabulary."""
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


def test_r_precision_and_neural_distance_on_the_command_line(run, tmp_path, squares_of_16, batches, monkeypatch):
    monkeypatch.setattr(neural_distance, "HEADS", neural_distance.HEADS._replace(width=8, steps=20))
    words = PreparedDataset.open(squares_of_16).vocabulary
    model, damsm = gan(tmp_path / "gan", words), matching_model(tmp_path / "damsm", words)
    command = ("evaluate", str(model), "--data", str(squares_of_16))
    precise = ("--metric", "r-precision", "--damsm")
    code, out, err = run(*command, *precise, str(damsm), "--metric", "fid", "--metric", "neural-distance", "--out", "e.json")
    assert code == 0, err
    evaluation = Evaluation.from_dict(json.loads((tmp_path / "e.json").read_text()))
    precision, distance = evaluation.find("R-precision"), evaluation.find("neural distance")
    assert (precision.protocol["drawings"], precision.n, precision.chance) == (140, 140, 0.01)
    assert 0 <= precision.interval[0] <= precision.value <= precision.interval[1] < 0.2, "untrained"
    weights = json.loads((damsm / "config.json").read_text())["sha256"]["model.safetensors"]
    assert precision.protocol["damsm"] == distance.protocol["damsm"] == weights
    assert precision.protocol["wrong_captions"] == 99
    assert distance.protocol["layers"]["steps"] == 20
    assert -1 <= distance.value <= 1
    assert precision.text in out
    assert distance.text in out
    assert batches == [70, 24, 100, 40], "test images, training images, drawings"
    alone = measure(Pipeline.load(str(model)), squares_of_16, metrics=("r-precision",), damsm=str(damsm))
    assert alone.measurements == (precision,)
    columns = {column.title: column.cells["gan"].text for column in compare([evaluation]).columns}
    assert columns["R-precision, %"].startswith(f"{100 * precision.value:.1f} (")
    assert columns["FID"] == f"{evaluation.find('FID').value:.2f}"
    grey = matching_model(tmp_path / "grey", words, colours=1)
    small = matching_model(tmp_path / "small", words, side=32)
    for arguments, problem in (
        ((*precise, str(damsm), "--images", "120"), "R-precision needs 99 wrong captions beside each, got 88 for one of 120 captions"),
        (("--metric", "neural-distance"), "--metric neural-distance needs --damsm"),
        ((*precise, str(grey)), "grey takes 16 x 16 pixels in 1 colours, and gan draws 16 x 16 in 3"),
        ((*precise, str(small)), "small takes 32 x 32 pixels in 3 colours, and gan draws 16 x 16 in 3"),
        ((*precise, str(model)), "is a model of kind 'attngan'; expected damsm"),
    ):
        code, _, err = run(*command, *arguments)
        assert (code, len(err.splitlines()[-1:])) == (2, 1)
        assert problem in err.splitlines()[-1]


class Perfect(DAMSMScorer):
    """Encodes each image as its pixels, and each caption as its image."""

    def __init__(self, captions: CaptionSelection, images: torch.Tensor) -> None:
        text = TextEncoderConfig(vocabulary_size=1, features=images[0].numel())
        model = torch.nn.Module()
        model.config = DAMSMConfig(text=text, image_encoder="small")
        super().__init__(model, Vocabulary(words=tuple(dict.fromkeys(" ".join(captions.texts).split()))), "perfect")
        object.__setattr__(self, "images", images)

    def codes(self, pictures):
        return pictures.flatten(1).float() - 100

    def sentences(self, captions):
        return self.codes(self.images)


def test_a_perfect_scorer_of_right_and_of_shuffled_drawings(squares_of_16, tmp_path, monkeypatch):
    dataset = PreparedDataset.open(squares_of_16)
    pipeline = Pipeline.load(str(gan(tmp_path / "gan", dataset.vocabulary)))
    captions = CaptionSelection.spread(dataset, "test", 140, dataset.vocabulary)
    images = torch.stack(captions.whole.pictures(captions.images.tolist(), 3, 16))
    monkeypatch.setattr("cap2im.evaluation.scorers.DAMSMScorer.load", lambda name, pipeline: Perfect(captions, images))
    monkeypatch.setattr("cap2im.evaluation.evaluate.settings_words", lambda *_: {})

    def precision(drawn: torch.Tensor) -> float:
        drawer = dataclasses.replace(pipeline, model=Copies(pipeline.model, drawn))
        return measure(drawer, squares_of_16, metrics=("r-precision",), damsm="perfect").find("R-precision").value

    assert precision(images) == 1
    assert precision(images.roll(2, 0)) < 0.05, "drawings of the next image's caption"


@pytest.mark.usefixtures("bf16", "tiny_reader")
def test_r_precision_of_captioned_digits(tmp_path):
    digits = Pipeline.load(str(tiny_model(tmp_path / "digits")), precision="bf16")
    damsm = matching_model(tmp_path / "damsm", digits.vocabulary, side=60, colours=1)
    metrics = ("caption-accuracy", "r-precision")
    evaluation = measure(digits, metrics=metrics, damsm=str(damsm), samples=1)
    all_captions, seen, held_out = (evaluation.find("R-precision", group) for group in ("", "seen", "held out"))
    assert (all_captions.n, seen.n + held_out.n, all_captions.chance) == (440, 440, 0.01)
    assert seen.value * seen.n + held_out.value * held_out.n == pytest.approx(all_captions.value * 440)
    assert all_captions.value < 0.1
    assert all_captions.protocol["captions"] == 440
    assert all_captions.protocol["precision"] == evaluation.find("joint", "all").protocol["precision"] == "bf16"


@pytest.mark.usefixtures("bf16")
def test_half_precision_is_recorded_for_drawings_not_bounds(tmp_path):
    words, _, data, _ = models(tmp_path)
    pipelines = [Pipeline.load(str(words), precision=precision) for precision in ("fp32", "bf16")]
    settings = {"metrics": ("bound", "ssim"), "images": 5, "bound_samples": 1, "samples": 2}
    whole, half = (measure(pipeline, data, **settings) for pipeline in pipelines)
    assert half.find("bound", "test") == whole.find("bound", "test")
    assert half.find("PSNR").protocol == whole.find("PSNR").protocol | {"precision": "bf16"}
    assert 0 < abs(half.find("PSNR").value - whole.find("PSNR").value) < 0.1
    captions = CaptionSelection.spread(PreparedDataset.open(data), "test", 4, pipelines[0].vocabulary)
    pictures = [draw(pipeline, captions, range(4), seed=0) for pipeline in pipelines]  # for the other measures
    assert 0 < (pictures[0] - pictures[1]).abs().max() < 0.1


def test_captions_of_one_scene_are_no_wrong_match(tmp_path, monkeypatch):
    """Two captions can describe one canvas: a scorer of scenes is right for all captions."""
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
            DAMSMScorer.__init__(self, model, digits.vocabulary, "scenes")
            object.__setattr__(self, "drawn", iter(of_caption.values()))

        def codes(self, pictures):
            return torch.stack([codes[next(self.drawn)] for _ in pictures])

        def sentences(self, captions):
            return torch.stack([codes[of_caption[caption]] for caption in captions])

    monkeypatch.setattr("cap2im.evaluation.scorers.DAMSMScorer.load", lambda name, pipeline: OfScenes())
    monkeypatch.setattr("cap2im.evaluation.evaluate.settings_words", lambda *_: {})
    evaluation = measure(digits, metrics=("r-precision",), damsm="scenes", samples=1)
    assert evaluation.find("R-precision").value == evaluation.find("R-precision", "held out").value == 1
