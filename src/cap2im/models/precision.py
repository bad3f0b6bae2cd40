"""Numeric precision and autocast."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Precision = Literal["fp32", "bf16"]

BF16_UNSUPPORTED = "this machine has no native bf16 arithmetic: using fp32"
BF16_CAPABILITIES = ("avx512_bf16", "amx_bf16", "bf16")  # of x86 and ARM, by torch's names


def supports_bf16(device: torch.device) -> bool:
    """Return whether a device multiplies in bf16 natively.

    Emulation takes tens of times as long as fp32, and some layers fail with it.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        if not hasattr(torch.cpu, "get_capabilities"):  # an older torch
            return False
        return any(torch.cpu.get_capabilities().get(name, False) for name in BF16_CAPABILITIES)
    return True


def usable_precision(precision: Precision, device: torch.device) -> Precision:
    """Return the precision, or "fp32" on a device that does not support it."""
    return precision if supports_bf16(device) else "fp32"


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the autocast context of a precision; it is disabled for "fp32" and where bf16 is not supported."""
    return torch.autocast(device.type, torch.bfloat16, enabled=usable_precision(precision, device) == "bf16")


def cast_linear(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    """Return a layer whose weights are cast to autocast's type once, for many calls without gradients; the layer itself without autocast.

    Autocast casts the weights at every call in inference mode.
    """
    device = layer.weight.device.type
    if not torch.is_autocast_enabled(device):
        return layer
    dtype = torch.get_autocast_dtype(device)
    return partial(F.linear, weight=layer.weight.to(dtype), bias=None if layer.bias is None else layer.bias.to(dtype))
