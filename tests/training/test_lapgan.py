"""Training LAPGAN and sharpeners: which weights move, exact resume, schedules, and the finished model."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch

import cap2im.training.lapgan as training
from cap2im.checkpoint import checkpoints, load_checkpoint, read_config, read_weights
from cap2im.config import GANTraining, load_recipe
from cap2im.data.vocabulary import Vocabulary
from cap2im.evaluation.evaluate import evaluate
from cap2im.pipeline import Pipeline
from cap2im.sharpening import Sharpening
from cap2im.training.accelerator import make_accelerator
from cap2im.training.data import TrainingData
from cap2im.training.dispatch import train
from cap2im.training.lapgan import LAPGANTrainer, learning_rate, momentum
from tests.prepared import prepared_dataset
from tests.processes import in_two_processes
from tests.tiny import tiny_encoder
from tests.training.golden import golden_losses, logged_losses
from tests.training.stopping import stop_at

CHANGES = (
    "data.source=digits",
    "data.samples_per_epoch=20",
    "data.validation_samples=6",
    "model.language_units=4",
    "model.features=3",
    "model.kernels=[3, 3, 3]",
    "train.discriminator_features=3",
    "train.epochs=2",
    "train.batch_size=4",
    "train.precision=fp32",
    "train.log_every=1",
    "train.validate_every=5",
    "train.checkpoint_every=3",
)
# what the golden losses were made with: the recipe for MNIST has other settings now, and both levels move at every update by default
SETTINGS = ("model.normalised=false", "train.learning_rate=3e-4", "train.dropout=0.3", "train.coarse_noise=0.3", "train.coarse_penalty=0.0")
SETTINGS = (*SETTINGS, "train.coarse_dropout=0.3", "train.mismatch_weight=0.5", "train.ema_decay=0.99", "train.fine_every=1")
COARSE = ("model.noise=6", "model.generator_units=10", "train.discriminator_units=8")
CAPTION = "the digit three is at the top of the digit one"


def changes_of(kind: str, *more: str) -> list[str]:
    return [*CHANGES, *((*COARSE, *SETTINGS) if kind == "lapgan" else ()), *more]


def recipe(kind: str, *more: str):
    return load_recipe(f"{kind}-mnist", changes_of(kind, *more))


def untrained(wanted) -> LAPGANTrainer:
    """The trainer of a recipe, without data."""
    return LAPGANTrainer(wanted, TrainingData(wanted, None, None, {}, Vocabulary(words=("a",))), make_accelerator("cpu", 1))


def stats(run, *names):
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in ("step", *names)} for line in lines if all(name in line for name in names)]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_each_step_moves_both_levels_of_one_side(tmp_path, monkeypatch, optimizer):
    updates, update = [], LAPGANTrainer._step

    def watched(trainer, networks, loss, name):
        before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        update(trainer, networks, loss, name)
        changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
        updates.append({".".join(name.split(".")[:3]) for name in changed})

    monkeypatch.setattr(LAPGANTrainer, "_step", watched)
    train(recipe("lapgan", f"train.optimizer={optimizer}", "train.momentum=0.7", "train.epochs=1"), tmp_path, device="cpu")
    assert updates[0::2] == [{"discriminators.levels.coarse", "discriminators.levels.fine"}] * 5
    assert updates[1::2] == [{"generators.model.coarse", "generators.model.fine"}] * 5


def test_fine_every_moves_the_fine_level_every_third_update(tmp_path, monkeypatch):
    moved, update = [], LAPGANTrainer._step

    def watched(trainer, networks, loss, name):
        before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        update(trainer, networks, loss, name)
        changed = [name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])]
        moved.append({level for level in ("coarse", "fine") if any(f".{level}." in name for name in changed)})

    monkeypatch.setattr(LAPGANTrainer, "_step", watched)
    train(recipe("lapgan", "train.fine_every=3"), tmp_path, device="cpu")
    assert moved[0::2] == moved[1::2] == [{"coarse", "fine"} if step % 3 == 0 else {"coarse"} for step in range(1, 11)]
    assert [line["step"] for line in stats(tmp_path, "train/fine_generator")] == [3, 6, 9]
    assert len(stats(tmp_path, "train/coarse_generator")) == 10
    for setting in ("train.fine_every=3", "train.coarse_penalty=0.1", "train.mismatch_weight=0.5"):
        with pytest.raises(ValueError, match=r"train.mismatch_weight are for a LAPGAN; a sharpener has no coarse level"):
            recipe("sharpener", setting)


def test_the_penalty_flattens_only_the_coarse_discriminator(tmp_path):
    def steepness(penalty):
        run = tmp_path / str(penalty)
        train(recipe("lapgan", f"train.coarse_penalty={penalty}", "train.learning_rate=0.01", "train.epochs=8"), run, device="cpu")
        state, wanted = load_checkpoint(checkpoints(run)[-1]), recipe("lapgan")
        trainer = untrained(wanted)
        trainer.model.load_state_dict({k.removeprefix("model."): v for k, v in state.tensors.items() if k.startswith("model.")})
        discriminators = trainer.model.discriminators.eval()
        images = torch.rand(8, 1, 60, 60, generator=torch.Generator().manual_seed(0))
        pairs = {name: [training.level_target(images, name).requires_grad_()] for name in ("coarse", "fine")}
        verdicts = discriminators(pairs, torch.zeros(8, 3, dtype=torch.long), torch.ones(8, 3, dtype=torch.bool))
        return {name: float(training.gradient_penalty(logits, pairs[name][0]).detach()) for name, (logits,) in verdicts.items()}

    free, held = steepness(0.0), steepness(100.0)
    assert held["coarse"] < 0.1 * free["coarse"]
    assert held["fine"] == free["fine"]


def test_the_ema_averages_only_weights_that_moved(tmp_path):
    """Between two updates of the fine level the average would forget all but the last of its weights."""
    train(recipe("lapgan", "train.ema_decay=0.25", "train.fine_every=5", "train.checkpoint_every=5"), tmp_path, device="cpu")
    first, last = checkpoints(tmp_path)
    (earlier, later), drawing = (load_checkpoint(each).tensors for each in (first, last)), read_weights(last, read_config(last))
    assert any(name.startswith("fine.") for name in drawing)
    for name, weight in drawing.items():
        one, two = (tensors[f"model.generators.model.{name}"] for tensors in (earlier, later))
        torch.testing.assert_close(weight, 2 / 11 * one + 9 / 11 * two)  # the decay of a second update is not yet 0.25


def test_discriminators_learn_to_separate_bright_from_dark():
    wanted = recipe(
        "lapgan",
        "train.optimizer=adam",
        "train.learning_rate=0.01",
        "train.dropout=0.0",
        "train.coarse_dropout=0.0",
        "train.coarse_noise=0.0",
    )
    trainer = untrained(wanted)
    random = torch.Generator().manual_seed(0)
    bright = 0.6 + 0.4 * torch.rand(16, 1, 60, 60, generator=random)
    tokens, mask = torch.zeros(16, 3, dtype=torch.long), torch.ones(16, 3, dtype=torch.bool)
    pairs = {name: [training.level_target(images, name) for images in (bright, 1 - bright)] for name in ("coarse", "fine")}
    for _ in range(40):
        verdicts = trainer.model.discriminators(pairs, tokens, mask)
        trainer._step(trainer.model.discriminators, sum(training.discriminator_loss(*logits) for logits in verdicts.values()), "loss")
    for real, drawn in trainer.model.discriminators(pairs, tokens, mask).values():
        assert real.min() > 0 > drawn.max()


def test_mismatched_captions_are_those_of_a_coarse_neighbour():
    wanted = recipe("lapgan", "train.dropout=0.0", "train.coarse_dropout=0.0", "train.coarse_noise=0.0")
    trainer = untrained(wanted)
    images = torch.rand(4, 1, 60, 60, generator=torch.Generator().manual_seed(0))
    tokens, mask = torch.arange(8).view(4, 2), torch.ones(4, 2, dtype=torch.bool)
    pairs = {name: [training.level_target(images, name)] for name in ("coarse", "fine")}
    both = trainer.model.discriminators(pairs, tokens, mask, mismatched=True)
    rolled = trainer.model.discriminators(pairs, tokens.roll(1, 0), mask)
    right, wrong = both["coarse"]
    torch.testing.assert_close(wrong, rolled["coarse"][0])
    assert not torch.allclose(right, wrong)
    assert len(both["fine"]) == 1


@pytest.mark.parametrize("kind", ["lapgan", "sharpener"])
def test_losses_are_golden(tmp_path, kind):
    train(recipe(kind), tmp_path, device="cpu")
    assert logged_losses(kind, tmp_path) == golden_losses(kind)


def test_schedules():
    settings = GANTraining(learning_rate=0.02, rate_decay=0.5, momentum=0.5, momentum_rise=0.1, highest_momentum=0.8)
    assert [learning_rate(settings, epoch) for epoch in (0, 2)] == pytest.approx([0.02, 0.02 / 2.25])
    assert [momentum(settings, epoch) for epoch in (0, 1, 3, 9)] == pytest.approx([0.5, 0.6, 0.8, 0.8])
    parameter = torch.nn.Parameter(torch.zeros(1))
    sgd, adam = torch.optim.SGD([parameter]), torch.optim.Adam([parameter])
    training.set_schedule(sgd, settings, 1)
    training.set_schedule(adam, settings.model_copy(update={"optimizer": "adam"}), 1)
    assert sgd.param_groups[0]["momentum"] == pytest.approx(0.6)
    assert adam.param_groups[0]["betas"] == pytest.approx((0.6, 0.999))
    assert sgd.param_groups[0]["lr"] == adam.param_groups[0]["lr"] == pytest.approx(0.02 / 1.5)
    with pytest.raises(ValueError, match=r"momentum 0.9 is more than highest_momentum 0.8"):
        recipe("lapgan", "train.momentum=0.9")


@pytest.mark.parametrize(("kind", "optimizer", "average"), [("lapgan", "adam", 0.5), ("lapgan", "sgd", 0.0), ("sharpener", "adam", 0.0)])
def test_resume_is_bit_exact(tmp_path, monkeypatch, kind, optimizer, average):
    asked = optimizer == "sgd"

    wanted = recipe(kind, f"train.optimizer={optimizer}", f"train.ema_decay={average}", "train.momentum_rise=0.01")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(wanted, whole, device="cpu")
    with monkeypatch.context() as patch:
        stop_at(patch, LAPGANTrainer, 4, kill=not asked)
        with pytest.raises(KeyboardInterrupt):
            train(wanted, broken, device="cpu")
    assert load_checkpoint(checkpoints(broken)[-1]).step == (5 if asked else 3)
    train(wanted, broken, device="cpu", resume=True)
    ours, theirs = (load_checkpoint(checkpoints(run)[-1]) for run in (whole, broken))
    assert ours.step == theirs.step == 10
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert any(name.startswith("model.discriminators.levels.fine.") for name in ours.tensors)
    assert any(name.startswith("optimizer.") for name in ours.tensors)
    for name, tensor in ours.tensors.items():
        assert torch.equal(tensor, theirs.tensors[name]), name
    assert (whole / "model" / "model.safetensors").read_bytes() == (broken / "model" / "model.safetensors").read_bytes()
    for name in ("train/fine_generator", "train/fine_discriminator", "validation/sharpened_error"):
        assert stats(whole, name) == stats(broken, name) != []
    with pytest.raises(ValueError, match="holds a run already"):
        train(wanted, broken, device="cpu")


def test_a_broken_loss_stops_before_the_update(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "generator_loss", lambda logits: logits.mean() * math.nan)
    with pytest.raises(ValueError, match="the generators' loss is nan at step 0; stopped before weights are saved"):
        train(recipe("lapgan"), tmp_path, device="cpu")
    assert not checkpoints(tmp_path)


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(tmp_path):
    # dropout, the discriminators' noise and neighbours' captions are each process's own
    wanted = changes_of("lapgan", "train.dropout=0.0", "train.coarse_dropout=0.0", "train.coarse_noise=0.0", "train.mismatch_weight=0.0")
    wanted += ["train.coarse_penalty=0.5", "train.fine_every=2"]  # some updates leave the fine level out
    train(load_recipe("lapgan-mnist", wanted), tmp_path / "one", device="cpu")
    sets = [part for change in wanted for part in ("--set", change)]
    in_two_processes("-m", "cap2im", "train", "lapgan-mnist", "--run", str(tmp_path / "two"), "--device", "cpu", *sets)
    for name in ("train/coarse_generator", "train/fine_discriminator", "validation/sharpened_error"):
        one, two = stats(tmp_path / "one", name), stats(tmp_path / "two", name)
        assert len(one) == len(two) > 0
        for a, b in zip(one, two, strict=True):
            assert b[name] == pytest.approx(a[name], rel=2e-4, abs=1e-5)


def test_resume_before_the_first_fine_update_is_bit_exact(tmp_path, monkeypatch):
    """The average begins with the first weights that moved, not with those that nothing had learned."""

    wanted = recipe("lapgan", "train.ema_decay=0.5", "train.fine_every=5")
    train(wanted, tmp_path / "whole", device="cpu")
    with monkeypatch.context() as patch:
        stop_at(patch, LAPGANTrainer, 1)
        with pytest.raises(KeyboardInterrupt):
            train(wanted, tmp_path / "broken", device="cpu")
    train(wanted, tmp_path / "broken", device="cpu", resume=True)
    whole, broken = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "broken"))
    assert whole == broken


def test_from_the_command_line_to_sharpened_drawings(run, tmp_path):
    for kind in ("lapgan", "sharpener"):
        sets = [part for change in changes_of(kind) for part in ("--set", change)]
        code, out, err = run("train", f"{kind}-mnist", "--run", kind, "--device", "cpu", *sets)
        assert code == 0, err
        assert out.endswith(f"model written to {kind}/model\n")
        card = (tmp_path / kind / "model" / "README.md").read_text()
        assert f"| command | `cap2im train {kind}-mnist" in card
    assert (tmp_path / "lapgan" / "samples" / "drawings-00000010.png").is_file()
    assert (tmp_path / "sharpener" / "samples" / "sharpened-00000010.png").is_file()
    assert run("draw", CAPTION, "--model", "lapgan", "-o", "plain", "-n", "2")[0] == 0
    code, out, err = run("draw", CAPTION, "--model", "lapgan", "--sharpen", "sharpener", "-o", "sharp", "-n", "2", "--json")
    assert code == 0, err
    assert json.loads(out)[0]["model"] == "lapgan+sharpener"
    (plain, sharp) = ((tmp_path / name / CAPTION.replace(" ", "-")) for name in ("plain", "sharp"))
    assert {path.name for path in plain.iterdir()} == {path.name for path in sharp.iterdir()}
    assert "attention.png" not in {path.name for path in plain.iterdir()}
    assert (plain / "sample-1.png").read_bytes() != (sharp / "sample-1.png").read_bytes()
    drawing = Pipeline.load(str(tmp_path / "lapgan")).draw(CAPTION, seed=4)[0]
    assert drawing.canvases.shape == (2, 60, 60, 1)
    config = read_config(tmp_path / "sharpener" / "model")
    assert (config["kind"], config["data"]["held_out_seed"]) == ("sharpener", 5)
    assert all(not name.startswith("levels") for name in read_weights(tmp_path / "sharpener" / "model", config)), "no discriminators"
    assert Sharpening.load(str(tmp_path / "sharpener")).vocabulary is not None
    for wrong, told in ((["--compile"], "--compile"), (["--from=lapgan", "--compile"], "--from and no --compile")):
        code, _, err = run("train", "lapgan-mnist", "--run", "again", *wrong)
        assert (code, err) == (2, f"cap2im: lapgan-mnist: a recipe of kind 'lapgan' has no {told}\n")


def test_both_train_on_sentence_vectors(tmp_path):
    dataset, encoder = prepared_dataset(tmp_path / "prepared"), tiny_encoder(tmp_path / "encoder", 6)
    small = ("model.side=8", "model.features=3", "train.discriminator_features=3", "train.batch_size=8", "train.epochs=1")
    small += ("data.shortest=1", "model.sentence_features=6", f"data.sentence_encoder={encoder}")
    for kind, more in (("lapgan", COARSE), ("sharpener", ())):
        train(load_recipe(f"{kind}-coco", [*small, *more]), tmp_path / kind, data=dataset, device="cpu", workers=0)
        assert (tmp_path / kind / "samples").is_dir()
    other = load_recipe("sharpener-coco", [*small, "model.sentence_features=5"])
    with pytest.raises(ValueError, match=r"encoder: its vectors have 6 features, the recipe's model.sentence_features is 5"):
        train(other, tmp_path / "other", data=dataset, device="cpu", workers=0)
    shutil.rmtree(encoder)  # the models have their own copies
    pipeline = Pipeline.load(str(tmp_path / "lapgan"), sharpen=str(tmp_path / "sharpener"))
    one, two = pipeline.draw(["a blue square", "one zebra"])
    assert one.canvases.shape == (3, 8, 8, 3)
    assert (one.canvases[1] != two.canvases[1]).any(), "the caption counts"
    assert "bound" not in {each.name for each in evaluate(pipeline, data=dataset).measurements}
