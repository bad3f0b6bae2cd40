"""The figure of attention maps."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cap2im.rendering.figure import Figure
from cap2im.rendering.maps import maps_figure
from tests.rendering.samples import growing_blob, staged


@pytest.mark.parametrize("colours", [1, 3])
def test_maps_figure_tints_each_word_at_its_places(colours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pasted: list[tuple[Image.Image, float, float]] = []
    monkeypatch.setattr(Figure, "paste", lambda self, *picture_and_place: pasted.append(picture_and_place))
    drawing = staged(colours=colours)
    maps_figure(drawing, scale=1)
    for stage, (key, *tiles) in zip(drawing.stages[1:], (pasted[:8], pasted[8:]), strict=True):
        assert key[0].size == (256, 8)
        assert len({(x, y) for _, x, y in tiles}) == 7, "the picture and six words, each in its own place"
        pictures = [np.asarray(picture).astype(float) for picture, _, _ in tiles]
        assert all(picture.shape == (128, 128, 3) for picture in pictures)
        zoom = 128 // len(stage)
        np.testing.assert_array_equal(pictures[0], np.broadcast_to(stage.repeat(zoom, 0).repeat(zoom, 1), (128, 128, 3)))
        tints = [picture[..., 2] - picture[..., 0] for picture in pictures[1:]]
        # each word has its own row, lower and with more attention for later words
        assert np.allclose([tint.mean(axis=1).argmax() for tint in tints], [128 * (n + 0.5) / 6 for n in range(6)], atol=12)
        strengths = [tint.max() for tint in tints]
        assert strengths == sorted(strengths)
        assert tints[0][70:].max() == tints[5][:50].max() == 0, "grey without attention"
        assert pictures[0].min() < 60 <= pictures[1][70:].min(), "a tint is invisible on black"


def test_maps_figure_wraps_long_captions_and_requires_maps() -> None:
    long = staged(caption="a caption with an extraordinarily-" + "long" * 20 + " word " + "and more " * 15)
    assert maps_figure(long).width == maps_figure(staged()).width
    assert maps_figure(long).height > 2 * maps_figure(staged()).height
    with pytest.raises(ValueError, match="blob: its drawings have no attention maps"):
        maps_figure(growing_blob())
