"""SSIM and PSNR: of a picture with itself, closed forms for flat pictures, and drawings that equal their images."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from cap2im.metrics.ssim import HIGHEST_PSNR, compare_drawings, signal_to_noise, ssim, structural_similarity
from cap2im.models.interface import DrawingModel, DrawnSequence
from cap2im.models.text import sentences_as_text


@pytest.fixture(scope="module")
def pictures():
    torch.manual_seed(0)
    return torch.rand(6, 3, 16, 16)


def test_only_equal_pictures_have_a_similarity_of_one(pictures):
    torch.testing.assert_close(structural_similarity(pictures, pictures), torch.ones(6))
    assert structural_similarity(pictures, pictures.flip(0)).abs().max() < 0.2
    assert signal_to_noise(pictures, pictures).allclose(torch.tensor(float(HIGHEST_PSNR)))


def test_flat_pictures_have_closed_forms():
    a, b = (torch.full((1, 3, 16, 16), value) for value in (0.25, 0.75))
    brightness = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)  # C1 = (0.01 * data range)^2
    assert structural_similarity(a, b).item() == pytest.approx(brightness, abs=1e-3)  # the variance of a flat picture is rounding
    assert signal_to_noise(a, b).item() == pytest.approx(20 * math.log10(2), rel=1e-5)


def test_similarity_does_not_depend_on_the_batch(pictures):
    others = pictures.roll(1, 0).lerp(pictures, 0.5)
    one_by_one = torch.cat([structural_similarity(pictures[i : i + 1], others[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(structural_similarity(pictures, others), one_by_one)
    assert one_by_one.std() > 1e-3


def test_pictures_below_the_window_are_an_error():
    small = torch.rand(1, 1, 8, 8)
    with pytest.raises(ValueError, match=r"at least 11 pixels \(its window\), got 8"):
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


def test_similarity_of_a_model_that_draws_its_images(pictures):
    tokens = torch.arange(6)[:, None]

    def measure(model: Album, **changes: object):
        how = {"samples": 4, "seed": 0} | changes
        return ssim(*compare_drawings(model, pictures, tokens, tokens >= 0, **how))

    exact, _ = measure(Album(pictures, 0.0))
    assert exact.value == pytest.approx(1.0, abs=1e-5)
    shuffled, _ = measure(Album(pictures.flip(0), 0.0))
    assert shuffled.value < 0.1
    noisy, psnr = measure(Album(pictures, 0.1))
    assert shuffled.value < noisy.value < 1
    assert noisy.deviation > 0 < psnr.value
    assert (noisy.n, noisy.protocol["samples"], psnr.unit) == (6, 4, "dB")
    assert noisy.interval[0] < noisy.value < noisy.interval[1]
    again, _ = measure(Album(pictures, 0.1), batch_size=5)
    assert again.value == pytest.approx(noisy.value, rel=1e-5)
    sharpened, _ = measure(Album(pictures, 0.1), sharpen=lambda _, rows: pictures[rows])
    assert sharpened.value == pytest.approx(1.0, abs=1e-5)
