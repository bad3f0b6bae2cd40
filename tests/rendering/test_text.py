"""Text of figures."""

from __future__ import annotations

import pytest
from PIL import ImageFont

from cap2im.rendering.text import font_for, shorten, text_width, wrap


@pytest.mark.parametrize("text", ["", "a", "one two three " * 9, "x" * 99, "ein Käfer 🐞", "Красный автобус " * 9])
def test_lines_fit_the_width(text: str) -> None:
    lines = wrap(text, 15, 120)
    assert lines
    assert all(text_width(line, 15) <= 120 for line in lines)
    if "x" not in text:
        assert " ".join(lines) == " ".join(text.split())


def test_wrapping_stops_at_the_last_line() -> None:
    lines = wrap("one two three " * 9, 15, 120, lines=2)
    assert len(lines) == 2
    assert lines[1].endswith("…")
    assert wrap("one two", 15, 120, lines=2) == ["one two"]


def test_shortened_text_ends_in_an_ellipsis() -> None:
    assert shorten("short", 15, 120) == "short"
    assert shorten("long " * 20, 15, 120).startswith("long long")
    assert shorten("long " * 20, 15, 120).endswith("…")


def test_system_fonts_supply_missing_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    default = font_for("a red bus", 15).getname()
    cyrillic = font_for("Красный", 15)
    try:
        ImageFont.truetype("DejaVuSans.ttf", 15)
    except OSError:
        assert cyrillic.getname() == default
    else:
        assert cyrillic.getname()[0] == "DejaVu Sans"
    monkeypatch.setattr("cap2im.rendering.text.SYSTEM_FONTS", ())
    assert font_for("Красный", 15).getname() == default
