"""Figures of word attention."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cap2im.rendering.attention import attended_words, attention_columns, attention_figure, most_attended
from cap2im.rendering.figure import Figure
from tests.rendering.samples import blobs, growing_blob, staged


def test_figure_shows_the_attention() -> None:
    blob = growing_blob()
    assert blob.attention is not None
    moved = dataclasses.replace(blob, attention=blob.attention[::-1])
    one, other = (np.asarray(attention_figure([b])).astype(int) for b in (blob, moved))
    changed = np.argwhere(abs(one - other).sum(axis=2) > 0)
    assert one.shape == other.shape
    top, left = changed.min(axis=0)
    bottom, right = changed.max(axis=0)
    assert bottom - top > 0.9 * 6 * 24  # the whole heat map: six words of 24 points
    assert right - left > 0.9 * 832
    # Attention moves from the first word to the last: the darkest cells go down from left to right.
    heat = one[top:bottom, left:right].sum(axis=2)
    first, last = heat[:, : heat.shape[1] // 12], heat[:, -heat.shape[1] // 12 :]
    assert first.mean(axis=1).argmin() < heat.shape[0] / 6 < heat.shape[0] * 5 / 6 < last.mean(axis=1).argmin()


def test_figure_shows_even_attention_pale() -> None:
    blob = growing_blob()
    even = dataclasses.replace(blob, attention=np.full((12, 6), 1 / 6))
    darkest = [np.asarray(attention_figure([b]).crop((100, 210, 900, 345)).convert("L")).min() for b in (blob, even)]
    assert darkest[0] < 90
    assert darkest[1] > 150


@pytest.mark.parametrize("options", [{"glimpses": 1}, {"glimpses": 64, "colours": 3}, {"caption": "x" * 300 + " a" * 40}, {"side": 400}])
def test_figure_takes_every_size(options: dict[str, object]) -> None:
    one, two = attention_figure(blobs(1, **options)), attention_figure(blobs(2, **options))
    assert one.width == two.width < 1500
    assert two.height > 1.5 * one.height


def test_figure_names_the_sizes_of_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = []
    monkeypatch.setattr(Figure, "text", lambda self, x, y, text, *_: texts.append(text))
    attention_figure([staged()])
    assert texts.index("8") < texts.index("size")
    assert {"16", "32"} <= set(texts)
    assert "glimpse" not in texts


def test_figure_needs_attention() -> None:
    with pytest.raises(ValueError, match="blob: its drawings have no word attention"):
        attention_figure(blobs(1, reads=False))


# Pictures beside their plots


def test_words_are_ordered_by_mean_attention() -> None:
    blob = dataclasses.replace(
        growing_blob(caption="a red bus", glimpses=2), attention=np.array([[0.1, 0.7, 0.2], [0.3, 0.5, 0.2]]), boxes=None
    )
    labels, means = zip(*most_attended(blob), strict=True)
    assert labels == ("red (2)", "a (1)", "bus (3)")
    assert means == pytest.approx([0.6, 0.2, 0.2])
    with pytest.raises(ValueError, match="blob: its drawings have no word attention"):
        attended_words(blobs(1, reads=False))


def test_bars_are_as_long_as_the_mean_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    bars = []
    monkeypatch.setattr(Figure, "bar", lambda self, x, y, width, *_: bars.append((y, width)))
    blob = growing_blob()
    attended_words([blob])
    assert [y for y, _ in bars] == sorted(y for y, _ in bars)
    means = [mean for _, mean in most_attended(blob)]
    assert np.array([width for _, width in bars]) / bars[0][1] == pytest.approx(np.array(means) / means[0])


@pytest.mark.parametrize("caption", ["two words", "many words " * 20, "x" * 300])
def test_plots_take_any_caption(caption: str) -> None:
    drawings = blobs(3, caption=caption)
    left, right = attended_words(drawings), attention_columns([("seen", drawings), ("hidden", drawings[:1])])
    for figure in (left, right):
        assert np.asarray(figure).std() > 5
        assert max(figure.size) < 6000


@pytest.mark.parametrize("width", [0, 0.2, 0.3, 0.49, 0.5, 1])  # 0.3 points are 0.6 pixels
def test_bar_of_a_pixel_or_more_is_drawn(width: float) -> None:
    figure = Figure(10, 4, scale=2)
    figure.bar(3, 1, width, 1, (0, 0, 0))
    assert (np.asarray(figure.picture).min() == 0) == (width >= 0.5)
