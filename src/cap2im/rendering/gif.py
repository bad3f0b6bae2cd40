"""The samples of one caption as an animated GIF."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence

from PIL import ImageDraw

from cap2im.rendering.colours import WRITE
from cap2im.rendering.drawing import Drawing, check_samples
from cap2im.rendering.images import enlarge, gif_bytes, picture_of, tile, tile_scale

MAX_PIXELS = 2**26  # of all frames together; canvases are enlarged less to stay below


def gif(drawings: Sequence[Drawing]) -> bytes:
    """Encode the samples in a grid, one frame a glimpse with the write window outlined, and a pause on the finished pictures.

    Raises:
        ValueError: the drawings are not samples of one caption.
    """
    check_samples(drawings)
    first = drawings[0]
    pixels = sum(drawing.glimpses * drawing.image.width * drawing.image.height for drawing in drawings)
    zoom = max(1, min(tile_scale(first.image), math.isqrt(MAX_PIXELS // pixels)))
    frames = [[enlarge(picture_of(drawing.canvases[t]), zoom) for drawing in drawings] for t in range(first.glimpses)]
    for t, tiles in enumerate(frames[:-1]):  # the finished pictures have no outline
        for drawing, picture in zip(drawings, tiles, strict=True):
            if drawing.boxes is not None:
                ImageDraw.Draw(picture).rectangle([round(zoom * float(edge)) for edge in drawing.boxes[t]], outline=WRITE, width=2)
    return gif_bytes([tile(tiles) for tiles in frames], json.dumps(first.provenance))


def files(drawings: Sequence[Drawing]) -> Iterator[tuple[str, bytes]]:
    """Yield the animation of drawings with more than one glimpse."""
    if drawings[0].glimpses > 1:
        yield "drawing.gif", gif(drawings)
