"""In which numbers a network multiplies."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]

BF16_UNSUPPORTED = "this machine does not multiply in bf16 by itself: fp32 in its place"
PROCESSORS_WITH_BF16 = ("avx512_bf16", "amx_bf16", "bf16")  # x86's two ways, and ARM's, by torch's names


def supports_bf16(device: torch.device) -> bool:
    """Whether a device multiplies in bf16 by itself.

    A processor that does not, such as most laptops', takes tens of times as long as in fp32, and some layers fail on it.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        if not hasattr(torch.cpu, "get_capabilities"):  # an older torch does not tell: fp32 is safe
            return False
        return any(torch.cpu.get_capabilities().get(name, False) for name in PROCESSORS_WITH_BF16)
    return True


def usable_precision(precision: Precision, device: torch.device) -> Precision:
    """The precision asked for, or "fp32" on a device that does not multiply in it."""
    return precision if supports_bf16(device) else "fp32"


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Inside of it, a usable "bf16" has torch choose what is multiplied in half precision, and "fp32" leaves everything as it is."""
    return torch.autocast(device.type, torch.bfloat16, enabled=usable_precision(precision, device) == "bf16")
