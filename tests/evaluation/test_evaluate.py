"""Evaluations of models with and without a likelihood, also on the command line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cap2im.checkpoint import write_model
from cap2im.config import load_recipe
from cap2im.data.captioned_images import CaptionedImages
from cap2im.data.dataset import PreparedDataset
from cap2im.data.mnist_captions import HeldOut
from cap2im.data.vocabulary import Vocabulary
from cap2im.evaluation.evaluate import evaluate
from cap2im.evaluation.evaluation import Evaluation
from cap2im.evaluation.other_dataset import other_dataset
from cap2im.evaluation.report import print_evaluation
from cap2im.evaluation.settings import Settings
from cap2im.evaluation.subject import Subject
from cap2im.files import file_sha256
from cap2im.metrics.measurement import Measurement
from cap2im.models.interface import DrawingModel, DrawnSequence
from cap2im.models.lapgan import Sharpener, SharpenerConfig
from cap2im.pipeline import Pipeline
from tests.evaluation.models import models
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


def measure(pipeline: Pipeline, data: object = None, **settings: object) -> Evaluation:
    return evaluate(pipeline, Settings(**settings), data=data)


def test_a_model_without_likelihood_has_caption_accuracy(pipeline, capsys):
    evaluation = measure(pipeline, samples=1, images=2)
    assert evaluation.settings["metrics"] == "caption-accuracy"
    clean, places = evaluation.find("clean", "all"), evaluation.find("places", "all")
    assert (clean.n, clean.value, places.value) == (440, 1.0, 0.0), "black is clean"
    print_evaluation(evaluation, default_metrics=True)
    out = capsys.readouterr().out
    assert "joint" in out
    assert out.splitlines()[-1] == "no bound: a model of this kind has no likelihood"


@pytest.mark.usefixtures("tiny_reader")
def test_each_split_draws_its_own_held_out_captions(pipeline):
    data = {**pipeline.config.data, **HeldOut.from_seed(5, validation_seed=321).as_json()}
    other = dataclasses.replace(pipeline, config=pipeline.config.model_copy(update={"data": data}))
    counts = {split: measure(other, samples=1, split=split) for split in ("validation", "test")}
    assert [counts[split].find("joint", group).n for split in counts for group in ("seen", "held out")] == [288, 72, 288, 80]


def test_nothing_measured_names_the_option(capsys):
    print_evaluation(Evaluation("gan", "", {"metrics": ""}, ()), default_metrics=True)
    assert capsys.readouterr().out == "no bound: a model of this kind has no likelihood; name others with --metric\n"


def test_gaussian_pixels_have_no_bound_after_sharpening(capsys):
    bound = Measurement(name="bound", group="test", value=0, n=2, protocol={"observation": "gaussian, deviation 0.3"})
    print_evaluation(Evaluation("vae", "", {"metrics": "bound", "sharpener": "0"}, (bound,)))
    assert "no bound after sharpening: pixels must be bernoulli, these are gaussian, deviation 0.3" in capsys.readouterr().out
    print_evaluation(Evaluation("vae", "", {"metrics": "bound"}, (bound,)))
    assert "after sharpening" not in capsys.readouterr().out


def test_a_gan_has_no_default_metric_on_captioned_images(pipeline, tmp_path):
    elsewhere = dataclasses.replace(pipeline, config=pipeline.config.model_copy(update={"data": {}}))
    evaluation = measure(elsewhere, prepared_dataset(tmp_path / "prepared", train=4), split="test", images=2)
    assert {each.name for each in evaluation.measurements} == {"parameters"}
    with pytest.raises(ValueError, match=f"--metric bound: {pipeline.name} does not have a likelihood"):
        Subject.of(elsewhere).metrics(Settings(metrics=("bound",)))


def test_pictures_without_logits_are_drawn_unchanged(pipeline):
    drawing = pipeline.draw("the digit three is at the top of the digit one")[0]
    assert drawing.canvases.shape == (1, 60, 60, 1)
    assert not drawing.canvases.any()
    assert drawing.boxes is None
    assert not pipeline.images(pipeline.prompts(["the digit three"]), [0]).any()


def test_retrieval_and_ssim_on_the_command_line(run, tmp_path):
    words, digits, data, vgg = map(str, models(tmp_path))
    command = ("evaluate", words, "--data", data, "--images", "6", "--bound-samples", "2", "--out", "e.json")
    retrieve = ("--metric", "retrieval", "--shortlist-model")
    code, out, err = run(*command, "--metric", "bound", *retrieve, vgg, "--candidates", "6", "--metric", "ssim", "--samples", "2")
    assert code == 0, err
    evaluation = Evaluation.from_dict(json.loads((tmp_path / "e.json").read_text()))
    recall, ssim = evaluation.find("R@1"), evaluation.find("SSIM")
    assert (recall.n, recall.chance, recall.protocol["candidates"]) == (6, 1 / 6, 6)
    protocol = recall.protocol
    assert protocol["shortlist"]["sha256"] == json.loads((tmp_path / "vgg" / "config.json").read_text())["sha256"]["model.safetensors"]
    assert (protocol["split"], protocol["samples"], protocol["training_captions"], protocol["resize"]) == ("test", 1, 16, "stretch")
    assert -1 < ssim.value < 1
    assert ssim.protocol["samples"] == 2
    for text in ("R@5, %", "median rank", "chance", "SSIM", "importance-weighted, nats", "bernoulli pixels"):
        assert text in out, text
    for arguments, problem in (
        ((*command, "--metric", "bound", "--candidates", "5"), "--candidates 5: no chosen metric reads it; add --metric retrieval"),
        ((*command, "--metric", "retrieval"), "--metric retrieval needs --shortlist-model"),
        (
            (*command, "--metric", "accuracy"),
            "--metric accuracy: choose from caption-accuracy, compositional-accuracy, bound, retrieval, ssim, fid",
        ),
        ((*command, *retrieve, vgg), "shortlists of 100 images out of 7: choose 2 to 7"),
        ((*command, *retrieve, words), "is a model of kind 'draw'; expected classifier"),
        ((*command, *retrieve, "nowhere"), "unknown model 'nowhere'"),
        (
            ("evaluate", digits, "--metric", "ssim"),
            "draws captioned digits, for which the metrics are caption-accuracy, bound, r-precision",
        ),
    ):
        code, _, err = run(*arguments)
        assert code == 2
        assert problem in err.splitlines()[-1], err


class Darkening:
    """A sharpener that halves every pixel, and records numbers of captions."""

    name, sha256, training_unknown = "darkening", "0" * 64, "skip"

    def __init__(self) -> None:
        self.counts: list[int] = []

    def conditioned_on(self, captions, unknown="error"):
        self.counts.append(len(captions))
        return lambda pictures, rows: 0.5 * pictures

    def tokens(self, captions, unknown="error"):
        return None

    def encode(self, captions, tokens):
        return torch.zeros(len(captions), 1)

    def apply(self, images, sentences):
        return 0.5 * images


def test_the_bound_of_every_split_and_sharpened(tmp_path):
    words, _, data, _ = models(tmp_path)
    settings = {"split": "all", "images": 5, "bound_samples": 1}
    plain = Pipeline.load(str(words))
    sharp = dataclasses.replace(plain, sharpening=Darkening())
    evaluation = measure(sharp, data, **settings)
    groups = [each.group for each in evaluation.measurements if each.name == "bound"]
    assert groups == [f"{split}{after}" for split in ("train", "validation", "test") for after in ("", ", sharpened")]
    assert sharp.sharpening.counts == [5, 5, 5]
    for split in ("train", "validation", "test"):
        assert evaluation.find("bound", split).protocol["split"] == split
        assert evaluation.find("KL", f"{split}, sharpened").value == evaluation.find("KL", split).value
        assert evaluation.find("bound", f"{split}, sharpened").value != evaluation.find("bound", split).value
    assert evaluation.find("bound", "test, sharpened").protocol["sharpener"] == {"name": "darkening", "sha256": "0" * 64}
    assert not any("sharpened" in each.group for each in measure(plain, data, **settings).measurements)


def sharpener(folder: Path, words: Vocabulary) -> Path:
    """Write an untrained sharpener of 12 x 12 pixels in colour with a vocabulary."""
    sizes = SharpenerConfig(side=12, conditioning="mean", vocabulary_size=len(words), language_units=3, features=(2, 2))
    folder.mkdir()
    config = {"kind": "sharpener", "model": sizes.model_dump(), "vocabulary": words.model_dump()}
    write_model(folder, Sharpener(sizes).state_dict(), config)
    return folder


def test_a_sharpener_may_miss_words_of_the_captions(tmp_path):
    """As in its training: test captions have words that no training caption has."""
    words, _, data, _ = models(tmp_path)
    narrow = sharpener(tmp_path / "narrow", Vocabulary.build(["a square was drawn .", "red green blue grey"]))
    settings = {"metrics": ("bound", "ssim"), "images": 5, "bound_samples": 1, "samples": 1}
    evaluation = measure(Pipeline.load(str(words), sharpen=str(narrow)), data, **settings)
    assert evaluation.find("bound", "test, sharpened").value != evaluation.find("bound", "test").value
    assert evaluation.find("SSIM", "sharpened").value != evaluation.find("SSIM").value


def test_protocols_have_what_changes_the_numbers(tmp_path, monkeypatch):
    """Candidates of retrieval; pixels of the bound; and the captions."""
    words, _, data, vgg = models(tmp_path)
    pipeline = Pipeline.load(str(words))
    settings = {"images": 4, "bound_samples": 1}
    lists = {"metrics": ("bound", "retrieval"), "shortlist_model": str(vgg), "candidates": 5}
    evaluation = measure(pipeline, data, **lists, **settings)
    assert evaluation.find("R@1").protocol["candidates"] == 5
    protocol = evaluation.find("bound", "test").protocol
    assert (protocol["side"], protocol["colours"], protocol["version"]) == (12, 3, 1)
    narrow = dataclasses.replace(pipeline, vocabulary=Vocabulary(words=("a", "square")))  # captions without these do not count
    others = measure(narrow, data, **settings).find("bound", "test").protocol
    assert others["captions"] != protocol["captions"]
    monkeypatch.setattr("cap2im.data.dataset.PreparedDataset.is_local", lambda *_: False)
    streamed = measure(pipeline, data, **settings).find("bound", "test").protocol
    assert streamed["captions"] not in (protocol["captions"], others["captions"])
    assert streamed | {"captions": ""} == others | {"captions": ""} == protocol | {"captions": ""}


def test_errors_come_before_the_bounds(tmp_path, monkeypatch):
    words, _, data, vgg = models(tmp_path)
    pipeline = Pipeline.load(str(words))

    def estimate(*_, **__):
        raise AssertionError("the bound was estimated first")

    monkeypatch.setattr("cap2im.metrics.elbo.estimate_log_likelihoods", estimate)
    monkeypatch.setattr("cap2im.metrics.ssim.WINDOW", 13)
    retrieve = {"metrics": ("bound", "retrieval"), "shortlist_model": str(vgg)}
    for settings, problem in (
        (retrieve | {"shortlist_model": "nowhere"}, "unknown model 'nowhere'"),
        (retrieve | {"candidates": 8}, "shortlists of 8 images out of 7"),
        ({"metrics": ("bound", "ssim")}, "SSIM needs pictures"),
    ):
        with pytest.raises(ValueError, match=problem):
            measure(pipeline, data, split="all", images=4, **settings)
    without = without_split(tmp_path / "no train", "train")
    for settings in (retrieve | {"candidates": 5}, {"split": "train"}):
        with pytest.raises(ValueError, match="has no train images"):
            measure(pipeline, without, images=4, **settings)


def without_split(folder: Path, *lacking: str) -> Path:
    """A dataset of 12 x 12 pixels without some splits."""
    prepared_dataset(folder, side=12)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"] = [shard for shard in manifest["shards"] if not any(f"/{split}-" in shard["file"] for split in lacking)]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    ("lacking", "split", "bounds", "message"),
    [
        (("test",), "all", ["train", "validation"], "has no test images; everything but the bound is measured on its validation images"),
        (
            ("test", "validation"),
            "all",
            ["train"],
            "has no validation and no test images; everything but the bound is measured on its train",
        ),
        (("test",), None, ["validation"], "has no test images; measuring on its validation images"),
        ((), None, ["test"], ""),
    ],
)
def test_missing_splits_are_logged(pipeline_of_words, tmp_path, caplog, lacking, split, bounds, message):
    data = without_split(tmp_path / "data", *lacking)
    evaluation = measure(pipeline_of_words, data, split=split, images=3, bound_samples=1)
    assert [each.group for each in evaluation.measurements if each.name == "bound"] == bounds
    assert message in caplog.text


@pytest.fixture(scope="module")
def pipeline_of_words(tmp_path_factory):
    return Pipeline.load(str(models(tmp_path_factory.mktemp("words"))[0]))


def test_another_dataset_is_logged_and_recorded(pipeline_of_words, tmp_path, caplog):
    """The model's own dataset has other images but all of its words; a narrow vocabulary has unknown words."""
    data = prepared_dataset(tmp_path / "elsewhere", side=12, train=4)
    recorded = measure(pipeline_of_words, data, images=4, bound_samples=1).find("bound", "test").protocol["foreign"]
    assert recorded["trained_on"] == "a source of kind test"
    assert recorded["measured_on"] == "elsewhere, made of a source of kind test"
    warning = "warning: words was trained on a source of kind test, not on elsewhere, made of a source of kind test"
    words = f"{100 * recorded['unknown_words']:.1f} % of the words of the captions are unknown to it"
    assert [record.getMessage() for record in caplog.records if "warning" in record.getMessage()] == [f"{warning}: {words}"]
    narrow = dataclasses.replace(pipeline_of_words, vocabulary=Vocabulary(words=("a", "square", "UNK"), unknown="UNK"))
    share = measure(narrow, data, images=4, bound_samples=1).find("bound", "test").protocol["foreign"]["unknown_words"]
    captions = CaptionedImages(PreparedDataset.open(data), "test").captions
    used = [word for row in (0, 3, 7, 11) for word in captions[row].split()]
    assert share == pytest.approx(sum(word not in ("a", "square") for word in used) / len(used), abs=1e-4)


