"""`cap2im compare`."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from cap2im.cli.compare import PRESETS
from cap2im.config import VariationalTraining, load_recipe
from tests.evaluation.models import models
from tests.tiny import tiny_model, tiny_recipe

CAPTION = "the digit three is at the top of the digit one"

QUICK = ("--samples", "1", "--bound-samples", "1", "--images", "4")


@pytest.mark.usefixtures("tiny_reader")
def test_compare_writes_one_table_and_measures_nothing_twice(run, tmp_path):
    tiny_model(tmp_path / "one")
    tiny_model(tmp_path / "two", "model.conditioning=mean")
    code, out, err = run("compare", "one", "two", *QUICK)
    assert (code, err.count("Traceback")) == (0, 0), err
    table = (tmp_path / "comparison" / "comparison.md").read_text()
    assert "| one | " in table
    assert "| two | " in table
    assert table.strip() in out
    stored = json.loads((tmp_path / "comparison" / "comparison.json").read_text())
    assert {"joint, seen, %", "joint, held out, %", "bound, test, nats", "parameters"} == {column["name"] for column in stored["columns"]}
    with Image.open(tmp_path / "comparison" / "comparison.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 5
    kept = tmp_path / "comparison" / "evaluations" / "one.json"
    written = kept.stat().st_mtime_ns
    assert run("compare", "one", "two", *QUICK)[0] == 0
    assert kept.stat().st_mtime_ns == written
    assert run("compare", "one", "two", *QUICK, "--seed", "1")[0] == 0
    assert kept.stat().st_mtime_ns != written


def test_compare_names_everything_that_is_missing(run, tmp_path):
    tiny_model(tmp_path / "one")
    code, _, err = run("compare", "one", "nothing", "aligndraw-digits", "noaligndraw-mnist")
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert "unknown model 'nothing'" in err
    assert "not trained yet: aligndraw-digits, noaligndraw-mnist; add --train" in err
    assert "no model given" in run("compare")[2]
    assert "two models are called 'one'" in run("compare", "one", str(tmp_path / "one"))[2]
    assert not (tmp_path / "comparison").exists()


def test_compare_refuses_before_it_measures_trains_or_writes(run, tmp_path, monkeypatch):
    tiny_model(tmp_path / "one")
    (tmp_path / "file").write_text("")

    def too_late(*_, **__):
        raise AssertionError("measured or trained first")

    monkeypatch.setattr("cap2im.evaluation.comparison.evaluate", too_late)
    monkeypatch.setattr("cap2im.cli.comparison.train", too_late)
    for arguments, problem in (
        (("one", "reader-mnist", "--train"), "reader-mnist: is a model of kind 'reader'; expected draw, vae, lapgan, attngan"),
        (("one", "noaligndraw-mnist", "--train", "--sharpen", "one"), "is a model of kind 'draw'; expected sharpener"),
        (("--preset", "mnist", "--train", "--metric", "ssim"), "aligndraw-mnist draws captioned digits, for which the metrics are"),
        (("one", "--out", "file"), "file: is a file, and a folder is needed"),
        (("one", "."), "two models are called 'one'"),
    ):
        if "." in arguments:
            monkeypatch.chdir(tmp_path / "one")
            arguments = ("../one", *arguments[1:])
        code, _, err = run("compare", *arguments)
        assert (code, problem in err.splitlines()[-1]) == (2, True), err
        assert not (tmp_path / "comparison").exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("words", "aligndraw-cifar", "--data", "data", "--train"), "its images are 12 pixels wide, a drawing of aligndraw-cifar is 32"),
        (("words", "aligndraw-cifar", "--data", "data", "--train", "--split", "validation"), "data: has no validation images"),
        (("aligndraw-cifar", "--train"), "aligndraw-cifar draws captioned images: give a prepared dataset with --data"),
        (
            ("aligndraw-mnist-paper", "--data", "data", "--train"),
            "--data data: is a prepared dataset; aligndraw-mnist-paper draws captioned",
        ),
        (("aligndraw-mnist-paper", "--data", "nowhere", "--train"), "nowhere: no such folder"),
        (("aligndraw-cifar", "--data", "nowhere", "--train"), "nowhere: no such folder; a prepared dataset is needed"),
        (("words", "--data", "data", "--train", "--metric", "retrieval", "--shortlist-model", "nowhere"), "unknown model 'nowhere'"),
        (
            ("words", "aligndraw-cifar", "--data", "data", "--train", "--metric", "r-precision", "--damsm", "words"),
            "is a model of kind 'draw'; expected damsm",
        ),
        (("words", "--data", "data", "--out", "data/manifest.json/x"), "data/manifest.json is a file, not a folder"),
        (("aligndraw-digits", "--train", "--runs", "data/manifest.json"), "data/manifest.json: is a file, and a folder is needed"),
    ],
)
def test_compare_checks_recipes_before_it_trains(run, tmp_path, monkeypatch, arguments, problem):
    models(tmp_path)
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    manifest["shards"] = [shard for shard in manifest["shards"] if "validation" not in shard["file"]]
    (tmp_path / "data" / "manifest.json").write_text(json.dumps(manifest))

    def too_late(*_, **__):
        raise AssertionError("measured or trained first")

    monkeypatch.setattr("cap2im.evaluation.comparison.evaluate", too_late)
    monkeypatch.setattr("cap2im.cli.comparison.train", too_late)
    code, _, err = run("compare", *arguments)
    assert (code, problem in err.splitlines()[-1]) == (2, True), err
    assert not (tmp_path / "comparison").exists()


@pytest.mark.parametrize("missing", ["accelerate", "tensorboard"])
def test_compare_requires_the_training_extra(run, monkeypatch, missing):
    monkeypatch.setattr("cap2im.extras.find_spec", lambda name: None if name == missing else object())
    code, _, err = run("compare", "aligndraw-digits", "--train")
    assert (code, "training needs more than the core" in err) == (2, True), err


def test_compare_keeps_another_comparison(run, tmp_path):
    _, _, data, _ = models(tmp_path)
    measure = ("compare", "words", "--data", str(data), "--images", "4", "--bound-samples", "1")
    assert run(*measure)[0] == 0
    first = (tmp_path / "comparison" / "comparison.md").read_bytes()
    code, out, err = run(*measure, "--seed", "1")
    assert (code, "comparison.md is of other models or settings and is kept" in err) == (0, True)
    assert "comparison-2.md, comparison-2.json, comparison-2.png" in out
    assert run(*measure)[0] == 0
    names = {path.name for path in (tmp_path / "comparison").iterdir()}
    assert names == {"evaluations"} | {f"comparison{number}.{ending}" for number in ("", "-2") for ending in ("md", "json", "png")}
    assert (tmp_path / "comparison" / "comparison.md").read_bytes() == first


@pytest.mark.usefixtures("tiny_reader")
def test_compare_trains_missing_models_on_request(run, tmp_path, monkeypatch):
    """The recipe itself takes long; a tiny one takes its place, which goes on from what a killed run left."""
    tiny_model(tmp_path / "one")
    monkeypatch.setattr("cap2im.config.load_recipe", lambda name, changes: tiny_recipe("train.epochs=1"))
    code, out, err = run("compare", "one", "aligndraw-digits", *QUICK, "--train")
    assert code == 0, err
    assert (tmp_path / "runs" / "aligndraw-digits" / "model" / "config.json").is_file()
    assert "| aligndraw-digits | " in out
    assert "seconds a step" in out


def test_compare_trains_the_matching_model_before_its_attngan(run, tmp_path, monkeypatch):
    trained = []

    def fake(name, changes, **how):
        trained.append((name, changes, str(how["run"])))
        if name == "attngan-mnist":
            raise ValueError("far enough")

    monkeypatch.setattr("cap2im.cli.comparison.train", fake)
    monkeypatch.setattr("cap2im.data.mnist.load_digits", lambda *_: None)  # MNIST may not be at hand
    assert "far enough" in run("compare", "attngan-mnist", "--train", "--runs", "there")[2]
    there = tmp_path / "there"
    assert trained == [
        ("damsm-mnist", [], "there/damsm-mnist"),
        ("attngan-mnist", ["train.damsm=there/damsm-mnist"], "there/attngan-mnist"),
    ]
    (there / "damsm-mnist" / "model").mkdir(parents=True)
    trained.clear()
    run("compare", "attngan-mnist", "--train", "--runs", "there")
    assert [name for name, _, _ in trained] == ["attngan-mnist"]


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_preset_names_recipes_of_one_side(preset):
    recipes = [load_recipe(name) for name in PRESETS[preset]]
    sides = {recipe.model.side for recipe in recipes if recipe.kind != "attngan"}
    assert len(sides) == 1


def test_the_models_of_flickr8k_have_one_budget_and_one_schedule():
    trainings = [load_recipe(name).train for name in PRESETS["flickr8k"]]
    assert len({(train.updates, train.batch_size, train.seed) for train in trainings}) == 1
    likelihood = [train.model_dump(exclude_none=True) for train in trainings if isinstance(train, VariationalTraining)]
    assert len(likelihood) == 6
    assert all(train == likelihood[0] for train in likelihood)
