"""A drawing: a picture drawn from a caption, with the steps that led to it.

Shapes: T glimpses (1 for a model that draws in one step), L words, H W canvas, C colours (1 or 3).
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cap2im.files import write_atomically
from cap2im.rendering.images import data_uri, enlarge, gif_bytes, picture_of, png_bytes, repeat_pixels, tile_scale

NOTEBOOK_DRAWINGS = 48  # drawings of a list that a notebook shows; more would make its file large
INTERACTIVE_DRAWINGS = 16  # a longer list is shown without viewer and animation


@dataclass(frozen=True, eq=False, repr=False)
class Drawing:
    """One picture drawn from one caption.

    Attributes:
        caption: as typed; empty for an unconditional model.
        words: words of the caption as the model reads them; empty for an unconditional model.
        seed: of the random numbers.
        model: name of the model.
        canvases: [T, H, W, C] uint8, the canvas after each glimpse, after the sigmoid.
        attention: [T, L] weight of each word at each glimpse, or None.
        boxes: [T, 4] left, top, right, bottom of the write window at each glimpse, in pixels, or None. A box may exceed the canvas.
        stages: pictures [h, w, C] uint8 of a multi-stage model in its own sizes, small to large; `canvases` holds them enlarged. Empty
            for other models.
        maps: word attention [L, h, w] at each place, with a sum of 1 over the words, one for each time that the model reads the words.
            They belong to the last stages, or all to the only stage.

    Raises:
        ValueError: an array has a wrong shape, type or range.
    """

    caption: str
    words: tuple[str, ...]
    seed: int
    model: str
    canvases: NDArray[np.uint8]
    attention: NDArray[np.floating] | None = None
    boxes: NDArray[np.floating] | None = None
    stages: tuple[NDArray[np.uint8], ...] = ()
    maps: tuple[NDArray[np.floating], ...] = ()

    def __post_init__(self) -> None:
        shape = self.canvases.shape
        if len(shape) != 4 or 0 in shape or shape[3] not in (1, 3):
            raise ValueError(f"canvases: expected [T, H, W, C] with T, H, W >= 1 and C 1 or 3, got {list(shape)}")
        if self.canvases.dtype != np.uint8:
            raise ValueError(f"canvases: expected uint8, got {self.canvases.dtype}")
        for name, values, columns in (("attention", self.attention, len(self.words)), ("boxes", self.boxes, 4)):
            if values is None:
                continue
            if values.shape != (shape[0], columns) or not columns:
                raise ValueError(f"{name}: expected shape {[shape[0], columns]} with at least one column, got {list(values.shape)}")
            if not np.isfinite(values).all():
                raise ValueError(f"{name}: expected finite values")
        if self.attention is not None and (self.attention < 0).any():
            raise ValueError(f"attention: expected weights >= 0, got {self.attention.min():g}")
        if len(self.stages) > shape[0]:
            raise ValueError(f"stages: expected at most one for each of {shape[0]} canvases, got {len(self.stages)}")
        for stage in self.stages:
            if stage.ndim != 3 or 0 in stage.shape or stage.shape[2] != shape[3] or stage.dtype != np.uint8:
                raise ValueError(f"stages: expected uint8 [h, w, {shape[3]}], got {stage.dtype} {list(stage.shape)}")
        if self.maps and not self.stages:
            raise ValueError("maps: expected stages that they belong to, got none")
        for weights in self.maps:
            if weights.ndim != 3 or 0 in weights.shape or len(weights) != len(self.words):
                raise ValueError(f"maps: expected [{len(self.words)}, h, w], got {list(weights.shape)}")
            if not (np.isfinite(weights).all() and (weights >= 0).all()):
                raise ValueError("maps: expected finite weights >= 0")

    @property
    def stage_maps(self) -> list[tuple[NDArray[np.uint8], NDArray[np.floating]]]:
        """Pairs of a stage [h, w, C] and its map [L, h, w]."""
        first = len(self.stages) - len(self.maps)
        return [(self.stages[max(0, first + index)], weights) for index, weights in enumerate(self.maps)]

    @property
    def glimpses(self) -> int:
        """T."""
        return len(self.canvases)

    @property
    def image(self) -> Image.Image:
        """The finished picture, H x W."""
        return picture_of(self.canvases[-1])

    @property
    def provenance(self) -> dict[str, str | int]:
        """Caption, seed and model, as image files store them."""
        return {"caption": self.caption, "seed": self.seed, "model": self.model}

    def frames(self, scale: int = 1) -> list[Image.Image]:
        """Return the canvas after each glimpse in RGB, with every pixel enlarged to scale x scale."""
        return [enlarge(picture_of(canvas), scale) for canvas in self.canvases]

    def png(self, scale: int = 1) -> bytes:
        """Encode the finished picture as PNG, with every pixel enlarged to scale x scale; PNG text holds caption, seed and model."""
        return png_bytes(repeat_pixels(self.image, scale), self.provenance)

    def save(self, path: str | Path) -> Path:
        """Write the finished picture as PNG.

        Raises:
            ValueError: the name does not end in .png.
            OSError: the file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise ValueError(f"a drawing is saved as .png, got {path}")
        write_atomically(path, self.png())
        return path

    def __repr__(self) -> str:
        height, width = self.canvases.shape[1:3]
        return f"Drawing({self.caption!r}, seed={self.seed}, model={self.model!r}, {self.glimpses} glimpses of {width} x {height})"

    def _repr_png_(self) -> bytes:
        return png_bytes(enlarge(self.image, tile_scale(self.image)), self.provenance)

    def _repr_html_(self) -> str:
        """Return the interactive viewer; a picture for a model that draws in one step without attention."""
        return Drawings([self])._repr_html_()

    @property
    def _is_still(self) -> bool:
        """Whether there is nothing to move: one canvas, and no attention."""
        return self.glimpses == 1 and self.attention is None


