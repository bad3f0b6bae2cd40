"""Test that recipes of scenes train on what they say, and that models know what was hidden."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cap2im.cli.comparison import check_comparison
from cap2im.config import ScenesData, load_recipe, recipe_names
from cap2im.data.scenes import HeldOutScenes
from cap2im.data.vocabulary import Vocabulary
from cap2im.evaluation.settings import Settings
from cap2im.pipeline import Pipeline
from cap2im.training.data import DataSource, load_training_data
from cap2im.training.dispatch import train
from tests.squares import square_cutouts, write_cutouts

TINY = [
    "data.things=[]",
    "data.reading_style=round",
    "data.samples_per_epoch=20",
    "data.validation_samples=8",
    "data.one_thing_until=0",
    "model.side=16",
    "model.glimpses=2",
    "model.inference_units=8",
    "model.generative_units=8",
    "model.latent=3",
    "model.language_units=6",
    "model.align_features=6",
    "model.read_patch=3",
    "model.write_patch=3",
    "train.updates=2",
    "train.batch_size=4",
    "train.warmup_steps=0",
    "train.validate_every=1",
    "train.checkpoint_every=1",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cutouts")
    write_cutouts(folder, square_cutouts())
    return folder


def test_recipes_of_scenes_list_the_same_things():
    sections = {name: getattr(load_recipe(name), "data", None) for name in recipe_names()}
    sections = {name: section for name, section in sections.items() if isinstance(section, ScenesData)}
    assert len(sections) == 6
    for section in sections.values():
        assert section.model_copy(update={"one_thing_until": 6000}) == sections["aligndraw-scenes"]
        assert len(section.things) >= 50
        assert all(name == name.lower() and len(name.split()) <= 2 for name in section.things)


def test_matched_recipes_see_as_many_scenes():
    names = ("aligndraw", "noaligndraw", "fc-vae", "conv-vae", "attngan")
    budgets = {(recipe.train.updates, recipe.train.batch_size) for recipe in (load_recipe(f"{name}-scenes") for name in names)}
    assert len(budgets) == 1


def test_training_never_shows_the_reading_style(folder):
    data = load_training_data(load_recipe("aligndraw-scenes", TINY), DataSource(folder))
    images = torch.cat([data.batches.at(step).images for step in range(20)])
    assert images.movedim(1, -1)[images[:, 1] == 1][:, 2].mul(255).round().unique().tolist() == [250], "squares of style flat only"
    assert data.recipe.model.vocabulary_size == len(data.vocabulary)
    assert data.shown.images.shape[1:] == (3, 16, 16)
    assert len(data.shown.captions) == len(data.shown.tokens) == len(data.shown.images)
    assert any("held-out pair" in caption for caption in data.shown.captions)


def test_model_rebuilds_its_held_out_scenes_without_cutouts(folder, tmp_path):
    train(load_recipe("aligndraw-scenes", TINY), tmp_path / "run", data=folder, device="cpu", workers=0)
    model = tmp_path / "run" / "model"
    data = json.loads((model / "config.json").read_text())["data"]
    rebuilt = HeldOutScenes.from_model(data)
    loaded = load_training_data(load_recipe("aligndraw-scenes", TINY), DataSource(folder))
    made = loaded.batches.maker.held_out
    assert rebuilt.nouns == made.nouns
    for key in ("pairs", "triples", "words"):
        assert torch.equal(getattr(rebuilt, key), getattr(made, key))
    assert data["dataset"]["sha256"]
    assert data["shown"]
    assert Vocabulary.model_validate(json.loads((model / "config.json").read_text())["vocabulary"]).words == rebuilt.words_shown()
    drawing = Pipeline.load(model).draw(data["shown"][:1], seed=0)[0]
    assert drawing.canvases.shape[1:] == (16, 16, 3)
    other = load_recipe("aligndraw-scenes", [*TINY, "data.held_out_seed=1"])
    with pytest.raises(ValueError, match=r"other configurations were held out; set data\.held_out_seed"):
        train(other, tmp_path / "other", data=folder, device="cpu", workers=0, start_from=model)
    with pytest.raises(ValueError, match="draws no captioned scenes"):
        HeldOutScenes.from_model({"source": "mnist"})


def test_invisible_backgrounds_survive_the_model():
    nouns = square_cutouts().nouns
    visible = torch.ones(len(nouns), 11, dtype=torch.bool)
    visible[2, 5:8] = False
    held_out = HeldOutScenes.from_seed(4, nouns, visible)
    stored = json.loads(json.dumps({"held_out_seed": 4, "scenes": held_out.about()}))
    assert stored["scenes"][2] == {"name": "cat", "one": "a cat", "two": "cats", "disappears_on": ["purple", "pink", "brown"]}
    assert torch.equal(HeldOutScenes.from_model(stored).pairs, held_out.pairs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.things=['apple', 'unicorn']"], "the cut-outs lack the thing 'unicorn'"),
        (["data.reading_style=oil"], "data.reading_style 'oil' is none of its styles: flat, round"),
        (["data.things=['apple', 'apple']"], "things lists 'apple' twice"),
        (["data.things=['apple']"], "scenes need two or more things, got 1"),
        (["model.colours=1"], "captioned scenes do not fit: model.colours is 1, 3 is needed"),
        (["data.one_thing_until=5", "train.updates=5"], "data.one_thing_until 5 must be below train.updates 5"),
        (["model.vocabulary_size=7"], "words, the recipe's model.vocabulary_size is 7"),
        (["train.batch_size=21"], "train.batch_size 21 is more than data.samples_per_epoch 20"),
    ],
)
def test_what_does_not_fit_is_refused(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        load_training_data(load_recipe("aligndraw-scenes", [*TINY, *changes]), DataSource(folder))


def test_comparisons_check_the_cutouts_before_they_train(folder, tmp_path):
    things = square_cutouts(load_recipe("aligndraw-scenes").data.things, styles=("flat", "twemoji"))
    write_cutouts(tmp_path, things)
    settings = Settings(metrics=("bound",))
    check_comparison([], ["aligndraw-scenes"], str(tmp_path), settings, None)
    with pytest.raises(ValueError, match="'twemoji' is none of its styles"):
        check_comparison([], ["aligndraw-scenes"], str(folder), settings, None)


def test_scenes_need_a_folder_and_are_not_streamed(folder):
    recipe = load_recipe("aligndraw-scenes", TINY)
    with pytest.raises(ValueError, match=r"give their folder with --data \(cap2im prepare cutouts makes one\)"):
        load_training_data(recipe, DataSource())
    with pytest.raises(ValueError, match="scenes are painted while training and cannot be streamed"):
        load_training_data(recipe, DataSource(folder, stream=True))
