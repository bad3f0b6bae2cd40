"""What is measured of models, on the command line, too, and of models without a likelihood."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from cap2im.checkpoint import write_model
from cap2im.config import load_recipe
from cap2im.data.captioned_images import CaptionedImages
from cap2im.data.dataset import PreparedDataset
from cap2im.data.vocabulary import Vocabulary
from cap2im.evaluation.evaluate import Measures, Subject, evaluate
from cap2im.evaluation.other_dataset import foreign_data
from cap2im.evaluation.report import print_evaluation
from cap2im.models.interface import DrawingModel, DrawnSequence
from cap2im.models.lapgan import Sharpener, SharpenerConfig
from cap2im.pipeline import Pipeline
from tests.metrics.test_distributed import models
from tests.prepared import prepared_dataset
from tests.tiny import tiny_model


class Night(DrawingModel):
    """Draws black pictures, and has no bound."""

    def __init__(self, model: DrawingModel) -> None:
        super().__init__()
        self.config, self.language = model.config, model.language

    def sample(self, text, noise):
        c = self.config
        return DrawnSequence(torch.zeros(len(noise), 1, c.colours, c.side, c.side), logits=False)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    pipeline = Pipeline.load(str(tiny_model(tmp_path_factory.mktemp("model"))))
    return dataclasses.replace(pipeline, model=Night(pipeline.model))


def test_a_model_without_likelihood_has_its_caption_accuracy_alone(pipeline, capsys):
    result = evaluate(pipeline, data=None, split="test", samples=1, bound_samples=1, images=2, seed=0)
    assert "likelihood" not in result
    everything = result["caption_accuracy"]["drawings"]["all"]
    assert (everything["n"], everything["clean"]["rate"], everything["places"]["rate"]) == (440, 1.0, 0.0), "black is clean"
    capsys.readouterr()
    print_evaluation(result, None)
    out = capsys.readouterr().out
    assert "joint" in out
    assert out.splitlines()[-1] == "no bound: a model of this kind has no likelihood"


def test_nothing_measured_says_what_could_be(capsys):
    print_evaluation({"model": "gan"}, None)
    out = capsys.readouterr().out
    assert out == "no bound: a model of this kind has no likelihood; --similarity, --fid and --damsm measure its drawings\n"


def test_sharpening_gaussian_pixels_says_why_there_is_no_bound(capsys):
    protocol = {"split": "test", "observation": "gaussian, deviation 0.3"}
    terms = ("bound", "standard_error", "reconstruction", "kl", "importance_weighted", "importance_weighted_error")
    result = {"model": "vae", "likelihood": {"protocol": protocol, **dict.fromkeys(terms, 0.0), "images": 2, "samples": 1}}
    print_evaluation(result, "a-sharpener")
    assert "after sharpening: no bound" in capsys.readouterr().out
    print_evaluation(result, None)
    assert "after sharpening" not in capsys.readouterr().out


def test_a_model_without_likelihood_on_captioned_images(pipeline, tmp_path):
    config = {key: value for key, value in pipeline.config.items() if key != "data"}
    elsewhere = dataclasses.replace(pipeline, config=config)
    data = prepared_dataset(tmp_path / "prepared", train=4)
    result = evaluate(elsewhere, data=data, split="test", samples=1, bound_samples=1, images=2, seed=0)
    assert result.keys() == {"model", "weights_sha256", "parameters"}


def test_pictures_that_need_no_sigmoid_stay_as_they_are(pipeline):
    drawing = pipeline.draw("the digit three is at the top of the digit one")[0]
    assert drawing.canvases.shape == (1, 60, 60, 1)
    assert not drawing.canvases.any()
    assert drawing.boxes is None
    assert not pipeline.images(pipeline.prompts(["the digit three"]), [0]).any()


def test_retrieval_and_similarity_on_the_command_line(run, tmp_path):
    words, digits, data, vgg = map(str, models(tmp_path))
    measure = ("evaluate", words, "--data", data, "--images", "6", "--bound-samples", "2", "--out", "e.json")
    code, out, err = run(*measure, "--shortlist", vgg, "--candidates", "6", "--similarity", "--samples", "2")
    assert code == 0, err
    result = json.loads((tmp_path / "e.json").read_text())
    retrieval, similarity = result["retrieval"], result["similarity"]
    assert (retrieval["captions"], retrieval["candidates"], retrieval["R@1"]["chance"]) == (6, 6, 1 / 6)
    protocol = retrieval["protocol"]
    assert protocol["shortlist"]["sha256"] == json.loads((tmp_path / "vgg" / "config.json").read_text())["sha256"]["model.safetensors"]
    assert (protocol["split"], protocol["samples"], protocol["training_captions"], protocol["resize"]) == ("test", 1, 16, "stretch")
    assert -1 < similarity["ssim"]["mean"] < 1
    assert similarity["protocol"]["samples"] == 2
    for told in ("image retrieval", "R@5, %", "median rank", "chance", "SSIM", "importance-weighted", "pixels: bernoulli"):
        assert told in out, told
    for arguments, problem in (
        ((*measure, "--candidates", "5"), "--candidates 5: without --shortlist there are none to rank"),
        ((*measure, "--shortlist", vgg), "shortlists of 100 images out of 7: at least 2 are needed, and no more than there are"),
        ((*measure, "--shortlist", words), "is a model of kind 'draw'; expected classifier"),
        ((*measure, "--shortlist", "nowhere"), "unknown model 'nowhere'"),
        (("evaluate", digits, "--similarity"), "retrieval, similarity and FID are for prepared datasets"),
    ):
        code, _, err = run(*arguments)
        assert code == 2
        assert problem in err.splitlines()[-1]


class Darkening:
    """A sharpener that halves every pixel; it notes how many captions it was asked for."""

    name, sha256, training_unknown = "darkening", "0" * 64, "skip"

    def __init__(self) -> None:
        self.heard: list[int] = []

    def of(self, captions, unknown="error"):
        self.heard.append(len(captions))
        return lambda pictures, rows: 0.5 * pictures

    def tokens(self, captions, unknown="error"):
        return []

    def sharpen(self, images, captions, unknown="error"):
        return 0.5 * images


def test_the_bound_of_every_split_and_sharpened(tmp_path):
    words, _, data, _ = models(tmp_path)
    how = {"split": "all", "images": 5, "bound_samples": 1, "seed": 0}
    plain = Pipeline.load(str(words))
    sharp = dataclasses.replace(plain, sharpening=Darkening())
    result = evaluate(sharp, data=data, **how)
    assert list(result["other_splits"]) == ["train", "validation"]
    splits = [*result["other_splits"].values(), result["likelihood"]]
    assert [found["protocol"]["split"] for found in splits] == ["train", "validation", "test"]
    assert sharp.sharpening.heard == [5, 5, 5]
    assert all(found["sharpened"]["kl"] == found["kl"] and found["sharpened"]["bound"] != found["bound"] for found in splits)
    assert result["likelihood"]["sharpened"]["sharpener"] == {"name": "darkening", "sha256": "0" * 64}
    assert "sharpened" not in evaluate(plain, data=data, **how)["likelihood"]


def sharpener(folder: Path, words: Vocabulary) -> Path:
    """Writes an untrained sharpener of 12 x 12 pixels in colour, which knows these words."""
    sizes = SharpenerConfig(side=12, conditioning="mean", vocabulary_size=len(words), language_units=3, features=(2, 2))
    folder.mkdir()
    config = {"kind": "sharpener", "model": sizes.model_dump(), "vocabulary": words.model_dump()}
    write_model(folder, Sharpener(sizes).state_dict(), config)
    return folder


def test_a_sharpener_may_miss_words_of_the_captions_it_is_measured_on(tmp_path):
    """As in its training: test captions have words that no training caption had."""
    words, _, data, _ = models(tmp_path)
    narrow = sharpener(tmp_path / "narrow", Vocabulary.build(["a square was drawn .", "red green blue grey"]))
    result = evaluate(Pipeline.load(str(words), sharpen=str(narrow)), data=data, images=5, bound_samples=1, samples=1, similarity=True)
    assert result["likelihood"]["sharpened"]["bound"] != result["likelihood"]["bound"]
    assert result["similarity"]["sharpened"]["ssim"] != result["similarity"]["ssim"]


def test_protocols_tell_what_changes_the_numbers(tmp_path, monkeypatch):
    """Candidates of retrieval; pixels of the bound; and which captions it was measured on."""
    words, _, data, vgg = models(tmp_path)
    pipeline = Pipeline.load(str(words))
    how = {"data": data, "images": 4, "bound_samples": 1}
    found = evaluate(pipeline, shortlist=str(vgg), candidates=5, **how)
    assert found["retrieval"]["protocol"]["candidates"] == 5
    told = found["likelihood"]["protocol"]
    assert (told["side"], told["colours"], told["version"]) == (12, 3, 1)
    narrow = dataclasses.replace(pipeline, vocabulary=Vocabulary(words=("a", "square")))  # captions without these do not count
    of_other_captions = evaluate(narrow, **how)["likelihood"]["protocol"]
    assert of_other_captions["captions"] != told["captions"]
    monkeypatch.setattr("cap2im.data.dataset.PreparedDataset.is_local", lambda *_: False)
    streamed = evaluate(pipeline, **how)["likelihood"]["protocol"]
    assert streamed["captions"] not in (told["captions"], of_other_captions["captions"])
    assert streamed | {"captions": ""} == of_other_captions | {"captions": ""} == told | {"captions": ""}


def test_what_cannot_be_measured_is_refused_before_the_bounds(tmp_path, monkeypatch):
    words, _, data, vgg = models(tmp_path)
    pipeline = Pipeline.load(str(words))

    def bound(*_, **__):
        raise AssertionError("the bound was estimated first")

    monkeypatch.setattr("cap2im.evaluation.evaluate.lower_bound", bound)
    monkeypatch.setattr("cap2im.metrics.ssim.WINDOW", 13)
    for wanted, problem in (
        ({"shortlist": "nowhere"}, "unknown model 'nowhere'"),
        ({"shortlist": str(vgg), "candidates": 8}, "shortlists of 8 images out of 7"),
        ({"similarity": True}, "SSIM has a window"),
    ):
        with pytest.raises(ValueError, match=problem):
            evaluate(pipeline, data=data, split="all", images=4, **wanted)
    without = without_split(tmp_path / "no train", "train")
    for wanted in ({"shortlist": str(vgg), "candidates": 5}, {"split": "train"}):
        with pytest.raises(ValueError, match="has no train images"):
            evaluate(pipeline, data=without, images=4, **wanted)


def without_split(folder: Path, *lacking: str) -> Path:
    """A dataset of 12 x 12 pixels without some splits."""
    prepared_dataset(folder, side=12)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"] = [shard for shard in manifest["shards"] if not any(f"/{split}-" in shard["file"] for split in lacking)]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    ("lacking", "split", "bounds", "told"),
    [
        (("test",), "all", ["train", "validation"], "has no test images; bounds of train, validation; everything else is measured on its"),
        (("test", "validation"), "all", ["train"], "has no validation and no test images; everything else is measured on its train images"),
        (("test",), None, ["validation"], "has no test images; measuring on its validation images"),
        ((), None, ["test"], ""),
    ],
)
def test_splits_that_a_dataset_lacks_are_named(pipeline_of_words, tmp_path, caplog, lacking, split, bounds, told):
    data = without_split(tmp_path / "data", *lacking)
    result = evaluate(pipeline_of_words, data=data, split=split, images=3, bound_samples=1)
    splits = [*result.get("other_splits", {}), result["likelihood"]["protocol"]["split"]]
    assert splits == bounds
    assert told in caplog.text


@pytest.fixture(scope="module")
def pipeline_of_words(tmp_path_factory):
    return Pipeline.load(str(models(tmp_path_factory.mktemp("words"))[0]))


def test_foreign_data_is_named_and_recorded(pipeline_of_words, tmp_path, caplog):
    """The model's own dataset has other images, and its vocabulary these words; a narrower one does not know all."""
    data = prepared_dataset(tmp_path / "elsewhere", side=12, train=4)
    result = evaluate(pipeline_of_words, data=data, images=4, bound_samples=1)
    recorded = result["likelihood"]["protocol"]["foreign"]
    assert recorded["trained_on"] == "a source of kind test"
    assert recorded["measured_on"] == "elsewhere, made of a source of kind test"
    warning = "warning: words was trained on a source of kind test, not on elsewhere, made of a source of kind test: it does not know "
    told = [message for message in caplog.messages if message.startswith("warning")]
    assert told == [f"{warning}{100 * recorded['unknown_words']:.1f} % of the words of the captions used"]
    narrow = dataclasses.replace(pipeline_of_words, vocabulary=Vocabulary(words=("a", "square", "UNK"), unknown="UNK"))
    share = evaluate(narrow, data=data, images=4, bound_samples=1)["likelihood"]["protocol"]["foreign"]["unknown_words"]
    captions = CaptionedImages(PreparedDataset.open(data), "test").captions
    used = [captions[row] for row in (0, 3, 7, 11)]
    words = [word for caption in used for word in caption.split()]
    assert share == pytest.approx(sum(word not in ("a", "square") for word in words) / len(words), abs=1e-4)


