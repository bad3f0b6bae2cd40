"""A drawing: one picture drawn from one caption, and the ways to look at it.

`Drawing` holds what a model did, step by step, whatever the model. The functions take the samples of one caption and make a grid, an
animated GIF, the figure of the words' attention over time (alignDRAW, arXiv:1511.02793, figure 6), that of where each word was read
(AttnGAN, arXiv:1711.10485, figure 4) and a page on which one can scrub.

Shapes: T glimpses (1 for a model that does not draw in steps), L words, H W canvas, C colours (1 or 3).
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, SupportsIndex, get_args, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from cap2im.files import RESERVED_NAMES, write_atomically

Colour = tuple[int, int, int]

PAPER: Colour = (255, 255, 255)
INK: Colour = (24, 24, 32)
MUTED: Colour = (112, 112, 128)
WRITING: Colour = (240, 90, 40)  # the window that is written; the page uses the same two hues
GREY, GREY_FLOOR = 128.0, 60.0  # of the key to maps; of black in pictures that are tinted, for a tint on black is hard to see
TINT = 0.85  # of the full colour over a picture
READING_TINT: Colour = (79, 70, 229)
READING: tuple[Colour, ...] = ((243, 243, 249), (150, 152, 240), (50, 44, 138))  # attention from none to most

TILE_SIDE = 240  # pixels that a small canvas is enlarged to, at most, in grids and GIFs
TILE_GAP = 6  # pixels between samples
PLAY_SECONDS = 3.2  # one run through the glimpses
PAUSE_MILLISECONDS = 2000  # on the finished picture
FIGURE_SAMPLES = 4  # in the attention figures of `save_all`: more make a tower that no viewer opens
MAP_TILES = 7  # in a row of the figure of maps
SHEET_HEIGHT = 8192  # pixels: browsers draw parts of taller images unreliably
SHOWN_DRAWINGS, MOVING_DRAWINGS = 48, 16  # of a list in a notebook: more make the notebook's file large
Part = Literal["png", "gif", "attention", "html"]
PARTS: tuple[Part, ...] = get_args(Part)
DATA_SLOT = '<script type="application/json" id="drawings">null</script>'


@dataclass(frozen=True, eq=False, repr=False)
class Drawing:
    """One picture drawn from one caption.

    Attributes:
        caption: as typed; empty for an unconditional model.
        words: the caption as the model read it, in words for people; empty for an unconditional model.
        seed: of the random numbers.
        model: its name.
        canvases: [T, H, W, C] uint8 after each glimpse, already through the sigmoid.
        attention: [T, L] weight of each word at each glimpse, or None.
        boxes: [T, 4] left, top, right, bottom of the window written at each glimpse, in pixels from the canvas' corner, or None; a box
            may reach over the canvas.
        stages: of a model that draws in rising sizes, its picture [h, w, C] uint8 in each size, small to large, of which `canvases` holds
            enlarged ones; empty of other models.
        maps: how much each word was read at each place, [L, h, w] with a sum of 1 over the words, each time that words were read; for the
            last stages, for the first ones may read none. Of a model that shows its last stage alone, all are of that one.

    Raises:
        ValueError: an array has another shape, type or range.
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
                raise ValueError(f"{name}: not all values are finite")
        if self.attention is not None and (self.attention < 0).any():
            raise ValueError(f"attention: expected weights >= 0, got {self.attention.min():g}")
        if len(self.stages) > shape[0]:
            raise ValueError(f"stages: expected at most one for each of {shape[0]} canvases, got {len(self.stages)}")
        for stage in self.stages:
            if stage.ndim != 3 or 0 in stage.shape or stage.shape[2] != shape[3] or stage.dtype != np.uint8:
                raise ValueError(f"stages: expected uint8 [h, w, {shape[3]}], got {stage.dtype} {list(stage.shape)}")
        if self.maps and not self.stages:
            raise ValueError("maps: expected stages that were drawn by them, got none")
        for weights in self.maps:
            if weights.ndim != 3 or 0 in weights.shape or len(weights) != len(self.words):
                raise ValueError(f"maps: expected [{len(self.words)}, h, w], got {list(weights.shape)}")
            if not (np.isfinite(weights).all() and (weights >= 0).all()):
                raise ValueError("maps: expected finite weights >= 0")

    @property
    def mapped(self) -> list[tuple[NDArray[np.uint8], NDArray[np.floating]]]:
        """The maps, each with the stage that it belongs to."""
        first = len(self.stages) - len(self.maps)
        return [(self.stages[max(0, first + index)], weights) for index, weights in enumerate(self.maps)]

    @property
    def glimpses(self) -> int:
        """T"""
        return len(self.canvases)

    @property
    def image(self) -> Image.Image:
        """The finished picture, H x W."""
        return _picture(self.canvases[-1])

    def frames(self, scale: int = 1) -> list[Image.Image]:
        """The canvas after each glimpse, every pixel enlarged to scale x scale."""
        return [_enlarge(_picture(canvas), scale) for canvas in self.canvases]

    def png(self, scale: int = 1) -> bytes:
        """The finished picture as PNG, every pixel enlarged to scale x scale; caption, seed and model travel inside as PNG text."""
        return _png(_squares(self.image, scale), self, optimize=False)

    def save(self, path: str | Path) -> Path:
        """Writes `png`.

        Raises:
            ValueError: the name does not end in .png.
            OSError: the file cannot be written.
        """
        if Path(path).suffix.lower() != ".png":
            raise ValueError(f"a drawing is saved as .png, got {path}")
        return _write(path, self.png())

    def __repr__(self) -> str:
        height, width = self.canvases.shape[1:3]
        return f"Drawing({self.caption!r}, seed={self.seed}, model={self.model!r}, {self.glimpses} glimpses of {width} x {height})"

    def _repr_png_(self) -> bytes:
        return _png(_enlarge(self.image, _zoom(self.image)), self)

    def _repr_html_(self) -> str:
        """For notebooks: the moving picture and its caption, without scripts, so that it also survives in an untrusted notebook."""
        return self._html(moving=True)

    def _html(self, moving: bool) -> str:
        content, kind = (_gif(self.frames()), "gif") if moving and self.glimpses > 1 else (_png(self.image, self), "png")
        width = self.image.width * _zoom(self.image)
        caption = html.escape(self.caption or "no caption")
        return (
            f'<figure style="margin:0;display:inline-block"><img width="{width}" style="image-rendering:pixelated" alt="{caption}" '
            f'src="{_data_uri(content, kind)}"><figcaption>{caption}<br><small>{html.escape(self.model)}, seed {self.seed}</small>'
            "</figcaption></figure>"
        )


