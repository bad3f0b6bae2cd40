"""Drawings that tests draw on their own."""

from __future__ import annotations

import dataclasses

import numpy as np

from cap2im.rendering.drawing import Drawing

CAPTION = "the digit 3 is here ."


def growing_blob(
    *, seed: int = 7, glimpses: int = 12, side: int = 20, colours: int = 1, caption: str = CAPTION, reads: bool = True, writes: bool = True
) -> Drawing:
    """Return a disc that grows around a point that depends on the seed, while attention moves from the first word to the last."""
    words = tuple(caption.split())
    rows, columns = np.mgrid[:side, :side]
    x, y = side * (0.3 + 0.1 * (seed % 4)), side * 0.5
    distance = np.hypot(columns + 0.5 - x, rows + 0.5 - y)
    times = np.arange(1, glimpses + 1)[:, None, None]
    grey = 255 / (1 + np.exp(distance - 0.4 * side * times / glimpses))  # [T, H, W]
    canvases = np.stack([grey * (1 - 0.3 * c) for c in range(colours)], axis=-1).astype(np.uint8)
    centres = np.linspace(0, len(words) - 1, glimpses)[:, None]
    attention = np.exp(-((np.arange(len(words)) - centres) ** 2))  # [T, L]
    attention /= attention.sum(axis=1, keepdims=True)
    radius = 0.6 * side * times[:, 0, 0] / glimpses
    boxes = np.stack([x - radius, y - radius, x + radius, y + radius], axis=1)
    return Drawing(caption, words, seed, "blob", canvases, attention if reads else None, boxes if writes else None)


def blobs(count: int = 4, **options: object) -> list[Drawing]:
    """Return samples of one caption."""
    return [growing_blob(seed=7 + n, **options) for n in range(count)]  # type: ignore[arg-type]


def staged(*, seed: int = 7, side: int = 32, colours: int = 3, caption: str = CAPTION) -> Drawing:
    """Return a disc in three sizes; the last two attend to each word at its own row, more to later words."""
    last = growing_blob(seed=seed, glimpses=1, side=side, colours=colours, caption=caption).canvases[0]
    stages = tuple(last[:: 2**k, :: 2**k] for k in (2, 1, 0))
    canvases = np.stack([stage.repeat(2**k, axis=0).repeat(2**k, axis=1) for k, stage in zip((2, 1, 0), stages, strict=True)])
    words = tuple(caption.split())
    maps = []
    for a in (side // 4, side // 2):
        rows = np.arange(a)[:, None] * len(words) // a  # the word that a row attends to
        weights = np.where(np.arange(len(words))[:, None, None] == rows, 0.4 + 0.1 * np.arange(len(words))[:, None, None], 0.0)
        maps.append((weights / weights.sum(axis=0).clip(1)).repeat(a, axis=2).astype(np.float32))
    attention = np.stack([np.full(len(words), 1 / len(words)), *(each.mean(axis=(1, 2)) for each in maps)])
    return Drawing(caption, words, seed, "stages", canvases, attention, stages=stages, maps=tuple(maps))


def last_stage_alone() -> Drawing:
    """Return a drawing of a model with two maps and one stage."""
    drawing = staged()
    assert drawing.attention is not None
    return dataclasses.replace(drawing, canvases=drawing.canvases[2:], attention=drawing.attention[2:], stages=drawing.stages[2:])
