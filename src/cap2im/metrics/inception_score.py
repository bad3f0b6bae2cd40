"""The Inception Score (Salimans et al., arXiv:1606.03498): exp of the mean KL of a picture's classes from those of all pictures.

The score is the mean over `PARTS` parts; higher is better. Logits are those of the network that defined the score, without the last layer's
bias, as in the program that defined it.

torchmetrics' InceptionScore is not used: it permutes the pictures with the global random state, so a score cannot be repeated, it computes
in float32, and its deviation over parts is the sample's where the published one is the population's. tests/metrics/test_torchmetrics.py
shows that the means are equal.

Shapes: N pictures, K classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cap2im.metrics.intervals import NORMAL_95
from cap2im.metrics.measurement import Measurement
from cap2im.randomness import generator

PARTS = 10  # as published


def inception_score(logits: Tensor, seed: int | None = None, *, parts: int = PARTS) -> Measurement:
    """Return the Inception Score of pictures; after ± the deviation over parts (the population's, as published).

    Args:
        logits: [N, K].
        seed: of the order of the pictures; None keeps theirs.
        parts: number of parts with a score each; smaller parts have a lower score.

    Raises:
        ValueError: there are fewer pictures than parts.
    """
    if len(logits) < parts:
        raise ValueError(f"an Inception Score in {parts} parts needs as many pictures, got {len(logits)}")
    if seed is not None:
        logits = logits[torch.randperm(len(logits), generator=generator("inception score", seed))]
    scores = []
    for part in logits.double().log_softmax(dim=1).tensor_split(parts):
        marginal = part.logsumexp(dim=0) - math.log(len(part))  # [K] log of the mean probability
        scores.append((part.exp() * (part - marginal)).sum(dim=1).mean().exp())
    mean, deviation = torch.stack(scores).mean().item(), torch.stack(scores).std(correction=0).item()
    error = NORMAL_95 * deviation / math.sqrt(parts)
    return Measurement(
        name="Inception Score",
        value=mean,
        n=len(logits),
        interval=(mean - error, mean + error),
        protocol={"parts": parts},
        deviation=deviation,
        deviation_of="standard deviation over parts",
    )
