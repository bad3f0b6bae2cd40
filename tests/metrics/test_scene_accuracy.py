"""Scene accuracy against values by hand, and its captions."""

from __future__ import annotations

import pytest
import torch

from cap2im.metrics.intervals import wilson
from cap2im.metrics.scene_accuracy import (
    FLIPS,
    Flips,
    average_precision,
    balanced_accuracy,
    held_words,
    readable_flips,
    scene_accuracy,
)
from cap2im.models.scene_reader import SceneReaderConfig

COLOURS = Flips("colour", {"red": "red", "blue": "blue"}, ("a {} car .",))


def test_words_that_captions_hold():
    captions = ["A Sandy-haired dog .", "dogs on the SNOW .", "a man", "snowman , beaches"]
    words = (("dog", "dogs"), ("snow",), ("beach", "sand", "sandy"))
    assert held_words(captions, [0, 0, 1, 2], 4, words).tolist() == [
        [True, True, True],
        [False, False, False],
        [False, False, False],
        [False, False, False],
    ]


def test_scores_of_words_by_hand():
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    labels = torch.tensor([[True, True], [False, False], [True, False], [False, False]])
    assert average_precision(scores, labels).tolist() == pytest.approx([(1 + 2 / 3) / 2, 1 / 4])
    predicted = torch.tensor([[True, True], [True, True], [False, False], [False, False]])
    assert balanced_accuracy(predicted, labels).tolist() == pytest.approx([(1 / 2 + 1 / 2) / 2, (1 + 2 / 3) / 2])


def test_each_word_weighs_the_same():
    evidence = torch.tensor([[1.0, 0.0], [3.0, 2.0], [0.0, 0.5], [-1.0, -3.0], [0.0, 1.0], [5.0, 4.0]])
    whole, red, blue = scene_accuracy(evidence, torch.tensor([0, 0, 0, 0, 1, 1]), COLOURS, ("red", "blue"), "flips")
    assert (red.value, red.n, blue.value, blue.n) == (0.75, 4, 0.5, 2)
    assert (whole.value, whole.n, whole.chance, whole.title) == (0.625, 6, 0.5, "colour accuracy, flips, %")
    equal = 4 / (1 / 4 + 1 / 2)
    assert whole.interval == pytest.approx(wilson(0.625 * equal, equal))
    assert red.interval == pytest.approx(wilson(3, 4))
    assert not whole.detail
    assert red.detail
    with pytest.raises(ValueError, match="colour accuracy, flips: no picture for 'blue'"):
        scene_accuracy(evidence, torch.zeros(6, dtype=torch.long), COLOURS, ("red", "blue"), "flips")


def test_equal_numbers_of_pictures_have_the_plain_interval():
    evidence = torch.tensor([[1.0, 0.0]]).expand(40, -1)
    whole, *_ = scene_accuracy(evidence, torch.tensor([0, 1]).repeat(20), COLOURS, ("red", "blue"), "flips")
    assert whole.value == whole.chance
    assert whole.interval == pytest.approx(wilson(20, 40))


@pytest.mark.parametrize("flips", FLIPS, ids=lambda flips: flips.name)
def test_a_caption_holds_its_own_word_of_the_group_only(flips):
    names, forms = SceneReaderConfig().names, SceneReaderConfig().words
    words = [forms[names.index(word)] for word in flips.phrases]
    for place, word in enumerate(flips.phrases):
        captions = flips.captions(word)
        assert len(set(captions)) == len(flips.templates)
        assert held_words(captions, range(len(captions)), len(captions), words).nonzero()[:, 1].tolist() == [place] * len(captions)


def test_groups_that_a_reader_reads(monkeypatch):
    dogs = Flips("dog", {"brown": "brown", "black": "black", "white": "white"}, ("a {} dog .",))
    monkeypatch.setattr("cap2im.metrics.scene_accuracy.FLIPS", (COLOURS, dogs))
    assert readable_flips("reader", ("white", "black", "red")) == [(dogs, ("black", "white"))]
    with pytest.raises(ValueError, match=r"--scene-reader r: reads white, dog, red; at .* \(colour: red, blue; dog: brown"):
        readable_flips("r", ("white", "dog", "red"))
