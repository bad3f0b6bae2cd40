"""The choice of the things of captioned scenes."""

from __future__ import annotations

import torch
from benchmarks.choose_things import ThingReadings, read_things

from cap2im.data.scenes import BACKGROUND_NAMES
from cap2im.models.composition_reader import CompositionReader, CompositionReaderConfig
from tests.squares import square_cutouts

NAMES = ("cat", "dog", "red apple", "hand of cards")


def readings() -> ThingReadings:
    right = torch.tensor([[0.99, 0.97, 0.98], [0.99, 0.90, 0.99], [0.98, 0.0, 0.97], [1.0, 1.0, 1.0]])
    confusions = torch.zeros(4, 5)
    confusions[1, 0], confusions[1, 4] = 7, 2
    return ThingReadings(NAMES, ("flat", "round", "soft"), right > 0, right, confusions)


def test_things_are_read_in_every_style_that_has_them():
    assert readings().chosen(0.95) == ["cat", "red apple"], "a dog is misread in one style, a hand of cards has three words"
    assert readings().chosen(0.90) == ["cat", "dog", "red apple"]
    assert readings().chosen(0.95, missing_styles=0) == ["cat"]


def test_the_table_begins_with_the_least_reliable():
    first, second, *_ = readings().table().splitlines()
    assert first == "% read in flat round soft"
    assert second == "dog: 99 90 99, most often taken for cat"
    assert "red apple: 98 - 97" in readings().table()


def test_rates_and_confusions_of_a_reader_of_one_word():
    cutouts = square_cutouts(("apple", "bird", "cat"))
    reader = CompositionReader(CompositionReaderConfig(things=cutouts.things, backgrounds=BACKGROUND_NAMES, channels=2)).eval()
    with torch.no_grad():
        reader.classify[1].bias[1] = 100  # always a bird
    measured = read_things(reader, cutouts, samples=10)
    assert measured.drawn.all()
    assert measured.right[[0, 2]].tolist() == [[0, 0], [0, 0]]
    assert (measured.right[1] > 0).all(), "birds in the middle"
    assert measured.confusions[:, [0, 2]].sum() == 0
    assert measured.confusions[1, 1] == 0
    assert (measured.confusions[[0, 2], 1] > 20).all(), "other things in the middle"
    assert (measured.confusions[:, 3] > 100).all(), "nothing is read at the sides of a bird in the middle"
