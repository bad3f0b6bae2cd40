"""Training the matching model: it learns, resumes exactly, and keeps frozen weights."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from cap2im.checkpoint import checkpoints, load_checkpoint, read_config, read_weights
from cap2im.config import DAMSMRecipe, DAMSMTraining, load_recipe
from cap2im.loading import load_model
from cap2im.models.attngan_text import TextEncoderConfig
from cap2im.models.damsm import DAMSM, DAMSMConfig, Gammas, damsm_losses
from cap2im.models.inception import Inception
from cap2im.training.accelerator import all_gather, make_accelerator
from cap2im.training.damsm import DAMSMTrainer, learning_rate, pad_equally
from cap2im.training.dispatch import train
from tests.prepared import prepared_dataset
from tests.processes import fork_server, free_port, in_two_processes
from tests.training.stopping import stop_at

CHANGES = (
    "model.width=4",
    "model.text.features=16",
    "model.text.word_features=8",
    "train.batch_size=10",
    "train.precision=fp32",
    "train.warmup_steps=0",
    "train.log_every=1",
    "train.validate_every=5",
    "train.checkpoint_every=3",
)
DIGITS = ("data.source=digits", "data.samples_per_epoch=50", "data.validation_samples=120", "train.epochs=2")


def recipe(name: str, *more: str) -> DAMSMRecipe:
    found = load_recipe(name, [*CHANGES, *more])
    assert isinstance(found, DAMSMRecipe)
    return found


def stats(run, name):
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """Squares of four colours, whose class is their colour."""
    return prepared_dataset(tmp_path_factory.mktemp("data") / "squares", side=32, train=96, validation=24)


def test_it_learns_to_match_colours(squares, tmp_path):
    wanted = recipe(
        "damsm-cifar", "train.epochs=24", "train.batch_size=24", "train.learning_rate=0.01", "train.validate_every=24", "train.log_every=12"
    )
    result = train(wanted, tmp_path, data=squares, device="cpu", workers=0)
    found = read_config(result)["r_precision"]
    assert found["validation"]["rate"] > 0.9
    losses = stats(tmp_path, "validation/loss")
    assert losses[-1] < losses[0]
    loaded = load_model(str(tmp_path), DAMSM)
    assert len(loaded.vocabulary) == loaded.network.config.text.vocabulary_size == loaded.config.model["text"]["vocabulary_size"]
    card = (result / "README.md").read_text()
    assert f"R-precision of validation images, 1 true caption of {found['others'] + 1} | {found['validation']['rate']:.2%}" in card
    assert "--set train.damsm=FOLDER" in card


def test_resume_is_bit_exact(tmp_path, monkeypatch):
    wanted, whole, broken = recipe("damsm-mnist", *DIGITS), tmp_path / "whole", tmp_path / "broken"
    train(wanted, whole, device="cpu")
    with monkeypatch.context() as patch:
        stop_at(patch, DAMSMTrainer, 7)
        with pytest.raises(KeyboardInterrupt):
            train(wanted, broken, device="cpu")
    assert load_checkpoint(checkpoints(broken)[-1]).step == 8
    train(wanted, broken, device="cpu", resume=True)
    ours, theirs = (load_checkpoint(checkpoints(run)[-1]) for run in (whole, broken))
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert {name.split(".")[0] for name in ours.tensors} == {"model", "optimizer", "random"}
    for name, tensor in ours.tensors.items():
        assert torch.equal(tensor, theirs.tensors[name]), name
    assert (whole / "model" / "model.safetensors").read_bytes() == (broken / "model" / "model.safetensors").read_bytes()
    for name in ("train/loss", "train/image_of_words", "validation/loss", "validation/r_precision"):
        assert stats(whole, name) == stats(broken, name) != []
    groups = read_config(whole / "model")["r_precision"]
    assert set(groups) == {"others", "seen", "held_out"}
    assert groups["seen"]["n"] + groups["held_out"]["n"] == 5 * 440
    with pytest.raises(ValueError, match="holds a run already"):
        train(wanted, broken, device="cpu")


def matched_in_two_processes(rank: int, folder: Path, port: int) -> None:
    """Half of a batch in one of two processes: writes the losses and the gradients that an update would follow."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    write_matched(make_accelerator("cpu", 6), slice(rank, None, 2), folder / f"{rank}.pth")
    torch.distributed.destroy_process_group()


