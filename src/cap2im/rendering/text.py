"""Fonts of figures, and text that fits a width."""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# fonts of common systems, for characters that Pillow's own font lacks
SYSTEM_FONTS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msyh.ttc")


@lru_cache(maxsize=64)
def _font(name: str, size: float) -> Font | None:
    """Load a system font, or Pillow's own for an empty name; None if it is not installed."""
    if not name:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


@lru_cache(maxsize=4096)
def _has_glyph(name: str, character: str) -> bool:
    font = _font(name, 16)
    return font is not None and bytes(font.getmask(character)) != bytes(font.getmask("\U0010ffff"))  # no font has this code point


def font_for(text: str, size: float) -> Font:
    """Return Pillow's default font, or the first system font that has all characters if the default font lacks one."""
    name = ""
    if not text.isascii():
        name = next((each for each in ("", *SYSTEM_FONTS) if all(_has_glyph(each, character) for character in set(text))), "")
    return _font(name, size) or ImageFont.load_default(size)


def text_width(text: str, size: float) -> float:
    """Return the width of a text in points."""
    return font_for(text, size).getlength(text)


def wrap(text: str, size: float, width: float, lines: int | None = None) -> list[str]:
    """Break a text between words into lines of at most `width` points.

    Args:
        text: any text; a word wider than a line is cut with an ellipsis.
        size: of the font, in points.
        width: in points.
        lines: the largest number of lines; a longer text ends in an ellipsis.

    Returns:
        One line or more.
    """
    wrapped = [""]
    words = text.split()
    for index, word in enumerate(words):
        longer = f"{wrapped[-1]} {word}".strip()
        if wrapped[-1] and text_width(longer, size) > width:
            if len(wrapped) == lines:
                wrapped[-1] = shorten(" ".join([wrapped[-1], *words[index:]]), size, width)
                return wrapped
            longer = word
            wrapped.append("")
        wrapped[-1] = shorten(longer, size, width)
    return wrapped


def shorten(text: str, size: float, width: float) -> str:
    """Cut a text to at most `width` points; a cut text ends in an ellipsis."""
    if text_width(text, size) <= width:
        return text
    kept = bisect_right(range(len(text)), width, key=lambda count: text_width(f"{text[:count]}…", size))
    return f"{text[: max(0, kept - 1)]}…"
