"""The convolutions of large maps of 32-bit numbers on a processor, faster than torch's own.

`convolve` takes half of the multiplications: Winograd's F(4, 3) as in Lavin & Gray (arXiv:1509.09308), along one axis. Four rows of a
result are sums of six products, of what six rows of the maps are mixed to, in place of twelve. Each product is a convolution of 1 x 3,
which processors are fast at. Along both axes a quarter of the multiplications would be left, but mixing would take what that saves, and
round more coarsely.

The kernels' gradients are computed with channels first, whatever the maps have: where a processor has AVX2 alone, that is three to five
times as fast.

Shapes: B batch, C channels, F channels of the result, H W of a map, S = H / 4 strips of four rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

ROWS = 4  # of a strip
LEAST = 32  # pixels of a side from which on it is worth it
OF_KERNEL = ((6, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, -24))  # 24ths of its three rows, for each product


def fits(maps: Tensor) -> bool:
    """Whether maps [B, C, H, W] are such that these functions are faster."""
    single = maps.dtype == torch.float32 and not torch.is_autocast_enabled(maps.device.type)
    return maps.device.type == "cpu" and single and maps.shape[2] % ROWS == 0 and min(maps.shape[2:]) >= LEAST


def convolve(maps: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """`conv2d` of maps [B, C, H, W] and a kernel [F, C, 3, 3] with zeros around the maps: [B, F, H, W]. H is a multiple of 4."""
    drawn: Tensor = _Convolve.apply(maps, kernel, bias)
    return drawn


def enlarge(maps: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """`conv_transpose2d` of maps [B, C, H, W] and a kernel [C, F, 4, 4] to twice the side: [B, F, 2H, 2W]."""
    drawn: Tensor = _Enlarge.apply(maps, kernel, bias)
    return drawn


def _in_strips(maps: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    batch, channels, height, width = maps.shape
    features, strips = len(kernel), height // ROWS
    rows = kernel.permute(2, 0, 3, 1).reshape(3, -1)  # [3, F 3 C]
    kernels = torch.tensor(OF_KERNEL, dtype=maps.dtype) / 24 @ rows
    kernels = kernels.view(6, features, 1, 3, channels).permute(0, 1, 4, 2, 3)  # [6, F, C, 1, 3]

    first, second, third, fourth = maps.permute(0, 2, 3, 1).reshape(batch, strips, ROWS, width, channels).unbind(2)  # [B, S, W, C]
    mixed = maps.new_empty(6, *first.shape)
    even, odd = torch.sub(fourth, second, alpha=4), torch.sub(third, first, alpha=4)
    torch.sub(even, second, out=mixed[0])[:, 1:].add_(fourth[:, :-1], alpha=4)  # the row above the strip
    torch.add(even, odd, out=mixed[1])
    torch.sub(even, odd, out=mixed[2])
    torch.add(odd, third, alpha=4, out=mixed[5])[:, :-1].sub_(first[:, 1:])  # the row below it
    torch.sub(fourth, second, out=even)
    torch.sub(third, first, out=odd)
    torch.add(even, odd, alpha=2, out=mixed[3])
    torch.sub(even, odd, alpha=2, out=mixed[4])

    top, a, b, c, d, bottom = (
        F.conv2d(part.permute(0, 3, 1, 2), of_part, bias if m == 1 else None, padding=(0, 1)).permute(0, 2, 3, 1)  # [B, S, W, F]
        for m, (part, of_part) in enumerate(zip(mixed, kernels, strict=True))
    )  # the second is in every row once, as the bias is
    drawn = maps.new_empty(batch, strips, ROWS, width, features)
    even, odd = a + b, c + d
    torch.add(even, odd, out=drawn[:, :, 0]).add_(top)
    torch.add(even, odd, alpha=4, out=drawn[:, :, 2])
    even, odd = a.sub_(b), c.sub_(d)
    torch.add(even, odd, alpha=2, out=drawn[:, :, 1])
    torch.add(even, odd, alpha=8, out=drawn[:, :, 3]).add_(bottom)
    return drawn.flatten(1, 2).permute(0, 3, 1, 2)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, maps: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        context.save_for_backward(maps, kernel)
        return _in_strips(maps, kernel, bias)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        maps, kernel = context.saved_tensors
        of_maps = _in_strips(gradient, kernel.flip(2, 3).transpose(0, 1), None) if context.needs_input_grad[0] else None
        return of_maps, *_of_kernel_and_bias(context, kernel.shape, maps, gradient, gradient, stride=1)


class _Enlarge(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, maps: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        context.save_for_backward(maps, kernel)
        return F.conv_transpose2d(maps, kernel, bias, stride=2, padding=1)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        maps, kernel = context.saved_tensors
        of_maps = F.conv2d(gradient, kernel, stride=2, padding=1) if context.needs_input_grad[0] else None
        return of_maps, *_of_kernel_and_bias(context, kernel.shape, gradient, maps, gradient, stride=2)


def _of_kernel_and_bias(
    context: Any, shape: torch.Size, read: Tensor, written: Tensor, gradient: Tensor, stride: int
) -> tuple[Tensor | None, ...]:
    """Gradients of a kernel of this shape that slides over `read` for each place of `written`, and of the bias."""
    _, of_kernel, of_bias = context.needs_input_grad  # the tensors saved may be asked for once alone: they may be recomputed
    return (
        conv2d_weight(read.contiguous(), shape, written.contiguous(), stride=stride, padding=1) if of_kernel else None,
        gradient.sum(dim=(0, 2, 3)) if of_bias else None,
    )
