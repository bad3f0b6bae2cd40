"""The figure of attention maps: where a model reads each word (AttnGAN, arXiv:1711.10485, figure 4).

Shapes: L words, H W canvas.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from cap2im.rendering.colours import GREY, MUTED, full_colour_weight, tinted
from cap2im.rendering.drawing import Drawing
from cap2im.rendering.figure import BODY, MARGIN, SMALL, Figure, heading_height, title_lines
from cap2im.rendering.images import fit, picture_of
from cap2im.rendering.text import shorten, text_width

GREY_FLOOR = 60.0  # level of black under a tint, which is not visible on black
TILE, GAP, LABEL, HEAD = 128, 12, 26, 64  # points: tile side, gap, height of a word below its tile, height of a stage's heading
MAX_COLUMNS = 7


def maps_figure(drawing: Drawing, scale: int = 2) -> Image.Image:
    """Draw each stage with attention maps, then the stage in grey for each word, tinted by the word's map.

    The words of a stage share one colour scale.

    Args:
        drawing: of a model with attention maps.
        scale: pixels per point.

    Raises:
        ValueError: the drawing has no maps.
    """
    if not drawing.maps:
        raise ValueError(f"{drawing.model}: its drawings have no attention maps")
    tiles = 1 + len(drawing.words)
    columns = min(MAX_COLUMNS, tiles)
    rows = math.ceil(tiles / columns)
    width = max(columns * (TILE + GAP) - GAP, 4 * TILE) + 2 * MARGIN
    title = title_lines(drawing.caption, width)
    top = heading_height(title)
    stage_height = HEAD + rows * (TILE + LABEL + GAP)
    figure = Figure(width, top + len(drawing.maps) * stage_height + MARGIN - GAP, scale)
    figure.heading(title, f"Where {drawing.model} reads each word; seed {drawing.seed}")
    for stage, weights in drawing.stage_maps:
        full = full_colour_weight(float(weights.max()), len(weights))
        (height, across), (map_height, map_width) = stage.shape[:2], weights.shape[1:]
        figure.text(MARGIN, top + 16, f"{across} x {height} pixels, attention at {map_width} x {map_height} places", 20)
        figure.key(width - MARGIN - 2 * TILE, top + 12, 2 * TILE, tinted(np.full(TILE, GREY), np.linspace(0, 1, TILE)), full)
        picture = fit(picture_of(stage), scale * TILE)
        picture_width = picture.width / scale
        grey = GREY_FLOOR + np.asarray(picture.convert("L"), float) * (255 - GREY_FLOOR) / 255
        figure.paste(picture, MARGIN, top + HEAD)
        for index, (word, word_map) in enumerate(zip(drawing.words, weights, strict=True), 1):
            x = MARGIN + index % columns * (TILE + GAP)
            y = top + HEAD + index // columns * (TILE + LABEL + GAP)
            enlarged = Image.fromarray(word_map.astype(np.float32)).resize(picture.size, Image.Resampling.BILINEAR)
            figure.paste(Image.fromarray(tinted(grey, np.asarray(enlarged) / full)), x, y)
            largest = f"{100 * word_map.max():.0f} %"
            figure.text(x, y + TILE + 4, shorten(word, BODY, picture_width - text_width(largest, BODY) - 8))
            figure.text(x + picture_width, y + TILE + 5, largest, SMALL, MUTED, "ra")
        top += stage_height
    return figure.picture
