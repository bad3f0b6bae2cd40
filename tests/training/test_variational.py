"""Training: exact resume after a kill, equal losses on two processes, golden losses, stopping on a broken loss."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from cap2im.checkpoint import checkpoints, load_checkpoint, read_config, read_weights
from cap2im.config import VariationalTraining, load_recipe
from cap2im.extras import missing_compiler
from cap2im.models.text import Alignment
from cap2im.pipeline import Pipeline
from cap2im.training.accelerator import make_accelerator
from cap2im.training.data import DataSource, load_training_data
from cap2im.training.dispatch import train
from cap2im.training.trainer import Trainer
from cap2im.training.variational import VariationalTrainer, kl_weight, learning_rate
from tests.processes import on_two_machines
from tests.tiny import CHANGES, tiny_recipe
from tests.training.golden import golden_losses, logged_losses

VAES = {
    "conv-vae": ("model.latent=4", "model.language_units=4", "model.hidden=9", "model.maps=2"),
    "fc-vae": ("model.latent=4", "model.language_units=4", "model.hidden=9"),
}


def stats(run: Path, *names: str) -> list[dict]:
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in ("step", *names)} for line in lines if all(name in line for name in names)]


def command(run: Path, *more: str) -> list[str]:
    changes = [part for change in CHANGES for part in ("--set", change)]
    return ["-m", "cap2im", "train", "aligndraw-digits", "--run", str(run), "--device", "cpu", *changes, *more]


@pytest.mark.parametrize(("optimizer", "end"), [("adam", signal.SIGKILL), ("rmsprop", signal.SIGTERM)])
def test_resume_after_a_signal_is_bit_exact(tmp_path, optimizer, end):
    changes = [f"train.optimizer={optimizer}", "model.language_dropout=0.2"]  # dropout draws from the global generator
    if asked := end == signal.SIGTERM:
        changes.append("train.checkpoint_every=1000")  # there is one where it was stopped, all the same
    more = [part for change in changes for part in ("--set", change)]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(tiny_recipe(*changes), whole, device="cpu")

    log = (tmp_path / "log").open("w")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, *command(broken, *more)], env=environment, stderr=log, stdout=log, start_new_session=True)
    deadline = time.monotonic() + 120
    stats_of_broken = broken / "stats.jsonl"
    while not ((asked or checkpoints(broken)) and stats_of_broken.exists() and len(stats_of_broken.read_text().splitlines()) > 3):
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, end)  # its loader's workers get it too, as from a service manager
    assert process.wait() == (130 if asked else -end)
    assert (f"is saved in {broken}: cap2im train --resume {broken} continues" in (tmp_path / "log").read_text()) == asked
    assert not (broken / "model").exists(), "it was stopped before its end"
    stopped_at = load_checkpoint(checkpoints(broken)[-1]).step
    assert 0 < stopped_at < 10

    train(tiny_recipe(*changes), broken, device="cpu", resume=True)
    ours, theirs = (load_checkpoint(checkpoints(run)[-1]) for run in (whole, broken))
    assert ours.step == theirs.step == 10
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name, tensor in ours.tensors.items():
        assert torch.equal(tensor, theirs.tensors[name]), name
    assert (whole / "model" / "model.safetensors").read_bytes() == (broken / "model" / "model.safetensors").read_bytes()
    assert stats(whole, "train/loss") == stats(broken, "train/loss")
    assert stats(whole, "validation/bound") == stats(broken, "validation/bound")


def test_two_machines_have_the_losses_of_one_process(tmp_path):
    train(tiny_recipe(), tmp_path / "one", device="cpu")
    on_two_machines(*command(tmp_path / "two"))
    for name in ("train/loss", "train/kl", "validation/bound"):
        one, two = stats(tmp_path / "one", name), stats(tmp_path / "two", name)
        assert len(one) == len(two) > 0
        for a, b in zip(one, two, strict=True):
            assert a["step"] == b["step"]
            assert b[name] == pytest.approx(a[name], rel=2e-5, abs=1e-4)
    ranks = [name for name in load_checkpoint(checkpoints(tmp_path / "two")[-1]).tensors if name.startswith("random.")]
    assert sorted(ranks) == ["random.0.cpu", "random.1.cpu"]


def test_losses_are_golden(tmp_path):
    train(tiny_recipe(), tmp_path, device="cpu")
    assert logged_losses("aligndraw", tmp_path) == golden_losses("aligndraw")


@pytest.mark.parametrize("kind", ["conv-vae", "fc-vae"])
def test_losses_of_vaes_are_golden(tmp_path, kind):
    data = [change for change in CHANGES if not change.startswith("model.")]
    train(load_recipe(f"{kind}-mnist", [*data, "data.source=digits", *VAES[kind]]), tmp_path, device="cpu")
    assert logged_losses(kind, tmp_path) == golden_losses(kind)


def test_training_learns_and_its_model_draws(tmp_path):
    changes = ("epochs=40", "learning_rate=0.02", "ema_decay=0.5", "validate_every=20", "checkpoint_every=200")
    recipe = tiny_recipe(*(f"train.{change}" for change in changes))
    train(recipe, tmp_path, device="cpu")
    bounds = [line["validation/bound"] for line in stats(tmp_path, "validation/bound")]
    assert bounds[-1] > bounds[0] + 30
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| updates | 200 of 4 captions |" in card
    assert "| vocabulary | 22 entries |" in card
    assert list((tmp_path / "samples").glob("*.png"))
    assert list((tmp_path / "tensorboard").iterdir())
    drawing = Pipeline.load(str(tmp_path)).draw("the digit three is at the top of the digit one")[0]
    assert drawing.canvases.shape == (3, 60, 60, 1)


@pytest.mark.parametrize("late", [False, True])
def test_broken_loss_stops_before_weights_are_saved(tmp_path, monkeypatch, late):
    monkeypatch.setattr(Trainer, "checks_late", late)
    with pytest.raises(ValueError, match=r"(loss|the gradient's norm) is (nan|inf) at step [1-9]"):
        train(tiny_recipe("train.learning_rate=1e30", "train.checkpoint_every=1"), tmp_path, device="cpu")
    last = load_checkpoint(checkpoints(tmp_path)[-1])
    assert last.step >= 1
    assert all(tensor.isfinite().all() for name, tensor in last.tensors.items() if name.startswith("model."))
    assert not (tmp_path / "model").exists()


def test_losses_on_an_accelerator_are_read_where_logged(tmp_path, monkeypatch):
    checked, finish = [], Trainer.finish_checks

    def finish_checks(self):
        checked.append((self.state.step, len(self._unchecked)))
        finish(self)

    monkeypatch.setattr(Trainer, "checks_late", True)
    monkeypatch.setattr(Trainer, "finish_checks", finish_checks)
    train(tiny_recipe("train.log_every=4", "train.validate_every=10", "train.checkpoint_every=5"), tmp_path, device="cpu")
    assert checked == [(4, 8), (5, 2), (8, 6), (10, 4)]  # a loss and a norm an update
    assert [line["step"] for line in stats(tmp_path, "train/loss")] == [4, 8]


@pytest.mark.usefixtures("without_bf16")
def test_without_bf16_training_is_in_fp32_with_a_message(tmp_path, capsys):
    for precision in ("fp32", "bf16"):
        train(tiny_recipe(f"train.precision={precision}"), tmp_path / precision, device="cpu")
        told = "this machine has no native bf16 arithmetic: using fp32" in " ".join(capsys.readouterr().out.split())
        assert told == (precision == "bf16")
    assert stats(tmp_path / "fp32", "train/loss") == stats(tmp_path / "bf16", "train/loss")


@pytest.mark.usefixtures("bf16")
def test_bf16_follows_fp32(tmp_path):
    train(tiny_recipe(), tmp_path / "fp32", device="cpu")
    train(tiny_recipe("train.precision=bf16"), tmp_path / "bf16", device="cpu")
    exact, rounded = (stats(tmp_path / name, "train/loss") for name in ("fp32", "bf16"))
    assert exact != rounded
    for a, b in zip(exact, rounded, strict=True):
        assert b["train/loss"] == pytest.approx(a["train/loss"], rel=0.02)


def test_resume_refuses_other_recipes(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint to resume from"):
        train(tiny_recipe(), tmp_path, device="cpu", resume=True)
    train(tiny_recipe("train.epochs=1"), tmp_path, device="cpu")
    with pytest.raises(ValueError, match="holds a run already"):
        train(tiny_recipe("train.epochs=1"), tmp_path, device="cpu")
    with pytest.raises(ValueError, match=r"another recipe .*recipe.toml\); differences: train.learning_rate: 0.002 -> 0.5"):
        train(tiny_recipe("train.epochs=1", "train.learning_rate=0.5"), tmp_path, device="cpu", resume=True)


def test_batches_depend_only_on_the_step():
    one, two = (load_training_data(tiny_recipe(), DataSource()).batches for _ in range(2))
    for step in (0, 1, 7):
        one.at(step)
    a, b = one.at(3), two.at(3)
    assert torch.equal(a.images, b.images)
    assert torch.equal(a.noise, b.noise)
    assert not torch.equal(a.images, one.at(4).images)
    assert not torch.equal(a.images, one.at(8).images), "the second epoch is fresh"


def test_schedules():
    by_updates = VariationalTraining(updates=1000, schedule="cosine", warmup_steps=10, final_learning_rate=1e-5)
    assert learning_rate(by_updates, 505, 7) == pytest.approx((1e-3 + 1e-5) / 2)
    step = VariationalTraining(epochs=150, drop_epoch=110)
    assert [learning_rate(step, s, 100) for s in (0, 10_999, 11_000, 14_999)] == [1e-3, 1e-3, 1e-4, 1e-4]
    cosine = VariationalTraining(epochs=10, schedule="cosine", warmup_steps=10, final_learning_rate=1e-5)
    assert learning_rate(cosine, 4, 10) == pytest.approx(5e-4)
    assert learning_rate(cosine, 10, 10) == pytest.approx(1e-3)
    assert learning_rate(cosine, 55, 10) == pytest.approx((1e-3 + 1e-5) / 2)
    assert learning_rate(cosine, 100, 10) == pytest.approx(1e-5)
    assert [kl_weight(VariationalTraining(), s) for s in (0, 10**6)] == [1.0, 1.0]
    knots = VariationalTraining(kl_weights=((0, 0.2), (100, 1.0), (200, 1.0), (300, 4.0)))
    assert [kl_weight(knots, s) for s in (0, 50, 100, 150, 250, 300, 999)] == pytest.approx([0.2, 0.6, 1.0, 1.0, 2.5, 4.0, 4.0])


def test_noise_on_the_attention_is_scheduled(tmp_path, monkeypatch):
    scales, begin = [], Alignment.begin

    def recorded(self, text):
        aligned = begin(self, text)
        if self.training:
            scales.append(aligned.noise)
        return aligned

    monkeypatch.setattr(Alignment, "begin", recorded)
    train(tiny_recipe("model.align_noise=2.0", "train.align_noise_updates=[3, 6]"), tmp_path, device="cpu")
    assert scales == [0.0] * 3 + [2.0] * 3 + [0.0] * 4
    with pytest.raises(ValueError, match=r"align_noise_updates must rise, got 6 and 6"):
        tiny_recipe("model.align_noise=2.0", "train.align_noise_updates=[6, 6]")
    with pytest.raises(ValueError, match="align_noise_updates needs conditioning align"):
        tiny_recipe("model.conditioning=mean", "train.align_noise_updates=[3, 6]")


def test_start_from_loads_weights_and_is_recorded(tmp_path):
    first = train(tiny_recipe("train.epochs=1"), tmp_path / "first", device="cpu")
    recipe = tiny_recipe("train.epochs=1", "train.learning_rate=1e-30", "train.final_learning_rate=1e-30", "train.seed=9")
    second = train(recipe, tmp_path / "second", device="cpu", start_from=first, command="cap2im train it")
    before, after = (read_weights(folder, read_config(folder)) for folder in (first, second))
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    config = read_config(second)
    assert config["started_from"] == read_config(first)["sha256"]["model.safetensors"]
    assert config["command"] == "cap2im train it"
    assert (config["trained"]["steps"], config["trained"]["batch_size"]) == (5, 4)
    with pytest.raises(ValueError, match=r"its model\.variant is 'paper', this training's is 'released'"):
        train(tiny_recipe("model.variant=released"), tmp_path / "third", device="cpu", start_from=first)
    with pytest.raises(ValueError, match="other configurations were held out"):
        train(tiny_recipe("data.held_out_seed=5"), tmp_path / "third", device="cpu", start_from=first)


def test_released_captions_cannot_be_shared_among_processes(tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 2)
    with pytest.raises(ValueError, match="cannot be shared among processes"):
        train(tiny_recipe("model.variant=released"), tmp_path, device="cpu")


def test_a_locked_run_is_refused(tmp_path):
    with FileLock(tmp_path / ".lock"), pytest.raises(ValueError, match="another training writes into this folder"):
        train(tiny_recipe(), tmp_path, device="cpu")
    assert not (tmp_path / "stats.jsonl").exists()


def test_a_long_training_is_compiled_if_the_machine_can(monkeypatch):
    def trainer(*changes: str) -> VariationalTrainer:
        recipe = load_recipe("aligndraw-digits", changes)
        accelerator = make_accelerator("cpu", recipe.train.batch_size)
        return VariationalTrainer(recipe, VariationalTrainer.load_data(recipe, DataSource(None), accelerator), accelerator)

    long, short = trainer("train.epochs=200"), trainer("train.epochs=2")
    monkeypatch.setenv("CXX", sys.executable)  # any program: nothing is compiled here
    with_headers = not missing_compiler("cpu")
    assert (long.gains_from_compiling(), short.gains_from_compiling()) == (with_headers, False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not long.gains_from_compiling()
    with pytest.raises(ValueError, match=r"^--compile needs a C\+\+ compiler \(no-such-compiler was not found\); --no-compile "):
        short.compile()


def test_a_resumed_run_is_compiled_as_before(tmp_path, monkeypatch, capsys):
    compiled = []
    monkeypatch.setattr(VariationalTrainer, "compile", lambda self: compiled.append(self.state.step))
    monkeypatch.setattr(VariationalTrainer, "gains_from_compiling", lambda _: True)
    train(tiny_recipe("train.epochs=1"), tmp_path / "one", device="cpu", compile_model=None)
    assert "compiling the network (--no-compile)" in " ".join(capsys.readouterr().out.split())
    train(tiny_recipe("train.epochs=1"), tmp_path / "other", device="cpu", compile_model=False)
    for run in ("one", "other"):
        train(tiny_recipe("train.epochs=2"), tmp_path / run, device="cpu", compile_model=None, resume=True)
    assert compiled == [0, 5]