def test_a_models_own_dataset_is_no_other_one(pipeline_of_words, tmp_path):
    data = PreparedDataset.open(prepared_dataset(tmp_path / "data", side=12))

    def trained_on(about: dict) -> Pipeline:
        return dataclasses.replace(pipeline_of_words, config=pipeline_of_words.config.model_copy(update={"data": about}))

    assert other_dataset(trained_on({"dataset": data.about()}), data, ["a zebra"]) is None
    assert other_dataset(trained_on({}), data, ["a red square ."]) is None
    other = other_dataset(trained_on({}), data, ["a red zebra ."])
    assert other is not None
    assert other.unknown == 1 / 4
    message = "words does not record its training data; 25.0 % of the words of data, made of a source of kind test are unknown to it"
    assert other.warning == f"warning: {message}"
    digits = trained_on({"source": "mnist", "held_out": []})
    assert "was trained on captioned digits of MNIST, not on data" in other_dataset(digits, data, ["a"]).warning


def test_data_prepared_from_another_path_is_no_other_data(pipeline_of_words, tmp_path):
    folder = prepared_dataset(tmp_path / "data", side=12)
    manifest = json.loads((folder / "manifest.json").read_text()) | {"vocabulary": {"sha256": file_sha256(folder / "vocabulary.json")}}

    def prepared_from(path: str, **changes) -> PreparedDataset:
        (folder / "manifest.json").write_text(json.dumps(manifest | {"source": {"kind": "test", "path": path}} | changes))
        return PreparedDataset.open(folder)

    one, two = prepared_from("photos"), prepared_from("photos/")
    assert one.sha256 != two.sha256
    about = {"dataset": one.about(), "content_sha256": one.content_sha256}
    model = dataclasses.replace(pipeline_of_words, config=pipeline_of_words.config.model_copy(update={"data": about}))
    assert other_dataset(model, two, ["a zebra"]) is None
    fewer = prepared_from("photos", shards=manifest["shards"][:2])
    assert other_dataset(model, fewer, ["a zebra"]) is not None
    unknown = [{**shard, "sha256": None} for shard in manifest["shards"]]
    assert prepared_from("photos", shards=unknown).content_sha256 is None


