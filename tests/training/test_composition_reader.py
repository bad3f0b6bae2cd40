"""Training the composition reader: golden losses, exact resume, a folder that loads, and what its pictures show."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from cap2im.checkpoint import checkpoints, load_checkpoint
from cap2im.config import CompositionReaderRecipe, parse_recipe
from cap2im.data.cutouts import Cutouts
from cap2im.data.scenes import LAYOUTS, PLACES
from cap2im.loading import load_model
from cap2im.models.composition_reader import CompositionReader
from cap2im.training.composition_reader import CompositionReaderTrainer, WindowBatches
from cap2im.training.composition_scenes import UNLABELLED, SceneMix, any_scenes
from cap2im.training.dispatch import train
from tests.squares import square_cutouts
from tests.training.golden import golden_losses, logged_losses
from tests.training.stopping import stop_at
from tests.training.test_variational import stats

NAMES = ("apple", "bird", "cat")
PLACE_NAMES = list(PLACES)


def coloured_squares() -> Cutouts:
    """Cut-outs of squares whose colours tell the things apart."""
    squares = square_cutouts(NAMES)
    colours = torch.tensor([[255, 120, 0, 255], [0, 255, 180, 255], [150, 0, 255, 255]], dtype=torch.uint8)
    return dataclasses.replace(squares, images=colours[squares.thing][:, :, None, None].expand(-1, -1, 8, 8).contiguous())


@pytest.fixture
def prepared(monkeypatch):
    """A prepared folder of coloured squares."""
    monkeypatch.setattr(Cutouts, "open", lambda folder: coloured_squares())
    return "cutouts"


def recipe(channels: int = 2, **train: float) -> CompositionReaderRecipe:
    settings = {
        "updates": 10,
        "batch_size": 6,
        "validation_samples": 5,
        "seed": 3,
        "log_every": 1,
        "checkpoint_every": 4,
        "warmup_steps": 2,
        **train,
    }
    model = {"channels": channels, "things": list(NAMES)}
    made = parse_recipe({"kind": "composition-reader", "description": "A test", "model": model, "train": settings}, "test")
    assert isinstance(made, CompositionReaderRecipe)
    return made


def test_losses_are_golden_and_resume_is_bit_exact(tmp_path, monkeypatch, prepared):
    train(recipe(), tmp_path / "whole", data=prepared, device="cpu")
    assert logged_losses("composition-reader", tmp_path / "whole") == golden_losses("composition-reader")
    with monkeypatch.context() as patch:
        stop_at(patch, CompositionReaderTrainer, 5)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(), tmp_path / "broken", data=prepared, device="cpu")
    torch.manual_seed(99)
    train(recipe(), tmp_path / "broken", data=prepared, device="cpu", resume=True)
    whole, broken = (load_checkpoint(checkpoints(tmp_path / name)[-1]).tensors for name in ("whole", "broken"))
    assert whole.keys() == broken.keys()
    assert all(torch.equal(tensor, broken[name]) for name, tensor in whole.items())


def test_training_learns_and_writes_a_card(tmp_path, prepared):
    settings = {"updates": 120, "batch_size": 24, "validation_samples": 60, "validate_every": 60, "warmup_steps": 10, "learning_rate": 1e-2}
    folder = train(recipe(4, **settings), tmp_path / "run", data=prepared, device="cpu", command="cap2im train it")
    assert stats(tmp_path / "run", "validation/joint")[-1]["validation/joint"] > 0.25  # 0 by chance
    network = load_model(folder, CompositionReader).network
    assert network.config.things == NAMES
    assert "blue" in network.config.backgrounds
    card = (folder / "README.md").read_text()
    assert f"| digest | `{network.digest()}` |" in card
    assert "| real scenes in style flat read exactly | " in card


def test_batches_are_a_function_of_the_step():
    mix = SceneMix(any_scenes(coloured_squares(), 32))
    batches = WindowBatches(mix, batch_size=8, windows=3, side=20, seed=0)
    batch, half = batches.at(4, slice(None)), batches.at(4, slice(4, 8))
    assert batch.windows.shape == (8, 3, 3, 20, 20)
    assert torch.equal(batch.windows[4:], half.windows)
    assert torch.equal(batch.things[4:], half.things)
    assert not torch.equal(batch.windows, batches.at(5, slice(None)).windows)


def test_pictures_of_the_mix():
    mix = SceneMix(any_scenes(coloured_squares(), 32))
    random = torch.Generator().manual_seed(0)
    for count in [1] * 20:  # few enough to have none of some kind
        assert mix.make(count, random).images.shape == (count, 3, 32, 32)
    made = mix.make(3000, random)
    assert made.images.min() >= 0
    assert made.images.max() <= 1
    assert set(made.things.unique().tolist()) == {UNLABELLED, *range(len(NAMES) + 1)}
    occupied = (made.things >= 0) & (made.things < mix.nothing)
    labelled = (made.things != UNLABELLED).all(1)
    found = {tuple(name for name, full in zip(PLACE_NAMES, row, strict=True) if full) for row in occupied[labelled].tolist()}
    assert found >= {layout.places for layout in LAYOUTS}
    assert found >= {(), ("left",), ("right",), ("top",), ("bottom",)}, "empty places beside a thing"


def test_labels_agree_with_clean_pictures(monkeypatch):
    """The colour in the middle of a place is that of the labelled thing, or of the background."""
    monkeypatch.setattr("cap2im.training.composition_scenes.degrade", lambda images, random: images)
    cutouts = coloured_squares()
    mix = SceneMix(any_scenes(cutouts, 32))
    made = mix.make(600, torch.Generator().manual_seed(1))
    colours = cutouts.images[::2, :3, 0, 0].float() / 255  # [V, 3]
    checked = 0
    for image, labels in zip(made.images, made.things.tolist(), strict=True):
        for place, label in zip(PLACES.values(), labels, strict=True):
            if 0 <= label < mix.nothing:
                y, x = (int(16 * sum(edges)) for edges in (place.rows, place.columns))
                assert torch.allclose(image[:, y, x], colours[label], atol=0.02)
                checked += 1
    assert checked > 500
