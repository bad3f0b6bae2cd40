"""`cap2im train` and `cap2im recipe`."""

from __future__ import annotations

import json

import pytest

from cap2im.evaluation.evaluation import Evaluation
from tests.tiny import CHANGES

CAPTION = "the digit three is at the top of the digit one"


def test_dry_run_prints_the_recipe_and_stops(run, tmp_path):
    code, out, _ = run("train", "aligndraw-mnist", "--set", "train.batch_size=64", "--dry-run")
    assert code == 0
    assert "batch_size = 64" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("tiny_reader")
def test_train_resume_draw_evaluate(run, tmp_path):
    changes = [part for change in CHANGES for part in ("--set", change)]
    code, out, _ = run("train", "aligndraw-digits", "--run", "mine", "--device", "cpu", *changes)
    assert code == 0, out
    assert "model written to mine/model" in out
    card = (tmp_path / "mine" / "model" / "README.md").read_text()
    assert "cap2im train aligndraw-digits --run mine" in card
    code, _, err = run("train", "aligndraw-digits", "--run", "mine", "--device", "cpu", *changes)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "holds a run already" in err
    code, _, err = run("train", "aligndraw-digits", "--run", "mine", "--device", "cpu", "--resume", *changes, "--set", "train.seed=5")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "train.seed: 0 -> 5" in err
    assert run("draw", CAPTION, "--model", "mine", "-n", "1")[0] == 0
    code, out, err = run("evaluate", "mine", "--samples", "1", "--bound-samples", "2", "--images", "12")
    assert code == 0, err
    evaluation = Evaluation.from_dict(json.loads((tmp_path / "evaluation-mine.json").read_text()))
    assert evaluation.find("joint", "all").n == 440
    assert evaluation.find("bound", "test").protocol["samples"] == 2
    assert "joint, %" in out
    assert "bound, nats" in out


@pytest.mark.usefixtures("tiny_reader")
@pytest.mark.parametrize("recipe", ["fc-vae-mnist", "conv-vae-mnist"])
def test_train_draw_evaluate_a_vae(run, tmp_path, recipe):
    changes = ("data.source=digits", "data.samples_per_epoch=20", "data.validation_samples=6", "train.epochs=2", "train.batch_size=4")
    changes += ("model.hidden=8", "model.maps=2", "model.latent=3", "model.language_units=4", "train.validate_every=5")
    code, out, err = run("train", recipe, "--run", "mine", "--device", "cpu", *(part for change in changes for part in ("--set", change)))
    assert code == 0, err
    assert out.endswith("model written to mine/model\n")
    assert "one posterior sample; pixels: gaussian, deviation" in (tmp_path / "mine" / "model" / "README.md").read_text()
    assert [path.name for path in sorted((tmp_path / "mine" / "samples").iterdir())] == [f"drawings-{n:08}.png" for n in (5, 10)]
    code, out, err = run("draw", CAPTION, "--model", "mine", "-n", "2", "--out", "drawn")
    assert code == 0, err
    written = {path.name for path in next((tmp_path / "drawn").iterdir()).iterdir()}
    assert written == {"sample-1.png", "sample-2.png", "grid.png", "drawing.html"}, "one glimpse, no attention"
    code, out, err = run("evaluate", "mine", "--samples", "1", "--bound-samples", "2", "--images", "12")
    assert code == 0, err
    evaluation = Evaluation.from_dict(json.loads((tmp_path / "evaluation-mine.json").read_text()))
    observation = evaluation.find("bound", "test").protocol["observation"]
    assert observation.startswith("gaussian, deviation ")
    assert observation in " ".join(out.split())
    assert evaluation.find("joint", "all").n == 440


def test_a_recipe_is_printed_and_explained(run):
    code, out, err = run("recipe", "aligndraw-small", "--set", "model.glimpses=5")
    assert (code, err) == (0, "")
    assert "glimpses = 5" in out
    code, out, err = run("recipe", "aligndraw-small", "--explain")
    assert (code, err) == (0, "")
    assert out.startswith('"paper" marks the values of aligndraw-coco-paper that differ.\n')
    assert "model.glimpses = 8\n    T, steps of a drawing\n    paper: 32\n" in out
    assert 'train.optimizer = "adam"\n    RMSprop as released, or Adam (rmsprop, adam)\n    paper: "rmsprop"\n' in out
    assert "model.colours = 3\n" in out
    assert "    paper: 3\n" not in out, "equal values are not repeated"
    code, out, _ = run("recipe", "aligndraw-coco-paper", "--explain")
    assert (code, "paper:" in out) == (0, False)
    code, out, err = run("recipe", "aligndraw-small", "--explain")
    assert "train.epochs = unset\n" in out
    code, _, err = run("recipe", "aligndraw-smal")
    assert (code, "did you mean aligndraw-small" in err) == (2, True)