def test_own_data_is_not_foreign_and_unknown_data_only_by_its_words(pipeline_of_words, tmp_path):
    data = PreparedDataset.open(prepared_dataset(tmp_path / "data", side=12))
    own = dataclasses.replace(pipeline_of_words, config={"data": {"dataset": data.about()}})
    assert foreign_data(own, data, ["a zebra"]) is None
    silent = dataclasses.replace(pipeline_of_words, config={})
    assert foreign_data(silent, data, ["a red square ."]) is None
    foreign = foreign_data(silent, data, ["a red zebra ."])
    assert foreign is not None
    assert foreign.unknown == 1 / 4
    told = "does not say what it was trained on; it does not know 25.0 % of the words of data, made of a source of kind test"
    assert foreign.warning == f"warning: words {told}"
    digits = dataclasses.replace(pipeline_of_words, config={"data": {"source": "mnist", "held_out": []}})
    assert "was trained on captioned digits of MNIST, not on data" in foreign_data(digits, data, ["a"]).warning


def check(subject: Subject, data: Path, measures: Measures) -> None:
    subject.check(data, measures)
    subject.check_judges(measures)


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        ({"damsm": "nowhere"}, "unknown model 'nowhere'"),
        ({"shortlist": "nowhere"}, "unknown model 'nowhere'"),
        ({"similarity": True}, "SSIM has a window of 13 pixels; these pictures have 12"),
        ({"fid": True, "inception": "nowhere.pth"}, "nowhere.pth: no such file"),
        ({"fid": True, "images": 5, "inception": "weights"}, "--images 5: FID needs 10 captions at least"),
    ],
)
def test_a_recipe_is_checked_as_its_model_would_be(tmp_path, monkeypatch, wanted, problem):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").write_bytes(b"")
    monkeypatch.setattr("cap2im.metrics.ssim.WINDOW", 13)
    recipe = load_recipe("aligndraw-cifar", ["model.side=12"])
    data = prepared_dataset(tmp_path / "data", side=12)
    with pytest.raises(ValueError, match=problem):
        check(Subject.of_recipe("recipe", recipe), data, Measures(**wanted))
    with pytest.raises(ValueError, match="its images are 12 pixels wide, a drawing of recipe is 32; prepare with --side 32"):
        Subject.of_recipe("recipe", load_recipe("aligndraw-cifar")).check(data, Measures())


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ("data", "--data data: is a prepared dataset; digits draws captioned digits"),
        ("s3://bucket/data", "--data s3://bucket/data: is a URL; digits draws captioned digits"),
    ],
)
def test_digits_refuse_other_data(tmp_path, monkeypatch, data, problem):
    monkeypatch.chdir(tmp_path)
    prepared_dataset(tmp_path / "data", train=4)
    with pytest.raises(ValueError, match=problem):
        Subject("digits", None, True, "mnist").check(data, Measures())
    with pytest.raises(ValueError, match="is measured on the digits inside scikit-learn"):
        Subject("digits", None, True, "digits").check(data, Measures())


def test_sharpened_digits_are_read_and_measured_beside_the_others(tmp_path):
    _, digits, _, _ = models(tmp_path)
    how = {"samples": 1, "images": 5, "bound_samples": 1, "seed": 0}
    plain = Pipeline.load(str(digits))
    sharp = evaluate(dataclasses.replace(plain, sharpening=Darkening()), data=None, **how)
    without = evaluate(plain, data=None, **how)
    assert sharp["caption_accuracy"]["drawings"] == without["caption_accuracy"]["drawings"]
    assert sharp["caption_accuracy"]["sharpened"]["drawings"]["all"]["n"] == 440
    assert sharp["likelihood"]["bound"] == without["likelihood"]["bound"] != sharp["likelihood"]["sharpened"]["bound"]
