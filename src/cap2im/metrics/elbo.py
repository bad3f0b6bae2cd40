"""Log likelihoods of held-out images, in nats an image (alignDRAW, equations 14-15 and table 3).

Two estimates of log P(x | y) use the same L posterior samples: the variational lower bound (eq. 15), and the log of the mean importance
weight (Burda et al., arXiv:1509.00519, eq. 8), log 1/L sum_l P(x | y, z_l) P(z_l | y) / Q(z_l | x, y). The expectation of both is below the
true value; the second is closer, and approaches it as L rises.

The bound of sharpened images replaces the pixel means by the sharpened picture (section 3.4): the sharpener is deterministic, and its
pixels are means of Bernoulli distributions, kept `EPSILON` away from 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cap2im.metrics.distributed import ProcessGroup
from cap2im.metrics.intervals import mean_and_error
from cap2im.metrics.measurement import ItemValues, Measurement, mean
from cap2im.models.interface import LikelihoodModel
from cap2im.randomness import item_noise

IMAGES_AT_ONCE = 100
BERNOULLI = "bernoulli"  # `LikelihoodModel.observation` of the DRAW models
EPSILON = 1 / 512  # half a grey level: one wrong pixel of a fully black or white one would cost infinitely many nats

Sharpen = Callable[[Tensor, Tensor], Tensor]
"""Maps pictures [B, C, A, A] in 0..1 and the rows [B] of their captions to sharpened pictures [B, C, A, A] in 0..1."""


@dataclass(frozen=True)
class LogLikelihoods:
    """Estimates for N images, in nats.

    Attributes:
        reconstruction: [N] mean of -log P(x | y, z).
        kl: [N] KL of posterior and prior, summed over glimpses.
        importance_weighted: [N] estimate of log P(x | y) by importance weights.
        samples: L, posterior samples an image.
        observation: distribution of a pixel.
    """

    reconstruction: Tensor
    kl: Tensor
    importance_weighted: Tensor
    samples: int
    observation: str

    @property
    def bounds(self) -> Tensor:
        """[N] lower bounds on log P(x | y)."""
        return -(self.reconstruction + self.kl)


@torch.inference_mode()
def estimate_log_likelihoods(
    model: LikelihoodModel,
    images: Tensor,
    tokens: Tensor,
    mask: Tensor,
    vectors: Tensor | None = None,
    *,
    samples: int,
    seed: int,
    sharpen: Sharpen | None = None,
    processes: ProcessGroup = ProcessGroup(),  # noqa: B008  # frozen
    advance: Callable[[int], None] = lambda _: None,
) -> LogLikelihoods:
    """Estimate the log likelihood of captioned images with L posterior samples each.

    Args:
        model: the network.
        images: [N, C, A, A] in 0..1.
        tokens: [N, L] word numbers.
        mask: [N, L] true for words.
        vectors: [N, S] sentence vectors, for models that are conditioned on them.
        samples: L of equation 15.
        seed: of the posterior noise, which is a function of seed and row.
        sharpen: sharpens the pixel means first.
        processes: share the images.
        advance: called after each pass with its number of (image, sample) pairs.

    Returns:
        the estimates of all images, in every process.

    Raises:
        ValueError: `sharpen` is given and the model's pixels are not Bernoulli distributed.
    """
    if sharpen is not None and model.observation != BERNOULLI:
        raise ValueError(f"sharpened pixels are means of Bernoulli distributions; this model's pixels are {model.observation}")
    shard, device = processes.shard(len(images)), model.device
    terms = torch.zeros(len(shard), 2, dtype=torch.float64)  # reconstruction, KL
    log_weights = torch.empty(len(shard), samples, dtype=torch.float64)
    for start in shard[::IMAGES_AT_ONCE]:
        rows = torch.arange(start, min(start + IMAGES_AT_ONCE, shard.stop))
        local = rows - shard.start
        batch = images[rows].to(device)
        batch_vectors = None if vectors is None else vectors[rows].to(device)
        text = model.encode(tokens[rows].to(device), mask[rows].to(device), batch_vectors, independent=True)
        for sample in range(samples):
            noise = item_noise("bound", seed, rows.tolist(), sample, model.noise_shape)
            bound = model.bound(batch, text, noise.to(batch))
            assert bound.log_ratio is not None
            reconstruction = bound.reconstruction
            if sharpen is not None:
                means = sharpen(bound.pictures, rows).clamp(EPSILON, 1 - EPSILON)
                reconstruction = F.binary_cross_entropy(means, batch, reduction="none").flatten(1).sum(dim=1)
            terms[local] += torch.stack([reconstruction, bound.kl.sum(dim=1)], dim=1).double().cpu()
            log_weights[local, sample] = -(reconstruction + bound.log_ratio).double().cpu()
            advance(len(batch))
    terms, log_weights = processes.all_gather(terms / samples), processes.all_gather(log_weights)
    weighted = log_weights.logsumexp(dim=1) - math.log(samples)
    return LogLikelihoods(terms[:, 0], terms[:, 1], weighted, samples, model.observation)


def elbo(estimates: LogLikelihoods) -> list[Measurement]:
    """Return the mean bound (eq. 15), its two terms, and the importance-weighted estimate; after ± the standard error over images."""
    protocol = {"observation": estimates.observation, "samples": estimates.samples}
    terms = {"protocol": protocol, "detail": True}
    return [
        _mean("bound", estimates.bounds, protocol=protocol, per_item=ItemValues.of(estimates.bounds)),
        _mean("reconstruction", estimates.reconstruction, higher_is_better=False, **terms),
        _mean("KL", estimates.kl, higher_is_better=None, **terms),
        _mean("importance-weighted", estimates.importance_weighted, **terms),
    ]


def _mean(name: str, nats: Tensor, **fields: Any) -> Measurement:
    """Return the mean of nats [N] with its standard error, which is None if N is 1."""
    error = mean_and_error(nats)[1] if len(nats) > 1 else None
    return mean(name, nats, unit="nats", deviation=error, deviation_of="standard error over images", **fields)
