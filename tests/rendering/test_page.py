"""The interactive page as a document; `test_viewer` opens it in a browser."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from cap2im.rendering import page as module
from cap2im.rendering.page import page, page_data
from tests.rendering.samples import blobs, staged


def embedded(html: str) -> dict[str, object]:
    """Return the JSON document as a browser reads it: up to the first end of a script."""
    start = html.index('id="drawings">') + len('id="drawings">')
    return json.loads(html[start : html.index("</script", start)])


@pytest.mark.parametrize("hostile", ["</script><img src=x onerror=alert(1)>", "<!-- <script>", "a & b &lt;", "\u2028 \ud800"])
def test_page_embeds_any_caption_as_data(hostile: str) -> None:
    html = page(blobs(2, caption=hostile))
    assert hostile not in html.split('id="drawings">')[1].split("</script")[0] or not set(hostile) & set("<>&")
    assert embedded(html) == json.loads(json.dumps(page_data(blobs(2, caption=hostile))))
    assert embedded(html)["caption"] == hostile


@pytest.mark.parametrize(("colours", "glimpses", "side"), [(1, 1, 20), (3, 7, 20), (1, 20, 900)])
def test_sheet_holds_every_canvas(colours: int, glimpses: int, side: int) -> None:
    (blob,) = blobs(1, colours=colours, glimpses=glimpses, side=side)
    (sample,) = page_data([blob])["samples"]
    with Image.open(io.BytesIO(base64.b64decode(sample["sheet"].split(",")[1]))) as sheet:
        assert sheet.height <= 8192
        for t, canvas in enumerate(blob.canvases):
            left, top = t % sample["columns"] * side, t // sample["columns"] * side
            tile = np.asarray(sheet.crop((left, top, left + side, top + side))).reshape(side, side, colours)
            np.testing.assert_array_equal(tile, canvas)


@pytest.mark.parametrize("columns", [1, 3])
def test_map_sheets_hold_the_map_of_every_word(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHEET_HEIGHT", 8192 if columns == 1 else 32)
    drawing = staged()
    data = page_data([drawing])
    assert data["sizes"] == [[8, 8], [16, 16], [32, 32]]
    (sample,) = data["samples"]
    assert len(sample["maps"]) == 2
    for entry, weights in zip(sample["maps"], drawing.maps, strict=True):
        side = weights.shape[1]
        assert (entry["width"], entry["height"]) == (side, side)
        assert entry["full"] == pytest.approx(weights.max(), abs=1e-4)
        assert entry["most"] == pytest.approx(weights.max(axis=(1, 2)).tolist(), abs=1e-4)
        with Image.open(io.BytesIO(base64.b64decode(entry["sheet"].split(",")[1]))) as sheet:
            alpha = np.asarray(sheet.getchannel("A"), float) / 255 * entry["full"]
        for word, expected in enumerate(weights):
            left, top = word % entry["columns"] * side, word // entry["columns"] * side
            np.testing.assert_allclose(alpha[top : top + side, left : left + side], expected, atol=0.003)
    assert sample["maps"][1]["columns"] == columns
    even = dataclasses.replace(drawing, maps=tuple(np.full_like(weights, 1 / 6) for weights in drawing.maps))
    assert [entry["full"] for entry in page_data([even])["samples"][0]["maps"]] == [0.5, 0.5], "even attention is pale"


def test_page_of_the_papers_size_stays_small() -> None:
    noise = np.random.default_rng(0).integers(0, 12, (32, 60, 60, 1))  # small changes everywhere compress badly
    drawings = [
        dataclasses.replace(blob, canvases=(blob.canvases // 2 + noise).astype(np.uint8)) for blob in blobs(4, glimpses=32, side=60)
    ]
    assert len(page(drawings)) < 600_000


def test_page_fetches_nothing() -> None:
    html = page(blobs(1))
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", html)
    assert "http://" not in html
    assert "https://" not in html
