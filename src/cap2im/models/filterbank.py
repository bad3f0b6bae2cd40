"""Gaussian filter banks: reading a patch from an image and writing one onto a canvas.

Source: DRAW (Gregor et al., arXiv:1502.04623), equations 19-29; alignDRAW (arXiv:1511.02793), equation 8.

What the released alignDRAW program does differently, by `variant`:

- "paper", the default, places the P filters symmetrically about the grid centre (DRAW eq. 19-20) and numbers pixels 1..A, so that a grid
  centre of (A+1)/2 is the middle of the image. The papers do not name the pixel numbers.
- "paper_px0" is the paper's grid with pixels numbered 0..A-1, as in the release.
- "released" shifts the filters by half a step and, for even P, by another half; pixels are numbered 0..A-1.
- "port" follows a PyTorch port of the release (repository vicissitude1999/text2image), which divides as Python 3 does.

Every variant divides rows by their sum plus 1e-4, as released, so that a filter outside the image fades away. DRAW equations 25-26 divide
by the sum.

Shapes: B batch, P patch side, A canvas side (height and width are equal), C colours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Variant = Literal["paper", "paper_px0", "released", "port"]

ROW_SUM_FLOOR = 1e-4
PARAMETERS = 5  # g~x, g~y, log delta~, log sigma^2, log gamma: the order of the release


@dataclass(frozen=True)
class FilterBank:
    """A grid of P x P Gaussian filters for each image of a batch.

    Attributes:
        rows: [B, P, A] the vertical filters, F_y of the paper.
        columns: [B, P, A] the horizontal filters, F_x of the paper.
        centre: [B, 2] grid centre (x, y) in pixels, as the variant numbers them.
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
        """Return patches [B, C, P, P] of images [B, C, A, A], without gamma (DRAW eq. 27)."""
        batch, colours = image.shape[:2]
        if colours == 1:
            return torch.bmm(torch.bmm(self.rows, image.squeeze(1)), self.columns.mT).unsqueeze(1)  # [B, 1, P, P]
        down = self.rows.unsqueeze(1) @ image  # [B, C, P, A]
        return torch.bmm(down.flatten(1, 2), self.columns.mT).view(batch, colours, *[self.rows.shape[1]] * 2)  # [B, C, P, P]

    def write(self, patch: Tensor) -> Tensor:
        """Return canvas changes [B, C, A, A] of patches [B, C, P, P], without gamma (DRAW eq. 29, alignDRAW eq. 8)."""
        colours = patch.shape[1]
        across = torch.bmm(patch.flatten(1, 2), self.columns)  # [B, C*P, A]
        if colours == 1:
            return torch.bmm(self.rows.mT, across).unsqueeze(1)  # [B, 1, A, A]
        return self.rows.mT.unsqueeze(1) @ across.unflatten(1, (colours, -1))  # [B, C, A, A]


def gaussian_rows(means: Tensor, variance: Tensor, pixels: Tensor) -> Tensor:
    """Return normalised Gaussians [B, 2, P, A] over pixels [A] around means [B, 2, P], of variance [B] (DRAW eq. 25-26)."""
    exponents = (pixels - means.unsqueeze(3)).square() * (-0.5 / variance)[:, None, None, None]
    weights = exponents.clamp(min=-80).exp()  # smaller numbers are nothing beside the floor, and slow to compute
    return weights * (weights.sum(dim=3, keepdim=True) + ROW_SUM_FLOOR).reciprocal()


def filter_offsets(patch: int, variant: Variant) -> list[float]:
    """Return the distances of the P filters from the grid centre, in strides (DRAW eq. 19-20)."""
    if variant == "released":
        return [i - patch // 2 - 0.5 for i in range(patch)]
    if variant == "port":
        return [i - patch / 2 - 0.5 for i in range(patch)]
    return [i - patch / 2 + 0.5 for i in range(patch)]


def first_pixel(variant: Variant) -> int:
    """Return the number of the left and top pixel."""
    return 1 if variant == "paper" else 0


def filter_bank(parameters: Tensor, patch: int, side: int, variant: Variant = "paper") -> FilterBank:
    """Return the filter bank of raw attention parameters (DRAW eq. 21-26).

    Args:
        parameters: [B, 5] linear outputs g~x, g~y, log delta~, log sigma^2, log gamma.
        patch: P, filters a side; at least 2, because the stride divides by P - 1.
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
    weights = gaussian_rows(means, variance, pixels)  # [B, 2, P, A]
    columns, rows = weights.unbind(1)  # [B, P, A] each
    return FilterBank(
        rows=rows,
        columns=columns,
        centre=centre,
        stride=stride,
        sigma=variance.sqrt(),
        gamma=parameters[:, 4].exp()[:, None, None],
    )
