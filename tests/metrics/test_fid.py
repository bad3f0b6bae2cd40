"""FID: closed forms, its direction, and statistics that add up."""

from __future__ import annotations

import pytest
import torch

from cap2im.metrics.distributed import ProcessGroup
from cap2im.metrics.fid import Statistics, fid, frechet_distance


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
    statistics = Statistics.of(features)
    assert frechet_distance(statistics, statistics) == pytest.approx(0, abs=1e-12 * statistics.covariance.trace().item() * 40)
    steps = [frechet_distance(statistics, Statistics.of(features + shift)) for shift in (0.1, 0.2, 0.4)]
    assert steps == pytest.approx([40 * shift**2 for shift in (0.1, 0.2, 0.4)], rel=1e-9)
    other = Statistics.of(2 * random_features(count + 1, 1, 40))
    assert frechet_distance(statistics, other) == pytest.approx(frechet_distance(other, statistics), rel=1e-9)
    assert frechet_distance(statistics, other) > 0


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
    """The second of two processes; the first one has given statistics."""

    def __init__(self, other: Statistics) -> None:
        super().__init__(1, 2)
        object.__setattr__(self, "replies", iter([torch.tensor([other.count]), other.mean[None], other.scatter[None]]))

    def all_gather(self, shard):
        return torch.cat([next(self.replies), shard])


def test_statistics_of_processes_are_gathered():
    features = random_features(9)
    both = Statistics.of(features[6:]).all_gather(OfTwo(Statistics.of(features[:6])))
    assert both.count == 9
    torch.testing.assert_close(both.covariance, features.T.cov())


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (torch.zeros(1, 5), "FID of 9 and 1 pictures: each set needs at least 2"),
        (torch.zeros(9, 4), "FID of 5 and of 4 features: both sets need the same features"),
        (torch.full((9, 5), torch.nan), "FID of features that are not finite"),
    ],
)
def test_invalid_statistics_are_errors(second, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(Statistics.of(random_features(9)), Statistics.of(second))


def test_fid_describes_what_it_compares():
    features = random_features(9)
    measurement = fid(features, Statistics.of(2 * features))
    assert measurement.value == frechet_distance(Statistics.of(features), Statistics.of(2 * features))
    assert (measurement.n, measurement.higher_is_better, measurement.interval) == (9, False, None)
    assert measurement.protocol == {"features": 5, "real_images": 9}
