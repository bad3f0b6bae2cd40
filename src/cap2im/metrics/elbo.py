"""Log likelihoods of held-out images, in nats an image (alignDRAW, equations 14-15 and table 3).

Two estimates of log P(x | y) from the same L posterior samples: the variational bound (eq. 15), and the log of the mean importance weight
(Burda et al., arXiv:1509.00519, eq. 8), log 1/L sum_l P(x | y, z_l) P(z_l | y) / Q(z_l | x, y). In expectation, both are below the truth;
the second is the nearer one, and comes nearer still as L rises.

The bound of sharpened images is that of the picture that the sharpening makes of the pixel means (section 3.4): the sharpening network is
deterministic, and its pixels are the means of the Bernoulli distributions, `EPSILON` away from 0 and 1 at least.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cap2im.metrics.distributed import ProcessGroup
from cap2im.metrics.intervals import mean_and_error
from cap2im.models.interface import LikelihoodModel
from cap2im.randomness import item_noise

METRIC_VERSION = 1  # goes up whenever the same model would get another number
IMAGES_AT_ONCE = 100
BERNOULLI = "bernoulli"  # `LikelihoodModel.observation` of the DRAWs
EPSILON = 1 / 512  # half a grey level: a sharpened pixel that is wholly black or white would make one wrong pixel cost infinitely much

Sharpen = Callable[[Tensor, Tensor], Tensor]
"""Pictures [B, C, A, A] in 0..1 and the rows [B] of the captions that they were drawn from, to sharper pictures [B, C, A, A] in 0..1."""


@dataclass(frozen=True)
class Likelihood:
    """Means over images, in nats.

    Attributes:
        bound: the lower bound on log P(x | y); higher is better.
        standard_error: of `bound`, over images.
        reconstruction: -log P(x | y, z).
        kl: KL of posterior and prior, over all glimpses.
        importance_weighted: the estimate of log P(x | y) by importance weights; `bound` if L is 1, but for the sampling of the KL.
        importance_weighted_error: its standard error, over images.
        images: n.
        samples: L, posterior samples an image.
    """

    bound: float
    standard_error: float
    reconstruction: float
    kl: float
    importance_weighted: float
    importance_weighted_error: float
    images: int
    samples: int

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


@torch.inference_mode()
def lower_bound(
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
) -> Likelihood:
    """Estimates the bound with L posterior samples an image (eq. 15), and the likelihood by their importance weights.

    Args:
        model: any that has a bound.
        images: [N, C, A, A] in 0..1.
        tokens: [N, L] word numbers, and mask [N, L].
        vectors: [N, S] sentence vectors, for the models that are conditioned on them.
        samples: L of equation 15.
        seed: of the posterior noise; an image has its own, by its row.
        sharpen: measures the sharpened pictures in place of the model's own.
        processes: among processes.
        advance: told after each pass how many (image, sample) pairs it did.

    Raises:
        ValueError: there is a sharpening, and the model's pixels are not Bernoulli distributed.
    """
    if sharpen is not None and model.observation != BERNOULLI:
        raise ValueError(f"sharpened pixels are means of Bernoulli distributions; this model's pixels are {model.observation}")
    mine, device = processes.shard(len(images)), model.device
    terms = torch.zeros(len(mine), 2, dtype=torch.float64)  # reconstruction, KL
    log_weights = torch.empty(len(mine), samples, dtype=torch.float64)
    for start in mine[::IMAGES_AT_ONCE]:
        rows = torch.arange(start, min(start + IMAGES_AT_ONCE, mine.stop))
        own = rows - mine.start
        here = images[rows].to(device)
        given = None if vectors is None else vectors[rows].to(device)
        text = model.encode(tokens[rows].to(device), mask[rows].to(device), given, independent=True)
        for sample in range(samples):
            noise = item_noise("bound", seed, rows.tolist(), sample, model.noise_shape)
            bound = model.bound(here, text, noise.to(here))
            assert bound.log_ratio is not None
            reconstruction = bound.reconstruction
            if sharpen is not None:
                means = sharpen(bound.pictures, rows).clamp(EPSILON, 1 - EPSILON)
                reconstruction = F.binary_cross_entropy(means, here, reduction="none").flatten(1).sum(dim=1)
            terms[own] += torch.stack([reconstruction, bound.kl.sum(dim=1)], dim=1).double().cpu()
            log_weights[own, sample] = -(reconstruction + bound.log_ratio).double().cpu()
            advance(len(here))
    terms, log_weights = processes.all_gather(terms / samples), processes.all_gather(log_weights)
    bounds = -terms.sum(dim=1)
    weighted = log_weights.logsumexp(dim=1) - math.log(samples)
    reconstruction_mean, kl = terms.mean(dim=0).tolist()
    return Likelihood(*mean_and_error(bounds), reconstruction_mean, kl, *mean_and_error(weighted), len(bounds), samples)
