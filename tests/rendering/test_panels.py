"""Rows of pictures with titles."""

from __future__ import annotations

import numpy as np
import pytest

from cap2im.rendering.figure import Figure
from cap2im.rendering.panels import GAP, MARGIN, Panel, Row, panel_rows
from tests.rendering.samples import growing_blob


def plain(*colour: int) -> np.ndarray:
    return np.full((8, 8, len(colour)), colour, np.uint8)


def test_panels_stand_below_their_titles(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, pictures = {}, []
    monkeypatch.setattr(Figure, "text", lambda self, x, y, text, *_: texts.update({text: (x, y)}))
    monkeypatch.setattr(Figure, "paste", lambda self, picture, x, y: pictures.append((picture.getpixel((0, 0)), x, y)))
    rows = [Row([Panel(plain(0), "black"), Panel(plain(255), "white")], "grey"), Row([Panel(plain(255, 0, 0), "red")])]
    figure = panel_rows(rows, heading="all", side=64, scale=1)
    assert [colour for colour, _, _ in pictures] == [(0, 0, 0), (255, 255, 255), (255, 0, 0)]
    for title, (_, x, y) in zip(("black", "white", "red"), pictures, strict=True):
        assert texts[title][0] == x
        assert y - 40 < texts[title][1] < y
    (left, first), (right, second), (below, third) = [place[1:] for place in pictures]
    assert (left, right, below) == (MARGIN, MARGIN + 64 + GAP, MARGIN)
    assert first == second < third - 64
    assert texts["all"][1] < texts["grey"][1] < texts["black"][1]
    assert figure.size == (2 * MARGIN + 2 * 64 + GAP, third + 64 + MARGIN)


def test_pixels_of_panels_stay_square() -> None:
    figure = np.asarray(panel_rows([Row([Panel(growing_blob(side=60).canvases[-1])])], side=120, scale=2))
    tile = figure[-2 * MARGIN - 240 : -2 * MARGIN, 2 * MARGIN : 2 * MARGIN + 240]
    np.testing.assert_array_equal(tile[::4, ::4, :1], growing_blob(side=60).canvases[-1])


def test_long_titles_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = []
    monkeypatch.setattr(Figure, "text", lambda self, x, y, text, *_: texts.append(text))
    panel_rows([Row([Panel(plain(0), "word " * 300)], "heading " * 300)])
    assert sum(text.startswith("word") for text in texts) == 3
    assert texts[-1].endswith("…")
    assert sum(text.startswith("heading") for text in texts) == 2
