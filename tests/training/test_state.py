"""The EMA, and checkpoints that are old or damaged."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch

from cap2im.checkpoint import CONFIG, TRAINING_STATE, TRAINING_TENSORS, Checkpoint, checkpoints, load_checkpoint, save_checkpoint
from cap2im.config import parse_recipe
from cap2im.data.vocabulary import Vocabulary
from cap2im.models.damsm import DAMSM, DAMSMConfig
from cap2im.training.accelerator import make_accelerator
from cap2im.training.attngan import AttnGANData, AttnGANTrainer
from cap2im.training.state import make_ema, resume_checkpoint, warmed_up_decay
from tests.tiny import tiny_recipe, tiny_trainer

PICTURES = {"source": "pictures"}


@pytest.mark.parametrize("name", [TRAINING_STATE, TRAINING_TENSORS])
def test_a_damaged_checkpoint_names_an_older_undamaged_one(tmp_path, name):
    recipe = tiny_recipe()
    for step in (1, 2):
        save_checkpoint(tmp_path, Checkpoint(step, recipe.model_dump(), {}, {}), {"w": torch.ones(1)}, {"kind": "draw"})
    older, newest = checkpoints(tmp_path)
    (newest / name).write_bytes(b"{")
    with pytest.raises(ValueError, match=rf"{name}: .*; {older.name} beside it is undamaged: to resume from there, remove {newest}$"):
        resume_checkpoint(tmp_path, recipe, resume=True)
    shutil.copytree(older, tmp_path / "kept")
    (older / CONFIG).write_text("{")
    with pytest.raises(ValueError, match=name) as error:
        resume_checkpoint(tmp_path, recipe, resume=True)
    assert "is undamaged" not in str(error.value)
    shutil.rmtree(older)
    shutil.move(tmp_path / "kept", older)
    shutil.rmtree(newest)
    assert resume_checkpoint(tmp_path, recipe, resume=True) == older


@pytest.fixture(scope="module")
def trainer_and_state(tmp_path_factory):
    """A tiny trainer before its first update, and its checkpoint."""
    trainer, run = tiny_trainer(tiny_recipe()), tmp_path_factory.mktemp("run")
    trainer.state.origin = {"command": ""}
    trainer.state.save(run, trainer.recipe, trainer.config(), trainer.accelerator)
    return trainer, load_checkpoint(checkpoints(run)[-1])


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"groups": None}, "groups: Input should be a valid list, got None"),
        ({"groups": [{"lr": "x"}]}, "groups.0.lr"),
        ({"groups": []}, "loaded state dict has a different number of parameter groups"),
        ({"groups": [{}]}, "does not fit the recipe's network: 'params'"),
        ({"seconds": -1}, "seconds: Input should be greater than or equal to 0, got -1"),
        ({"origin": []}, "origin: Input should be a valid dictionary"),
        ({"averaged": "many"}, "averaged: Input should be a valid integer"),
    ],
)
def test_numbers_of_another_structure_are_refused(trainer_and_state, tmp_path, numbers, message):
    trainer, state = trainer_and_state
    forged = dataclasses.replace(state, numbers=state.numbers | numbers)
    folder = save_checkpoint(tmp_path, forged, trainer.state.ema_model.state_dict(), trainer.config())
    with pytest.raises(ValueError, match=message) as error:
        trainer.state.restore(folder, trainer.recipe, trainer.accelerator)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("tensors", [{"model.w": torch.ones(1)}, {"random.0.cpu": torch.ones(3)}])
def test_tensors_of_another_network_are_refused(trainer_and_state, tmp_path, tensors):
    trainer, state = trainer_and_state
    kept = {} if "model.w" in tensors else state.tensors
    forged = dataclasses.replace(state, tensors=kept | tensors)
    folder = save_checkpoint(tmp_path, forged, trainer.state.ema_model.state_dict(), trainer.config())
    with pytest.raises(ValueError, match=r"step-00000000: does not fit the recipe's network: ") as error:
        trainer.state.restore(folder, trainer.recipe, trainer.accelerator)
    assert "\n" not in str(error.value)


def test_the_average_is_warmed_up():
    assert [warmed_up_decay(0.999, n) for n in (0, 1, 8, 90, 10**6)] == [0.1, 2 / 11, 0.5, 0.91, 0.999]
    assert warmed_up_decay(0.25, 8) == 0.25
    network = torch.nn.Linear(1, 1, bias=False)
    warm, constant = (make_ema(network, 0.999, warm_up=warm_up) for warm_up in (True, False))
    expected = 0.0
    for update in range(6):
        torch.nn.init.constant_(network.weight, float(update))
        warm.update_parameters(network)
        constant.update_parameters(network)
        decay = 0 if update == 0 else (1 + update) / (10 + update)
        expected = decay * expected + (1 - decay) * update
    assert warm.module.weight.item() == pytest.approx(expected)
    assert expected > 4
    assert constant.module.weight.item() == pytest.approx(0.015, rel=0.01)


@pytest.mark.parametrize(("variant", "second"), [("paper", 9 / 11), ("released", 0.001)])
def test_only_the_released_attngan_has_a_constant_decay(variant, second):
    sizes = {"width": 2, "condition": 2, "noise": 2, "branches": 1, "first_side": 16, "residuals": 0}
    recipe = parse_recipe(
        {"kind": "attngan", "description": "", "model": {"variant": variant, "text": {"features": 4}, **sizes}, "data": PICTURES}, "here"
    )
    words = Vocabulary(words=tuple(f"word{n}" for n in range(recipe.model.text.vocabulary_size)))
    damsm = DAMSM(DAMSMConfig(text=recipe.model.text, image_encoder="small", side=16, width=2))
    trainer = AttnGANTrainer(recipe, AttnGANData(recipe, None, None, {}, words, damsm=damsm), make_accelerator("cpu", 2))
    weight, average = (next(network.generator.parameters()) for network in (trainer.model.drawing, trainer.state.ema_model))
    with torch.no_grad():
        before = average.clone()
        weight.add_(1.0)
    trainer.state.update_ema()
    torch.testing.assert_close(average, before + second)


def test_an_old_checkpoint_counts_its_updates_as_ema_updates(tmp_path):
    old = tiny_trainer(tiny_recipe("train.ema_decay=0.999"))
    old.state.step, old.state.origin = 40, {"command": ""}
    old.state.save(tmp_path, old.recipe, old.config(), old.accelerator)
    (checkpoint,) = checkpoints(tmp_path)
    state = load_checkpoint(checkpoint)
    assert state.numbers.pop("averaged") == 0
    save_checkpoint(tmp_path, state, old.state.ema_model.state_dict(), old.config())
    new = tiny_trainer(tiny_recipe("train.ema_decay=0.999"))
    new.state.restore(checkpoint, new.recipe, new.accelerator)
    assert int(new.state.ema.n_averaged) == 40
