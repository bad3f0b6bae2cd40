"""Test that painted scenes show what their captions say."""

from __future__ import annotations

import pytest
import torch

from cap2im.data.cutouts import Cutouts
from cap2im.data.scene_batches import SceneBatches, scene_tokens
from cap2im.data.scene_maker import SceneMaker, contrast, visible
from cap2im.data.scenes import BACKGROUND_NAMES, BACKGROUND_RANGE, BACKGROUNDS, LAYOUTS, PLACES, Arrangements, HeldOutScenes
from cap2im.data.vocabulary import Vocabulary
from cap2im.randomness import generator
from tests.squares import square_cutouts


@pytest.fixture(scope="module")
def cutouts() -> Cutouts:
    return square_cutouts()


def maker(cutouts: Cutouts, side: int = 32) -> SceneMaker:
    return SceneMaker(cutouts, HeldOutScenes.from_seed(0, cutouts.nouns), side)


@pytest.mark.parametrize("side", [32, 64])
def test_scene_matches_its_caption(cutouts, side):
    made = maker(cutouts, side).make(300, generator("test"))
    assert made.images.shape == (300, 3, side, side)
    assert made.images.dtype == torch.uint8
    middles = torch.tensor(list(BACKGROUNDS.values()))[made.backgrounds]
    for image, layout, things, middle, caption in zip(
        made.images.int(), made.layouts.tolist(), made.things.tolist(), middles, made.captions, strict=True
    ):
        painted = (image[1] == 255) & (image[0] >= 100) & (image[0] < 120) & (image[2] >= 250)
        rest = painted.clone()
        for name, thing in zip(LAYOUTS[layout].places, things, strict=False):
            place = PLACES[name]
            (top, bottom), (left, right) = ([round(x * side) for x in span] for span in (place.rows, place.columns))
            box = painted[top:bottom, left:right]
            rows, columns = box.nonzero().unbind(1)
            size = int(rows.max() - rows.min() + 1)
            assert size == int(columns.max() - columns.min() + 1) == round(box.sum().item() ** 0.5)
            assert round(place.sizes[0] * side) <= size <= round(place.sizes[1] * side)
            assert (image[0, top:bottom, left:right][box] == 100 + thing).all()
            assert cutouts.things[thing] in caption
            rest[top:bottom, left:right] = False
        assert not rest.any(), "nothing stands outside of the places"
        shade = image[:, ~painted]
        assert (shade == shade[:, :1]).all(), "the background is plain"
        assert ((shade[:, 0] - middle).abs() <= BACKGROUND_RANGE).all()


def test_two_equal_things_are_one_cutout(cutouts):
    scenes = Arrangements(torch.full((50,), 11), torch.full((50, 2), 3), torch.zeros(50, dtype=torch.long))
    images = maker(cutouts).render(scenes, generator("test")).images
    styles = [set(image[2][image[1] == 255].tolist()) for image in images]
    assert all(len(each) == 1 for each in styles)
    assert len(set.union(*styles)) == 2, "another cut-out in other scenes"


def test_transparent_pixels_show_the_background(cutouts):
    images = cutouts.images.clone()
    images[:, 3, :, :4] = 0  # the left half
    images[:, 3, :, 4:] = 128
    half = Cutouts(**{**vars(cutouts), "images": images})
    scenes = Arrangements(torch.tensor([0]), torch.tensor([[0, -1]]), torch.tensor([BACKGROUND_NAMES.index("black")]))
    image = maker(half).render(scenes, generator("test")).images[0].int()
    background = image[:, 0, 0]
    row = image[:, 16]
    mixed = row[1][(row[1] - background[1]).abs() > 30]
    assert len(mixed) > 6
    assert mixed.median() == pytest.approx((255 + int(background[1])) / 2, abs=4)
    assert (row[:, :12] == background[:, None]).all()


def test_styles_can_be_chosen(cutouts):
    made = maker(cutouts)
    scenes = made.held_out.draw(50, generator("test"))
    images = made.render(scenes, generator("test"), styles=["round"]).images
    assert {int(image[2][image[1] == 255].min()) for image in images} == {251}
    with pytest.raises(ValueError, match="style 'oil': the cut-outs are in flat, round"):
        made.render(scenes, generator("test"), styles=["oil"])


