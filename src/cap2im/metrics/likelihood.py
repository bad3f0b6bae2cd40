"""The variational lower bound on held-out images, in nats an image (alignDRAW, equations 14-15 and table 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from cap2im.models.interface import LikelihoodModel
from cap2im.randomness import generator

IMAGES_AT_ONCE = 100


@dataclass(frozen=True)
class Likelihood:
    """Means over images, in nats.

    Attributes:
        bound: the lower bound on log P(x | y); higher is better.
        standard_error: of `bound`, over images.
        reconstruction: -log P(x | y, z).
        kl: KL of posterior and prior, over all glimpses.
        images: n.
        samples: L, posterior samples an image.
    """

    bound: float
    standard_error: float
    reconstruction: float
    kl: float
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
    advance: Callable[[int], None] = lambda _: None,
) -> Likelihood:
    """Estimates the bound with L posterior samples an image (eq. 15).

    Args:
        model: any that has a bound.
        images: [N, C, A, A] in 0..1.
        tokens: [N, L] word numbers, and mask [N, L].
        vectors: [N, S] sentence vectors, for the models that are conditioned on them.
        samples: L of equation 15.
        seed: of the posterior noise.
        advance: told after each pass how many (image, sample) pairs it did.
    """
    device = model.device
    rows = []
    for start in range(0, len(images), IMAGES_AT_ONCE):
        part = slice(start, start + IMAGES_AT_ONCE)
        here = images[part].to(device)
        text = model.encode(tokens[part].to(device), mask[part].to(device), None if vectors is None else vectors[part].to(device))
        total = torch.zeros(len(here), 2, device=device, dtype=torch.float64)
        for sample in range(samples):
            noise = torch.randn(len(here), *model.noise_shape, generator=generator("bound", seed, start, sample))
            bound = model.bound(here, text, noise.to(device))
            total += torch.stack([bound.reconstruction, bound.kl.sum(dim=1)], dim=1)
            advance(len(here))
        rows.append(total.cpu() / samples)
    terms = torch.cat(rows)  # [N, 2]
    bounds = -terms.sum(dim=1)
    error = bounds.std().item() / len(bounds) ** 0.5 if len(bounds) > 1 else float("nan")
    reconstruction, kl = terms.mean(dim=0).tolist()
    return Likelihood(bounds.mean().item(), error, reconstruction, kl, len(bounds), samples)
