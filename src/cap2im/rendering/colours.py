"""Colours of figures and pages, and the scales that show attention."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]

PAPER: Colour = (255, 255, 255)
INK: Colour = (24, 24, 32)
MUTED: Colour = (112, 112, 128)
WRITE: Colour = (240, 90, 40)  # write window; viewer.css uses the same two hues
TINT: Colour = (79, 70, 229)  # attention over a picture
HEAT: tuple[Colour, ...] = ((243, 243, 249), (150, 152, 240), (50, 44, 138))  # attention from none to the full colour
TINT_STRENGTH = 0.85  # of the full tint over a picture
GREY = 128.0  # level under the tint in a map's key


def full_colour_weight(largest: float, words: int) -> float:
    """Return the attention weight of the full colour: the largest weight, or more where attention is nearly uniform, to keep it pale."""
    return max(largest, min(1.0, 3 / words))


def heat_colours(fractions: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return heat-map colours [..., 3] of fractions [...] of the full colour."""
    stops = np.linspace(0, 1, len(HEAT))
    channels = [np.interp(fractions, stops, [colour[c] for colour in HEAT]) for c in range(3)]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


def tinted(grey: NDArray[np.floating], fractions: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return colours [..., 3] of grey levels [...] tinted by fractions [...] of the full tint."""
    strength = TINT_STRENGTH * np.clip(fractions, 0, 1)[..., None]
    colours: NDArray[np.uint8] = np.round((1 - strength) * grey[..., None] + strength * np.array(TINT)).astype(np.uint8)
    return colours
