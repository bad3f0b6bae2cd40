"""Going on from a checkpoint that is damaged."""

from __future__ import annotations

import shutil

import pytest
import torch

from cap2im.checkpoint import CONFIG, TRAINING_STATE, TRAINING_TENSORS, TrainingState, checkpoints, save_checkpoint
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
