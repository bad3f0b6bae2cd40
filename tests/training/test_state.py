"""The moving average that draws, and going on from a checkpoint that is old or damaged."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch

from cap2im.checkpoint import CONFIG, TRAINING_STATE, TRAINING_TENSORS, TrainingState, checkpoints, load_checkpoint, save_checkpoint
from cap2im.config import parse_recipe
from cap2im.data.vocabulary import Vocabulary
from cap2im.models.attngan import AttnGAN
from cap2im.training.attngan import AttnGANTrainee
from cap2im.training.data import training_material
from cap2im.training.run import make_accelerator
from cap2im.training.state import decay_at, moving_average, resume_state
from cap2im.training.variational import BoundTrainee
from tests.tiny import tiny_recipe

PICTURES = {"source": "pictures"}


@pytest.mark.parametrize("name", [TRAINING_STATE, TRAINING_TENSORS])
def test_a_damaged_checkpoint_names_an_older_whole_one(tmp_path, name):
    recipe = tiny_recipe()
    for step in (1, 2):
        save_checkpoint(tmp_path, TrainingState(step, recipe.model_dump(), {}, {}), {"w": torch.ones(1)}, {"kind": "draw"})
    older, newest = checkpoints(tmp_path)
    (newest / name).write_bytes(b"{")
    with pytest.raises(ValueError, match=rf"{name}: .*; {older.name} beside it is whole: to go on from there, remove {newest}$"):
        resume_state(tmp_path, recipe, resume=True)
    shutil.copytree(older, tmp_path / "kept")
    (older / CONFIG).write_text("{")
    with pytest.raises(ValueError, match=name) as error:
        resume_state(tmp_path, recipe, resume=True)
    assert "is whole" not in str(error.value)
    shutil.rmtree(older)
    shutil.move(tmp_path / "kept", older)
    shutil.rmtree(newest)
    assert resume_state(tmp_path, recipe, resume=True) == older


@pytest.fixture(scope="module")
def trainee_and_state(tmp_path_factory):
    """A tiny model after no update, and its checkpoint."""
    recipe, run = tiny_recipe(), tmp_path_factory.mktemp("run")
    material, accelerator = training_material(recipe, None), make_accelerator("cpu", 1)
    trainee = BoundTrainee(recipe, material.vocabulary, material.about, command="")
    trainee.prepare(accelerator)
    trainee.save(run, accelerator)
    return trainee, load_checkpoint(checkpoints(run)[-1])


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
def test_numbers_of_another_structure_are_refused(trainee_and_state, tmp_path, numbers, message):
    trainee, state = trainee_and_state
    forged = dataclasses.replace(state, numbers=state.numbers | numbers)
    folder = save_checkpoint(tmp_path, forged, trainee.published.state_dict(), trainee.config())
    with pytest.raises(ValueError, match=message) as error:
        trainee.restore(folder, make_accelerator("cpu", 1))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("tensors", [{"model.w": torch.ones(1)}, {"random.0.cpu": torch.ones(3)}])
def test_tensors_of_another_network_are_refused(trainee_and_state, tmp_path, tensors):
    trainee, state = trainee_and_state
    kept = {} if "model.w" in tensors else state.tensors
    folder = save_checkpoint(tmp_path, dataclasses.replace(state, tensors=kept | tensors), trainee.published.state_dict(), trainee.config())
    with pytest.raises(ValueError, match=r"step-00000000: does not fit the recipe's network: ") as error:
        trainee.restore(folder, make_accelerator("cpu", 1))
    assert "\n" not in str(error.value)


def test_the_average_is_warmed_up():
    assert [decay_at(0.999, n) for n in (0, 1, 8, 90, 10**6)] == [0.1, 2 / 11, 0.5, 0.91, 0.999]
    assert decay_at(0.25, 8) == 0.25
    network = torch.nn.Linear(1, 1, bias=False)
    warm, constant = (moving_average(network, 0.999, warm_up=warm_up) for warm_up in (True, False))
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
def test_only_the_released_attngan_keeps_its_decay_constant(variant, second):
    sizes = {"width": 2, "condition": 2, "noise": 2, "branches": 1, "first_side": 16, "residuals": 0}
    recipe = parse_recipe(
        {"kind": "attngan", "description": "", "model": {"variant": variant, "text": {"features": 4}, **sizes}, "data": PICTURES}, "here"
    )
    words = Vocabulary(words=tuple(f"word{n}" for n in range(recipe.model.text.vocabulary_size)))
    trainee = AttnGANTrainee(recipe, AttnGAN(recipe.model).text.state_dict(), words, {}, "")
    weight, average = (next(network.generator.parameters()) for network in (trainee.learned, trainee.published))
    with torch.no_grad():
        before = average.clone()
        weight.add_(1.0)
    trainee.average.update_parameters(trainee.learned)
    torch.testing.assert_close(average, before + second)


def test_an_old_checkpoint_counts_its_updates_as_those_of_the_average(tmp_path):
    recipe = tiny_recipe("train.ema_decay=0.999")
    material = training_material(recipe, None)
    accelerator = make_accelerator("cpu", 4)
    old = BoundTrainee(recipe, material.vocabulary, material.about, "")
    old.step = 40
    old.prepare(accelerator)
    old.save(tmp_path, accelerator)
    (checkpoint,) = checkpoints(tmp_path)
    state = load_checkpoint(checkpoint)
    assert state.numbers.pop("averaged") == 0
    save_checkpoint(tmp_path, state, old.published.state_dict(), old.config())
    new = BoundTrainee(recipe, material.vocabulary, material.about, "")
    new.restore(checkpoint, accelerator)
    assert int(new.average.n_averaged) == 40