class Drawings(list[Drawing]):
    """A list of drawings that shows its pictures in a notebook. A slice of it is one, too."""

    @overload
    def __getitem__(self, index: SupportsIndex) -> Drawing: ...
    @overload
    def __getitem__(self, index: slice) -> Drawings: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Drawing | Drawings:
        found = super().__getitem__(index)
        return Drawings(found) if isinstance(found, list) else found

    def _repr_html_(self) -> str:
        """For notebooks: the first drawings side by side, each moving where there are few, without scripts."""
        shown = [drawing._html(moving=len(self) <= MOVING_DRAWINGS) for drawing in self[:SHOWN_DRAWINGS]]
        more = f"<p>and {len(self) - SHOWN_DRAWINGS:,} more drawings</p>" if len(self) > SHOWN_DRAWINGS else ""
        return f'<div style="display:flex;flex-wrap:wrap;gap:12px">{"".join(shown)}</div>{more}'


@dataclass(frozen=True)
class SavedDrawing:
    """The files that `save_all` wrote; None or nothing where there was nothing to show or a kind was not asked for."""

    samples: tuple[Path, ...]
    stages: tuple[Path, ...]
    grid: Path | None
    gif: Path | None
    attention: Path | None
    maps: tuple[Path, ...]
    page: Path | None

    @property
    def paths(self) -> list[Path]:
        every = (*self.samples, *self.stages, self.grid, self.gif, self.attention, *self.maps, self.page)
        return [path for path in every if path is not None]


def grid(drawings: Sequence[Drawing]) -> Image.Image:
    """The finished pictures of one caption's samples side by side, small canvases enlarged."""
    _check_samples(drawings)
    return _tile([_enlarge(drawing.image, _zoom(drawing.image)) for drawing in drawings])