def test_cutouts_are_not_painted_where_they_disappear(cutouts):
    images = cutouts.images.clone()
    images[0, :3] = torch.tensor(BACKGROUNDS["red"])[:, None, None]  # the apple in style flat
    images[2:4, :3] = torch.tensor(BACKGROUNDS["red"])[:, None, None]  # the bird in both
    reds = Cutouts(**{**vars(cutouts), "images": images})
    red = BACKGROUND_NAMES.index("red")
    assert contrast(reds)[:4, red].tolist() == [False, True, False, False]
    seen = visible(reds)
    assert seen[0].all()
    assert not seen[1, red]
    assert seen[1].sum() == len(BACKGROUNDS) - 1
    scenes = Arrangements(torch.zeros(40, dtype=torch.long), torch.tensor([[0, -1]]).expand(40, -1), torch.full((40,), red))
    painted = SceneMaker(reds, HeldOutScenes.from_seed(0, reds.nouns, seen), 32).render(scenes, generator("test")).images
    assert {int(image[2].max()) for image in painted} == {251}, "only style round"


def test_batches_depend_on_seed_and_step_only(cutouts):
    made = maker(cutouts)
    vocabulary = Vocabulary(words=made.held_out.words_shown())

    def batches(seed=0):
        return SceneBatches(made, vocabulary, (2, 3), 100, 20, seed)

    first, again = batches(), batches()
    first.at(0)
    batch, same = first.at(7), again.at(7)
    assert torch.equal(batch.images, same.images)
    assert torch.equal(batch.tokens, same.tokens)
    assert torch.equal(batch.noise, same.noise)
    assert torch.equal(first.at(7, slice(5, 9)).images, batch.images[5:9])
    assert not torch.equal(batch.images, first.at(8).images)
    assert not torch.equal(batch.images, batches(1).at(7).images)
    assert torch.equal(first.fixed(10).images, batches(1).fixed(10).images)
    assert first.steps_per_epoch == 5
    assert batch.images.min() >= 0
    assert 0.9 < batch.images.max() <= 1
    assert len(batch.classes) == len(batch) == 20


def test_first_batches_can_show_one_thing(cutouts):
    held_out = HeldOutScenes.from_seed(0, cutouts.nouns, sides=True)
    made = SceneMaker(cutouts, held_out, 32)
    vocabulary = Vocabulary(words=held_out.words_shown())
    later = SceneBatches(made, vocabulary, (1, 1), 100, 60, 0)
    early = SceneBatches(made, vocabulary, (1, 1), 100, 60, 0, one_thing_until=3)
    one = made.make(60, generator("scenes", 0, 2), one_thing=True)
    assert torch.equal(early.at(2).images, one.images.float() / 255)
    assert (one.things[:, 1] == -1).all()
    assert len(one.layouts.unique()) == 5, "in the middle and at the four sides"
    assert torch.equal(early.at(3).images, later.at(3).images)
    assert torch.equal(early.fixed(50).images, later.fixed(50).images), "validation has all scenes"


def test_tokens_are_those_of_the_vocabulary(cutouts):
    made = maker(cutouts)
    vocabulary = Vocabulary(words=made.held_out.words_shown())
    captions = made.make(500, generator("test")).captions
    tokens, mask = scene_tokens(captions, vocabulary)
    assert [row[keep].tolist() for row, keep in zip(tokens, mask, strict=True)] == [vocabulary.numbered(c) for c in captions]
    with pytest.raises(ValueError, match="lacks words of the scenes: below"):
        SceneBatches(made, Vocabulary(words=tuple(w for w in vocabulary.words if w != "below")), (1, 1), 100, 20, 0)


def test_makers_refuse_things_without_cutouts(cutouts):
    held_out = HeldOutScenes.from_seed(0, cutouts.nouns)
    with pytest.raises(ValueError, match="different things"):
        SceneMaker(cutouts.choose(["cat", "dog"]), held_out, 32)
    without = cutouts.choose(styles=["flat"])
    kept = without.thing != 0
    fewer = Cutouts(**{**vars(without), **{key: getattr(without, key)[kept] for key in ("images", "thing", "style", "licence")}})
    with pytest.raises(ValueError, match="without a cut-out: apple"):
        SceneMaker(fewer, held_out, 32)


def test_choosing_keeps_the_order_given(cutouts):
    chosen = cutouts.choose(["dog", "apple"], ["round"])
    assert chosen.things == ("dog", "apple")
    assert chosen.images[chosen.thing == 0][0, 0, 0, 0] == 100 + cutouts.things.index("dog")
    assert set(chosen.style.tolist()) == {1}
    with pytest.raises(ValueError, match="lack the thing 'unicorn', the style 'oil'; their styles are flat, round"):
        cutouts.choose(["unicorn"], ["oil"])
