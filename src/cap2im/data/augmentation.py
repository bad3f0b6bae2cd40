"""Random changes of training images: small shifts, mirror images, and blur.

Shapes: B batch, C colours, A side.
"""

from __future__ import annotations

import re
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

SIDES = frozenset({"left", "right"})


def names_side(caption: str) -> bool:
    """Return whether a caption says left or right, which a mirror image would make wrong."""
    return not SIDES.isdisjoint(re.findall(r"[a-z]+", caption.lower()))


def draw_changes(count: int, crop: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw the changes of a batch.

    Args:
        count: B.
        crop: pixels that an image is shifted by at most.
        random: source of the numbers.

    Returns:
        corners [B, 2] of the crops in padded images, down and across, in 0..2 * crop; and [B] true for images to mirror.
    """
    corners = torch.randint(2 * crop + 1, (count, 2, 1), generator=random)
    return corners.squeeze(2), torch.rand(count, 1, generator=random).squeeze(1) < 0.5


def change_images(
    images: Tensor, crop: int, corners: Tensor, mirrored: Tensor, padding: Literal["reflect", "constant"] = "reflect"
) -> Tensor:
    """Pad images on all sides, crop a square of the old size, and mirror some of them left to right.

    Args:
        images: [B, C, A, A].
        crop: pixels of padding, less than A.
        corners: [B, 2] of the squares, see `draw_changes`.
        mirrored: [B] true for images to mirror.
        padding: "reflect" mirrors the image at its edges, "constant" is black.

    Returns:
        [B, C, A, A].
    """
    rows, columns = (corners[:, :, None] + torch.arange(images.shape[-1])).unbind(1)  # [B, A] each
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    padded = F.pad(images, (crop,) * 4, mode=padding)
    return padded[torch.arange(len(images))[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def blur_images(images: Tensor, deviations: Tensor) -> Tensor:
    """Blur images by Gaussians, whose weights at the edges are those of the pixels inside.

    Args:
        images: [B, C, A, A].
        deviations: [B] standard deviations in pixels; 0 leaves an image as it is.

    Returns:
        [B, C, A, A].
    """
    places = torch.arange(images.shape[-1], device=images.device)
    distances = (places[:, None] - places) ** 2  # [A, A]
    weights = torch.softmax(-distances / (2 * deviations.clamp_min(1e-3)[:, None, None, None] ** 2), dim=-1)  # [B, 1, A, A]
    return weights @ images @ weights.mT
