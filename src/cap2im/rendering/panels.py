"""Figures of rows of pictures, each with a title above it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cap2im.rendering.colours import MUTED
from cap2im.rendering.drawing import Drawing
from cap2im.rendering.figure import BODY, Figure
from cap2im.rendering.images import fit, picture_of
from cap2im.rendering.text import wrap

MARGIN, GAP = 24, 14  # points
TITLE, TITLE_LINE, TITLE_LINES = 11, 14, 3  # font size, height of a line and number of lines
HEADING_LINE = 22  # points


@dataclass(frozen=True)
class Panel:
    """A picture [H, W, C] uint8 with a title above it."""

    picture: NDArray[np.uint8]
    title: str = ""

    @classmethod
    def from_drawing(cls, drawing: Drawing) -> Panel:
        """Return the finished picture of a drawing below its caption."""
        return cls(drawing.canvases[-1], drawing.caption.removesuffix(" ."))


@dataclass(frozen=True)
class Row:
    """Panels side by side, below a heading."""

    panels: Sequence[Panel]
    heading: str = ""


def panel_rows(rows: Sequence[Row], *, heading: str = "", side: int = 150, scale: int = 2) -> Image.Image:
    """Draw rows of pictures.

    Args:
        rows: one or more.
        heading: of the figure.
        side: of a picture, in points.
        scale: pixels per point.
    """
    columns = max(len(row.panels) for row in rows)
    width = columns * (side + GAP) - GAP
    blocks = []  # lines of each row's heading and of its titles
    for row in rows:
        titles = [wrap(panel.title, TITLE, side, TITLE_LINES) for panel in row.panels]
        blocks.append((wrap(row.heading, BODY, width, 2) if row.heading else [], titles if any(p.title for p in row.panels) else []))
    heights = [HEADING_LINE * len(names) + TITLE_LINE * max(map(len, titles), default=0) + 6 + side for names, titles in blocks]
    top = MARGIN + (HEADING_LINE + 6 if heading else 0)
    figure = Figure(width + 2 * MARGIN, top + sum(heights) + GAP * (len(rows) - 1) + MARGIN, scale)
    figure.text(MARGIN, MARGIN, heading, BODY, MUTED)
    for row, (names, titles), height in zip(rows, blocks, heights, strict=True):
        for number, name in enumerate(names):
            figure.text(MARGIN, top + HEADING_LINE * number, name)
        picture_y = top + height - side
        for column, panel in enumerate(row.panels):
            x = MARGIN + column * (side + GAP)
            lines = titles[column] if titles else []
            for number, text in enumerate(lines):
                figure.text(x, picture_y - 5 - TITLE_LINE * (len(lines) - number), text, TITLE)
            figure.paste(fit(picture_of(panel.picture), scale * side), x, picture_y)
        top += height + GAP
    return figure.picture
