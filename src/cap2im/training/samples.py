"""Sample grids: drawings of fixed captions with their real images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cap2im.models.interface import DrawingModel
from cap2im.randomness import picture_noise
from cap2im.rendering.panels import Panel, Row, panel_rows

SAMPLES = 6  # drawings per caption
MIN_SIDE = 64  # pixels of a shown image; smaller ones are enlarged


@dataclass(frozen=True)
class ShownCaptions:
    """The captions of a run's sample grids.

    Attributes:
        captions: N texts, as the grid shows them.
        tokens: [N, L] word numbers.
        mask: [N, L] true for words.
        vectors: [N, S] sentence vectors, or None.
        images: [N, C, A, A] in 0..1, the real images of the captions, or None.
    """

    captions: tuple[str, ...]
    tokens: Tensor
    mask: Tensor
    vectors: Tensor | None = None
    images: Tensor | None = None


@dataclass(frozen=True)
class SampleGrid:
    """Pictures that show a model's progress.

    Attributes:
        name: of the grid's files and logs.
        captions: a text for each row.
        pixels: [H, W, 3] uint8.
    """

    name: str
    captions: tuple[str, ...]
    pixels: np.ndarray


@torch.no_grad()
def drawings_grid(model: DrawingModel, shown: ShownCaptions) -> SampleGrid:
    """Draw a row for each caption: the real image, if there is one, and drawings of fixed seeds."""
    captions = len(shown.tokens)
    tokens, mask = (t.repeat_interleave(SAMPLES, 0).to(model.device) for t in (shown.tokens, shown.mask))
    vectors = None if shown.vectors is None else shown.vectors.repeat_interleave(SAMPLES, 0).to(model.device)
    noise = picture_noise(list(range(SAMPLES)) * captions, model.noise_shape)
    images = model.sample_images(model.encode(tokens, mask, vectors, independent=True), noise.to(model.device)).cpu()  # [N * K, C, A, A]
    rows = images.unflatten(0, (captions, SAMPLES))  # [N, K, C, A, A]
    heading = f"{SAMPLES} drawings of each caption"
    if shown.images is not None and shown.images.shape[1:] == rows.shape[2:]:
        rows, heading = torch.cat([shown.images.unsqueeze(1), rows], dim=1), f"the real image, then {heading}"
    return SampleGrid("drawings", shown.captions, grid(heading, shown.captions, rows))


def grid(heading: str, captions: Sequence[str], rows: Tensor) -> NDArray[np.uint8]:
    """Return a figure [H, W, 3] of rows of images, each row below its caption.

    Args:
        heading: the first line.
        captions: N texts; a long one is cut to two lines.
        rows: [N, K, C, A, A] in 0..1.
    """
    side = rows.shape[-1]
    pixels = rows.clamp(0, 1).mul(255).round().to(torch.uint8).movedim(2, -1).cpu().numpy()  # [N, K, A, A, C]
    panels = [Row([Panel(image) for image in images], caption) for caption, images in zip(captions, pixels, strict=True)]
    return np.asarray(panel_rows(panels, heading=heading, side=side * -(-MIN_SIDE // side), scale=1))