class Drawings(list[Drawing]):
    """A list of drawings that notebooks show as pictures; slices are `Drawings` too."""

    @overload
    def __getitem__(self, index: SupportsIndex) -> Drawing: ...
    @overload
    def __getitem__(self, index: slice) -> Drawings: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Drawing | Drawings:
        item = super().__getitem__(index)
        return Drawings(item) if isinstance(item, list) else item

    def _repr_html_(self) -> str:
        """Return the interactive viewer of samples of one caption, or the first drawings side by side, without scripts.

        Short lists of several captions are animated.
        """
        if 0 < len(self) <= INTERACTIVE_DRAWINGS and not self[0]._is_still and _are_samples(self):
            from cap2im.rendering.notebook import viewer_frame  # imports this module

            return viewer_frame(self)
        figures = [
            figure(drawing.image if drawing._is_still or len(self) > INTERACTIVE_DRAWINGS else drawing.frames(), drawing, [drawing.seed])
            for drawing in self[:NOTEBOOK_DRAWINGS]
        ]
        more = f"<p>and {len(self) - NOTEBOOK_DRAWINGS:,} more drawings</p>" if len(self) > NOTEBOOK_DRAWINGS else ""
        return f'<div style="display:flex;flex-wrap:wrap;gap:12px">{"".join(figures)}</div>{more}'


def figure(picture: Image.Image | list[Image.Image], drawing: Drawing, seeds: Sequence[int]) -> str:
    """Return an HTML figure of a picture, or of the frames of an animation, with caption, model and seeds of a drawing."""
    if isinstance(picture, Image.Image):
        still, source = picture, data_uri(png_bytes(picture, drawing.provenance), "png")
    else:
        still, source = picture[-1], data_uri(gif_bytes(picture), "gif")
    caption = html.escape(drawing.caption or "no caption")
    numbers = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"
    return (
        f'<figure style="margin:0;display:inline-block;grid-area:1/1"><img width="{still.width * tile_scale(still)}" '
        f'style="image-rendering:pixelated" alt="{caption}" src="{source}"><figcaption>{caption}<br>'
        f"<small>{html.escape(drawing.model)}, {numbers}</small></figcaption></figure>"
    )


def _are_samples(drawings: Sequence[Drawing]) -> bool:
    try:
        check_samples(drawings)
    except ValueError:
        return False
    return True


def check_samples(drawings: Sequence[Drawing]) -> None:
    """Check that drawings are samples of one caption by one model.

    Raises:
        ValueError: there are no drawings, or they differ in caption, model or shapes.
    """
    if not drawings:
        raise ValueError("expected at least one drawing, got none")
    first = drawings[0]
    for name in ("caption", "words", "model"):
        values = list(dict.fromkeys(getattr(drawing, name) for drawing in drawings))
        if len(values) > 1:
            raise ValueError(f"expected samples of one caption by one model, got {name} {values[0]!r} and {values[1]!r}")
    for drawing in drawings:
        if drawing.canvases.shape != first.canvases.shape:
            raise ValueError(f"expected canvases of one shape, got {list(first.canvases.shape)} and {list(drawing.canvases.shape)}")
        if (drawing.attention is None) != (first.attention is None):
            raise ValueError("expected attention in all drawings or in none")
        for name in ("stages", "maps"):
            shapes = [[list(array.shape) for array in getattr(each, name)] for each in (first, drawing)]
            if shapes[0] != shapes[1]:
                raise ValueError(f"expected {name} of one shape, got {shapes[0]} and {shapes[1]}")
