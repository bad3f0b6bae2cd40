"""Base class and layers of the networks that read drawings for a metric."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn


class Reader(nn.Module):
    """A network whose predictions are part of the definition of a metric.

    Attributes:
        config: pydantic model of its sizes.
    """

    config: Any

    def digest(self) -> str:
        """Return the SHA-256 hex digest of sizes and weights, by which measurements name their reader."""
        sha256 = hashlib.sha256(self.config.model_dump_json().encode())
        for name, tensor in sorted(self.state_dict().items()):
            sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            sha256.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return sha256.hexdigest()


def convolution(inputs: int, outputs: int, padding: int) -> tuple[nn.Module, ...]:
    """Return a 3 x 3 convolution with batch normalisation and ReLU."""
    return nn.Conv2d(inputs, outputs, 3, padding=padding, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
