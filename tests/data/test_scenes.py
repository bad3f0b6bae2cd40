"""Test that captions, layouts and held-out scenes are what they say."""

from __future__ import annotations

import pytest
import torch

from cap2im.data.cutouts_manifest import Thing
from cap2im.data.scenes import BACKGROUND_NAMES, FIRST_OF_SIDES, LAYOUTS, NEVER, PLACES, TEMPLATES, Arrangements, HeldOutScenes
from cap2im.randomness import generator
from tests.squares import square_cutouts

NOUNS = square_cutouts().nouns
MANY = tuple(Thing(name=f"n{i}", one=f"a n{i}", two=f"n{i}s") for i in range(60))


def arrangement(template: int, first: int, second: int = -1, background: str = "blue") -> Arrangements:
    return Arrangements(torch.tensor([template]), torch.tensor([[first, second]]), torch.tensor([BACKGROUND_NAMES.index(background)]))


def test_each_template_says_what_is_where():
    held_out = HeldOutScenes.from_seed(0, NOUNS)
    expected = [
        "an apple on an orange background",
        "an apple in front of an orange background",
        "an orange background with an apple",
        "an apple to the left of a dog",
        "a dog to the right of an apple",
        "an apple to the left of a dog on an orange background",
        "a dog to the right of an apple on an orange background",
        "an apple above a dog",
        "a dog below an apple",
        "an apple above a dog on an orange background",
        "a dog below an apple on an orange background",
        "two apples on an orange background",
        "an orange background with two apples",
        "an apple on the left",
        "an apple on the left of an orange background",
        "an apple on the right",
        "an apple on the right of an orange background",
        "an apple at the top",
        "an apple at the top of an orange background",
        "an apple at the bottom",
        "an apple at the bottom of an orange background",
    ]
    assert [held_out.captions(arrangement(i, 0, 3, "orange"))[0] for i in range(len(TEMPLATES))] == expected
    assert {t.layout for t in TEMPLATES} == set(range(len(LAYOUTS)))


def test_things_of_a_layout_do_not_overlap():
    for layout in LAYOUTS:
        boxes = [PLACES[name] for name in layout.places]
        for place in boxes:
            assert place.sizes[1] <= min(place.rows[1] - place.rows[0], place.columns[1] - place.columns[0])
        if len(boxes) == 2:
            first, second = boxes
            assert first.rows[1] <= second.rows[0] or first.columns[1] <= second.columns[0]


def test_training_scenes_hold_nothing_that_is_held_out():
    held_out = HeldOutScenes.from_seed(1, MANY)
    drawn = held_out.draw(20_000, generator("test"))
    first, second = drawn.things.unbind(1)
    layouts, backgrounds = drawn.layouts, drawn.backgrounds
    assert set(layouts.tolist()) == {0, 1, 2, 3}
    assert (held_out.pairs[first, backgrounds] == 0).all()
    two = second >= 0
    assert (held_out.pairs[second[two], backgrounds[two]] == 0).all()
    related = (layouts == 1) | (layouts == 2)
    assert (held_out.triples[first[related], second[related], layouts[related] - 1] == 0).all()
    assert (first[related] != second[related]).all(), "two equal things have a sentence of their own"
    rare = (held_out.words[first] > 0) | (two & (held_out.words[second] > 0))
    assert (drawn.templates[rare] == 0).all()
    assert rare.any()
    shown = {word for caption in held_out.captions(drawn) for word in caption.split()}
    assert shown | {"."} == set(held_out.words_shown())


def test_one_thing_at_a_side_is_shown_if_wanted():
    without, held_out = HeldOutScenes.from_seed(1, MANY), HeldOutScenes.from_seed(1, MANY, sides=True)
    drawn = held_out.draw(5_000, generator("test"))
    assert set(drawn.layouts.tolist()) == set(range(len(LAYOUTS)))
    assert held_out.is_seen(drawn).all()
    at_a_side = drawn.templates >= FIRST_OF_SIDES
    assert 0.3 < at_a_side.float().mean() < 0.5
    assert (drawn.things[at_a_side, 1] == -1).all()
    assert not (held_out.words[drawn.things[at_a_side, 0]] > 0).any(), "a held-out word has its one sentence"
    assert set(held_out.words_shown()) - set(without.words_shown()) == {"at", "top", "bottom"}
    assert torch.equal(held_out.triples, without.triples)
    assert HeldOutScenes.from_model({"held_out_seed": 1, "scenes": held_out.about(), "sides": True}).sides


def test_each_kind_is_held_out_alone():
    held_out = HeldOutScenes.from_seed(1, MANY)
    for split in ("validation", "test"):
        for kind in ("pair", "triple", "word"):
            scenes = held_out.scenes(held_out.draw(300, generator("test", kind), split, kind))
            assert {(scene.split, scene.kind) for scene in scenes} == {(split, kind)}
            if kind == "pair":
                assert all(scene.background >= 0 for scene in scenes), "a caption names the background that is held out"
            if kind == "word":
                assert all(scene.template != 0 for scene in scenes)
    assert {(s.split, s.kind) for s in held_out.scenes(held_out.draw(300, generator("test")))} == {("train", "seen")}


def test_same_picture_in_other_words_is_one_triple():
    held_out = HeldOutScenes.from_seed(1, MANY)
    left, right = held_out.draw(500, generator("test"), "test", "triple"), None
    left = left[left.templates == 3]
    right = Arrangements(torch.full_like(left.templates, 4), left.things, left.backgrounds)
    assert len(left)
    assert {scene.split for scene in held_out.scenes(right)} == {"test"}
    a, b = left.things[0].tolist()
    assert held_out.captions(right[:1]) == [f"a n{b} to the right of a n{a}"]


def test_shares_of_held_out_scenes():
    held_out = HeldOutScenes.from_seed(2, MANY)
    for table, size in ((held_out.pairs, 60 * 11), (held_out.triples[~torch.eye(60, dtype=torch.bool)], 60 * 59 * 2)):
        counts = table.flatten().bincount(minlength=3)
        assert counts[2] / size == pytest.approx(0.10, abs=0.01)
        assert counts[1] / size == pytest.approx(0.05, abs=0.01)
    assert held_out.words.bincount().tolist() == [55, 2, 3]
    other = HeldOutScenes.from_seed(3, MANY)
    assert not torch.equal(other.pairs, held_out.pairs)
    assert torch.equal(HeldOutScenes.from_seed(2, MANY).triples, held_out.triples)


def test_invisible_pairs_and_unknown_plurals_are_in_no_split():
    visible = torch.ones(len(NOUNS), len(BACKGROUND_NAMES), dtype=torch.bool)
    visible[0, BACKGROUND_NAMES.index("white")] = False
    held_out = HeldOutScenes.from_seed(0, NOUNS, visible)
    assert held_out.pairs[0, BACKGROUND_NAMES.index("white")] == NEVER
    grapes = [noun.name for noun in NOUNS].index("grapes")
    for scenes in (arrangement(0, 0, background="white"), arrangement(3, 0, 1, "white"), arrangement(11, grapes, grapes)):
        assert not held_out.statuses(scenes)[1].item()
    captions = held_out.captions(held_out.draw(5000, generator("test")))
    assert not any("apple" in caption and "white" in caption for caption in captions)
    assert not any(caption.startswith("two grapes") for caption in captions)
    assert any("grapes to the left" in caption and "a grapes" not in caption for caption in captions)


def test_classes_are_equal_for_scenes_of_the_same_content():
    def classes(*scenes):
        return [scene.classes().item() for scene in scenes]

    left, right = arrangement(3, 0, 1, "red"), arrangement(6, 0, 1, "blue")
    assert len(set(classes(left, right))) == 1, "a caption that names no background fits both"
    others = arrangement(3, 1, 0), arrangement(7, 0, 1), arrangement(0, 0), arrangement(0, 0, background="red"), arrangement(11, 0, 0)
    assert len(set(classes(left, *others))) == 6
    assert len(set(classes(arrangement(0, 0), arrangement(2, 0)))) == 1


def test_impossible_requests_are_refused():
    held_out = HeldOutScenes.from_seed(0, NOUNS[:5])  # too few things for held-out words
    with pytest.raises(ValueError, match="no scene of split test and kind word"):
        held_out.draw(1, generator("test"), "test", "word")
    with pytest.raises(ValueError, match="train has seen scenes"):
        held_out.draw(1, generator("test"), "test")
    with pytest.raises(ValueError, match="two or more things, got 1"):
        HeldOutScenes.from_seed(0, NOUNS[:1])
    with pytest.raises(ValueError, match="on no background: bird"):
        HeldOutScenes.from_seed(0, NOUNS[:2], torch.tensor([[True], [False]]).expand(-1, 11))
