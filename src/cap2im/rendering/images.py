"""Encode pictures as PNG, GIF and data URIs; enlarge them, and lay them out in a grid.

Shapes: T glimpses, H W canvas, C colours (1 or 3).
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

PLAY_SECONDS = 3.2  # duration of an animation before its pause
PAUSE_MILLISECONDS = 2000  # duration of the last frame
TILE_SIDE = 240  # pixels; smaller canvases are enlarged up to this side
TILE_GAP = 6  # pixels between tiles
BACKGROUND = (255, 255, 255)


def picture_of(canvas: NDArray[np.uint8]) -> Image.Image:
    """Convert a canvas [H, W, C] to a grey or RGB picture."""
    return Image.fromarray(np.ascontiguousarray(canvas[..., 0] if canvas.shape[2] == 1 else canvas))


def tile_scale(picture: Image.Image) -> int:
    """Return the whole factor that enlarges a picture to at most `TILE_SIDE` pixels; at least 1."""
    return max(1, TILE_SIDE // max(picture.size))


def repeat_pixels(picture: Image.Image, scale: int) -> Image.Image:
    """Enlarge every pixel to scale x scale."""
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST) if scale > 1 else picture


def enlarge(picture: Image.Image, scale: int) -> Image.Image:
    """Convert a picture to RGB and enlarge every pixel to scale x scale."""
    return repeat_pixels(picture.convert("RGB"), scale)


def fit(picture: Image.Image, side: float) -> Image.Image:
    """Resize a picture so that its longer side is at most `side` pixels; enlarge it by a whole factor only, to keep pixels equal."""
    zoom = side / max(picture.size)
    if zoom >= 1:
        return enlarge(picture, int(zoom))
    return picture.resize((max(1, round(picture.width * zoom)), max(1, round(picture.height * zoom))), Image.Resampling.LANCZOS)


def tile(tiles: Sequence[Image.Image], background: int | tuple[int, ...] = BACKGROUND) -> Image.Image:
    """Lay out tiles of one size and mode in a grid at most about twice as wide as high, with the fewest empty places."""
    count, side = len(tiles), math.ceil(math.sqrt(len(tiles)))
    candidates = [columns for columns in range(side, 2 * side) if columns <= 2 * math.ceil(count / columns) + 1]
    columns = min(candidates, key=lambda columns: (-count % columns, columns))
    rows = math.ceil(count / columns)
    width, height = tiles[0].width + TILE_GAP, tiles[0].height + TILE_GAP
    whole = Image.new(tiles[0].mode, (columns * width - TILE_GAP, rows * height - TILE_GAP), background)
    for index, picture in enumerate(tiles):
        whole.paste(picture, (index % columns * width, index // columns * height))
    return whole


def png_bytes(picture: Image.Image, text: Mapping[str, object] | None = None) -> bytes:
    """Encode a picture as PNG.

    Args:
        picture: grey, grey with alpha, or RGB.
        text: PNG text entries.
    """
    info = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        info.add_text(key, str(value))
    stream = io.BytesIO()
    picture.save(stream, "PNG", pnginfo=info, compress_level=3)  # half to two thirds of the default's time, up to 40 % more bytes
    return stream.getvalue()


def gif_bytes(frames: Sequence[Image.Image], comment: str = "") -> bytes:
    """Encode frames as a looping GIF that pauses on the last frame."""
    step = min(400, max(20, round(1000 * PLAY_SECONDS / len(frames) / 10) * 10))  # GIF stores hundredths of a second
    stream = io.BytesIO()
    durations = [step] * (len(frames) - 1) + [PAUSE_MILLISECONDS]
    # `optimize` would give each frame a palette and transparent pixels of its own: twice the time for 15 % fewer bytes
    frames[0].save(
        stream, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, comment=comment.encode(), optimize=False
    )
    return stream.getvalue()


def data_uri(content: bytes, kind: str) -> str:
    """Return an encoded picture as a data URI; `kind` is "png" or "gif"."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def canvas_uri(canvas: NDArray[np.uint8]) -> str:
    """Return a canvas [H, W, C] as a data URI of a lightly compressed PNG, for live previews."""
    stream = io.BytesIO()
    picture_of(canvas).save(stream, "PNG", compress_level=1)
    return data_uri(stream.getvalue(), "png")