def save_gif(drawings: Sequence[Drawing], path: str | Path) -> Path:
    """Writes `gif`.

    Raises:
        ValueError: the drawings are not samples of one caption.
        OSError: the file cannot be written.
    """
    return _write(path, gif(drawings))


MOST_GIF_PIXELS = 2**26  # of all frames; where there would be more, canvases are enlarged less


def gif(drawings: Sequence[Drawing]) -> bytes:
    """The samples as they are drawn, in a grid: a frame a glimpse, the written window outlined, then a pause on the last.

    Raises:
        ValueError: the drawings are not samples of one caption.
    """
    _check_samples(drawings)
    pixels = sum(drawing.glimpses * drawing.image.width * drawing.image.height for drawing in drawings)
    zoom = max(1, min(_zoom(drawings[0].image), math.isqrt(MOST_GIF_PIXELS // pixels)))
    moving = [[_enlarge(_picture(drawing.canvases[t]), zoom) for drawing in drawings] for t in range(drawings[0].glimpses)]
    for t, tiles in enumerate(moving[:-1]):  # nothing lies over the finished pictures
        for drawing, tile in zip(drawings, tiles, strict=True):
            if drawing.boxes is not None:
                ImageDraw.Draw(tile).rectangle([round(zoom * float(edge)) for edge in drawing.boxes[t]], outline=WRITING, width=2)
    first = drawings[0]
    return _gif([_tile(tiles) for tiles in moving], json.dumps({"caption": first.caption, "seed": first.seed, "model": first.model}))


def save_page(drawings: Sequence[Drawing], path: str | Path) -> Path:
    """Writes `page` to one self-contained HTML file that needs no network.

    Raises:
        ValueError: the drawings are not samples of one caption.
        OSError: the file cannot be written.
    """
    return _write(path, page(drawings).encode())


def save_all(drawings: Sequence[Drawing], folder: str | Path, parts: Collection[Part] = PARTS) -> SavedDrawing:
    """Write the samples of one caption into a folder, in place of the drawing that the folder held before.

    Each file is replaced at once; files of the earlier drawing that the new one does not have are removed.

    Args:
        drawings: one or more, of one caption by one model.
        folder: is made if it is missing.
        parts: what to write. "png": sample-1.png ..., the finished pictures, and grid.png, all of them; of a model that draws in rising
            sizes its smaller pictures, too, in sample-1-64.png .... "gif": drawing.gif, where there is more than one glimpse.
            "attention": attention.png, of the first few samples, when the model attends to words, and maps-1.png ..., when it tells where
            it reads each word. "html": drawing.html, the page.

    Raises:
        ValueError: the drawings are not samples of one caption, or there is no such part.
        OSError: the folder or a file cannot be written; the error names it.
    """
    _check_samples(drawings)
    if unknown := [part for part in parts if part not in PARTS]:
        raise ValueError(f"no part {unknown[0]!r} of a drawing; there are {', '.join(PARTS)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    digits = len(str(len(drawings)))  # sample-01 ... sample-16, so that names sort
    numbered = [(f"{n:0{digits}}", drawing) for n, drawing in enumerate(drawings, 1)]
    png, attention = "png" in parts, "attention" in parts
    saved = SavedDrawing(
        samples=tuple(drawing.save(folder / f"sample-{n}.png") for n, drawing in numbered if png),
        stages=tuple(
            _write(folder / f"sample-{n}-{len(stage)}.png", _png(_picture(stage), drawing))
            for n, drawing in numbered
            for stage in drawing.stages[:-1]
            if png
        ),
        grid=_write(folder / "grid.png", _png(grid(drawings), drawings[0])) if png else None,
        gif=save_gif(drawings, folder / "drawing.gif") if drawings[0].glimpses > 1 and "gif" in parts else None,
        attention=(
            _write(folder / "attention.png", _png(attention_figure(drawings[:FIGURE_SAMPLES]), drawings[0]))
            if drawings[0].attention is not None and attention
            else None
        ),
        maps=tuple(
            _write(folder / f"maps-{n}.png", _png(maps_figure(drawing), drawing))
            for n, drawing in numbered[:FIGURE_SAMPLES]
            if drawing.maps and attention
        ),
        page=save_page(drawings, folder / "drawing.html") if "html" in parts else None,
    )
    for stale in set(_files_of_a_drawing(folder)).difference(saved.paths):
        stale.unlink()
    return saved


def _files_of_a_drawing(folder: Path) -> list[Path]:
    """Return the files in a folder that have the names `save_all` gives."""
    pattern = re.compile(r"(?:sample-\d+(?:-\d+)?|maps-\d+|grid|attention)\.png|drawing\.(?:gif|html)")
    return sorted(path for path in folder.glob("*.*") if pattern.fullmatch(path.name) and path.is_file())


def drawn_by(folder: Path) -> str | None:
    """Return the name of the model whose drawing lies in a folder: None where there is no drawing, "" where its files do not say."""
    files = _files_of_a_drawing(folder)
    for path in files:
        try:
            if path.suffix == ".html":
                found = re.search(rb'"model":("(?:[^"\\]|\\.)*")', path.read_bytes())
                name = None if found is None else json.loads(found[1])
            else:
                with Image.open(path) as picture:
                    name = json.loads(picture.info["comment"])["model"] if path.suffix == ".gif" else picture.info.get("model")
        except (OSError, ValueError, KeyError, TypeError, SyntaxError, RecursionError, Image.DecompressionBombError):  # not a file of ours
            continue
        if isinstance(name, str):
            return name
    return "" if files else None


def folder_for(caption: str, model: str, out: Path) -> Path:
    """Return the folder inside of `out` for a caption's drawing: never one that holds a drawing by another model, or is a file."""
    name = slug(caption)
    folder, number = out / name, 1
    while (folder.exists() and not folder.is_dir()) or drawn_by(folder) not in (None, model):
        folder = out / (f"{name}-by-{slug(model)}" if number == 1 else f"{name}-by-{slug(model)}-{number}")
        number += 1
    return folder


def slug(caption: str) -> str:
    """A short name for a caption's folder: lower-case ASCII letters, digits and hyphens, at most 60, safe on every file system.

    Captions that differ in more than case, spaces and a final full stop get different names: what the letters cannot tell, a hash does.
    """
    plain = " ".join(caption.lower().split()).removesuffix(".").rstrip()
    name = re.sub(r"[^a-z0-9]+", "-", unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()).strip("-")
    if not plain:
        return "no-caption"
    if name == plain.replace(" ", "-") and len(name) <= 60 and name not in RESERVED_NAMES:
        return name
    short = name if len(name) <= 53 else name[:53].rsplit("-", 1)[0]
    return f"{short}-{hashlib.sha256(plain.encode(errors='replace')).hexdigest()[:6]}".lstrip("-")


# The page


def page(drawings: Sequence[Drawing]) -> str:
    """One self-contained HTML page on which one chooses a sample and scrubs through its glimpses.

    Raises:
        ValueError: the drawings are not samples of one caption.
    """
    template = viewer_file("viewer.html")
    for name in ("viewer.css", "viewer.js"):
        template = template.replace(f"/* {name} */\n", viewer_file(name))
    assert template.count(DATA_SLOT) == 1
    content = json.dumps(page_data(drawings), separators=(",", ":"), allow_nan=False)
    for character in "<>&":  # so that no caption can end the element; JSON allows these characters only inside strings
        content = content.replace(character, f"\\u{ord(character):04x}")
    return template.replace(DATA_SLOT, DATA_SLOT.replace("null", content))


def viewer_file(name: str) -> str:
    """One of the viewer's files: viewer.css and viewer.js, which other pages can use, too, and the page viewer.html around them."""
    return resources.files("cap2im").joinpath("viewer", name).read_text(encoding="utf-8")


def page_data(drawings: Sequence[Drawing]) -> dict[str, Any]:
    """The JSON document that the viewer's `render` takes.

    caption, words, model, width, height, glimpses, sizes ([width, height] of each stage), and samples: each its seed, a PNG with all its
    canvases (`sheet`, a data URI; `columns` of them beside each other, row by row), attention [T][L] or null, boxes [T][4] or null, and
    maps, for each of the last stages: a PNG with a map for each word, in the same way, of `width` x `height`; what its alpha of 255 stands
    for is `full`, and `most` is the most that each word was read at any place.

    Raises:
        ValueError: the drawings are not samples of one caption.
    """
    _check_samples(drawings)
    first = drawings[0]
    height, width = first.canvases.shape[1:3]
    sheets = [canvases_png(drawing) for drawing in drawings]
    return {
        "caption": first.caption,
        "words": first.words,
        "model": first.model,
        "width": width,
        "height": height,
        "glimpses": first.glimpses,
        "sizes": [[stage.shape[1], stage.shape[0]] for stage in first.stages],
        "samples": [
            {
                "seed": drawing.seed,
                "columns": columns,
                "sheet": _data_uri(sheet, "png"),
                "attention": rounded_attention(drawing.attention),
                "boxes": rounded_boxes(drawing.boxes),
                "maps": [_map_sheet(weights) for weights in drawing.maps],
            }
            for drawing, (sheet, columns) in zip(drawings, sheets, strict=True)
        ],
    }


def canvases_png(drawing: Drawing) -> tuple[bytes, int]:
    """A PNG with all canvases of a drawing, row by row, and how many of them are beside each other."""
    # One column as long as it fits: PNG then finds what did not change from glimpse to glimpse.
    columns = math.ceil(drawing.glimpses / max(1, SHEET_HEIGHT // drawing.canvases.shape[1]))
    return _png(_picture(_sheet(drawing.canvases, columns))), columns


def rounded_attention(weights: NDArray[np.floating] | None) -> list[Any] | None:
    """Word weights [..., L] as JSON has them."""
    return None if weights is None else np.round(weights.astype(float), 4).tolist()


def rounded_boxes(boxes: NDArray[np.floating] | None) -> list[Any] | None:
    """Boxes [..., 4] in pixels as JSON has them."""
    return None if boxes is None else np.round(boxes.astype(float), 2).tolist()


def _map_sheet(weights: NDArray[np.floating]) -> dict[str, Any]:
    """The page's entry for the maps [L, h, w] of a stage; the sheet's colour is the page's."""
    words, height, width = weights.shape
    columns = math.ceil(words / max(1, SHEET_HEIGHT // height))
    full = _full_colour(float(weights.max()), words)
    alpha = np.round(weights * (255 / full)).astype(np.uint8)
    sheet = Image.fromarray(_sheet(np.stack([np.zeros_like(alpha), alpha], axis=-1), columns), "LA")
    return {
        "sheet": _data_uri(_png(sheet), "png"),
        "columns": columns,
        "width": width,
        "height": height,
        "full": round(full, 4),
        "most": np.round(weights.max(axis=(1, 2)).astype(float), 4).tolist(),
    }


def _full_colour(most: float, words: int) -> float:
    """The attention that has the full colour, of the most that there is: even attention shall look pale."""
    return max(most, min(1.0, 3 / words))


def _sheet(canvases: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """[rows * H, columns * W, C] of [T, H, W, C], row by row."""
    glimpses, height, width, colours = canvases.shape
    rows = math.ceil(glimpses / columns)
    full = np.concatenate([canvases, np.zeros((rows * columns - glimpses, height, width, colours), np.uint8)])
    return full.reshape(rows, columns, height, width, colours).swapaxes(1, 2).reshape(rows * height, columns * width, colours)


# The figure of attention over time


class _Plate:
    """A white sheet measured in points; one point is `scale` pixels."""

    def __init__(self, width: float, height: float, scale: int) -> None:
        self.scale = scale
        self.picture = Image.new("RGB", (round(width * scale), round(height * scale)), PAPER)
        self.pen = ImageDraw.Draw(self.picture)

    def text(self, x: float, y: float, text: str, size: float, colour: Colour = INK, anchor: str = "la") -> None:
        self.pen.text((x * self.scale, y * self.scale), text, colour, ImageFont.load_default(size * self.scale), anchor)

    def line(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        self.pen.line([x0 * self.scale, y0 * self.scale, x1 * self.scale, y1 * self.scale], colour, self.scale)

    def paste(self, picture: Image.Image, x: float, y: float) -> None:
        self.picture.paste(picture, (round(x * self.scale), round(y * self.scale)))

    def ramp(self, x: float, y: float, width: float, colours: NDArray[np.uint8], most: float) -> None:
        """The key to colours [N, 3] of no attention to the most."""
        self.paste(Image.fromarray(colours[None]).resize((round(width * self.scale), 8 * self.scale)), x, y)
        self.text(x, y + 14, "0", 13, MUTED)
        self.text(x + width / 2, y + 14, "attention", 13, MUTED, "ma")
        self.text(x + width, y + 14, f"{most:.2f}", 13, MUTED, "ra")


def attention_figure(drawings: Sequence[Drawing], scale: int = 2) -> Image.Image:
    """Word attention over time: for each sample its words against the glimpses, canvases above, the finished picture beside.

    A canvas stands above the glimpses since the canvas before it. All samples share one colour scale, which the figure shows.

    Args:
        scale: pixels per point; text is 15 points high.

    Raises:
        ValueError: the drawings are not samples of one caption, or their model does not attend to words.
    """
    _check_samples(drawings)
    first = drawings[0]
    weights = [drawing.attention for drawing in drawings if drawing.attention is not None]
    if not weights:
        raise ValueError(f"{first.model} does not attend to words: it has no attention to show")
    margin, row, picture_side, heat_width, gap = 36, 24, 300, 832, 28
    step = 1 if first.glimpses <= 10 else math.ceil(first.glimpses / 8)  # glimpses from one canvas of the strip to the next
    shown = range(first.glimpses - 1, step - 2, -step)
    column = heat_width / max(first.glimpses, 8)
    heat_width, heat_height = round(column * first.glimpses), row * len(first.words)
    top_weight = _full_colour(max(float(w.max()) for w in weights), len(first.words))

    body = ImageFont.load_default(15)
    labels = [_shorten(word, body, 180) for word in first.words]
    heat_x = margin + max(body.getlength(label) for label in labels) + 14
    side_x = heat_x + heat_width + gap
    width = side_x + picture_side + margin
    title = _wrap(first.caption, ImageFont.load_default(28), width - 2 * margin)
    strip_y: float = margin + 38 * len(title) + 42
    strip = [[_fit(_picture(drawing.canvases[t]), scale * min(96, step * column - 6)) for t in shown] for drawing in drawings]
    strip_height = strip[0][0].height / scale + 10
    panel = max(strip_height + heat_height + 44, picture_side + 72)
    plate = _Plate(width, strip_y + panel * len(drawings) + gap * (len(drawings) - 1) + margin - 12, scale)

    for number, text in enumerate(title):
        plate.text(margin, margin + 38 * number, text, 28)
    plate.text(margin, margin + 38 * len(title) + 6, f"Which words {first.model} reads while it draws", 15, MUTED)
    for drawing, attention, canvases in zip(drawings, weights, strip, strict=True):
        heat_y = strip_y + strip_height
        for t, canvas in zip(shown, canvases, strict=True):
            right = heat_x + (t + 1) * column
            plate.paste(canvas, right - 1 - canvas.width / scale, strip_y)
            plate.line(right - 1, heat_y - 10, right - 1, heat_y - 2, MUTED)
            plate.text(heat_x + (t + 0.5) * column, heat_y + heat_height + 8, _glimpse_name(drawing, t), 13, MUTED, "ma")
        cells = _heat_colours(attention.T / top_weight)  # [L, T, 3]
        plate.paste(Image.fromarray(cells).resize((heat_width * scale, heat_height * scale), Image.Resampling.NEAREST), heat_x, heat_y)
        for index, label in enumerate(labels):
            plate.text(heat_x - 14, heat_y + row * (index + 0.5), label, 15, INK, "rm")
            plate.line(heat_x, heat_y + row * (index + 1), heat_x + heat_width, heat_y + row * (index + 1), PAPER)
        for t in range(1, first.glimpses if column >= 8 else 0):
            plate.line(heat_x + t * column, heat_y, heat_x + t * column, heat_y + heat_height, PAPER)
        plate.text(heat_x + heat_width / 2, heat_y + heat_height + 28, "size" if drawing.stages else "glimpse", 13, MUTED, "ma")

        finished = _fit(drawing.image, scale * picture_side)
        plate.paste(finished, side_x, strip_y)
        y = strip_y + finished.height / scale + 12
        plate.text(side_x, y, f"Seed {drawing.seed}", 15)
        plate.ramp(side_x, y + 36, picture_side, _heat_colours(np.linspace(0, 1, picture_side)), top_weight)
        strip_y += panel + gap
    return plate.picture


def _glimpse_name(drawing: Drawing, t: int) -> str:
    """What a glimpse is called in figures: its number, or the size of the stage that it is."""
    return str(len(drawing.stages[t])) if t < len(drawing.stages) else str(t + 1)


# The figure of where words were read


def maps_figure(drawing: Drawing, scale: int = 2) -> Image.Image:
    """Where each word was read: each time that words were read the picture, then in grey for each word, tinted where it was read.

    The words of one time share one colour scale, which the figure shows.

    Args:
        scale: pixels per point; text is 15 points high.

    Raises:
        ValueError: the drawing has no maps.
    """
    if not drawing.maps:
        raise ValueError(f"{drawing.model} does not say where it reads words: it has no maps to show")
    margin, tile, gap, label, head = 36, 128, 12, 26, 64
    tiles = 1 + len(drawing.words)
    columns = min(MAP_TILES, tiles)
    rows = math.ceil(tiles / columns)
    width = max(columns * (tile + gap) - gap, 4 * tile) + 2 * margin
    title = _wrap(drawing.caption, ImageFont.load_default(28), width - 2 * margin)
    top: float = margin + 38 * len(title) + 40
    plate = _Plate(width, top + len(drawing.maps) * (head + rows * (tile + label + gap)) + margin - gap, scale)
    for number, text in enumerate(title):
        plate.text(margin, margin + 38 * number, text, 28)
    plate.text(margin, margin + 38 * len(title) + 6, f"Where {drawing.model} reads each word; seed {drawing.seed}", 15, MUTED)
    body = ImageFont.load_default(15)
    for stage, weights in drawing.mapped:
        height, across = stage.shape[:2]
        full = _full_colour(float(weights.max()), len(weights))
        plate.text(margin, top + 16, f"{across} x {height}, read at {weights.shape[2]} x {weights.shape[1]} places", 20)
        plate.ramp(width - margin - 2 * tile, top + 12, 2 * tile, _tinted(np.full(tile, GREY), np.linspace(0, 1, tile)), full)
        picture = _fit(_picture(stage), scale * tile)
        wide = picture.width / scale
        grey = GREY_FLOOR + np.asarray(picture.convert("L"), float) * (255 - GREY_FLOOR) / 255
        for index in range(tiles):
            x = margin + index % columns * (tile + gap)
            y = top + head + index // columns * (tile + label + gap)
            if index == 0:
                plate.paste(picture, x, y)
                continue
            spread = Image.fromarray(weights[index - 1].astype(np.float32)).resize(picture.size, Image.Resampling.BILINEAR)
            plate.paste(Image.fromarray(_tinted(grey, np.asarray(spread) / full)), x, y)
            share = f"{100 * weights[index - 1].max():.0f} %"
            plate.text(x, y + tile + 4, _shorten(drawing.words[index - 1], body, wide - body.getlength(share) - 8), 15)
            plate.text(x + wide, y + tile + 5, share, 13, MUTED, "ra")
        top += head + rows * (tile + label + gap)
    return plate.picture


def _tinted(grey: NDArray[np.floating], fractions: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Colours [..., 3] of grey levels [...], tinted by fractions [...] of the most attention."""
    strength = TINT * np.clip(fractions, 0, 1)[..., None]
    return np.round((1 - strength) * grey[..., None] + strength * np.array(READING_TINT)).astype(np.uint8)


def _heat_colours(fractions: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Colours [..., 3] of fractions [...] of the most attention."""
    stops = np.linspace(0, 1, len(READING))
    channels = [np.interp(fractions, stops, [colour[c] for colour in READING]) for c in range(3)]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def _wrap(text: str, font: Font, width: float) -> list[str]:
    """Lines of at most `width`, broken between words; at least one line."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            longer = word
            lines.append("")
        lines[-1] = _shorten(longer, font, width)
    return lines


def _shorten(text: str, font: Font, width: float) -> str:
    """The text, or its beginning and an ellipsis, no wider than `width`."""
    kept = len(text)
    while kept and font.getlength(text[:kept] + "…" * (kept < len(text))) > width:
        kept -= 1
    return text[:kept] + "…" * (kept < len(text))


# Pictures and files


def _check_samples(drawings: Sequence[Drawing]) -> None:
    """Raises ValueError unless the drawings are one or more samples of one caption by one model."""
    if not drawings:
        raise ValueError("no drawings to show")
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


def _picture(canvas: NDArray[np.uint8]) -> Image.Image:
    """A picture, grey or colour, of a canvas [H, W, C]."""
    return Image.fromarray(np.ascontiguousarray(canvas[..., 0] if canvas.shape[2] == 1 else canvas))


def canvas_uri(canvas: NDArray[np.uint8]) -> str:
    """A canvas [H, W, C] as a data URI of PNG, packed quickly rather than small: for pictures that are looked at for a moment."""
    stream = io.BytesIO()
    _picture(canvas).save(stream, "PNG", compress_level=1)
    return _data_uri(stream.getvalue(), "png")


def _zoom(picture: Image.Image) -> int:
    return max(1, TILE_SIDE // max(picture.size))


def _enlarge(picture: Image.Image, scale: int) -> Image.Image:
    """In RGB, so that colours can be drawn on it, every pixel scale x scale."""
    return _squares(picture.convert("RGB"), scale)


def _squares(picture: Image.Image, scale: int) -> Image.Image:
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST) if scale > 1 else picture


def _fit(picture: Image.Image, side: float) -> Image.Image:
    """The picture with its longer side at most `side` pixels: whole multiples where it is enlarged, so that its pixels stay even."""
    zoom = side / max(picture.size)
    if zoom >= 1:
        return _enlarge(picture, int(zoom))
    return picture.resize((max(1, round(picture.width * zoom)), max(1, round(picture.height * zoom))), Image.Resampling.LANCZOS)


def _tile(tiles: Sequence[Image.Image]) -> Image.Image:
    """Tiles of one size, in a grid with the fewest empty places among those that are at most about twice as wide as high."""
    count, side = len(tiles), math.ceil(math.sqrt(len(tiles)))
    wide = [columns for columns in range(side, 2 * side) if columns <= 2 * math.ceil(count / columns) + 1]
    columns = min(wide, key=lambda columns: (-count % columns, columns))
    rows = math.ceil(count / columns)
    width, height = tiles[0].width + TILE_GAP, tiles[0].height + TILE_GAP
    whole = Image.new("RGB", (columns * width - TILE_GAP, rows * height - TILE_GAP), PAPER)
    for index, tile in enumerate(tiles):
        whole.paste(tile, (index % columns * width, index // columns * height))
    return whole


def _png(picture: Image.Image, drawing: Drawing | None = None, optimize: bool = True) -> bytes:
    """The picture as PNG, with where it comes from as PNG text; not optimised it is a few percent larger, four times sooner."""
    info = PngImagePlugin.PngInfo()
    if drawing is not None:
        for key, value in (("caption", drawing.caption), ("seed", str(drawing.seed)), ("model", drawing.model)):
            info.add_text(key, value)
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=optimize, pnginfo=info)
    return stream.getvalue()


def _gif(frames: Sequence[Image.Image], comment: str = "") -> bytes:
    """The frames as an endless GIF that pauses on the last."""
    step = min(400, max(20, round(1000 * PLAY_SECONDS / len(frames) / 10) * 10))  # GIF counts hundredths of a second
    stream = io.BytesIO()
    durations = [step] * (len(frames) - 1) + [PAUSE_MILLISECONDS]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, comment=comment.encode())
    return stream.getvalue()


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _write(path: str | Path, content: bytes) -> Path:
    """Write a file whole or not at all; see `write_atomically` for errors."""
    write_atomically(Path(path), content)
    return Path(path)
