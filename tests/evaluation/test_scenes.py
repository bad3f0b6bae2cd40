"""Scene accuracy of drawings of squares, beside the images, and what is refused."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from cap2im.checkpoint import write_model
from cap2im.data.vocabulary import Vocabulary
from cap2im.evaluation.comparison import compare
from cap2im.evaluation.evaluate import evaluate
from cap2im.evaluation.evaluation import Evaluation
from cap2im.evaluation.settings import Settings
from cap2im.metrics.scene_accuracy import Flips
from cap2im.models.scene_reader import SceneReader, SceneReaderConfig
from cap2im.pipeline import Pipeline
from cap2im.training.dispatch import train
from tests.evaluation.models import models
from tests.evaluation.test_evaluate import sharpener
from tests.prepared import COLOURS, prepared_dataset
from tests.training.test_scene_reader import tiny

SQUARES = Flips(
    "colour", {colour: colour for colour in ("red", "green", "blue", "grey")}, ("a {} square .", "a {} zebra .", "there is a {} square .")
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model, its dataset, and a reader that knows three of the dataset's four colours."""
    folder = tmp_path_factory.mktemp("scenes")
    words, digits, data, vgg = models(folder)
    squares = prepared_dataset(folder / "squares", side=32, train=96, validation=8, test=20)
    reader = train(tiny("train.epochs=8", "train.learning_rate=0.01"), folder / "reader", data=squares, device="cpu")
    return {"words": str(words), "digits": str(digits), "data": str(data), "vgg": str(vgg), "reader": str(reader)}


@pytest.fixture(autouse=True)
def flips(monkeypatch):
    monkeypatch.setattr("cap2im.metrics.scene_accuracy.FLIPS", (SQUARES,))


def drawing(monkeypatch, choose):
    """Draws a square of the colour that `choose` returns of a caption and a seed."""

    def images(self, prompts, seeds):
        pictures = torch.rand(len(prompts), 3, 12, 12) * 60 / 255
        for picture, prompt, seed in zip(pictures, prompts, seeds, strict=True):
            picture[:, 3:-3, 3:-3] = torch.tensor(COLOURS[choose(prompt.caption, seed)])[:, None, None] / 255
        return pictures

    monkeypatch.setattr(Pipeline, "images", images)


def measure(folders, sharpen=None, **settings) -> Evaluation:
    settings = Settings(metrics=("scene-accuracy",), scene_reader=folders["reader"], **settings)
    return evaluate(Pipeline.load(folders["words"], sharpen=sharpen), settings, data=folders["data"])


def test_right_drawings_are_right_and_constant_ones_chance(folders, monkeypatch, caplog):
    drawn = []

    def own(caption, seed):
        drawn.append((caption, seed))
        return next(word for word in caption.split() if word in COLOURS)

    drawing(monkeypatch, own)
    with caplog.at_level(logging.WARNING):
        right = measure(folders, samples=2, seed=3)
    flips, captions, images = (right.find("colour accuracy", kind) for kind in ("flips", "captions", "images"))
    assert [(each.value, each.n, each.chance) for each in (flips, captions, images)] == [(1, 12, 1 / 3), (1, 6, 1 / 3), (1, 6, 1 / 3)]
    assert drawn[:4] == [("a red square .", 6), ("a red square .", 7), ("there is a red square .", 6), ("there is a red square .", 7)]
    assert len({seed for _, seed in drawn[12:]}) == 6
    assert "colour accuracy: 3 captions of flips are left out: zebra" in caplog.text
    assert flips.protocol["left_out"] == 3
    assert (flips.protocol["words"], flips.protocol["samples_per_caption"], flips.protocol["drawings"]) == ("red green blue", 2, 12)
    assert captions.protocol["scene_reader"] == right.settings["scene_reader"]
    assert (captions.protocol["split"], captions.protocol["left_out"]) == ("test", 0)
    drawing(monkeypatch, lambda caption, seed: "green")
    constant = measure(folders, samples=2)
    assert constant.find("colour accuracy", "flips").value == constant.find("colour accuracy", "captions").value == pytest.approx(1 / 3)
    assert constant.find("colour accuracy", "flips, green").value == 1
    assert constant.find("colour accuracy", "images") == images.model_copy(update={"protocol": images.protocol | {"seed": 0}})


def test_sharpened_drawings_are_measured_beside_plain_ones(folders, tmp_path):
    narrow = sharpener(tmp_path / "narrow", Vocabulary.build(["red green square ."]))  # without blue
    plain, sharp = (measure(folders, samples=1, sharpen=each) for each in (None, str(narrow)))
    for kind in ("flips", "captions", "images"):
        assert sharp.find("colour accuracy", kind) == plain.find("colour accuracy", kind)
    flips = sharp.find("colour accuracy", "flips, sharpened")
    assert (flips.n, flips.protocol["sharpener"]["name"]) == (6, "narrow")


def test_images_are_limited_for_each_word_alike(folders, monkeypatch):
    drawing(monkeypatch, lambda caption, seed: "green")
    few = measure(folders, samples=1, images=3)
    assert [few.find("colour accuracy", f"images, {word}").n for word in ("red", "green", "blue")] == [1, 1, 1]


def test_it_is_printed_and_compared(folders, run, tmp_path):
    command = ("--data", folders["data"], "--metric", "scene-accuracy", "--scene-reader", folders["reader"], "--samples", "1")
    code, out, err = run("evaluate", folders["words"], *command, "--out", "e.json")
    assert code == 0, err
    evaluation = Evaluation.from_dict(json.loads((tmp_path / "e.json").read_text()))
    assert evaluation.find("colour accuracy", "images").text in out
    assert "33.3" in next(line for line in out.splitlines() if "chance" in line)
    table = compare([evaluation]).markdown()
    assert "| colour accuracy, flips, % | colour accuracy, captions, % | colour accuracy, images, % |" in table
    assert "3 captions with unknown words left out" in table


def test_refusals(folders, run, tmp_path):
    lacking = SceneReader(SceneReaderConfig(words=(("red",), ("snow",)), channels=1))
    (tmp_path / "lacking").mkdir()
    write_model(tmp_path / "lacking", lacking.state_dict(), {"kind": "scene-reader", "model": lacking.config.model_dump()})
    metric, reader = ("--metric", "scene-accuracy"), ("--scene-reader", folders["reader"])
    for model, arguments, problem in (
        ("words", metric, "--metric scene-accuracy needs --scene-reader"),
        ("words", reader, "no chosen metric reads it; add --metric scene-accuracy"),
        ("words", (*metric, "--scene-reader", folders["vgg"]), "is a model of kind 'classifier'; expected scene-reader"),
        (
            "words",
            (*metric, "--scene-reader", "lacking"),
            "lacking: reads red, snow; at least two words of a group are needed",
        ),
        ("digits", (*metric, *reader), "draws captioned digits, for which the metrics are caption-accuracy"),
    ):
        code, _, error = run("evaluate", folders[model], *(("--data", folders["data"]) if model == "words" else ()), *arguments)
        assert (code, problem in error.splitlines()[-1]) == (2, True), error
