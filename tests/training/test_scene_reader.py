"""Training the scene reader: it learns coloured squares, resumes exactly, and refuses words that no caption holds."""

from __future__ import annotations

import pytest

from cap2im.checkpoint import checkpoints, load_checkpoint, read_config
from cap2im.config import SceneReaderRecipe, load_recipe
from cap2im.loading import load_model
from cap2im.models.scene_reader import SceneReader
from cap2im.training.dispatch import train
from cap2im.training.scene_reader import SceneReaderTrainer
from tests.prepared import prepared_dataset
from tests.training.stopping import stop_at

CHANGES = (
    "model.words=[['red'], ['green'], ['blue', 'azure']]",
    "model.channels=4",
    "train.epochs=2",
    "train.batch_size=12",
    "train.warmup_steps=0",
    "train.precision='fp32'",
    "train.crop=2",
    "train.log_every=1",
    "train.validate_every=8",
    "train.checkpoint_every=5",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepared_dataset(tmp_path_factory.mktemp("data") / "squares", side=32, train=96, validation=8, test=20)


def tiny(*changes: str) -> SceneReaderRecipe:
    recipe = load_recipe("scene-reader-flickr8k", [*CHANGES, *changes])
    assert isinstance(recipe, SceneReaderRecipe)
    return recipe


def test_it_learns_and_reports_each_word(data, tmp_path):
    train(tiny("train.epochs=8", "train.learning_rate=0.01"), tmp_path, data=data, device="cpu")
    words = read_config(tmp_path / "model")["words"]
    assert words["test"]["blue"] == {"share": 0.25, "average_precision": 1.0, "balanced_accuracy": 1.0}
    assert words.keys() == {"validation", "test"}
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| test images | mean average precision 1.000, mean balanced accuracy 100.0% |" in card
    assert "| blue, azure | 25.0% | 1.000 | 100.0% | 25.0% | 1.000 | 100.0% |" in card
    log_odds = load_model(tmp_path / "model", SceneReader).network.log_odds
    assert log_odds.tolist() == pytest.approx([-1.0986] * 3, abs=1e-4)  # of a quarter of the images


def test_resume_is_bit_exact(data, tmp_path, monkeypatch):
    train(tiny(), tmp_path / "whole", data=data, device="cpu")
    stop_at(monkeypatch, SceneReaderTrainer, 9)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(), tmp_path / "broken", data=data, device="cpu")
    monkeypatch.undo()
    assert load_checkpoint(checkpoints(tmp_path / "broken")[-1]).step == 10
    train(tiny(), tmp_path / "broken", data=data, device="cpu", resume=True)
    whole, broken = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "broken"))
    assert whole == broken


def test_refusals(data, tmp_path, run):
    with pytest.raises(ValueError, match=r"no image of the train images has a caption with 'snow' \(model.words\)"):
        train(tiny("model.words=[['red'], ['snow', 'ice']]"), tmp_path / "run", data=data, device="cpu")
    with pytest.raises(ValueError, match="every image of the train images has a caption with 'square'"):
        train(tiny("model.words=[['red'], ['square']]"), tmp_path / "run", data=data, device="cpu")
    code, _, error = run("train", "scene-reader-flickr8k")
    assert code == 2
    assert error.splitlines()[-1].endswith("give captioned images (a prepared dataset) with --data")
