"""FID, Inception Score and neural distance: what is known in closed form, which way is better, and what is kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cap2im.convert.inception import load_inception
from cap2im.metrics import fid
from cap2im.metrics.distributed import ProcessGroup
from cap2im.metrics.fid import (
    Statistics,
    eight_bits,
    fit_heads,
    frechet_distance,
    inception_score,
    kept_statistics,
    look,
    neural_distance,
    ranking_loss,
)
from tests.inception import write_inception


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights in the layout of pytorch-fid."""
    return write_inception(tmp_path_factory.mktemp("weights") / "inception.pth")


def random_features(count: int, seed: int = 0, width: int = 5) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(mean: list[float], covariance: torch.Tensor, count: int = 100) -> Statistics:
    return Statistics(count, torch.tensor(mean, dtype=torch.float64), covariance.double() * (count - 1))


def test_frechet_distance_of_known_gaussians():
    """Of commuting covariances: |m1 - m2|^2 + sum (sqrt a - sqrt b)^2 over their eigenvalues."""
    first, second = gaussian([0, 0, 1], torch.diag(torch.tensor([4, 1, 0]))), gaussian([3, 4, 1], torch.diag(torch.tensor([1, 9, 0.25])))
    assert frechet_distance(first, second) == pytest.approx(25 + 1 + 4 + 0.25, rel=1e-12)
    turn, _ = torch.linalg.qr(random_features(3, width=3))  # turning both leaves it as it is
    turned = [Statistics(s.count, turn @ s.mean, turn @ s.scatter @ turn.T) for s in (first, second)]
    assert frechet_distance(*turned) == pytest.approx(30.25, rel=1e-12)
    one = [gaussian([mean], torch.tensor([[deviation**2]])) for mean, deviation in ((1.0, 2.0), (-1.5, 0.5))]
    assert frechet_distance(*one) == pytest.approx(2.5**2 + 1.5**2, rel=1e-12)


@pytest.mark.parametrize("count", [3, 200])  # of covariances without full rank, too
def test_frechet_distance_is_zero_of_itself_symmetric_and_grows(count):
    features = random_features(count, width=40)
    mine = Statistics.of(features)
    assert frechet_distance(mine, mine) == pytest.approx(0, abs=1e-12 * mine.covariance.trace().item() * 40)
    steps = [frechet_distance(mine, Statistics.of(features + shift)) for shift in (0.1, 0.2, 0.4)]
    assert steps == pytest.approx([40 * shift**2 for shift in (0.1, 0.2, 0.4)], rel=1e-9)
    other = Statistics.of(2 * random_features(count + 1, 1, 40))
    assert frechet_distance(mine, other) == pytest.approx(frechet_distance(other, mine), rel=1e-9)
    assert frechet_distance(mine, other) > 0


def test_statistics_add_up_whatever_the_batches():
    features = random_features(23) + 100
    whole, rows = Statistics.of(features), features.split([4, 0, 1, 18])
    parts = sum((Statistics.of(part) for part in rows[1:]), Statistics.of(rows[0]))
    assert parts.count == 23
    torch.testing.assert_close(parts.mean, features.mean(dim=0))
    torch.testing.assert_close(whole.covariance, features.T.cov())
    torch.testing.assert_close(parts.covariance, whole.covariance)
    nothing = Statistics.of(features[:0])
    torch.testing.assert_close((nothing + whole).scatter, whole.scatter)
    torch.testing.assert_close((whole + nothing).mean, whole.mean)
    assert (nothing + nothing).count == 0


class OfTwo(ProcessGroup):
    """The second of two processes, whose fellow measured given statistics."""

    def __init__(self, fellow: Statistics) -> None:
        super().__init__(1, 2)
        object.__setattr__(self, "answers", iter([torch.tensor([fellow.count]), fellow.mean[None], fellow.scatter[None]]))

    def all_gather(self, shard):
        return torch.cat([next(self.answers), shard])


