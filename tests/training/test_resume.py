"""Resuming a run from its folder: recipe, data, more updates, and messages of an interruption."""

from __future__ import annotations

import json
import os
import shutil
import sys

import pytest
import torch

import cap2im
from cap2im.checkpoint import checkpoints, load_checkpoint, read_config, read_weights
from cap2im.config import load_recipe
from cap2im.training.dispatch import train
from cap2im.training.variational import VariationalTrainer
from tests.prepared import prepared_dataset
from tests.training.stopping import stop_at

TINY = {
    "model.glimpses": 2,
    "model.inference_units": 8,
    "model.generative_units": 8,
    "model.latent": 3,
    "model.read_patch": 3,
    "model.write_patch": 3,
    "model.language_units": 4,
    "model.align_features": 4,
    "batch_size": 8,
    "precision": "fp32",
    "log_every": 1,
}


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepared_dataset(tmp_path / "photos")
    manifest = json.loads((tmp_path / "photos" / "manifest.json").read_text())
    manifest |= {"source": {"kind": "folder", "path": "/home/someone/my photos"}, "title": "Squares | mine", "licence": "CC-BY-4.0"}
    (tmp_path / "photos" / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path / "photos"


def begin(**changes):
    return cap2im.train("aligndraw-small", data="photos", run="runs/mine", device="cpu", **TINY, **changes)


def steps(folder):
    return [load_checkpoint(each).step for each in checkpoints(folder)]


def test_a_run_resumes_from_its_folder_and_can_be_extended(run, photos, tmp_path):
    begin(updates=4, checkpoint_every=4)
    (tmp_path / "elsewhere").mkdir()
    code, out, err = run("train", "--resume", "runs/mine", "--device", "cpu", "--set", "train.updates=7", "--workers", "0")
    assert code == 0, err
    assert "7 updates with batch size 8 (1.2 epochs), 4 of them made; validation every 50, a checkpoint every 4 updates" in out
    assert steps(tmp_path / "runs" / "mine") == [4, 7]
    config = read_config(tmp_path / "runs" / "mine" / "model")
    assert config["trained"]["steps"] == 7
    assert config["command"].endswith("; cap2im train --resume runs/mine --device cpu --set train.updates=7 --workers 0")
    code, out, err = run("train", "runs/mine", "--resume", "--device", "cpu")
    assert (code, "finished, all 7 updates are made; --set train.updates=14 extends it" in out) == (0, True)
    code, _, err = run("train", "--resume", "runs/mine", "--set", "train.updates=3", "--device", "cpu")
    assert code == 2
    assert "has made 7 updates of 3; --set train.updates=14 extends the run" in err
    code, _, err = run("train", "--resume", "runs/mine", "--set", "train.seed=3", "--device", "cpu")
    assert (code, "train.seed: 0 -> 3" in err) == (2, True)


def test_extending_equals_a_longer_run_bit_for_bit(photos, tmp_path):
    """With a learning rate that does not depend on the length."""
    same = {"schedule": "step", "drop_epoch": 99, "ema_decay": 0.5}
    cap2im.train("aligndraw-small", data="photos", run="whole", device="cpu", updates=6, **TINY, **same)
    cap2im.train("aligndraw-small", data="photos", run="parts", device="cpu", updates=3, **TINY, **same)
    cap2im.train("parts", resume=True, device="cpu", updates=6, log_every=2)
    one, two = (tmp_path / name / "model" / "model.safetensors" for name in ("whole", "parts"))
    assert one.read_bytes() == two.read_bytes()


def raise_interrupt(*_, **__):
    raise KeyboardInterrupt  # as SIGINT does, which a shell's background job ignores


def test_an_interruption_names_the_step_and_the_command(run, photos, monkeypatch):
    begin_by_hand = [f"--set={key if '.' in key else 'train.' + key}={value}" for key, value in TINY.items()]
    stop_at(monkeypatch, VariationalTrainer, 2)
    code, _, err = run("train", "aligndraw-small", "--data", "photos", "--run", "my run", "--device", "cpu", *begin_by_hand)
    assert (code, err.splitlines()[-1]) == (130, "cap2im: interrupted; step 3 is saved in my run: cap2im train --resume 'my run' continues")
    other = ("train", "aligndraw-small", "--data", "photos", "--run", "other", "--device", "cpu", *begin_by_hand)
    told = "cap2im: interrupted before the first checkpoint of other; the same command starts it again"
    with monkeypatch.context() as patch:
        patch.setattr(VariationalTrainer, "load_data", raise_interrupt)
        code, _, err = run(*other)
        assert (code, err.splitlines()[-1]) == (130, told)
    with monkeypatch.context() as patch:
        stop_at(patch, VariationalTrainer, 0, kill=True)
        code, _, err = run(*other)
        assert (code, err.splitlines()[-1]) == (130, told)
    code, _, err = run("train", "--resume", "other")
    told = "cap2im: other: no checkpoint to resume from; the command of the run without --resume starts it again"
    assert (code, err.splitlines()[-1]) == (2, told)
    code, _, err = run(*other)
    assert (code, err.splitlines()[-1]) == (130, "cap2im: interrupted; step 3 is saved in other: cap2im train --resume other continues")


def test_moved_data_is_one_error(run, photos, tmp_path):
    begin(updates=1)
    shutil.move("photos", "moved")
    code, _, err = run("train", "--resume", "runs/mine", "--device", "cpu")
    told = f"cap2im: runs/mine: its data were in {tmp_path}/photos, which does not exist; give their new place with --data"
    assert (code, err.splitlines()[-1]) == (2, told)
    code, _, err = run("train", "--resume", "runs/mine", "--data", "moved", "--device", "cpu", "--set", "train.updates=2")
    assert code == 0, err
    (tmp_path / "runs" / "mine" / "run.json").unlink()  # as runs of older versions have none
    code, _, err = run("train", "--resume", "runs/mine", "--device", "cpu")
    assert (code, "give its folder with --data" in err) == (2, True)


@pytest.mark.skipif(sys.platform != "linux", reason="file systems elsewhere have names in UTF-8 alone")
def test_a_run_resumes_on_a_path_that_is_not_utf8(run, photos, tmp_path):
    data = os.fsdecode(b"\xff")
    shutil.move("photos", data)
    cap2im.train("aligndraw-small", data=data, run="runs/mine", device="cpu", updates=1, **TINY)
    code, _, err = run("train", "--resume", "runs/mine", "--device", "cpu")
    assert (code, "give their new place with --data" in err) == (2, True)
    assert run("train", "--resume", "runs/mine", "--data", data, "--device", "cpu", "--set", "train.updates=2")[0] == 0


def test_cards_and_configs_name_the_data_without_paths(photos, tmp_path):
    folder = begin(updates=1, name="My | squares")
    card, config = (folder / "README.md").read_text(), (folder / "config.json").read_text()
    assert "# My / squares\n\na small alignDRAW, for your own captioned pictures, trained on Squares / mine (24 images).\n" in card
    assert "license: cc-by-4.0\n" in card
    assert "| licence of the data | CC-BY-4.0 |" in card
    assert read_config(folder)["description"] == "a small alignDRAW, for your own captioned pictures, trained on Squares / mine (24 images)"
    for text in (card, config):
        assert "someone" not in text
        assert str(tmp_path) not in text
        assert "CIFAR" not in text
        assert "mit\n" not in text


def test_start_from_maps_words_of_another_vocabulary(photos, tmp_path, capsys):
    first = begin(updates=2)
    vocabulary = json.loads((photos / "vocabulary.json").read_text())
    old = list(vocabulary["words"])
    new = ["zebra", *reversed([word for word in old if word != "red"])]
    (photos / "vocabulary.json").write_text(json.dumps(vocabulary | {"words": new}))
    capsys.readouterr()
    frozen = {"learning_rate": 1e-30, "final_learning_rate": 1e-31, "updates": 1}
    changes = {key if "." in key else f"train.{key}": value for key, value in (TINY | frozen).items()}
    second = train(load_recipe("aligndraw-small", changes), tmp_path / "second", data=photos, device="cpu", start_from=first)
    shared = len(old) - 1
    assert f"{shared} of {len(new)} words have weights there and keep them; 1 words start untrained" in capsys.readouterr().out
    before, after = (read_weights(folder, read_config(folder)) for folder in (first, second))
    names = [name for name in before if name.endswith(".words.weight")]
    assert names
    for name, weight in before.items():
        if name in names:
            for word in set(old) & set(new):
                assert torch.equal(weight[old.index(word)], after[name][new.index(word)]), (name, word)
        else:
            assert torch.equal(weight, after[name]), name
    other = changes | {"model.latent": 4, "model.language_dropout": 0.4}  # dropout changes no size, so it is not named
    with pytest.raises(ValueError, match=r"has other sizes: its model\.latent is 3, this training's is 4; give the same sizes with --set$"):
        train(load_recipe("aligndraw-small", other), tmp_path / "third", data=photos, device="cpu", start_from=first)


def test_a_dry_run_with_data_prints_updates_time_and_words(run, photos, tmp_path):
    sets = [f"--set={key if '.' in key else 'train.' + key}={value}" for key, value in TINY.items()]
    code, out, err = run("train", "aligndraw-small", "--data", "photos", "--device", "cpu", "--dry-run", *sets)
    assert code == 0, err
    *toml, last = out.splitlines()
    assert last.startswith("# 2,000 updates, 0")
    for line in ("vocabulary_size = 19", "side = 8", "updates = 2000", "validate_every = 100", "checkpoint_every = 100", "log_every = 1"):
        assert line in toml
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "3"], "No such option: --epochs; --set train.epochs=3 changes that setting of the recipe"),
        (["--epoch", "3"], "No such option: --epoch; --set train.epochs=3 changes that setting of the recipe"),
        (["--batch-size=64"], "; --set train.batch_size=64 changes that setting"),
        (["--glimpses", "4"], "; --set model.glimpses=4 changes that setting"),
        (["--data", "nowhere"], "nowhere: no such folder"),
        (
            ["--data", "photos", "--set", "model.side=16"],
            "the recipe's model.side is 16; prepare with --side 16, or give --set model.side=8",
        ),
        (["--resume"], "runs/aligndraw-small: no checkpoint to resume from; the command of the run without --resume starts it again"),
        (["--data", "photos"], "24 captions"),
    ],
)
def test_errors_say_what_to_type(run, photos, arguments, message):
    prepared_dataset(photos.parent / "few", train=12)
    shutil.rmtree(photos)
    shutil.move("few", "photos")
    code, out, err = run("train", "aligndraw-small", "--device", "cpu", *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_a_missing_run_is_one_error(run, photos):
    code, _, err = run("train", "--resume", "runs/nothing")
    assert (code, err.splitlines()[-1]) == (2, "cap2im: --resume runs/nothing: neither the folder of a run nor a recipe (see cap2im list)")
    code, _, err = run("train", "--resume")
    assert (code, err.splitlines()[-1]) == (2, "cap2im: give a recipe (see cap2im list), or --resume and the folder of a run")


def test_a_missing_sentence_encoder_names_its_recipe(run, photos):
    code, _, err = run("train", "skipthoughtdraw-cifar", "--data", "photos", "--set", "model.side=8", "--device", "cpu")
    assert code == 2
    assert "cap2im train skipthoughts-small --data DATA trains one, --set data.sentence_encoder=FOLDER names it" in err
    code, _, err = run("train", "skipthoughtdraw-flickr8k", "--data", "photos", "--set", "model.side=8", "--device", "cpu")
    assert (code, "cap2im train skipthoughts-flickr8k --data DATA trains one" in err) == (2, True)
