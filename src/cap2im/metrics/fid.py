"""The Fréchet Inception Distance of two sets of pictures (Heusel et al., arXiv:1706.08500, eq. 6).

FID is |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of the means and covariances of the pictures' Inception features; lower is better. It
falls as pictures are added, especially below a few thousand, so numbers of different counts have different protocols.

torchmetrics' FrechetInceptionDistance is not used: it cannot start from stored statistics of the real images, it sums feature products
without centring them, and the eigenvalues of its S1 S2 lose digits where a covariance has not full rank, as with fewer than 2,048 pictures.
tests/metrics/test_torchmetrics.py shows that the numbers are equal where both apply.

Shapes: N pictures, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cap2im.metrics.distributed import ProcessGroup
from cap2im.metrics.measurement import Measurement


@dataclass(frozen=True)
class Statistics:
    """Mean and scatter of features in float64; the statistics of two sets together are `first + second`.

    Attributes:
        count: N.
        mean: [F].
        scatter: [F, F] sum over the pictures of (x - mean)(x - mean)^T.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Statistics:
        """Return the statistics of features [N, F]; N may be 0."""
        features = features.double()
        mean = features.mean(dim=0) if len(features) else features.new_zeros(features.shape[1])
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred)

    def __add__(self, other: Statistics) -> Statistics:
        """Return the statistics of both sets together."""
        count = self.count + other.count
        if count == 0:
            return self
        gap, share = other.mean - self.mean, other.count / count
        scatter = self.scatter + other.scatter + torch.outer(gap, gap) * (self.count * share)
        return Statistics(count, self.mean + gap * share, scatter)

    def all_gather(self, processes: ProcessGroup) -> Statistics:
        """Return the statistics of the pictures of all processes (a collective call)."""
        counts = processes.all_gather(torch.tensor([self.count])).tolist()
        parts = zip(counts, processes.all_gather(self.mean[None]), processes.all_gather(self.scatter[None]), strict=True)
        first, *others = (Statistics(*part) for part in parts)
        return sum(others, first)

    @property
    def covariance(self) -> Tensor:
        """[F, F], unbiased."""
        return self.scatter / (self.count - 1)


def fid(features: Tensor, real: Statistics) -> Measurement:
    """Return the FID of generated pictures.

    Args:
        features: [N, F] of the generated pictures.
        real: statistics of the real images.

    Raises:
        ValueError: of `frechet_distance`.
    """
    return Measurement(
        name="FID",
        value=frechet_distance(Statistics.of(features), real),
        n=len(features),
        protocol={"features": features.shape[1], "real_images": real.count},
        higher_is_better=False,
    )


def frechet_distance(first: Statistics, second: Statistics) -> float:
    """Return the squared Fréchet distance of two Gaussians with these means and covariances.

    The trace of (S1 S2)^(1/2) is the sum of the singular values of S1^(1/2) S2^(1/2). Nothing is added to the diagonals: covariances
    need not have full rank.

    Raises:
        ValueError: a set has fewer than two pictures, the numbers of features differ, or features are not finite.
    """
    if min(first.count, second.count) < 2:
        raise ValueError(f"FID of {first.count} and {second.count} pictures: each set needs at least 2")
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"FID of {len(first.mean)} and of {len(second.mean)} features: both sets need the same features")
    if not all(tensor.isfinite().all() for each in (first, second) for tensor in (each.mean, each.scatter)):
        raise ValueError("FID of features that are not finite")
    shared = torch.linalg.svdvals(_square_root(first.covariance) @ _square_root(second.covariance)).sum()
    traces = first.covariance.trace() + second.covariance.trace()
    return float((first.mean - second.mean).square().sum() + traces - 2 * shared)


def _square_root(covariance: Tensor) -> Tensor:
    """Return the symmetric square root; eigenvalues that are rounding errors of the largest one count as zero, as their roots are large."""
    values, vectors = torch.linalg.eigh(covariance)
    noise = values[-1].clamp_min(0) * len(values) * torch.finfo(values.dtype).eps
    return (vectors * values.where(values > noise, 0).sqrt()) @ vectors.T
