"""Gaussian filter banks: reading a patch from an image and writing one onto a canvas.

Source: DRAW (Gregor et al., arXiv:1502.04623), equations 19-29; alignDRAW (arXiv:1511.02793), equation 8.

Where the released alignDRAW program differs from the papers, and what we do by default:

* filter centres. DRAW equations 19-20 place the P filters symmetrically about the grid centre. The release shifts them by half
  a step and, for even P, by another half. We follow the paper; `variant="released"` follows the release.
* pixel numbers. A grid centre of (A+1)/2 is the middle of the image only if pixels are numbered 1..A. Neither paper says so; the
  release numbers them 0..A-1. We number from 1; `variant="paper_px0"` is the paper's grid with the release's numbers.
  `variant="port"` follows a PyTorch port of the release (repository vicissitude1999/text2image), which divides as Python 3 does.
* normalisation. Rows are divided by their sum plus 1e-4 in every variant, as released, so that a filter that lies outside of the
  image fades away. DRAW equations 25-26 divide by the sum alone.

Shapes: B batch, P patch side, A canvas side (height and width are equal), C colours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Variant = Literal["paper", "paper_px0", "released", "port"]

ROW_SUM_FLOOR = 1e-4
PARAMETERS = 5  # g~x, g~y, log delta~, log sigma^2, log gamma: the order of the release


@dataclass(frozen=True)
class FilterBank:
    """A grid of P x P Gaussian filters for every picture of a batch.

    Attributes:
        rows: [B, P, A] the vertical filters, F_y of the paper.
        columns: [B, P, A] the horizontal filters, F_x of the paper.
        centre: [B, 2] grid centre (x, y) in pixels, in the variant's own numbering.
        stride: [B] distance between neighbouring filters (delta) in pixels.
        sigma: [B] standard deviation of each filter in pixels.
        gamma: [B, 1, 1] intensity: multiplies what is read, divides what is written.
    """

    rows: Tensor
    columns: Tensor
    centre: Tensor
    stride: Tensor
    sigma: Tensor
    gamma: Tensor

    def read(self, image: Tensor) -> Tensor:
        """Patches [B, C, P, P] of images [B, C, A, A], without gamma (DRAW eq. 27)."""
        batch, colours = image.shape[:2]
        if colours == 1:
            return torch.bmm(torch.bmm(self.rows, image.squeeze(1)), self.columns.mT).unsqueeze(1)  # [B, 1, P, P]
        down = self.rows.unsqueeze(1) @ image  # [B, C, P, A]
        return torch.bmm(down.flatten(1, 2), self.columns.mT).view(batch, colours, *[self.rows.shape[1]] * 2)  # [B, C, P, P]

    def write(self, patch: Tensor) -> Tensor:
        """Canvas changes [B, C, A, A] of patches [B, C, P, P], without gamma (DRAW eq. 29, alignDRAW eq. 8)."""
        colours = patch.shape[1]
        across = torch.bmm(patch.flatten(1, 2), self.columns)  # [B, C*P, A]
        if colours == 1:
            return torch.bmm(self.rows.mT, across).unsqueeze(1)  # [B, 1, A, A]
        return self.rows.mT.unsqueeze(1) @ across.unflatten(1, (colours, -1))  # [B, C, A, A]


class _GaussianRows(torch.autograd.Function):
    """Normalised Gaussians over pixels (DRAW eq. 25-26), with a gradient in few passes, for they are made twice at every glimpse.

    With E the exponent and w = exp(E) / (sum exp(E) + floor), the gradient is that of a softmax: dE = w (g - sum(g w)).
    """

    @staticmethod
    def forward(ctx: Any, means: Tensor, variance: Tensor, pixels: Tensor) -> Tensor:
        distance = pixels - means.unsqueeze(3)  # [B, 2, P, A]
        exponent = distance.square().mul_((-0.5 / variance)[:, None, None, None])
        weights = exponent.clamp_(min=-80).exp_()  # what is less than exp(-80) is slow to make, and nothing beside the floor
        weights.mul_((weights.sum(dim=3, keepdim=True) + ROW_SUM_FLOOR).reciprocal())
        ctx.save_for_backward(distance, weights, variance)
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        distance, weights, variance = ctx.saved_tensors
        pull = gradient * weights
        pull.addcmul_(weights, pull.sum(dim=3, keepdim=True), value=-1).mul_(distance)  # dE times distance
        means = pull.sum(dim=3) / variance[:, None, None]  # [B, 2, P]
        spread = pull.mul_(distance).flatten(1).sum(dim=1) / (2 * variance.square())  # [B]
        return means, spread, None


def filter_offsets(patch: int, variant: Variant) -> list[float]:
    """Distances of the P filters from the grid centre, in strides (DRAW eq. 19-20)."""
    if variant == "released":
        return [i - patch // 2 - 0.5 for i in range(patch)]
    if variant == "port":
        return [i - patch / 2 - 0.5 for i in range(patch)]
    return [i - patch / 2 + 0.5 for i in range(patch)]


def first_pixel(variant: Variant) -> int:
    """The number of the left and top pixel."""
    return 1 if variant == "paper" else 0


def filter_bank(parameters: Tensor, patch: int, side: int, variant: Variant = "paper") -> FilterBank:
    """The filter bank of raw attention parameters (DRAW eq. 21-26).

    Args:
        parameters: [B, 5] linear outputs g~x, g~y, log delta~, log sigma^2, log gamma.
        patch: P, filters a side; at least 2, for the stride divides by P - 1.
        side: A, pixels a side of the image or canvas.
        variant: see the module's docstring.
    """
    centre = (parameters[:, :2] + 1) * ((side + 1) / 2)  # [B, 2]
    stride = parameters[:, 2].exp() * ((side - 1) / (patch - 1))  # [B]
    variance = parameters[:, 3].exp()  # [B]
    offsets = parameters.new_tensor(filter_offsets(patch, variant))
    first = first_pixel(variant)
    pixels = torch.arange(first, first + side, dtype=parameters.dtype, device=parameters.device)
    means = centre.unsqueeze(2) + stride[:, None, None] * offsets  # [B, 2, P]
    weights = _GaussianRows.apply(means, variance, pixels)  # [B, 2, P, A]
    columns, rows = weights.unbind(1)  # [B, P, A] each
    return FilterBank(
        rows=rows,
        columns=columns,
        centre=centre,
        stride=stride,
        sigma=variance.sqrt(),
        gamma=parameters[:, 4].exp()[:, None, None],
    )
