"""In which numbers a network multiplies."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Inside of it, "bf16" has torch choose what is multiplied in half precision, and "fp32" leaves everything as it is."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
