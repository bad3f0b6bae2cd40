"""What is measured of models without a likelihood."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from cap2im import cli
from cap2im.metrics.evaluation import evaluate
from cap2im.models.interface import DrawingModel, DrawnSequence
from cap2im.pipeline import Pipeline
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
    cli._print_evaluation(result)
    out = capsys.readouterr().out
    assert "joint" in out
    assert out.splitlines()[-1] == "no bound: a model of this kind has no likelihood"


def test_a_model_without_likelihood_on_captioned_images(pipeline, tmp_path):
    config = {key: value for key, value in pipeline.config.items() if key != "data"}
    elsewhere = dataclasses.replace(pipeline, config=config)
    data = prepared_dataset(tmp_path / "prepared", train=4)
    result = evaluate(elsewhere, data=data, split="test", samples=1, bound_samples=1, images=2, seed=0)
    assert result.keys() == {"model", "weights_sha256"}


def test_pictures_that_need_no_sigmoid_stay_as_they_are(pipeline):
    drawing = pipeline.draw("the digit three is at the top of the digit one")[0]
    assert drawing.canvases.shape == (1, 60, 60, 1)
    assert not drawing.canvases.any()
    assert drawing.boxes is None
    assert not pipeline.images(["the digit three"], [0]).any()
