"""Going on from a checkpoint that is damaged."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch

from cap2im.checkpoint import CONFIG, TRAINING_STATE, TRAINING_TENSORS, TrainingState, checkpoints, load_checkpoint, save_checkpoint
from cap2im.training.bound import BoundTrainee
from cap2im.training.loop import make_accelerator
from cap2im.training.material import training_material
from cap2im.training.trainee import resume_state
from tests.tiny import tiny_recipe


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
