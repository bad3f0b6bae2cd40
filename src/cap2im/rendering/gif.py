"""The samples of one caption as an animated GIF.

Shapes: T glimpses, N samples, H W canvas, C colours (1 or 3).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cap2im.rendering.colours import WRITE
from cap2im.rendering.drawing import Drawing, check_samples
from cap2im.rendering.images import BACKGROUND, gif_bytes, repeat_pixels, tile, tile_scale

MAX_PIXELS = 2**21  # of all frames together; canvases are enlarged less to stay below
LAST_COLOUR = 255  # number of the background's colour in a palette of 256


def gif(drawings: Sequence[Drawing]) -> bytes:
    """Encode the samples in a grid, one frame a glimpse with the write window outlined, and a pause on the finished pictures.

    Canvases get their palette before they are enlarged, which takes a quarter of the time of Pillow's palettes of whole frames.

    Raises:
        ValueError: the drawings are not samples of one caption.
    """
    check_samples(drawings)
    first = drawings[0]
    canvases = np.stack([drawing.canvases for drawing in drawings], axis=1)  # [T, N, H, W, C]
    zoom = max(1, min(tile_scale(first.image), math.isqrt(MAX_PIXELS // canvases[..., 0].size)))
    frames = []
    for t, (numbers, palette, outline) in enumerate(_grey(canvases[..., 0]) if canvases.shape[-1] == 1 else _coloured(canvases)):
        tiles = [repeat_pixels(Image.fromarray(each), zoom) for each in numbers]
        for drawing, picture in zip(drawings, tiles, strict=True):
            if drawing.boxes is not None and t < first.glimpses - 1:  # the finished pictures have no outline
                ImageDraw.Draw(picture).rectangle([round(zoom * float(edge)) for edge in drawing.boxes[t]], outline=outline, width=2)
        frames.append(tile(tiles, LAST_COLOUR))
        frames[-1].putpalette(palette)
    return gif_bytes(frames, json.dumps(first.provenance))


def _grey(canvases: NDArray[np.uint8]) -> Iterator[tuple[NDArray[np.uint8], bytes, int]]:
    """Yield each frame of grey canvases [T, N, H, W] as numbers of colours [N, H, W], the palette, and the outline's number.

    All frames have one palette: the grey levels. The outline takes the place of the rarest level, which becomes the next one.
    """
    outline = int(np.bincount(canvases.ravel(), minlength=256)[:LAST_COLOUR].argmin())
    palette = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    palette[outline] = WRITE
    for frame in canvases:
        yield np.where(frame == outline, np.uint8(outline + 1), frame), palette.tobytes(), outline


def _coloured(canvases: NDArray[np.uint8]) -> Iterator[tuple[NDArray[np.uint8], bytes, int]]:
    """Yield each frame of canvases [T, N, H, W, 3] as numbers of colours [N, H, W], its palette, and the outline's number."""
    outline = LAST_COLOUR - 1
    for frame in canvases:
        picture = Image.fromarray(frame.reshape(-1, *frame.shape[2:])).quantize(outline)
        colours = bytes(picture.getpalette() or ())[: 3 * outline].ljust(3 * outline, b"\0")
        yield np.asarray(picture).reshape(frame.shape[:3]), colours + bytes(WRITE + BACKGROUND), outline


def files(drawings: Sequence[Drawing]) -> Iterator[tuple[str, bytes]]:
    """Yield the animation of drawings with more than one glimpse."""
    if drawings[0].glimpses > 1:
        yield "drawing.gif", gif(drawings)