def write_matched(accelerator: Accelerator, mine: slice, path: Path) -> None:
    torch.manual_seed(0)
    text = TextEncoderConfig(vocabulary_size=9, word_features=4, features=6)
    model = DAMSM(DAMSMConfig(text=text, image_encoder="small", side=16, colours=1, width=2)).double().eval()
    random = torch.Generator().manual_seed(1)
    images = torch.rand(6, 1, 16, 16, dtype=torch.float64, generator=random)
    tokens, lengths = torch.randint(9, (6, 5), generator=random), torch.tensor([2, 5, 1, 4, 3, 1])[mine]
    mask = torch.arange(int(lengths.max())) < lengths[:, None]  # the processes' longest captions differ
    tokens, mask = pad_equally(tokens[mine, : mask.shape[1]], mask, accelerator)
    prepared = accelerator.prepare(model)
    image, encoded = prepared(images[mine], tokens, mask)
    classes = torch.tensor([0, 1, 2, 1, 3, 4])[mine]
    losses = damsm_losses(image, encoded, classes, Gammas(), lambda part: all_gather(part, accelerator))
    accelerator.backward(torch.stack(list(losses.values())).sum())
    torch.save({"losses": losses, "gradients": {name: p.grad for name, p in model.named_parameters()}}, path)


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(tmp_path):
    fork_server()
    torch.multiprocessing.start_processes(matched_in_two_processes, (tmp_path, free_port()), 2, start_method="forkserver")
    write_matched(make_accelerator("cpu", 6), slice(None), tmp_path / "one.pth")
    one, *both = (torch.load(tmp_path / f"{name}.pth") for name in ("one", 0, 1))
    assert all(gradient.abs().max() > 0 for gradient in one["gradients"].values())
    for each in both:
        for kind in ("losses", "gradients"):
            torch.testing.assert_close(each[kind], one[kind], rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_two_processes_choose_among_the_whole_batch(tmp_path):
    """First losses differ by the batch statistics of the small image encoder alone; among half of the batch they would be 0.7 lower."""
    more = (*CHANGES, *DIGITS, "train.epochs=1", "model.text.dropout=0.0")
    train(recipe("damsm-mnist", *more), tmp_path / "one", device="cpu")
    sets = [part for change in more for part in ("--set", change)]
    in_two_processes("-m", "cap2im", "train", "damsm-mnist", "--run", str(tmp_path / "two"), "--device", "cpu", *sets)
    for name in ("words_of_image", "image_of_words", "sentence_of_image", "image_of_sentence"):
        one, two = (stats(tmp_path / run, f"train/{name}")[0] for run in ("one", "two"))
        assert two == pytest.approx(one, abs=0.3)
    assert (tmp_path / "two" / "model" / "model.safetensors").is_file()


def test_schedule():
    settings = DAMSMTraining(learning_rate=0.01, rate_decay=0.5, final_learning_rate=0.002, warmup_steps=1)
    assert [learning_rate(settings, step, 10) for step in (0, 1, 9, 10, 20, 30)] == pytest.approx([0.005, 0.01, 0.01, 0.005, 0.0025, 0.002])


def test_losses_that_break_stop_before_the_update(tmp_path, monkeypatch):
    monkeypatch.setattr("cap2im.models.damsm.word_scores", lambda regions, *_: torch.full((len(regions),) * 2, math.nan))
    with pytest.raises(ValueError, match="loss is nan at step 0; stopped before weights are saved"):
        train(recipe("damsm-mnist", *DIGITS), tmp_path, device="cpu")
    assert not checkpoints(tmp_path)


@pytest.mark.slow
def test_inception_is_frozen_but_for_two_layers(tmp_path):
    squares = prepared_dataset(tmp_path / "squares", side=32, train=4, validation=4, test=2)
    torch.manual_seed(5)
    torch.save(published := Inception().state_dict(), tmp_path / "inception.pth")
    more = [
        "train.epochs=1",
        "train.batch_size=4",
        "data.validation_samples=4",
        f"train.inception={tmp_path}/inception.pth",
    ]
    wanted = recipe("damsm-coco", *more)
    train(wanted, tmp_path / "run", data=squares, device="cpu", workers=0)
    weights = read_weights(tmp_path / "run" / "model", read_config(tmp_path / "run" / "model"))
    frozen = {name.removeprefix("image.network."): value for name, value in weights.items() if name.startswith("image.network.")}
    assert len(frozen) == len(published) - 2  # without the classifier
    for name, value in frozen.items():
        assert torch.equal(value, published[name].half() if value.is_floating_point() else published[name]), name
    moved = load_checkpoint(checkpoints(tmp_path / "run")[-1]).tensors
    assert sum(name.startswith("optimizer.") and name.endswith(".exp_avg") for name in moved) == 3 + 9  # two layers, the text encoder


def test_refusals(squares, tmp_path, run):
    with pytest.raises(ValueError, match=r"nowhere.pth: no such file; expected the weights of .*inception_v3_google"):
        train(recipe("damsm-coco", "train.inception=nowhere.pth"), tmp_path / "run", data=squares, device="cpu")
    with pytest.raises(ValueError, match=r"train.inception is for model.image_encoder inception; this one is small"):
        recipe("damsm-mnist", "train.inception=weights.pth")
    with pytest.raises(ValueError, match="image_encoder inception needs 3 colours, got 1"):
        recipe("damsm-coco", "model.colours=1")
    with pytest.raises(ValueError, match=r"unknown key train.gamma \(did you mean train.gammas\?\)"):
        recipe("damsm-mnist", "train.gamma=3")
    with pytest.raises(ValueError, match=r"unknown key model.text.celll \(did you mean model.text.cell\?\)"):
        recipe("damsm-mnist", "model.text.celll=gru")
    with pytest.raises(ValueError, match=r"train.gammas.1: Input should be greater than 0"):
        recipe("damsm-mnist", "train.gammas=[4.0, 0.0, 10.0]")
    code, _, error = run("train", "damsm-cifar")
    assert code == 2
    assert "--data" in error.splitlines()[-1]
    code, _, error = run("train", "damsm-mnist", "--compile")
    assert code == 2
    assert "damsm-mnist: a recipe of kind 'damsm' has no --compile" in error
