"""The interactive page of a drawing, and the data of its viewer.

Shapes: T glimpses, L words, H W canvas, C colours.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cap2im.rendering.colours import full_colour_weight
from cap2im.rendering.drawing import Drawing, check_samples
from cap2im.rendering.images import data_uri, picture_of, png_bytes

SHEET_HEIGHT = 8192  # pixels; browsers do not draw parts of taller images reliably
PAGE_FILES = ("index.html", "viewer.css", "viewer.js", "page.css", "refusal.js", "caption.js", "page.js")  # the page also needs an api.js
DATA_ELEMENT = '<script type="application/json" id="drawings">null</script>'


def page(drawings: Sequence[Drawing]) -> str:
    """Return a self-contained HTML page with a viewer of the samples; it needs no network.

    Raises:
        ValueError: the drawings are not samples of one caption.
    """
    content = json.dumps(page_data(drawings), separators=(",", ":"), allow_nan=False)
    for character in "<>&":  # a caption must not end the element; JSON has these characters in strings only
        content = content.replace(character, f"\\u{ord(character):04x}")
    return page_template().replace(DATA_ELEMENT, DATA_ELEMENT.replace("null", content))


def page_template() -> str:
    """Return the page without drawings: `DATA_ELEMENT` stands in the place of its data."""
    template = viewer_file("viewer.html")
    for name in ("viewer.css", "viewer.js"):
        template = template.replace(f"/* {name} */\n", viewer_file(name))
    assert template.count(DATA_ELEMENT) == 1
    return template


def files(drawings: Sequence[Drawing]) -> Iterator[tuple[str, bytes]]:
    """Yield the page."""
    yield "drawing.html", page(drawings).encode()


def viewer_file(name: str) -> str:
    """Return the text of a file of the folder `viewer`: viewer.html, or one of `PAGE_FILES`."""
    return resources.files("cap2im").joinpath("viewer", name).read_text(encoding="utf-8")


def page_data(drawings: Sequence[Drawing]) -> dict[str, Any]:
    """Return the JSON document that the viewer's `render` takes; viewer.js describes its fields.

    Raises:
        ValueError: the drawings are not samples of one caption.
    """
    check_samples(drawings)
    first = drawings[0]
    height, width = first.canvases.shape[1:3]
    sheets = [canvas_sheet(drawing) for drawing in drawings]
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
                "sheet": data_uri(sheet, "png"),
                "attention": rounded_attention(drawing.attention),
                "boxes": rounded_boxes(drawing.boxes),
                "maps": [_map_sheet(weights) for weights in drawing.maps],
            }
            for drawing, (sheet, columns) in zip(drawings, sheets, strict=True)
        ],
    }


def canvas_sheet(drawing: Drawing) -> tuple[bytes, int]:
    """Return a PNG with all canvases of a drawing, row by row, and its number of columns."""
    # PNG compresses one tall column best: neighbours in it differ by one glimpse
    columns = math.ceil(drawing.glimpses / max(1, SHEET_HEIGHT // drawing.canvases.shape[1]))
    return png_bytes(picture_of(_sheet(drawing.canvases, columns))), columns


def rounded_attention(weights: NDArray[np.floating] | None) -> list[Any] | None:
    """Round word weights [..., L] to nested lists for JSON."""
    return None if weights is None else np.round(weights.astype(float), 4).tolist()


def rounded_boxes(boxes: NDArray[np.floating] | None) -> list[Any] | None:
    """Round boxes [..., 4] in pixels to nested lists for JSON."""
    return None if boxes is None else np.round(boxes.astype(float), 2).tolist()


def _map_sheet(weights: NDArray[np.floating]) -> dict[str, Any]:
    """Return the viewer's entry of a map [L, h, w]: a PNG whose alpha is the attention, and its scale."""
    words, height, width = weights.shape
    columns = math.ceil(words / max(1, SHEET_HEIGHT // height))
    full = full_colour_weight(float(weights.max()), words)
    alpha = np.round(weights * (255 / full)).astype(np.uint8)
    sheet = Image.fromarray(_sheet(np.stack([np.zeros_like(alpha), alpha], axis=-1), columns), "LA")
    return {
        "sheet": data_uri(png_bytes(sheet), "png"),
        "columns": columns,
        "width": width,
        "height": height,
        "full": round(full, 4),
        "most": np.round(weights.max(axis=(1, 2)).astype(float), 4).tolist(),
    }


def _sheet(canvases: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """Arrange canvases [T, H, W, C] row by row as [rows * H, columns * W, C]."""
    glimpses, height, width, colours = canvases.shape
    rows = math.ceil(glimpses / columns)
    full = np.concatenate([canvases, np.zeros((rows * columns - glimpses, height, width, colours), np.uint8)])
    return full.reshape(rows, columns, height, width, colours).swapaxes(1, 2).reshape(rows * height, columns * width, colours)
