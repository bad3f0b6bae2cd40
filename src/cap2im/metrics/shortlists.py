"""Shortlists of images for retrieval: each image with those nearest to it in the features of a VGG-like network.

Shapes: N captions, K images of a shortlist, M images, F features, C colours, A side.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cap2im.metrics.distributed import ProcessGroup
from cap2im.models.vgg import VGG

CANDIDATES = 100  # K of the paper
IMAGES_AT_ONCE = 500
DISTANCES_AT_ONCE = 2**24  # numbers in a block of distances


@torch.inference_mode()
def image_features(
    vgg: VGG,
    images: Tensor,
    processes: ProcessGroup = ProcessGroup(),  # noqa: B008  # frozen
    advance: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """Return the features [M, F] of images [M, C, A, A] uint8; `advance` is called after each batch with its number of images."""
    shard = processes.shard(len(images))
    features = [vgg.features(images[:0].float())]
    for start in shard[::IMAGES_AT_ONCE]:
        part = images[start : min(start + IMAGES_AT_ONCE, shard.stop)]
        features.append(vgg.features(part.float() / 255))
        advance(len(part))
    return processes.all_gather(torch.cat(features))


def require_candidates(size: int, images: int) -> None:
    """Check that shortlists of a size can be made.

    Raises:
        ValueError: the size is below 2 or above the number of images.
    """
    if not 2 <= size <= images:
        raise ValueError(f"shortlists of {size} images out of {images}: choose 2 to {images}")


def nearest_shortlists(features: Tensor, images: Tensor, size: int = CANDIDATES) -> Tensor:
    """Return shortlists [N, K] of images [N]: the image itself, then those nearest to it, nearest first.

    Distances are exact: computed in float64 over all pairs.

    Args:
        features: [M, F] of all images.
        images: [N] rows of the images whose shortlists are made.
        size: K.

    Raises:
        ValueError: there are fewer images than K.
    """
    require_candidates(size, len(features))
    features = features.double()
    nearest = []
    for rows in images.split(max(1, DISTANCES_AT_ONCE // len(features))):
        distances = features.square().sum(dim=1) - 2 * features[rows] @ features.T  # up to a constant of the row
        distances[torch.arange(len(rows)), rows] = -torch.inf  # the image itself comes before its copies
        nearest.append(distances.topk(size, largest=False).indices)
    return torch.cat(nearest)
