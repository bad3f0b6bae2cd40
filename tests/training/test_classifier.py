"""Training the classifier: it learns, resumes exactly, and refuses images without classes."""

from __future__ import annotations

import pytest

from cap2im.checkpoint import checkpoints, load_checkpoint, read_config
from cap2im.config import ClassifierRecipe, load_recipe
from cap2im.training.classifier import ClassifierTrainer
from cap2im.training.dispatch import train
from tests.prepared import COLOURS, prepared_dataset
from tests.training.stopping import stop_at

CHANGES = (
    "model.width=8",
    "model.dropouts=[0.0, 0.0, 0.0]",
    f"model.classes={len(COLOURS)}",
    "train.epochs=2",
    "train.batch_size=12",
    "train.warmup_steps=0",
    "train.learning_rate=0.02",
    "train.precision='fp32'",
    "train.log_every=1",
    "train.validate_every=12",
    "train.checkpoint_every=10",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepared_dataset(tmp_path_factory.mktemp("data") / "squares", side=32, train=96, test=20)


def tiny(*changes: str) -> ClassifierRecipe:
    recipe = load_recipe("vgg-cifar-small", [*CHANGES, *changes])
    assert isinstance(recipe, ClassifierRecipe)
    return recipe


def test_it_learns_and_reports_its_accuracy(data, tmp_path):
    train(tiny("train.epochs=8", "train.crop=2"), tmp_path, data=data, device="cpu")
    test = read_config(tmp_path / "model")["accuracy"]["test"]
    assert (test["rate"], test["n"]) == (1.0, 20)  # four colours: easy
    assert 0.8 < test["low"] < 0.85 < test["high"] == 1.0  # of twenty images
    assert "| test images right | 100.00% (95 % interval" in (tmp_path / "model" / "README.md").read_text()
    assert read_config(tmp_path / "model")["kind"] == "classifier"


def test_resume_is_bit_exact(data, tmp_path, monkeypatch):
    train(tiny(), tmp_path / "whole", data=data, device="cpu")
    stop_at(monkeypatch, ClassifierTrainer, 13)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(), tmp_path / "broken", data=data, device="cpu")
    monkeypatch.undo()
    assert load_checkpoint(checkpoints(tmp_path / "broken")[-1]).step == 14
    train(tiny(), tmp_path / "broken", data=data, device="cpu", resume=True)
    whole, broken = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "broken"))
    assert whole == broken


def test_refusals(data, tmp_path, run):
    with pytest.raises(ValueError, match=r"images have classes 0 to 3, 0 to 2 are needed \(model.classes\)"):
        train(tiny("model.classes=3"), tmp_path / "run", data=data, device="cpu")
    small = prepared_dataset(tmp_path / "small", side=8)
    with pytest.raises(ValueError, match="its images are 8 pixels wide"):
        train(tiny(), tmp_path / "run", data=small, device="cpu")
    code, _, error = run("train", "vgg-cifar-small")
    assert code == 2
    assert "--data" in error.splitlines()[-1]
