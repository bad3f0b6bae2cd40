"""Schedules of the learning rate."""

from __future__ import annotations

import math

from torch.optim import Optimizer


def warm_up(rate: float, step: int, warmup_steps: int) -> float:
    """Return a rate that rises linearly over the first `warmup_steps` updates, for the update that follows `step` updates."""
    return rate * (step + 1) / warmup_steps if step < warmup_steps else rate


def cosine(highest: float, lowest: float, step: int, total: int, warmup_steps: int = 0) -> float:
    """Return a rate that rises over `warmup_steps` updates, then falls as a half cosine to `lowest` at update `total`."""
    if step < warmup_steps:
        return warm_up(highest, step, warmup_steps)
    progress = (step - warmup_steps) / max(1, total - warmup_steps)
    return lowest + (highest - lowest) * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate
