"""The scene reader: sizes, words and evidence."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from cap2im.models.scene_reader import SceneReader, SceneReaderConfig

TINY = SceneReaderConfig(words=(("red",), ("snow", "snowy")), channels=2)


def test_sizes():
    reader = SceneReader(SceneReaderConfig()).eval()
    assert 4 * sum(p.numel() for p in reader.parameters()) < 2_000_000
    assert reader(torch.rand(2, 3, 32, 32)).shape == (2, len(SceneReaderConfig().words))


def test_pictures_of_other_sizes_and_grey_ones_are_read():
    reader = SceneReader(TINY).eval()
    grey = torch.rand(2, 1, 1, 1).expand(-1, -1, 64, 64)
    assert torch.allclose(reader(grey), reader(grey[:, :, :32, :32].expand(-1, 3, -1, -1)), atol=1e-5)


def test_evidence_of_mirror_images_is_equal():
    torch.manual_seed(0)
    reader = SceneReader(TINY).eval()
    images = torch.rand(3, 3, 32, 32)
    before = reader.evidence(images)
    assert torch.allclose(before, reader.evidence(images.flip(3)), atol=1e-6)
    reader.log_odds.copy_(torch.tensor([1.0, -2.0]))
    assert torch.allclose(reader.evidence(images), before - torch.tensor([1.0, -2.0]), atol=1e-6)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([["red"]], "at least 2 are needed"),
        ([["red"], ["scarlet", "red"]], "'red' is listed twice"),
        ([["red"], []], "'' is not a word"),
        ([["red"], ["Snow"]], "'Snow' is not a word"),
        ([["red"], ["snow", "ice cream"]], "'ice cream' is not a word"),
    ],
)
def test_words_that_are_refused(words, problem):
    with pytest.raises(ValidationError, match=problem):
        SceneReaderConfig(words=words)
