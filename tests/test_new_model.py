"""A new model is a network, a trainer and a line of the registry; it then trains, resumes, draws, is evaluated and served.

docs/adding-a-model.md walks through the same files.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from torch import nn

import cap2im
from cap2im.checkpoint import read_config, read_weights
from cap2im.evaluation.evaluation import Evaluation
from cap2im.evaluation.registry import METRICS, Metric
from cap2im.registry import MODELS, Spec
from cap2im.serve.app import create_app
from cap2im.serve.settings import ServeSettings
from cap2im.training.variational import load_matching_weights
from tests.toy.network import Toy, ToyConfig

RECIPE = str(Path(__file__).parent / "toy" / "toy-digits.toml")
CAPTION = "the digit three is at the top of the digit one"
PAGE = Path(__file__).parents[1] / "docs" / "adding-a-model.md"


@pytest.fixture(scope="module", autouse=True)
def registered():
    """The registry with the line of the page."""
    (line,) = re.findall(r'^    "toy": (Spec\(.*\)),$', PAGE.read_text("utf-8"), re.MULTILINE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "toy", Spec(*ast.literal_eval(line.removeprefix("Spec"))))
        yield


def test_the_page_shows_the_files_of_the_toy():
    shown = re.findall(r"^```{literalinclude} \.\./(\S+)$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert shown == [f"tests/toy/{name}" for name in ("network.py", "trainer.py", "toy-digits.toml", "names.py")] + [
        "tests/evaluation/brightness.py"
    ]
    assert {path.name for path in Path(RECIPE).parent.glob("*.*")} == {"__init__.py", *(Path(path).name for path in shown[:-1])}


def train(run: Path, updates: int, **options) -> Path:
    changes = {"updates": updates, "checkpoint_every": 5, "validate_every": 5, "data.validation_samples": 50}
    return cap2im.train(RECIPE, run=run, device="cpu", **changes, **options)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """The folder of a toy after ten updates."""
    return train(tmp_path_factory.mktemp("toy") / "run", 10)


def test_a_new_model_trains(model):
    lines = [json.loads(line) for line in (model.parent / "stats.jsonl").read_text().splitlines()]
    losses = [line["validation/loss"] for line in lines if "validation/loss" in line]
    assert losses[-1] < losses[0]
    config = read_config(model)
    assert (config["kind"], config["model"]["side"], config["parameters"]) == ("toy", 60, sum(w.numel() for w in weights(model).values()))
    card = (model / "README.md").read_text()
    assert "| validation loss |" in card
    assert "pipeline_tag: text-to-image\n" in card
    assert "Draw with it: `cap2im draw CAPTION --model FOLDER`." in card


def test_a_new_model_trains_in_the_precision_of_its_recipe(model, tmp_path, monkeypatch):
    monkeypatch.setattr("cap2im.models.precision.supports_bf16", lambda _: True)
    half = weights(train(tmp_path / "run", 10, precision="bf16"))
    assert any(not torch.equal(half[name], value) for name, value in weights(model).items())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_weights(folder, read_config(folder))


def test_a_new_model_resumes_bit_for_bit(model, tmp_path):
    train(tmp_path / "run", 5)
    resumed = weights(train(tmp_path / "run", 10, resume=True))
    assert all(torch.equal(resumed[name], value) for name, value in weights(model).items())


def test_a_new_model_draws(model, run, tmp_path):
    pipeline = cap2im.load(str(model))
    drawing, other = pipeline.draw(CAPTION, samples=2, seed=5)
    assert drawing.canvases.shape == (1, 60, 60, 1)
    assert not np.array_equal(drawing.canvases, other.canvases)
    status, _, error = run("draw", CAPTION, "--model", str(model), "--seed", "5", "-n", "1", "--out", str(tmp_path / "out"))
    assert status == 0, error


@pytest.mark.usefixtures("tiny_reader")
def test_a_new_model_is_evaluated(model, run, tmp_path):
    status, out, error = run("evaluate", str(model), "--samples", "1", "--out", str(tmp_path / "result.json"))
    assert status == 0, error
    evaluation = json.loads((tmp_path / "result.json").read_text())
    names = {measurement["name"] for result in evaluation["results"] for measurement in result["measurements"]}
    assert {"digits", "places", "clean", "joint"} <= names
    assert "no bound: a model of this kind has no likelihood" in out


def test_a_metric_of_drawings_measures_captioned_digits(model, run, tmp_path, monkeypatch):
    entry = Metric(about="brightness", samples="tests.evaluation.brightness:brightness", arrays=("drawings", "images"))
    monkeypatch.setitem(METRICS, "brightness", entry)
    status, _, error = run("evaluate", str(model), "--metric", "brightness", "--samples", "1", "--out", str(tmp_path / "result.json"))
    assert status == 0, error
    evaluation = Evaluation.from_dict(json.loads((tmp_path / "result.json").read_text()))
    drawn, real = evaluation.find("brightness"), evaluation.find("brightness", "images")
    assert (drawn.n, real.n, drawn.protocol["samples_per_caption"], drawn.protocol["version"]) == (440, 440, 1, 1)
    assert 0 < drawn.value < 1
    assert drawn.value != real.value


def test_a_new_model_is_served(model):
    with TestClient(create_app(ServeSettings(models=(str(model),))), "http://localhost") as client:
        (card,) = client.get("/v1/models").json()["models"]
        assert (card["kind"], card["side"], card["glimpses"]) == ("toy", 60, 1)
        reply = client.post("/v1/draw", json={"captions": [CAPTION], "seed": 5})
        assert reply.status_code == 200, reply.text
        assert reply.json()["results"][0]["caption"] == CAPTION


def test_words_keep_their_weights_in_another_vocabulary(model):
    source = read_config(model)
    words = source["vocabulary"]["words"]
    other = source | {"vocabulary": source["vocabulary"] | {"words": [*reversed(words)]}}
    network = Toy(ToyConfig())
    _, messages = load_matching_weights(network, model, other)
    before, after = weights(model), network.state_dict()
    embeddings = [f"{name}.weight" for name, layer in network.named_modules() if isinstance(layer, nn.Embedding)]
    assert embeddings
    for name in embeddings:
        assert torch.equal(after[name], before[name].float().flip(0))
    assert messages == [f"{model}: {len(words)} of {len(words)} words have weights there and keep them; 0 words start untrained"]