def check(subject: Subject, data: Path, settings: Settings) -> None:
    subject.check(data, settings)
    subject.check_scorers(settings)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"metrics": ("r-precision",), "damsm": "nowhere"}, "unknown model 'nowhere'; expected a model of kind damsm"),
        ({"metrics": ("retrieval",), "shortlist_model": "nowhere"}, "unknown model 'nowhere'"),
        ({"metrics": ("ssim",)}, r"SSIM needs pictures of at least 13 pixels \(its window\), got 12"),
        ({"metrics": ("fid",), "inception": "nowhere.pth"}, "nowhere.pth: no such file"),
        ({"metrics": ("fid",), "images": 5, "inception": "weights"}, "FID and Inception Score need at least 10 captions, got 5"),
    ],
)
def test_a_recipe_is_checked_as_its_model_would_be(tmp_path, monkeypatch, settings, problem):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").write_bytes(b"")
    monkeypatch.setattr("cap2im.metrics.ssim.WINDOW", 13)
    recipe = load_recipe("aligndraw-cifar", ["model.side=12"])
    data = prepared_dataset(tmp_path / "data", side=12)
    with pytest.raises(ValueError, match=problem):
        check(Subject.of_recipe("recipe", recipe), data, Settings(**settings))
    with pytest.raises(ValueError, match="its images are 12 pixels wide, a drawing of recipe is 32; prepare with --side 32"):
        Subject.of_recipe("recipe", load_recipe("aligndraw-cifar")).check(data, Settings())


SIZES = SimpleNamespace(conditioning="mean")


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
        Subject("digits", SIZES, True, "mnist").check(data, Settings())
    with pytest.raises(ValueError, match="is measured on the digits inside scikit-learn"):
        Subject("digits", SIZES, True, "digits").check(data, Settings())


@pytest.mark.usefixtures("tiny_reader")
def test_sharpened_digits_are_measured_beside_the_others(tmp_path):
    _, digits, _, _ = models(tmp_path)
    settings = {"samples": 1, "images": 5, "bound_samples": 1}
    plain = Pipeline.load(str(digits))
    sharp = measure(dataclasses.replace(plain, sharpening=Darkening()), **settings)
    without = measure(plain, **settings)
    assert sharp.find("joint", "all") == without.find("joint", "all")
    assert sharp.find("digits", "all, sharpened").n == 440
    bounds = without.find("bound", "test").value, sharp.find("bound", "test").value, sharp.find("bound", "test, sharpened").value
    assert bounds[0] == bounds[1] != bounds[2]
