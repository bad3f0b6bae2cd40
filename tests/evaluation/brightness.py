"""A toy metric: how bright drawings are, beside the images of their captions."""

from __future__ import annotations

from torch import Tensor

from cap2im.metrics.measurement import Measurement, mean


def brightness(drawings: Tensor, images: Tensor) -> list[Measurement]:
    """Return the mean brightness of drawings [N, C, A, A] and of images [N, C, A, A], uint8."""
    return [
        mean("brightness", (drawings.double() / 255).mean(dim=(1, 2, 3))),
        mean("brightness", (images.double() / 255).mean(dim=(1, 2, 3)), group="images", detail=True),
    ]
