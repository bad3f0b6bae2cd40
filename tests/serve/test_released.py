"""The routes of AttnGAN's released API: three sizes and two maps of any model's drawing."""

from __future__ import annotations

import numpy as np
import pytest

import cap2im
from cap2im.drawing import Drawing
from cap2im.serve.released import three_sizes, two_maps

WORDS = ("this", "bird", "is", "red")


def drawing(sides: tuple[int, ...], maps: int, *, colours: int = 3, final: int | None = None) -> Drawing:
    """As of a model that draws in these sizes, each in a grey of its own, the finished picture perhaps sharpened."""
    side = sides[-1]
    stages = tuple(np.full((s, s, colours), 10 * s % 256, np.uint8) for s in sides)
    canvases = np.zeros((len(sides), side, side, colours), np.uint8)
    canvases[-1] = stages[-1] if final is None else final
    read = tuple(np.full((len(WORDS), 4 * (n + 1), 4 * (n + 1)), 0.25) for n in range(maps))
    return Drawing("this bird is red", WORDS, 0, "birds", canvases, stages=stages, maps=read)


def test_stages_are_the_three_sizes_small_to_large():
    small, medium, large = three_sizes(drawing((8, 16, 32), 2))
    assert [each.size for each in (small, medium, large)] == [(8, 8), (16, 16), (32, 32)]
    assert [each.getpixel((0, 0))[0] for each in (small, medium, large)] == [80, 160, 64]


def test_the_large_one_is_the_finished_picture_which_may_be_sharpened():
    assert three_sizes(drawing((8, 16, 32), 2, final=7))[2].getpixel((0, 0)) == (7, 7, 7)


def test_of_four_stages_the_last_three():
    assert [each.size[0] for each in three_sizes(drawing((4, 8, 16, 32), 2))] == [8, 16, 32]


@pytest.mark.parametrize(("sides", "expected"), [((16, 32), [8, 16, 32]), ((32,), [8, 16, 32]), ((1,), [1, 1, 1])])
@pytest.mark.parametrize("colours", [1, 3])
def test_missing_sizes_are_halves(sides, expected, colours):
    pictures = three_sizes(drawing(sides, 0, colours=colours))
    assert [each.size for each in pictures] == [(side, side) for side in expected]
    assert {each.mode for each in pictures} == {"L" if colours == 1 else "RGB"}


def test_halves_are_the_picture_itself():
    ours = cap2im.load("aligndraw-mnist").draw("the digit one is at the top left of the image")[0]
    small, medium, large = three_sizes(ours)
    assert [each.size for each in (small, medium, large)] == [(15, 15), (30, 30), (60, 60)]
    assert np.array_equal(np.asarray(large), ours.canvases[-1, :, :, 0])
    for each, side in ((small, 15), (medium, 30)):
        blocks = ours.canvases[-1, :, :, 0].reshape(side, 60 // side, side, 60 // side).mean((1, 3))
        assert np.corrcoef(np.asarray(each).ravel(), blocks.ravel())[0, 1] > 0.95


def test_each_map_is_the_figure_of_one_stage():
    first, second = two_maps(drawing((8, 16, 32), 2))
    assert first is not None
    assert second is not None
    assert first.size == second.size
    assert first != second, "each says its own number of places"
    one, none = two_maps(drawing((8, 16), 1))
    assert one is not None
    assert none is None


def test_maps_of_models_without_places():
    ours = cap2im.load("aligndraw-mnist").draw("the digit one is at the top left of the image")[0]
    over_time, none = two_maps(ours)
    assert over_time is not None
    assert over_time.width > 1000
    assert none is None
    assert two_maps(drawing((32,), 0)) == [None, None]
