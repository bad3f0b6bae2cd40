"""Similarity: one of a picture with itself, closed forms for flat pictures, and drawings that are their images."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from cap2im.metrics.ssim import HIGHEST_PSNR, nearest_images, signal_to_noise, similarity, structural_similarity
from cap2im.models.interface import DrawingModel, DrawnSequence
from cap2im.models.text import sentences_as_text


@pytest.fixture(scope="module")
def pictures():
    torch.manual_seed(0)
    return torch.rand(6, 3, 16, 16)


def test_a_picture_is_wholly_similar_to_itself_alone(pictures):
    torch.testing.assert_close(structural_similarity(pictures, pictures), torch.ones(6))
    assert structural_similarity(pictures, pictures.flip(0)).abs().max() < 0.2
    assert signal_to_noise(pictures, pictures).allclose(torch.tensor(float(HIGHEST_PSNR)))


def test_flat_pictures_have_closed_forms():
    a, b = (torch.full((1, 3, 16, 16), value) for value in (0.25, 0.75))
    brightness = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)  # C1 = (0.01 * data range)^2
    assert structural_similarity(a, b).item() == pytest.approx(brightness, abs=1e-3)  # the variance of a flat picture is rounding
    assert signal_to_noise(a, b).item() == pytest.approx(20 * math.log10(2), rel=1e-5)


def test_a_picture_has_its_own_similarity_in_any_batch(pictures):
    others = pictures.roll(1, 0).lerp(pictures, 0.5)
    one_by_one = torch.cat([structural_similarity(pictures[i : i + 1], others[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(structural_similarity(pictures, others), one_by_one)
    assert one_by_one.std() > 1e-3


def test_smaller_than_the_window():
    small = torch.rand(1, 1, 8, 8)
    with pytest.raises(ValueError, match="a window of 11 pixels; these pictures have 8"):
        structural_similarity(small, small)


class Album(DrawingModel):
    """Draws the picture whose number the caption is, with noise on it."""

    noise_shape = (1, 1)

    def __init__(self, pictures, noise: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.config, self.pictures, self.noise = SimpleNamespace(side=16), pictures, noise

    def encode(self, tokens, mask, vectors=None, *, independent=False):
        return sentences_as_text(tokens[:, :1])

    def sample(self, text, noise):
        drawn = self.pictures[text.sentence[:, 0]] + self.noise * noise[:, :, :, None]
        return DrawnSequence(drawn.unsqueeze(1), logits=False)


def test_similarity_of_a_model_that_draws_its_images(pictures, monkeypatch):
    tokens = torch.arange(6)[:, None]
    how = {"samples": 4, "seed": 0}
    exact = similarity(Album(pictures, 0.0), pictures, tokens, tokens >= 0, **how)
    assert exact["ssim"]["mean"] == pytest.approx(1.0, abs=1e-5)
    shuffled = similarity(Album(pictures.flip(0), 0.0), pictures, tokens, tokens >= 0, **how)
    assert shuffled["ssim"]["mean"] < 0.1
    noisy = similarity(Album(pictures, 0.1), pictures, tokens, tokens >= 0, **how)
    assert shuffled["ssim"]["mean"] < noisy["ssim"]["mean"] < 1
    assert noisy["ssim"]["deviation"] > 0 < noisy["psnr"]["mean"]
    assert (noisy["captions"], noisy["samples"]) == (6, 4)
    monkeypatch.setattr("cap2im.models.interface.PICTURES_AT_ONCE", 5)
    again = similarity(Album(pictures, 0.1), pictures, tokens, tokens >= 0, **how)
    assert again["ssim"] == pytest.approx(noisy["ssim"], rel=1e-5)
    sharpened = similarity(Album(pictures, 0.1), pictures, tokens, tokens >= 0, sharpen=lambda _, rows: pictures[rows], **how)
    assert sharpened["ssim"]["mean"] == pytest.approx(1.0, abs=1e-5)


def test_nearest_images(monkeypatch):
    torch.manual_seed(1)
    images = torch.randint(256, (30, 3, 5, 5), dtype=torch.uint8)
    pictures = torch.rand(4, 3, 5, 5)
    pictures[2] = images[17].float() / 255
    monkeypatch.setattr("cap2im.metrics.ssim.IMAGES_AT_ONCE", 7)
    rows, distances = nearest_images(pictures, images)
    exact = torch.cdist(pictures.flatten(1).double(), images.flatten(1).double() / 255).min(dim=1)
    assert torch.equal(rows, exact.indices)
    torch.testing.assert_close(distances, exact.values, atol=1e-6, rtol=1e-6)
    assert (int(rows[2]), round(distances[2].item(), 6)) == (17, 0.0)
    with pytest.raises(ValueError, match="cannot be near"):
        nearest_images(pictures, images[:, :1])
