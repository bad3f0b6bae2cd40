"""The routes of AttnGAN's released API: three sizes and two attention maps for any model."""

from __future__ import annotations

import base64
import io
import time

import numpy as np
import pytest
from PIL import Image

import cap2im
from cap2im.rendering.drawing import Drawing
from cap2im.serve.released import BIRDS, SIZES, three_sizes, two_maps

WORDS = ("this", "bird", "is", "red")


def drawing(sides: tuple[int, ...], maps: int, *, colours: int = 3, final: int | None = None) -> Drawing:
    """A drawing of a model with these stages, each of one grey level, and perhaps a sharpened picture."""
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


def test_large_size_is_the_finished_picture():
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
    ours = cap2im.load("aligndraw-mnist").draw("the digit one is at the top left of the image", seed=0)[0]
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
    ours = cap2im.load("aligndraw-mnist").draw("the digit one is at the top left of the image", seed=0)[0]
    over_time, none = two_maps(ours)
    assert over_time is not None
    assert over_time.width > 1000
    assert none is None
    assert two_maps(drawing((32,), 0)) == [None, None]


# Over HTTP

CAPTION = "a frog on a pink background"


def opened(url: str) -> Image.Image:
    head, content = url.split(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_bird_response_has_the_keys_of_the_release(bundled):
    start = time.perf_counter()
    answer = bundled.post("/api/v1.0/bird", json={"caption": CAPTION})
    assert answer.status_code == 201
    (bird,) = answer.json().values()
    assert set(answer.json()) == {"bird"}
    assert {"small", "medium", "large", "map1", "map2", "caption", "elapsed"} <= set(bird)
    assert [opened(bird[size]).size for size in SIZES] == [(8, 8), (16, 16), (32, 32)]
    assert opened(bird["map1"]).width > 1000, "a figure, where the release had a picture"
    assert bird["map2"] is None
    assert bird["caption"] == CAPTION
    assert 0 < bird["elapsed"] < time.perf_counter() - start


def test_birds_are_six_and_each_can_be_drawn_again_by_its_seed(bundled):
    answer = bundled.post("/api/v1.0/birds", json={"caption": CAPTION, "seed": 5})
    assert answer.status_code == 201
    birds = answer.json()["bird"]
    assert set(birds) == {*(f"bird{n}" for n in range(1, BIRDS + 1)), "caption", "seed", "elapsed"}
    drawn = bundled.post("/v1/draw", json={"captions": [CAPTION], "samples": BIRDS, "seed": 5}).json()["results"][0]["drawings"]
    for n, each in enumerate(drawn):
        again = Image.open(io.BytesIO(base64.b64decode(each["image"]["base64"])))
        gap = np.abs(np.asarray(again).astype(int) - np.asarray(opened(birds[f"bird{n + 1}"]["large"])))
        assert gap.max() <= 1
    assert len({birds[f"bird{n}"]["large"] for n in range(1, BIRDS + 1)}) == BIRDS


def test_every_request_draws_anew_unless_it_has_a_seed(bundled):
    seeds = [bundled.post("/api/v1.0/bird", json={"caption": CAPTION}).json()["bird"]["seed"] for _ in range(3)]
    assert len(set(seeds)) == 3
    same = [bundled.post("/api/v1.0/bird", json={"caption": CAPTION, "seed": seeds[0]}).json()["bird"]["large"] for _ in range(2)]
    assert same[0] == same[1]


def test_unknown_words_are_left_out_but_not_all_of_them(bundled):
    assert bundled.post("/api/v1.0/bird", json={"caption": f"a fat {CAPTION}"}).status_code == 201
    answer = bundled.post("/api/v1.0/bird", json={"caption": "sparrows sing"})
    assert (answer.status_code, answer.json()) == (422, {"detail": "caption 'sparrows sing' has no known word"})


@pytest.mark.parametrize(
    ("body", "status"),
    [({}, 422), ({"caption": ""}, 422), ({"caption": 3}, 422), ({"caption": CAPTION, "colour": "red"}, 422), ({"caption": "a" * 1001}, 422),
     ({"caption": CAPTION, "seed": -1}, 422), ({"caption": CAPTION, "model": "birds"}, 404)],
)  # fmt: skip
@pytest.mark.parametrize("route", ["bird", "birds"])
def test_invalid_requests_are_explained_in_one_sentence(bundled, route, body, status):
    answer = bundled.post(f"/api/v1.0/{route}", json=body)
    assert answer.status_code == status
    assert isinstance(answer.json()["detail"], str)
