"""Training AttnGAN: which weights move, exact resume, and the finished model."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from cap2im.checkpoint import checkpoints, load_checkpoint, read_config, read_weights, write_model
from cap2im.config import AttnGANRecipe, load_recipe
from cap2im.data.mnist_captions import ALIASES, WORDS
from cap2im.data.vocabulary import Vocabulary
from cap2im.evaluation.evaluation import Evaluation
from cap2im.evaluation.figures import nearest_training_images
from cap2im.models.attngan import AttentionStage, AttnGANConfig
from cap2im.models.attngan_text import TextEncoderConfig
from cap2im.models.damsm import DAMSM, DAMSMConfig, SmallEncoder
from cap2im.models.discriminators import Discriminator
from cap2im.pipeline import Pipeline
from cap2im.training.accelerator import make_accelerator
from cap2im.training.attngan import AttnGANTrainer, initialize_weights, real_images
from cap2im.training.data import DataSource
from cap2im.training.dispatch import train
from tests.prepared import prepared_dataset
from tests.processes import in_two_processes, start_process

CHANGES = (
    "data.source=digits",
    "data.samples_per_epoch=20",
    "data.validation_samples=6",
    "model.condition=3",
    "model.noise=4",
    "model.width=2",
    "train.discriminator_width=2",
    "train.epochs=2",
    "train.batch_size=4",
    "train.precision=fp32",
    "train.ema_decay=0.9",
    "train.log_every=1",
    "train.validate_every=5",
    "train.checkpoint_every=3",
)
CAPTION = "the digit three is at the top of the digit one"
DIGIT_WORDS = Vocabulary(words=WORDS, aliases=ALIASES)
LOSSES = [f"train/{who}_{side}" for who in ("discriminator", "generator") for side in (32, 64)] + ["train/words_of_image", "train/kl"]


def tiny_damsm(folder: Path, vocabulary: Vocabulary = DIGIT_WORDS, side: int = 60, colours: int = 1, seed: int = 0) -> Path:
    """Writes an untrained matching model into a new folder."""
    torch.manual_seed(seed)
    text = TextEncoderConfig(vocabulary_size=len(vocabulary), word_features=5, features=6)
    model = DAMSM(DAMSMConfig(text=text, image_encoder="small", side=side, colours=colours, width=2))
    folder.mkdir(parents=True)
    config = {"kind": "damsm", "model": model.config.model_dump(), "vocabulary": vocabulary.model_dump()}
    write_model(folder, model.state_dict(), config)
    return folder


def changes(folder: Path, *more: str) -> list[str]:
    damsm = folder / "damsm"
    if not damsm.exists():
        tiny_damsm(damsm)
    return [*CHANGES, f"train.damsm={damsm}", *more]


def recipe(folder: Path, *more: str) -> AttnGANRecipe:
    loaded = load_recipe("attngan-mnist", changes(folder, *more))
    assert isinstance(loaded, AttnGANRecipe)
    return loaded


def stats(run: Path, *names: str) -> list[dict]:
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in ("step", *names)} for line in lines if all(name in line for name in names)]


@pytest.mark.slow
@pytest.mark.parametrize(("spectral_norm", "end"), [(False, signal.SIGKILL), (True, signal.SIGTERM)])
def test_resume_after_a_signal_is_bit_exact(tmp_path, spectral_norm, end):
    more = changes(tmp_path, f"train.spectral_norm={'true' if spectral_norm else 'false'}", "train.image_noise=0.1")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(load_recipe("attngan-mnist", more), whole, device="cpu")

    command = ["-m", "cap2im", "train", "attngan-mnist", "--run", str(broken), "--device", "cpu"]
    command += [part for change in more for part in ("--set", change)]
    log, threads = tmp_path / "log", torch.get_num_threads()  # sums in another order, by other threads, are not the same bits
    process = start_process(*command, log=log, threads=threads)
    deadline = time.monotonic() + 120
    while not (checkpoints(broken) and len((broken / "stats.jsonl").read_text().splitlines()) > 3):
        assert process.is_alive(), log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, end)
    process.join()
    assert process.exitcode == (130 if end == signal.SIGTERM else -end)
    assert not (broken / "model").exists(), "it was stopped before its end"
    assert 0 < load_checkpoint(checkpoints(broken)[-1]).step < 10

    train(load_recipe("attngan-mnist", more), broken, device="cpu", resume=True)
    ours, theirs = (load_checkpoint(checkpoints(run)[-1]) for run in (whole, broken))
    assert ours.step == theirs.step == 10
    assert ours.tensors.keys() == theirs.tensors.keys()
    for part in ("model.drawing.generator.", "model.drawing.text.", "model.discriminators.0.", "model.discriminators.1.", "optimizer."):
        assert any(name.startswith(part) for name in ours.tensors), part
    for name, tensor in ours.tensors.items():
        assert torch.equal(tensor, theirs.tensors[name]), name
    averages = [read_weights(checkpoints(run)[-1], read_config(checkpoints(run)[-1])) for run in (whole, broken)]
    raw = {name.removeprefix("model.drawing."): tensor for name, tensor in ours.tensors.items() if name.startswith("model.drawing.")}
    assert averages[0].keys() == raw.keys()
    assert all(torch.equal(tensor, averages[1][name]) for name, tensor in averages[0].items())
    assert any(not torch.equal(tensor, raw[name]) for name, tensor in averages[0].items()), "the average is not the weights in training"
    assert (whole / "model" / "model.safetensors").read_bytes() == (broken / "model" / "model.safetensors").read_bytes()
    for name in (*LOSSES, "validation/matched", "validation/told_apart_64"):
        assert stats(whole, name) == stats(broken, name)


def test_each_step_moves_one_network_and_never_the_text_encoder(tmp_path, monkeypatch):
    moved, step = [], AttnGANTrainer._step

    def watched(trainer, *arguments):
        before = {name: value.clone() for name, value in trainer.model.named_parameters()}
        step(trainer, *arguments)
        changed = {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}
        moved.append({".".join(name.split(".")[:2]) for name in changed})

    monkeypatch.setattr(AttnGANTrainer, "_step", watched)
    result = train(recipe(tmp_path, "train.epochs=1"), tmp_path / "run", device="cpu")
    assert moved == [{"discriminators.0"}, {"discriminators.1"}, {"drawing.generator"}] * 5
    given, kept = (read_weights(folder, read_config(folder)) for folder in (tmp_path / "damsm", result))
    text = {name: value for name, value in given.items() if name.startswith("text.")}
    assert text
    for name, value in text.items():
        assert torch.equal(kept[name].float(), value.half().float()), name


def test_only_discriminators_see_image_noise(tmp_path, monkeypatch):
    seen: dict[str, list[torch.Tensor]] = {"real": [], "drawn": [], "matched": []}
    judge, look = Discriminator.forward, SmallEncoder.forward

    def watched(self, real, drawn, sentences):
        seen["real"].append(real)
        seen["drawn"].append(drawn)
        return judge(self, real, drawn, sentences)

    def watched_look(self, images):
        seen["matched"].append(images)
        return look(self, images)

    monkeypatch.setattr(Discriminator, "forward", watched)
    monkeypatch.setattr(SmallEncoder, "forward", watched_look)
    train(recipe(tmp_path, "train.image_noise=0.5", "train.epochs=1"), tmp_path / "run", device="cpu")
    blank = torch.cat([images[..., :2, :].flatten() for images in seen["real"]])  # the margin is -1 everywhere
    assert blank.mean().item() == pytest.approx(-1, abs=0.05)
    assert blank.std().item() == pytest.approx(0.5, abs=0.05)
    assert max(images.abs().max() for images in seen["drawn"]) > 1
    assert max(images.abs().max() for images in seen["matched"]) <= 1


def test_training_does_not_depend_on_torchs_global_generator(tmp_path, monkeypatch):
    wanted = recipe(tmp_path, "train.image_noise=0.5", "train.epochs=1")
    train(wanted, tmp_path / "one", device="cpu")
    monkeypatch.setattr(AttnGANTrainer, "check_finite", lambda *_: torch.rand(1))
    train(wanted, tmp_path / "two", device="cpu")
    other = wanted.model_copy(update={"train": wanted.train.model_copy(update={"image_noise": 0.25})})
    train(other, tmp_path / "three", device="cpu")
    one, two, three = ((tmp_path / run / "model" / "model.safetensors").read_bytes() for run in ("one", "two", "three"))
    assert one == two != three


def test_recompute_changes_nothing(tmp_path, monkeypatch):
    passed, stage = [], AttentionStage.forward

    def watched(self, *arguments):
        passed.append(self.training)
        return stage(self, *arguments)

    monkeypatch.setattr(AttentionStage, "forward", watched)
    ways = {}
    for way in ("false", "true"):
        train(recipe(tmp_path, f"train.recompute={way}", "train.epochs=1"), tmp_path / way, device="cpu")
        ways[way] = load_checkpoint(checkpoints(tmp_path / way)[-1]).tensors, stats(tmp_path / way, *LOSSES), sum(passed)
        passed.clear()
    (kept, losses, passes), (again, same_losses, more_passes) = ways.values()
    assert (passes, more_passes) == (5, 10)
    assert losses == same_losses
    assert any(name.endswith("running_mean") for name in kept)
    for name, tensor in kept.items():
        assert torch.equal(tensor, again[name]), name


def untrained(wanted: AttnGANRecipe) -> AttnGANTrainer:
    accelerator = make_accelerator("cpu", 4)
    data = AttnGANTrainer.load_data(wanted, DataSource(), accelerator)
    return AttnGANTrainer(data.recipe, data, accelerator)


def test_processes_share_the_noise_of_a_step(tmp_path):
    trainer, images = untrained(recipe(tmp_path, "train.image_noise=0.5")), torch.zeros(4, 1, 8, 8)

    def noisy(images: torch.Tensor, rank: int, processes: int) -> torch.Tensor:
        trainer.accelerator = SimpleNamespace(num_processes=processes, process_index=rank)
        return trainer._add_noise(images, "real")

    whole = noisy(images, 0, 1)
    shares = [noisy(images[:2], rank, 2) for rank in (0, 1)]
    assert torch.equal(shares[0], whole[0::2])
    assert torch.equal(shares[1], whole[1::2])
    assert whole.unique().numel() == whole.numel()
    trainer.state.step = 1
    assert not (noisy(images, 0, 1) == whole).any()


def test_the_generator_learns_to_draw_what_is_real(tmp_path):
    wanted = recipe(tmp_path, "train.matching_weight=0.0", "train.generator_rate=0.005", "train.discriminator_rate=0.005")
    trainer = untrained(wanted)
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(22, (8, 5), generator=random)
    with torch.no_grad():
        text = trainer.damsm.text(tokens, torch.ones_like(tokens, dtype=torch.bool))
    reals = real_images(torch.full((8, 1, 60, 60), 0.9), trainer.recipe.model)
    noise = torch.randn(8, *trainer.recipe.model.noise_shape, generator=random)
    before = trainer.state.ema_model.sample_images(text, noise).mean()
    for step in range(60):
        trainer.state.step = step  # of which the discriminators' noise is a function
        trainer.update_networks(text, reals, noise, None)
    trainer.model.drawing.eval()
    assert trainer.model.drawing.sample_images(text, noise).mean() > before + 0.2
    assert trainer.state.ema_model.sample_images(text, noise).mean() > before + 0.2


def test_real_pictures_have_margins_and_every_size():
    config = AttnGANConfig(first_side=32, branches=2, margin=2, colours=1)
    images = torch.rand(2, 1, 60, 60, generator=torch.Generator().manual_seed(0))
    small, large = real_images(images, config)
    assert (small.shape, large.shape) == ((2, 1, 32, 32), (2, 1, 64, 64))
    torch.testing.assert_close(large[..., 2:62, 2:62], 2 * images - 1)
    torch.testing.assert_close(large[:, :, 0, 2:62], 2 * images[:, :, 0] - 1)
    torch.testing.assert_close(small.mean(), large.mean(), rtol=0, atol=0.01)
    assert [part.shape[-1] for part in real_images(images, config.model_copy(update={"architecture": "attndcgan"}))] == [64]


def test_first_weights_are_orthogonal():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(500), nn.Linear(6, 9))
    initialize_weights(network)
    convolution, norm, linear = network
    torch.testing.assert_close(convolution.weight.flatten(1) @ convolution.weight.flatten(1).T, torch.eye(8))
    torch.testing.assert_close(linear.weight.T @ linear.weight, torch.eye(6))
    assert linear.bias.abs().max() == 0
    assert norm.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_from_the_command_line_to_drawings(run, tmp_path):
    sets = [part for change in changes(tmp_path) for part in ("--set", change)]
    code, out, err = run("train", "attngan-mnist", "--run", "run", "--device", "cpu", *sets)
    assert code == 0, err
    assert out.endswith("model written to run/model\n")
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "| command | `cap2im train attngan-mnist" in card
    assert read_config(tmp_path / "damsm")["sha256"]["model.safetensors"] in card
    assert (tmp_path / "run" / "samples" / "drawings-00000010.png").is_file()
    drawn = Pipeline.load("run").draw([CAPTION, "the digit 7 is at the top left of the image"], samples=2)
    assert [drawing.canvases.shape for drawing in drawn] == [(2, 60, 60, 1)] * 4
    assert (drawn[0].canvases != drawn[1].canvases).any(), "noise counts"
    assert drawn[0].attention.shape == (2, len(drawn[0].words))
    assert run("draw", CAPTION, "--model", "run", "-o", "drawings")[0] == 0
    for wrong in ("--compile", "--from=run", "--stream"):
        code, _, err = run("train", "attngan-mnist", "--run", "again", wrong)
        assert (code, err) == (2, f"cap2im: attngan-mnist: a recipe of kind 'attngan' has no {wrong.partition('=')[0]}\n")


def test_a_prepared_dataset_read_with_the_matching_models_words(tmp_path):
    dataset = prepared_dataset(tmp_path / "prepared")
    words = Vocabulary.build(["there is a red square in the middle , or a green one ."])  # not those of all captions, but of most
    tiny_damsm(tmp_path / "damsm", words, side=32, colours=3)
    small = [f"train.damsm={tmp_path / 'damsm'}", *(change for change in CHANGES if not change.startswith("data."))]
    for architecture in ("attngan", "attndcgan"):
        wanted = load_recipe("attngan-cifar", [*small, f"model.architecture={architecture}", "train.epochs=1"])
        train(wanted, tmp_path / architecture, data=dataset, device="cpu", workers=0)
        pipeline = Pipeline.load(str(tmp_path / architecture))
        assert pipeline.vocabulary == words
        assert pipeline.draw("a red square")[0].canvases.shape == (2 if architecture == "attngan" else 1, 32, 32, 3)


def test_models_of_digits_are_measured(tmp_path, run):
    train(recipe(tmp_path, "train.epochs=1"), tmp_path / "gan", device="cpu")
    code, out, err = run(
        "evaluate",
        str(tmp_path / "gan"),
        *("--metric", "caption-accuracy", "--metric", "r-precision", "--damsm", str(tmp_path / "damsm")),
        *("--samples", "1", "--out", "e.json"),
    )
    assert code == 0, err
    evaluation = Evaluation.from_dict(json.loads((tmp_path / "e.json").read_text()))
    assert evaluation.find("R-precision", "seen").text in out
    assert evaluation.find("R-precision").n == evaluation.find("joint", "all").n == 440
    nearest = nearest_training_images(Pipeline.load(str(tmp_path / "gan")), None)  # for figures
    assert nearest(np.zeros((1, 60, 60, 1), np.uint8)).shape == (1, 60, 60, 1)


@pytest.mark.parametrize(
    "vocabulary", [Vocabulary.build(["zebras graze"]), Vocabulary.build(["a zebra"], tokens="attngan")], ids=["marks", "leaves out"]
)
def test_captions_of_other_words_are_refused(tmp_path, vocabulary):
    dataset = prepared_dataset(tmp_path / "prepared")
    tiny_damsm(tmp_path / "damsm", vocabulary, side=32, colours=3)
    small = [f"train.damsm={tmp_path / 'damsm'}", *(change for change in CHANGES if not change.startswith("data."))]
    with pytest.raises(ValueError, match=r"damsm: 8[0-9]% of the words of the validation captions are unknown to it"):
        train(load_recipe("attngan-cifar", small), tmp_path / "run", data=dataset, device="cpu", workers=0)


def test_matching_models_that_do_not_fit_are_one_line(run, tmp_path):
    def told(*sets):
        code, _, err = run("train", "attngan-mnist", "--run", "run", "--device", "cpu", *(p for s in sets for p in ("--set", s)))
        assert code == 2
        assert err.count("\n") == 1
        return err

    assert "runs/damsm-mnist does not exist: cap2im train damsm-mnist trains one" in told(*CHANGES)
    assert "an AttnGAN needs a matching model: cap2im train damsm-... trains one" in told(*CHANGES, "train.damsm=")
    assert "nowhere" in told(*CHANGES, "train.damsm=nowhere")
    tiny_damsm(tmp_path / "colour", colours=3)
    assert "colour takes 60 x 60 pixels in 3 colours, and the recipe draws 60 x 60 in 1" in told(*CHANGES, "train.damsm=colour")
    tiny_damsm(tmp_path / "small", side=32)
    assert "small takes 32 x 32 pixels in 1 colours, and the recipe draws 60 x 60 in 1" in told(*CHANGES, "train.damsm=small")
    tiny_damsm(tmp_path / "damsm")
    other_words = ("train.damsm=damsm", "model.text.features=8", "model.text.word_features=5")
    assert "damsm: its text encoder has features 6, the recipe's model.text has 8" in told(*CHANGES, *other_words)
    assert "captioned digits do not fit: model.side is 64, 60 is needed" in told(*CHANGES, "model.margin=0")
    assert "train.batch_size: Input should be greater than or equal to 2" in told(*CHANGES, "train.batch_size=1")


def test_resume_refuses_another_matching_model(tmp_path):
    train(recipe(tmp_path, "train.epochs=1"), tmp_path / "run", device="cpu")
    (tmp_path / "damsm").rename(tmp_path / "kept")
    tiny_damsm(tmp_path / "damsm", seed=1)
    with pytest.raises(ValueError, match="started with another matching model"):
        train(recipe(tmp_path, "train.epochs=1"), tmp_path / "run", device="cpu", resume=True)


def test_a_broken_loss_stops_before_the_update(tmp_path):
    wanted = recipe(tmp_path, "train.discriminator_rate=1e30", "train.checkpoint_every=1")
    with pytest.raises(ValueError, match=r"loss.* is (nan|inf) at step [0-9]"):
        train(wanted, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.usefixtures("bf16")
def test_bf16_follows_fp32(tmp_path):
    for precision in ("fp32", "bf16"):
        train(recipe(tmp_path, f"train.precision={precision}", "train.epochs=1"), tmp_path / precision, device="cpu")
    exact, rounded = (stats(tmp_path / name, *LOSSES) for name in ("fp32", "bf16"))
    assert exact != rounded
    for name in LOSSES:
        assert rounded[0][name] == pytest.approx(exact[0][name], rel=0.05, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("validation", [6, 1])
def test_two_processes_train_one_model(tmp_path, validation):
    more = changes(tmp_path, "train.epochs=1", f"data.validation_samples={validation}")
    sets = [part for change in more for part in ("--set", change)]
    in_two_processes("-m", "cap2im", "train", "attngan-mnist", "--run", str(tmp_path / "two"), "--device", "cpu", *sets)
    train(load_recipe("attngan-mnist", more), tmp_path / "one", device="cpu")
    one, two = (stats(tmp_path / name, "validation/told_apart_64", "validation/matched") for name in ("one", "two"))
    assert [line["step"] for line in one] == [line["step"] for line in two] == [5]
    ours, theirs = (stats(tmp_path / name, "train/kl")[0]["train/kl"] for name in ("one", "two"))
    assert theirs == pytest.approx(ours, rel=1e-4), "the first update's KL depends on no neighbour"