def test_processes_put_their_statistics_together():
    features = random_features(9)
    both = Statistics.of(features[6:]).all_gather(OfTwo(Statistics.of(features[:6])))
    assert both.count == 9
    torch.testing.assert_close(both.covariance, features.T.cov())


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (torch.zeros(1, 5), "FID of 9 and 1 pictures: both need two at least"),
        (torch.zeros(9, 4), "FID of 5 and of 4 features: both need the same ones"),
        (torch.full((9, 5), torch.nan), "FID of features that are not finite"),
    ],
)
def test_frechet_distance_refuses(second, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(Statistics.of(random_features(9)), Statistics.of(second))


def test_statistics_are_kept_by_what_they_are_about(tmp_path):
    measured = []

    def measure(count: int) -> Statistics:
        measured.append(count)
        return Statistics.of(random_features(count))

    def kept(count: int, **about: object) -> Statistics:
        return kept_statistics(tmp_path / "kept", about, lambda: measure(count), ProcessGroup())

    first = kept(7, weights="a", split="test")
    again = kept(8, split="test", weights="a")  # the order in which it is told does not matter
    assert measured == [7]
    torch.testing.assert_close(again.scatter, first.scatter)
    assert (again.count, kept(8, weights="b", split="test").count) == (7, 8)
    (one, _) = sorted((tmp_path / "kept").iterdir(), key=lambda path: path.stat().st_mtime)
    with np.load(one) as file:  # as pytorch-fid stores them
        np.testing.assert_allclose(file["mu"], first.mean)
        np.testing.assert_allclose(file["sigma"], first.covariance)
    one.write_bytes(one.read_bytes()[:100])
    assert kept(9, weights="a", split="test").count == 9, "a damaged file is measured again"
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_inception_score_of_known_classes():
    """1 where all pictures are alike; K where they are sure of K classes, evenly; else exp of the mutual information."""
    assert inception_score(torch.zeros(30, 7)) == pytest.approx((1, 0))
    sure = torch.eye(5).repeat(20, 1) * 1000
    assert inception_score(sure, order=torch.arange(100)) == pytest.approx((5, 0))
    half = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log().repeat(10, 1)
    information = math.log(2) + 0.9 * math.log(0.9) + 0.1 * math.log(0.1)
    assert inception_score(half, splits=2) == pytest.approx((math.exp(information), 0))
    parted = inception_score(torch.cat([sure[:50], torch.zeros(50, 5)]), splits=2)  # of 5 and 1
    assert parted == pytest.approx((3, 2))
    assert inception_score(sure.view(20, 5, 5).transpose(0, 1).reshape(100, 5), splits=5)[0] == pytest.approx(1), "a part of one class"
    with pytest.raises(ValueError, match="an Inception Score in 10 parts needs as many pictures; there are 9"):
        inception_score(torch.zeros(9, 5))


def test_neural_distance_learns_which_caption_is_whose(monkeypatch):
    monkeypatch.setattr(fid, "HEADS", fid.HEADS._replace(width=32, steps=200))
    torch.manual_seed(0)
    hidden = torch.randn(300, 6)
    images, sentences = hidden @ torch.randn(6, 12), hidden @ torch.randn(6, 10)
    heads = fit_heads(images[:200], sentences[:200], seed=1)
    new, theirs = images[200:], sentences[200:]
    right, wrong = neural_distance(heads, new, theirs), neural_distance(heads, new, theirs.roll(1, 0))
    assert right["mean"] > wrong["mean"] + 0.5
    assert 0 < right["deviation"] < 1
    again = fit_heads(images[:200], sentences[:200], seed=1)
    assert neural_distance(again, new, theirs) == right
    assert neural_distance(fit_heads(images[:200], sentences[:200], seed=2), new, theirs) != right
    ours, _ = heads(new, theirs)
    assert ranking_loss(ours, ours, 0.0) == 0, "perfect pairs cost nothing"


# The network


def test_pictures_are_seen_as_pytorch_fid_shows_them(weights):
    network, _ = load_inception("fid", weights)
    assert len(network.state_dict()) == 566, "as many entries as the published file has"
    pictures = torch.randint(256, (2, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seen = look(network, pictures)
    enlarged = torch.nn.functional.interpolate(pictures / 255, size=(299, 299), mode="bilinear", align_corners=False)
    expected = network(2 * enlarged - 1)
    torch.testing.assert_close(seen.features, expected.pooled, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(seen.logits, expected.logits - network.fc.bias, rtol=1e-3, atol=1e-4)
    assert network.fc.bias.abs().max() > 0.1, "else leaving it out would not be seen"
    assert not torch.allclose(seen.features[0], seen.features[1])
    grey = look(network, pictures[:, :1])
    torch.testing.assert_close(grey.features, look(network, pictures[:, :1].expand(-1, 3, -1, -1)).features, rtol=1e-3, atol=1e-4)
    assert eight_bits(torch.tensor([0, 0.5 / 255 - 1e-6, 0.5 / 255 + 1e-6, 1])).tolist() == [0, 0, 1, 255]
