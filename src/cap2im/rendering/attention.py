"""Figures of word attention: over the glimpses (alignDRAW, arXiv:1511.02793, figure 6) and its mean (figure 5).

Shapes: T glimpses, L words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cap2im.rendering.colours import MUTED, TINT, full_colour_weight, heat_colours
from cap2im.rendering.drawing import Drawing, check_samples
from cap2im.rendering.figure import BODY, MARGIN, SMALL, TITLE_LINE, Figure, heading_height, title_lines
from cap2im.rendering.images import fit, picture_of, png_bytes
from cap2im.rendering.maps import maps_figure
from cap2im.rendering.text import shorten, text_width, wrap

MAX_SAMPLES = 2  # of a figure in a file, which fits a screen
MAX_MAPS = 4  # figures of attention maps
MAX_WORDS = 12  # with the most mean attention
GAP = 28  # points, between panels
PICTURE, PLOT, ROW, CAPTION_LINE = 156, 288, 13, 20  # points: sides of a picture and its plot, height of a word's row and of a line
PLOT_LABEL = 80  # points: largest width of a word
PLOT_TEXT, PLOT_SMALL = 11, 10  # font sizes


def files(drawings: Sequence[Drawing]) -> Iterator[tuple[str, bytes]]:
    """Yield the figures of attention over glimpses and of attention maps, of the first samples."""
    if drawings[0].attention is not None:
        yield "attention.png", png_bytes(attention_figure(drawings[:MAX_SAMPLES]), drawings[0].provenance)
    digits = len(str(len(drawings)))
    for number, drawing in enumerate(drawings[:MAX_MAPS], 1):
        if drawing.maps:
            yield f"maps-{number:0{digits}}.png", png_bytes(maps_figure(drawing), drawing.provenance)


def attention_figure(drawings: Sequence[Drawing], scale: int = 1) -> Image.Image:
    """Draw word attention over the glimpses for each sample, with canvases above and the finished picture beside.

    Each canvas stands above its own glimpse and the ones since the canvas before. All samples share one colour scale.

    Args:
        drawings: samples of one caption.
        scale: pixels per point.

    Raises:
        ValueError: the drawings are not samples of one caption, or have no attention.
    """
    check_samples(drawings)
    first = drawings[0]
    weights = [_attention(drawing) for drawing in drawings]
    row, picture_side, heat_width = 24, 300, 832
    step = 1 if first.glimpses <= 10 else math.ceil(first.glimpses / 8)  # glimpses from one canvas to the next
    strip = range(first.glimpses - 1, step - 2, -step)
    column = heat_width / max(first.glimpses, 8)
    heat_width, heat_height = round(column * first.glimpses), row * len(first.words)
    full = full_colour_weight(max(float(w.max()) for w in weights), len(first.words))

    labels = [shorten(word, BODY, 180) for word in first.words]
    heat_x = MARGIN + max(text_width(label, BODY) for label in labels) + 14
    side_x = heat_x + heat_width + GAP
    width = side_x + picture_side + MARGIN
    title = title_lines(first.caption, width)
    y = heading_height(title)
    canvases = [[fit(picture_of(drawing.canvases[t]), scale * min(96, step * column - 6)) for t in strip] for drawing in drawings]
    strip_height = canvases[0][0].height / scale + 10
    panel = max(strip_height + heat_height + 44, picture_side + 72)
    figure = Figure(width, y + panel * len(drawings) + GAP * (len(drawings) - 1) + MARGIN - 12, scale)

    figure.heading(title, f"Word attention of {first.model} while it draws")
    for drawing, attention, pictures in zip(drawings, weights, canvases, strict=True):
        heat_y = y + strip_height
        for t, picture in zip(strip, pictures, strict=True):
            right = heat_x + (t + 1) * column
            figure.paste(picture, right - 1 - picture.width / scale, y)
            figure.line(right - 1, heat_y - 10, right - 1, heat_y - 2, MUTED)
            figure.text(heat_x + (t + 0.5) * column, heat_y + heat_height + 8, _glimpse_label(drawing, t), SMALL, MUTED, "ma")
        figure.heat_map(heat_x, heat_y, attention, labels, column=column, row=row, full=full)
        figure.text(heat_x + heat_width / 2, heat_y + heat_height + 28, "size" if drawing.stages else "glimpse", SMALL, MUTED, "ma")

        finished = fit(drawing.image, scale * picture_side)
        figure.paste(finished, side_x, y)
        below, key_width = y + finished.height / scale + 12, finished.width / scale
        figure.text(side_x, below, f"Seed {drawing.seed}")
        figure.key(side_x, below + 36, key_width, heat_colours(np.linspace(0, 1, picture_side)), full)
        y += panel + GAP
    return figure.picture


def _attention(drawing: Drawing) -> NDArray[np.floating]:
    if drawing.attention is None:
        raise ValueError(f"{drawing.model}: its drawings have no word attention")
    return drawing.attention


def _glimpse_label(drawing: Drawing, t: int) -> str:
    """Return the number of a glimpse, or the side of its stage."""
    return str(len(drawing.stages[t])) if t < len(drawing.stages) else str(t + 1)


# Pictures beside their plots


def attended_words(drawings: Sequence[Drawing], scale: int = 2) -> Image.Image:
    """Draw each picture beside the words with the most mean attention over the glimpses.

    Raises:
        ValueError: a drawing has no attention.
    """
    columns = [("", drawings[::2]), ("", drawings[1::2])]
    return _plot_columns([column for column in columns if column[1]], _mean_attention, MAX_WORDS, scale)


def attention_columns(columns: Sequence[tuple[str, Sequence[Drawing]]], scale: int = 2) -> Image.Image:
    """Draw columns of pictures, each picture beside its attention over the glimpses.

    Args:
        columns: name and drawings of each column.
        scale: pixels per point.

    Raises:
        ValueError: a drawing has no attention.
    """
    words = max(len(drawing.words) for _, drawings in columns for drawing in drawings)
    return _plot_columns(columns, _attention_over_glimpses, words, scale)


def most_attended(drawing: Drawing) -> list[tuple[str, float]]:
    """Return the words with the most mean attention, as "word (position)" and mean, in falling order.

    Raises:
        ValueError: the drawing has no attention.
    """
    means = _attention(drawing).mean(axis=0)  # [L]
    return [(f"{drawing.words[i]} ({i + 1})", float(means[i])) for i in np.argsort(-means, kind="stable")[:MAX_WORDS]]


def _mean_attention(figure: Figure, x: float, y: float, drawing: Drawing) -> None:
    for index, (label, weight) in enumerate(most_attended(drawing)):
        top = y + ROW * index
        figure.text(x - 14, top + ROW / 2, shorten(label, PLOT_TEXT, PLOT_LABEL), PLOT_TEXT, anchor="rm")
        figure.bar(x, top + 2, (PLOT - 40) * weight, ROW - 4, TINT)
        figure.text(x + (PLOT - 40) * weight + 6, top + ROW / 2, f"{100 * weight:.0f} %", PLOT_SMALL, MUTED, "lm")


def _attention_over_glimpses(figure: Figure, x: float, y: float, drawing: Drawing) -> None:
    attention = _attention(drawing)
    full = full_colour_weight(float(attention.max()), len(drawing.words))
    column = PLOT / max(drawing.glimpses, 8)
    words = [shorten(word, PLOT_TEXT, PLOT_LABEL) for word in drawing.words]
    figure.heat_map(x, y, attention, words, column=column, row=ROW, full=full, size=PLOT_TEXT)
    below = y + ROW * len(drawing.words) + 3
    figure.text(x + column / 2, below, _glimpse_label(drawing, 0), PLOT_SMALL, MUTED, "ma")
    figure.text(x + column * drawing.glimpses / 2, below, "glimpse", PLOT_SMALL, MUTED, "ma")
    figure.text(x + column * (drawing.glimpses - 0.5), below, _glimpse_label(drawing, drawing.glimpses - 1), PLOT_SMALL, MUTED, "ma")


def _plot_columns(
    columns: Sequence[tuple[str, Sequence[Drawing]]], plot: Callable[[Figure, float, float, Drawing], None], plot_rows: int, scale: int
) -> Image.Image:
    """Draw columns of pictures with captions above and `plot(figure, x, y, drawing)`, of at most `plot_rows` words, on their right."""
    drawings = [drawing for _, column in columns for drawing in column]
    labels = max((text_width(f"{word} (00)", PLOT_TEXT) for drawing in drawings for word in drawing.words), default=0)
    plot_x = PICTURE + 16 + min(labels, PLOT_LABEL) + 14
    cell_width = plot_x + PLOT
    captions = {drawing.caption: wrap(drawing.caption.removesuffix(" ."), BODY, cell_width) for drawing in drawings}
    caption_height = CAPTION_LINE * max(len(caption) for caption in captions.values()) + 8
    cell_height = caption_height + max(PICTURE, ROW * plot_rows + 16)
    top = MARGIN + (TITLE_LINE if any(name for name, _ in columns) else 0)
    rows = max(len(column) for _, column in columns)
    width = 2 * MARGIN + cell_width * len(columns) + GAP * (len(columns) - 1)
    figure = Figure(width, top + rows * (cell_height + GAP) - GAP + MARGIN, scale)
    for number, (name, column) in enumerate(columns):
        x = MARGIN + number * (cell_width + GAP)
        figure.text(x, MARGIN, name, 20)
        for index, drawing in enumerate(column):
            y = top + index * (cell_height + GAP)
            for line, text in enumerate(captions[drawing.caption]):
                figure.text(x, y + CAPTION_LINE * line, text)
            figure.paste(fit(drawing.image, scale * PICTURE), x, y + caption_height)
            plot(figure, x + plot_x, y + caption_height, drawing)
    return figure.picture
