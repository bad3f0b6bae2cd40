"""The finished pictures as PNG files, one by one and in a grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from PIL import Image

from cap2im.rendering.drawing import Drawing, check_samples
from cap2im.rendering.images import enlarge, picture_of, png_bytes, tile, tile_scale


def grid(drawings: Sequence[Drawing]) -> Image.Image:
    """Lay out the finished pictures of one caption's samples in a grid; small canvases are enlarged.

    Raises:
        ValueError: the drawings are not samples of one caption.
    """
    check_samples(drawings)
    return tile([enlarge(drawing.image, tile_scale(drawing.image)) for drawing in drawings])


def files(drawings: Sequence[Drawing]) -> Iterator[tuple[str, bytes]]:
    """Yield each finished picture, the smaller stages of a multi-stage model, and the grid."""
    digits = len(str(len(drawings)))  # sample-01 ... sample-16, which sort by name
    for number, drawing in enumerate(drawings, 1):
        yield f"sample-{number:0{digits}}.png", drawing.png()
    for number, drawing in enumerate(drawings, 1):
        for stage in drawing.stages[:-1]:
            yield f"sample-{number:0{digits}}-{len(stage)}.png", png_bytes(picture_of(stage), drawing.provenance)
    yield "grid.png", png_bytes(grid(drawings), drawings[0].provenance)
