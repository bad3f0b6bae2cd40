"""Compositional accuracy: each criterion reacts to its own kind of error, on made-up readings."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor

from cap2im.config import load_recipe, recipe_names
from cap2im.data.cutout_preparation import prepare_cutouts
from cap2im.data.cutouts import Cutouts
from cap2im.data.scene_maker import SceneMaker
from cap2im.data.scenes import BACKGROUND_NAMES, LAYOUTS, PLACES, HeldOutScenes, Kind, Scene
from cap2im.loading import load_model
from cap2im.metrics.compositional_accuracy import (
    FIELDS,
    READER,
    SIDE,
    Readings,
    Scores,
    compositional_accuracy,
    place_windows,
    read_pictures,
    score,
    targets_of,
)
from cap2im.models.composition_reader import CompositionReader, CompositionReaderConfig
from cap2im.training.composition_scenes import any_scenes
from tests.real_data import data_folder
from tests.squares import NAMES, square_cutouts

CONFIG = CompositionReaderConfig(things=NAMES, backgrounds=BACKGROUND_NAMES, channels=2)
NOTHING = CONFIG.nothing
CAT, DOG, EGG = (NAMES.index(name) for name in ("cat", "dog", "egg"))
BLUE, RED = (BACKGROUND_NAMES.index(name) for name in ("blue", "red"))


def scene(layout: int, *things: int, background: int = BLUE, kind: Kind = "seen") -> Scene:
    return Scene(layout, things, background, 0, "a caption", "train" if kind == "seen" else "test", kind)


def readings(background: int = BLUE, **things: int) -> Readings:
    """Readings of one picture by a reader that is sure of everything; places that are not named hold nothing."""
    classes = torch.tensor([things.get(place, NOTHING) for place in PLACES])
    one_hot = torch.nn.functional.one_hot
    return Readings(
        one_hot(classes, NOTHING + 1).float()[None] * 0.8 + 0.01,
        one_hot(torch.tensor([background]), len(BACKGROUND_NAMES)).float(),
    )


def met(caption: Scene, read: Readings) -> list[bool]:
    """Whether things, background, relation and joint are right."""
    scores = score(read, targets_of([caption], NAMES, CONFIG))
    return [bool(getattr(scores, name).item()) for name in FIELDS]


ONE, BESIDE, ABOVE, TWO = scene(0, CAT), scene(1, CAT, DOG), scene(2, CAT, DOG), scene(3, CAT, CAT)


@pytest.mark.parametrize(
    ("caption", "things"),
    [
        (ONE, {"middle": CAT}),
        (BESIDE, {"left": CAT, "right": DOG}),
        (ABOVE, {"top": CAT, "bottom": DOG}),
        (TWO, {"left": CAT, "right": CAT}),
    ],
)
def test_all_right(caption, things):
    assert met(caption, readings(**things)) == [True] * 4
    assert met(caption, readings(background=RED, **things)) == [True, False, True, False]


@pytest.mark.parametrize(
    ("things", "expected"),
    [
        ({"left": DOG, "right": CAT}, [True, True, False, False]),  # exchanged
        ({"top": CAT, "bottom": DOG}, [True, True, False, False]),  # another relation
        ({"left": CAT, "right": DOG, "top": EGG}, [True, True, False, False]),  # one more
        ({"left": CAT}, [False, True, False, False]),  # one missing
        ({"left": CAT, "right": EGG}, [False, True, True, False]),  # another thing at the right place
        ({"left": EGG, "right": CAT}, [False, True, False, False]),  # another thing, and the named one at the wrong place
        ({"left": CAT, "right": CAT}, [False, True, False, False]),  # as cat and dog cannot be told apart, they are not at their sides
        ({}, [False, True, False, False]),
    ],
)
def test_failures_are_reported(things, expected):
    assert met(BESIDE, readings(**things)) == expected


def test_two_equal_things_are_both_needed():
    assert met(TWO, readings(left=CAT, right=DOG)) == [False, True, True, False]
    assert met(ONE, readings(left=CAT, right=CAT)) == [True, True, False, False]


def test_a_background_that_is_not_named_is_right():
    caption = scene(1, CAT, DOG, background=-1)
    assert met(caption, readings(background=RED, left=CAT, right=DOG)) == [True] * 4
    measured = compositional_accuracy(Scores(*[torch.ones(2, dtype=torch.bool)] * 4), [caption, ONE])
    assert {(each.name, each.n) for each in measured if each.group == "seen"} == {
        ("background", 1),
        *((n, 2) for n in FIELDS if n != "background"),
    }


def test_groups():
    captions = [ONE, scene(0, CAT, kind="pair"), scene(1, CAT, DOG, kind="triple"), scene(3, CAT, CAT, kind="word")]
    right = torch.tensor([True, True, False, False])
    measured = {(each.group, each.name): each for each in compositional_accuracy(Scores(right, right, right, right), captions)}
    assert [measured[group, "joint"].value for group in ("seen", "held out")] == [1, pytest.approx(1 / 3)]
    assert [measured[f"held-out {kind}s", "joint"].value for kind in ("pair", "triple", "word")] == [1, 0, 0]
    assert [measured["held out, one", "joint"].n, measured["held out, beside", "joint"].n] == [1, 1]
    assert ("seen, beside", "joint") not in measured, "of no caption"
    assert {key for key, each in measured.items() if not each.detail} == {
        (group, name) for group in ("seen", "held out") for name in FIELDS
    }
    assert measured["held out", "joint"].per_item is not None


def test_the_reader_numbers_things_in_its_own_order():
    config = CONFIG.model_copy(update={"things": (*reversed(NAMES), "zebra")})
    targets = targets_of([BESIDE], NAMES, config)
    assert [config.things[index] for index in targets.things[0, 1:3].tolist()] == ["cat", "dog"]
    assert targets.things[0, 0] == config.nothing == len(NAMES) + 1


def test_unknown_names_are_an_error():
    with pytest.raises(ValueError, match="does not know unicorn; train one on these things"):
        targets_of([BESIDE], (*NAMES, "unicorn"), CONFIG)
    with pytest.raises(ValueError, match="does not know the background red"):
        targets_of([BESIDE], NAMES, CONFIG.model_copy(update={"backgrounds": ("blue",)}))


# The windows


def squares(images: Tensor) -> Tensor:
    """Whether pixels are of a thing (see `square_cutouts`)."""
    return images[..., 1, :, :] > 250 / 255


@pytest.mark.parametrize("side", [32, 64])
def test_windows_hold_the_things_of_their_places(side):
    """Every pixel of two things is in the half of a window that is at its place; larger pictures are reduced."""
    held_out = HeldOutScenes.from_seed(0, square_cutouts().nouns)
    scenes = SceneMaker(square_cutouts(), held_out, side).make(300, torch.Generator().manual_seed(0))
    images = scenes.images.float() / 255
    windows = place_windows(images, 20)
    assert windows.shape == (300, 5, 3, 20, 20)
    inner = slice(2, 18)  # the rest is beyond the middle or the edge of the picture
    halves = {"left": (slice(None), inner), "right": (slice(None), inner), "top": (inner, slice(None)), "bottom": (inner, slice(None))}
    for index, layout in enumerate(LAYOUTS):
        rows = (scenes.layouts == index) & (scenes.backgrounds == BLUE)
        whole = int(squares(images[rows]).sum()) / (side / SIDE) ** 2
        if layout.places == ("middle",):
            assert int(squares(windows[rows, 0]).sum()) == pytest.approx(whole * (20 / SIDE) ** 2, rel=0.2)
        else:
            inside = sum(int(squares(windows[rows, list(PLACES).index(place)])[:, *halves[place]].sum()) for place in layout.places)
            assert inside == pytest.approx(whole, rel=0 if side == SIDE else 0.25), "pixels at the edges are blends"
    blank = torch.rand(1, 3, 1, 1).expand(1, 3, side, side)
    assert torch.allclose(place_windows(blank, 20), blank[:, None, :, :1, :1].expand(1, 5, 3, 20, 20)), "edges repeat the background"


def test_pictures_of_another_shape_are_an_error():
    reader = CompositionReader(CONFIG).eval()
    for wrong in (
        torch.rand(1, 1, SIDE, SIDE),
        torch.rand(3, SIDE, SIDE),
        torch.rand(1, 3, SIDE, 30),
        torch.zeros(1, 3, SIDE, SIDE).byte(),
    ):
        with pytest.raises(ValueError, match=r"expected floats \[N, 3, A, A\]"):
            read_pictures(reader, wrong)
    with pytest.raises(ValueError, match=r"expected 0\.\.1"):
        read_pictures(reader, torch.full((1, 3, SIDE, SIDE), 1.5))


def test_readings_do_not_depend_on_the_batch():
    torch.manual_seed(0)
    reader, images = CompositionReader(CONFIG).eval(), torch.rand(5, 3, SIDE, SIDE)
    together, alone = read_pictures(reader, images), read_pictures(reader, images, batch=2)
    assert together.things.shape == (5, 5, NOTHING + 1)
    assert torch.allclose(together.things.sum(2), torch.ones(5, 5))
    assert torch.allclose(together.things, alone.things, atol=1e-6)
    assert torch.allclose(together.backgrounds, alone.backgrounds, atol=1e-6)


def test_a_thing_in_the_middle_leaves_no_room_for_others():
    torch.manual_seed(0)
    reader, images = CompositionReader(CONFIG).eval(), torch.rand(1, 3, SIDE, SIDE)
    with torch.no_grad():
        reader.classify[1].bias[CAT] = 9  # cats everywhere
    assert read_pictures(reader, images).things.argmax(dim=2).tolist() == [[CAT, NOTHING, NOTHING, NOTHING, NOTHING]]
    with torch.no_grad():
        reader.classify[1].bias[NOTHING] = 18
    assert read_pictures(reader, images).things.argmax(dim=2).tolist() == [[NOTHING] * 5]


# The bundled reader

DRAWN = ("dog", "cat", "horse", "elephant", "frog", "banana", "pineapple", "bus", "rocket", "umbrella", "guitar", "key", "star", "ghost")


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> SceneMaker:
    """Paints scenes of real cut-outs, of which none is held out."""
    folder, raw = data_folder() / "emoji", tmp_path_factory.mktemp("raw")
    for style in ("noto", "twemoji"):
        (raw / style).mkdir()
        for name in DRAWN:
            shutil.copy(folder / style / f"{name}.png", raw / style)
    prepare_cutouts(raw, raw / "out")
    return any_scenes(Cutouts.open(raw / "out"), SIDE)


def test_the_bundled_reader_reads_real_scenes(real):
    reader = load_model(READER, CompositionReader).network
    scenes = real.make(400, torch.Generator().manual_seed(0))
    captions, images = real.held_out.scenes(scenes.arrangements), scenes.images.float() / 255
    targets = targets_of(captions, real.cutouts.things, reader.config)
    scores = score(read_pictures(reader, images), targets)
    assert scores.joint.float().mean() >= 0.95
    assert scores.background.float().mean() >= 0.98
    shifted = score(read_pictures(reader, images.roll(1, 0)), targets)
    assert shifted.joint.float().mean() < 0.02
    exchanged = score(read_pictures(reader, images.roll(SIDE // 2, 3)), targets)  # left and right halves
    beside = torch.tensor([caption.layout == 1 for caption in captions])
    assert exchanged.things[beside].float().mean() > 0.9
    assert exchanged.relation[beside].float().mean() < 0.05
    blank = score(read_pictures(reader, images[:, :, :1, :1].expand_as(images)), targets)
    assert not blank.things.any()


def test_every_thing_of_the_recipes_is_read():
    known = load_model(READER, CompositionReader).network.config.things
    for name in recipe_names():
        if name.endswith("-scenes") and name != READER:
            assert set(load_recipe(name).data.things) <= set(known), name
