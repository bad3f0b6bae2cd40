"""The surface that figures are drawn on: text, pictures, heat maps and colour keys, measured in points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cap2im.rendering.colours import INK, MUTED, PAPER, Colour, heat_colours
from cap2im.rendering.text import font_for, wrap

MARGIN = 36  # points
TITLE, TITLE_LINE = 28, 38  # font size and line height, in points
BODY, SMALL = 15, 13  # font sizes


def title_lines(title: str, width: float) -> list[str]:
    """Wrap a title for a figure of `width` points."""
    return wrap(title, TITLE, width - 2 * MARGIN)


def heading_height(title: Sequence[str]) -> float:
    """Return the height of a margin, a title and a subtitle, in points."""
    return MARGIN + TITLE_LINE * len(title) + 42


class Figure:
    """A white figure; coordinates are points, and one point is `scale` pixels.

    Attributes:
        picture: the pixels drawn so far, in RGB.
    """

    def __init__(self, width: float, height: float, scale: int) -> None:
        self.scale = scale
        self.picture = Image.new("RGB", (round(width * scale), round(height * scale)), PAPER)
        self._pen = ImageDraw.Draw(self.picture)

    def text(self, x: float, y: float, text: str, size: float = BODY, colour: Colour = INK, anchor: str = "la") -> None:
        """Write a line; `anchor` is Pillow's."""
        self._pen.text((x * self.scale, y * self.scale), text, colour, font_for(text, size * self.scale), anchor)

    def heading(self, title: Sequence[str], subtitle: str) -> None:
        """Write wrapped title lines and a subtitle at the top; see `heading_height`."""
        for number, line in enumerate(title):
            self.text(MARGIN, MARGIN + TITLE_LINE * number, line, TITLE)
        self.text(MARGIN, MARGIN + TITLE_LINE * len(title) + 6, subtitle, BODY, MUTED)

    def line(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        """Draw a line one point wide."""
        self._pen.line([x0 * self.scale, y0 * self.scale, x1 * self.scale, y1 * self.scale], colour, self.scale)

    def bar(self, x: float, y: float, width: float, height: float, colour: Colour) -> None:
        """Fill a rectangle; nothing is drawn if it is less than a pixel wide."""
        if width * self.scale >= 1:
            right, bottom = (x + width) * self.scale - 1, (y + height) * self.scale - 1
            self._pen.rectangle([x * self.scale, y * self.scale, right, bottom], colour)

    def paste(self, picture: Image.Image, x: float, y: float) -> None:
        """Paste a picture without resizing it."""
        self.picture.paste(picture, (round(x * self.scale), round(y * self.scale)))

    def key(self, x: float, y: float, width: float, colours: NDArray[np.uint8], full: float) -> None:
        """Draw the key to colours [N, 3] of attention from 0 to `full`."""
        self.paste(Image.fromarray(colours[None]).resize((round(width * self.scale), 8 * self.scale)), x, y)
        self.text(x, y + 14, "0", SMALL, MUTED)
        self.text(x + width / 2, y + 14, "attention", SMALL, MUTED, "ma")
        self.text(x + width, y + 14, f"{full:.2f}", SMALL, MUTED, "ra")

    def heat_map(
        self,
        x: float,
        y: float,
        attention: NDArray[np.floating],
        words: Sequence[str],
        *,
        column: float,
        row: float,
        full: float,
        size: float = BODY,
    ) -> None:
        """Draw attention as cells, with the words on the left.

        Args:
            x: left edge of the cells.
            y: upper edge of the cells.
            attention: [T, L] weights.
            words: L words.
            column: width of a cell.
            row: height of a cell.
            full: weight of the full colour.
            size: of the words' font.
        """
        glimpses = len(attention)
        width, height = round(column * glimpses), row * len(words)
        cells = Image.fromarray(heat_colours(attention.T / full))  # [L, T, 3]
        self.paste(cells.resize((round(width * self.scale), round(height * self.scale)), Image.Resampling.NEAREST), x, y)
        for index, word in enumerate(words):
            self.text(x - 14, y + row * (index + 0.5), word, size, INK, "rm")
            self.line(x, y + row * (index + 1), x + width, y + row * (index + 1), PAPER)
        for t in range(1, glimpses if column >= 8 else 0):
            self.line(x + t * column, y, x + t * column, y + height, PAPER)
