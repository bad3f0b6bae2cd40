"""The training images nearest to pictures, pixel by pixel (alignDRAW, figure 4).

Shapes: Q pictures, M images, C colours, A side.
"""

from __future__ import annotations

import torch
from torch import Tensor

IMAGES_AT_ONCE = 2_000


@torch.inference_mode()
def nearest_images(pictures: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the row [Q] of the image nearest to each picture and its Euclidean distance [Q], exactly.

    Args:
        pictures: [Q, C, A, A] in 0..1.
        images: [M, C, A, A] uint8.

    Raises:
        ValueError: there are no images, or they have another shape.
    """
    if not len(images) or pictures.shape[1:] != images.shape[1:]:
        raise ValueError(f"images of shape {list(images.shape)} cannot be compared with pictures of shape {list(pictures.shape)}")
    queries = pictures.flatten(1).double()
    least = torch.full((len(queries),), torch.inf, dtype=torch.float64, device=queries.device)
    rows = torch.zeros(len(queries), dtype=torch.long, device=queries.device)
    for start in range(0, len(images), IMAGES_AT_ONCE):
        part = images[start : start + IMAGES_AT_ONCE].to(queries.device).flatten(1).double() / 255
        distance, row = (part.square().sum(dim=1) - 2 * queries @ part.T).min(dim=1)  # up to a constant of the query
        rows = torch.where(distance < least, start + row, rows)
        least = torch.minimum(least, distance)
    nearest = images[rows.to(images.device)].to(queries.device).flatten(1).double() / 255
    return rows, (queries - nearest).norm(dim=1)
