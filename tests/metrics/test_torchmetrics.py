"""Where a metric of ours replaces one of torchmetrics, both give the same number on inputs that suit both."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.retrieval import RetrievalHitRate

from cap2im.metrics.fid import Statistics, fid
from cap2im.metrics.inception_score import inception_score
from cap2im.metrics.retrieval import retrieval
from cap2im.metrics.ssim import signal_to_noise
from cap2im.randomness import generator


class Features(torch.nn.Module):
    """Returns the colours of pictures as their features."""

    num_features = 6

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.flatten(1).double() / 255


def pictures(count: int, name: str) -> torch.Tensor:
    return torch.randint(256, (count, 3, 1, 2), generator=generator(name)).to(torch.uint8)


def test_fid_is_that_of_torchmetrics():
    network, real, fake = Features(), pictures(200, "real"), pictures(150, "fake") // 2
    reference = FrechetInceptionDistance(network, input_img_size=(3, 1, 2)).set_dtype(torch.float64)
    reference.update(real, real=True)
    reference.update(fake, real=False)
    assert fid(network(fake), Statistics.of(network(real))).value == pytest.approx(reference.compute().item(), rel=1e-9)


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore`")
def test_inception_score_is_that_of_torchmetrics():
    logits = torch.randn(60, 7, generator=generator("logits"))
    reference = InceptionScore(torch.nn.Identity(), splits=1)  # of one part, whose order does not matter
    reference.update(logits)
    assert inception_score(logits, parts=1).value == pytest.approx(reference.compute()[0].item(), rel=1e-6)


def test_recall_without_ties_is_that_of_torchmetrics():
    scores = torch.rand(300, 20, generator=generator("scores"))
    own = torch.randint(20, (300,), generator=generator("own"))
    target = torch.arange(20) == own[:, None]
    for measurement in retrieval(scores, own, seed=0)[:-1]:
        reference = RetrievalHitRate(top_k=int(measurement.name.removeprefix("R@")))
        reference.update(scores.flatten(), target.flatten(), indexes=torch.arange(300).repeat_interleave(20))
        assert measurement.value == pytest.approx(reference.compute().item(), rel=1e-6)


def test_psnr_is_that_of_torchmetrics():
    from torchmetrics.functional.image import peak_signal_noise_ratio

    drawings, images = torch.rand(4, 3, 8, 8, generator=generator("a")), torch.rand(4, 3, 8, 8, generator=generator("b"))
    reference = peak_signal_noise_ratio(drawings, images, data_range=1.0, reduction="none", dim=(1, 2, 3))
    torch.testing.assert_close(signal_to_noise(drawings, images), reference)
