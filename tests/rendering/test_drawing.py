"""Drawings and the files made of them."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cap2im.rendering import drawing as module
from cap2im.rendering.drawing import Drawing, attention_figure, gif, grid, maps_figure, page, page_data, save_all, save_gif, save_page, slug

CAPTION = "the digit 3 is here ."


def growing_blob(
    *, seed: int = 7, glimpses: int = 12, side: int = 20, colours: int = 1, caption: str = CAPTION, reads: bool = True, writes: bool = True
) -> Drawing:
    """A soft disc that grows around a point that the seed decides, while the reading moves from the first word to the last."""
    words = tuple(caption.split())
    rows, columns = np.mgrid[:side, :side]
    x, y = side * (0.3 + 0.1 * (seed % 4)), side * 0.5
    distance = np.hypot(columns + 0.5 - x, rows + 0.5 - y)
    times = np.arange(1, glimpses + 1)[:, None, None]
    grey = 255 / (1 + np.exp(distance - 0.4 * side * times / glimpses))  # [T, H, W]
    canvases = np.stack([grey * (1 - 0.3 * c) for c in range(colours)], axis=-1).astype(np.uint8)
    centres = np.linspace(0, len(words) - 1, glimpses)[:, None]
    attention = np.exp(-((np.arange(len(words)) - centres) ** 2))  # [T, L]
    attention /= attention.sum(axis=1, keepdims=True)
    radius = 0.6 * side * times[:, 0, 0] / glimpses
    boxes = np.stack([x - radius, y - radius, x + radius, y + radius], axis=1)
    return Drawing(caption, words, seed, "blob", canvases, attention if reads else None, boxes if writes else None)


def blobs(count: int = 4, **options: object) -> list[Drawing]:
    return [growing_blob(seed=7 + n, **options) for n in range(count)]  # type: ignore[arg-type]


def staged(*, seed: int = 7, side: int = 32, colours: int = 3, caption: str = CAPTION) -> Drawing:
    """A disc in three sizes; the last two read the words, each at a row of its own, and there as much as the word's place says."""
    last = growing_blob(seed=seed, glimpses=1, side=side, colours=colours, caption=caption).canvases[0]
    stages = tuple(last[:: 2**k, :: 2**k] for k in (2, 1, 0))
    canvases = np.stack([stage.repeat(2**k, axis=0).repeat(2**k, axis=1) for k, stage in zip((2, 1, 0), stages, strict=True)])
    words = tuple(caption.split())
    maps = []
    for a in (side // 4, side // 2):
        rows = np.arange(a)[:, None] * len(words) // a  # the word that is read at a row
        weights = np.where(np.arange(len(words))[:, None, None] == rows, 0.4 + 0.1 * np.arange(len(words))[:, None, None], 0.0)
        maps.append((weights / weights.sum(axis=0).clip(1)).repeat(a, axis=2).astype(np.float32))
    attention = np.stack([np.full(len(words), 1 / len(words)), *(each.mean(axis=(1, 2)) for each in maps)])
    return Drawing(caption, words, seed, "stages", canvases, attention, stages=stages, maps=tuple(maps))


# Drawing


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"canvases": np.zeros((3, 8, 8), np.uint8)}, r"canvases: expected \[T, H, W, C\].*got \[3, 8, 8\]"),
        ({"canvases": np.zeros((0, 8, 8, 1), np.uint8)}, "canvases: expected"),
        ({"canvases": np.zeros((3, 8, 8, 2), np.uint8)}, "canvases: expected"),
        ({"canvases": np.zeros((3, 8, 8, 1), np.float32)}, "canvases: expected uint8, got float32"),
        ({"attention": np.full((3, 2), 0.5)}, r"attention: expected shape \[12, 6\].*got \[3, 2\]"),
        ({"words": ()}, r"attention: expected shape \[12, 0\] with at least one column"),
        ({"attention": np.full((12, 6), -0.1)}, "attention: expected weights >= 0, got -0.1"),
        ({"attention": np.full((12, 6), np.nan)}, "attention: not all values are finite"),
        ({"boxes": np.zeros((12, 5))}, r"boxes: expected shape \[12, 4\].*got \[12, 5\]"),
        ({"boxes": np.full((12, 4), np.inf)}, "boxes: not all values are finite"),
        ({"stages": (np.zeros((4, 4, 3), np.uint8),)}, r"stages: expected uint8 \[h, w, 1\], got uint8 \[4, 4, 3\]"),
        ({"stages": (np.zeros((4, 4, 1)),)}, r"stages: expected uint8 \[h, w, 1\], got float64 \[4, 4, 1\]"),
        ({"stages": (np.zeros((4, 4, 1), np.uint8),) * 13}, "stages: expected at most one for each of 12 canvases, got 13"),
        ({"maps": (np.zeros((6, 4, 4)),)}, "maps: expected stages that were drawn by them, got none"),
    ],
)
def test_drawing_refuses_arrays_that_do_not_fit(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(growing_blob(), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (np.zeros((5, 4, 4)), r"maps: expected \[6, h, w\], got \[5, 4, 4\]"),
        (np.zeros((6, 4)), r"maps: expected \[6, h, w\], got \[6, 4\]"),
        (np.full((6, 4, 4), -0.1), "maps: expected finite weights >= 0"),
        (np.full((6, 4, 4), np.nan), "maps: expected finite weights >= 0"),
    ],
)
def test_drawing_refuses_maps_that_do_not_fit(maps: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(staged(), maps=(maps,))


def test_maps_belong_to_the_last_stages() -> None:
    drawing = staged()
    assert [(len(stage), maps.shape) for stage, maps in drawing.mapped] == [(16, (6, 8, 8)), (32, (6, 16, 16))]
    assert growing_blob().mapped == []
    (one, first), (other, second) = last_stage_alone().mapped
    assert (one is other, first.shape, second.shape) == (True, (6, 8, 8), (6, 16, 16))


def last_stage_alone() -> Drawing:
    """As of a model that reads words twice and shows one size."""
    drawing = staged()
    assert drawing.attention is not None
    return dataclasses.replace(drawing, canvases=drawing.canvases[2:], attention=drawing.attention[2:], stages=drawing.stages[2:])


@pytest.mark.parametrize(("colours", "mode"), [(1, "L"), (3, "RGB")])
def test_image_is_the_last_canvas(colours: int, mode: str) -> None:
    blob = growing_blob(colours=colours)
    assert blob.image.mode == mode
    np.testing.assert_array_equal(np.asarray(blob.image).reshape(20, 20, colours), blob.canvases[-1])


def test_frames_are_enlarged_without_blur() -> None:
    blob = growing_blob()
    frames = blob.frames(3)
    assert [frame.size for frame in frames] == [(60, 60)] * 12
    for frame, canvas in zip(frames, blob.canvases, strict=True):
        np.testing.assert_array_equal(np.asarray(frame)[..., :1], canvas.repeat(3, axis=0).repeat(3, axis=1))


def test_saved_picture_tells_where_it_comes_from(tmp_path: Path) -> None:
    blob = growing_blob(caption="ein Käfer 🐞")
    with Image.open(blob.save(tmp_path / "blob.png")) as picture:
        assert picture.text == {"caption": "ein Käfer 🐞", "seed": "7", "model": "blob"}  # type: ignore[attr-defined]
        np.testing.assert_array_equal(np.asarray(picture), blob.canvases[-1, :, :, 0])
    with pytest.raises(ValueError, match=r"saved as \.png, got .*blob\.jpg"):
        blob.save(tmp_path / "blob.jpg")


def test_notebook_shows_a_moving_picture_and_harmless_text() -> None:
    html = growing_blob(caption='<script>alert(1)</script>" onload=x', reads=False)._repr_html_()
    assert "data:image/gif;base64," in html
    assert "<script" not in html
    assert re.search(r'alt="[^"]*&quot; onload=x"', html)
    assert "data:image/png;base64," in growing_blob(glimpses=1)._repr_html_()
    assert growing_blob()._repr_png_().startswith(b"\x89PNG")


def test_import_needs_neither_torch_nor_matplotlib() -> None:
    code = "import sys, cap2im.rendering.drawing; print([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# Grid and GIF


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (3, 3, 1), (4, 2, 2), (5, 3, 2), (8, 4, 2), (9, 3, 3), (16, 4, 4)])
def test_grid_places_every_sample(count: int, columns: int, rows: int) -> None:
    drawings = blobs(count)
    whole = grid(drawings)
    assert whole.size == (columns * 246 - 6, rows * 246 - 6)  # 20 pixels x 12, gaps of 6
    for index, blob in enumerate(drawings):
        left, top = index % columns * 246, index // columns * 246
        np.testing.assert_array_equal(np.asarray(whole)[top : top + 240 : 12, left : left + 240 : 12, :1], blob.canvases[-1])


def test_large_canvases_keep_their_size() -> None:
    assert grid(blobs(1, side=300)).size == (300, 300)


@pytest.mark.parametrize("colours", [1, 3])
def test_gif_shows_each_glimpse_and_pauses_on_the_last(tmp_path: Path, colours: int) -> None:
    drawings = blobs(4, colours=colours)
    with Image.open(save_gif(drawings, tmp_path / "blob.gif")) as gif:
        assert (gif.n_frames, gif.size) == (12, (486, 486))  # type: ignore[attr-defined]
        assert gif.info["loop"] == 0
        durations, frames = [], []
        for t in range(12):
            gif.seek(t)
            durations.append(gif.info["duration"])
            frames.append(np.asarray(gif.convert("RGB")).astype(int))
    assert durations == [270] * 11 + [2000]
    finished = np.asarray(grid(drawings)).astype(int)
    assert abs(frames[-1] - finished).max() <= (0 if colours == 1 else 24)  # a GIF holds 256 colours
    brightness = [frame.mean() for frame in frames]
    assert brightness == sorted(brightness)
    assert brightness[0] < brightness[-1]


def test_gif_of_many_pixels_is_enlarged_less(monkeypatch) -> None:
    drawings = blobs(4)
    whole = Image.open(io.BytesIO(gif(drawings)))
    pixels = sum(drawing.canvases[..., 0].size for drawing in drawings)
    monkeypatch.setattr("cap2im.rendering.drawing.MOST_GIF_PIXELS", 4 * pixels + 1)
    smaller = Image.open(io.BytesIO(gif(drawings)))
    side = 2 * 2 * drawings[0].image.width + 6
    assert (smaller.n_frames, smaller.size) == (12, (side, side))  # type: ignore[attr-defined]
    assert whole.size == (486, 486)
    monkeypatch.setattr("cap2im.rendering.drawing.MOST_GIF_PIXELS", 1)
    assert Image.open(io.BytesIO(gif(drawings))).n_frames == 12  # type: ignore[attr-defined]


def test_gif_outlines_the_written_window_until_the_picture_is_finished(tmp_path: Path) -> None:
    def orange(drawings: list[Drawing]) -> list[bool]:
        with Image.open(save_gif(drawings, tmp_path / "blob.gif")) as gif:
            frames = []
            for t in range(gif.n_frames):  # type: ignore[attr-defined]
                gif.seek(t)
                red, _, blue = np.moveaxis(np.asarray(gif.convert("RGB")).astype(int), -1, 0)
                frames.append(bool((red - blue > 100).any()))
        return frames

    assert orange(blobs(1)) == [True] * 11 + [False]
    assert orange(blobs(1, writes=False)) == [False] * 12


# The attention figure


def test_figure_shows_the_attention() -> None:
    blob = growing_blob()
    assert blob.attention is not None
    moved = dataclasses.replace(blob, attention=blob.attention[::-1])
    one, other = (np.asarray(attention_figure([b])).astype(int) for b in (blob, moved))
    changed = np.argwhere(abs(one - other).sum(axis=2) > 0)
    assert one.shape == other.shape
    top, left = changed.min(axis=0)
    bottom, right = changed.max(axis=0)
    assert bottom - top > 0.9 * 6 * 24 * 2  # the whole heat map: six words of 24 points
    assert right - left > 0.9 * 832 * 2
    # Reading moves from the first word to the last: the darkest cells go down from left to right.
    heat = one[top:bottom, left:right].sum(axis=2)
    first, last = heat[:, : heat.shape[1] // 12], heat[:, -heat.shape[1] // 12 :]
    assert first.mean(axis=1).argmin() < heat.shape[0] / 6 < heat.shape[0] * 5 / 6 < last.mean(axis=1).argmin()


def test_figure_shows_even_attention_pale() -> None:
    blob = growing_blob()
    even = dataclasses.replace(blob, attention=np.full((12, 6), 1 / 6))
    darkest = [np.asarray(attention_figure([b], scale=1).crop((100, 210, 900, 345)).convert("L")).min() for b in (blob, even)]
    assert darkest[0] < 90
    assert darkest[1] > 150


@pytest.mark.parametrize("options", [{"glimpses": 1}, {"glimpses": 64, "colours": 3}, {"caption": "x" * 300 + " a" * 40}, {"side": 400}])
def test_figure_takes_every_size(options: dict[str, object]) -> None:
    one, two = attention_figure(blobs(1, **options)), attention_figure(blobs(2, **options))
    assert one.width == two.width < 3000
    assert two.height > 1.5 * one.height


def test_figure_names_the_sizes_of_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = []
    monkeypatch.setattr(module._Plate, "text", lambda self, x, y, text, *_: texts.append(text))
    attention_figure([staged()])
    assert texts.index("8") < texts.index("size")
    assert {"16", "32"} <= set(texts)
    assert "glimpse" not in texts


# The figure of maps


@pytest.mark.parametrize("colours", [1, 3])
def test_maps_figure_tints_each_word_where_it_was_read(colours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pasted: list[tuple[Image.Image, float, float]] = []
    monkeypatch.setattr(module._Plate, "paste", lambda self, *picture_and_place: pasted.append(picture_and_place))
    drawing = staged(colours=colours)
    maps_figure(drawing, scale=1)
    for stage, (key, *tiles) in zip(drawing.stages[1:], (pasted[:8], pasted[8:]), strict=True):
        assert key[0].size == (256, 8)
        assert len({(x, y) for _, x, y in tiles}) == 7, "the picture and six words, each at a place of its own"
        pictures = [np.asarray(picture).astype(float) for picture, _, _ in tiles]
        assert all(picture.shape == (128, 128, 3) for picture in pictures)
        zoom = 128 // len(stage)
        np.testing.assert_array_equal(pictures[0], np.broadcast_to(stage.repeat(zoom, 0).repeat(zoom, 1), (128, 128, 3)))
        tints = [picture[..., 2] - picture[..., 0] for picture in pictures[1:]]
        # each word is read in a row of its own, the later the lower and the more
        assert np.allclose([tint.mean(axis=1).argmax() for tint in tints], [128 * (n + 0.5) / 6 for n in range(6)], atol=12)
        strengths = [tint.max() for tint in tints]
        assert strengths == sorted(strengths)
        assert tints[0][70:].max() == tints[5][:50].max() == 0, "grey where a word is not read"
        assert pictures[0].min() < 60 <= pictures[1][70:].min(), "and nowhere black, on which a tint is not seen"


def test_maps_figure_takes_long_captions_and_says_what_there_is_not() -> None:
    long = staged(caption="a caption with an extraordinarily-" + "long" * 20 + " word " + "and more " * 15)
    assert maps_figure(long).width == maps_figure(staged()).width
    assert maps_figure(long).height > 2 * maps_figure(staged()).height
    with pytest.raises(ValueError, match="blob does not say where it reads words"):
        maps_figure(growing_blob())


def test_figure_needs_attention() -> None:
    with pytest.raises(ValueError, match="blob does not attend to words"):
        attention_figure(blobs(1, reads=False))


# The page


def embedded(html: str) -> dict[str, object]:
    """What a browser takes for the JSON document: all up to the first end of a script."""
    start = html.index('id="drawings">') + len('id="drawings">')
    return json.loads(html[start : html.index("</script", start)])


@pytest.mark.parametrize("hostile", ["</script><img src=x onerror=alert(1)>", "<!-- <script>", "a & b &lt;", "\u2028 \ud800"])
def test_page_carries_any_caption_as_data(tmp_path: Path, hostile: str) -> None:
    html = save_page(blobs(2, caption=hostile), tmp_path / "blob.html").read_text(encoding="utf-8")
    assert hostile not in html.split('id="drawings">')[1].split("</script")[0] or not set(hostile) & set("<>&")
    assert embedded(html) == json.loads(json.dumps(page_data(blobs(2, caption=hostile))))
    assert embedded(html)["caption"] == hostile


@pytest.mark.parametrize(("colours", "glimpses", "side"), [(1, 1, 20), (3, 7, 20), (1, 20, 900)])
def test_sheet_holds_every_canvas(colours: int, glimpses: int, side: int) -> None:
    import base64
    import io

    (blob,) = blobs(1, colours=colours, glimpses=glimpses, side=side)
    (sample,) = page_data([blob])["samples"]
    with Image.open(io.BytesIO(base64.b64decode(sample["sheet"].split(",")[1]))) as sheet:
        assert sheet.height <= 8192
        for t, canvas in enumerate(blob.canvases):
            left, top = t % sample["columns"] * side, t // sample["columns"] * side
            tile = np.asarray(sheet.crop((left, top, left + side, top + side))).reshape(side, side, colours)
            np.testing.assert_array_equal(tile, canvas)


@pytest.mark.parametrize("columns", [1, 3])
def test_map_sheets_hold_every_word_s_map(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import base64
    import io

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
        for word, there in enumerate(weights):
            left, top = word % entry["columns"] * side, word // entry["columns"] * side
            np.testing.assert_allclose(alpha[top : top + side, left : left + side], there, atol=0.003)
    assert sample["maps"][1]["columns"] == columns
    even = dataclasses.replace(drawing, maps=tuple(np.full_like(weights, 1 / 6) for weights in drawing.maps))
    assert [entry["full"] for entry in page_data([even])["samples"][0]["maps"]] == [0.5, 0.5], "even attention is pale"


def test_page_of_the_papers_size_stays_small() -> None:
    noise = np.random.default_rng(0).integers(0, 12, (32, 60, 60, 1))  # a drawing changes everywhere a little, which compresses badly
    drawings = [
        dataclasses.replace(blob, canvases=(blob.canvases // 2 + noise).astype(np.uint8)) for blob in blobs(4, glimpses=32, side=60)
    ]
    assert len(page(drawings)) < 600_000


def test_page_fetches_nothing() -> None:
    html = page(blobs(1))
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", html)
    assert "http://" not in html
    assert "https://" not in html


# All files of a caption


def test_save_all_writes_every_file(tmp_path: Path) -> None:
    saved = save_all(blobs(4), tmp_path / "new" / "folder")
    names = ["sample-1.png", "sample-2.png", "sample-3.png", "sample-4.png", "grid.png", "drawing.gif", "attention.png", "drawing.html"]
    assert [path.name for path in saved.paths] == names
    assert sorted(path.name for path in saved.page.parent.iterdir()) == sorted(names)
    for path in saved.paths[:-1]:
        with Image.open(path) as picture:
            picture.load()
    for path in (*saved.samples, saved.grid, saved.attention):
        with Image.open(path) as picture:  # type: ignore[arg-type]
            assert picture.text["caption"] == CAPTION  # type: ignore[attr-defined]


def test_save_all_leaves_out_what_there_is_not(tmp_path: Path) -> None:
    saved = save_all([growing_blob(glimpses=1, caption="", reads=False, writes=False)], tmp_path)
    assert (saved.gif, saved.attention) == (None, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drawing.html", "grid.png", "sample-1.png"]


def test_save_all_writes_the_sizes_and_maps_of_stages(tmp_path: Path) -> None:
    drawings = [staged(seed=seed) for seed in range(5)]
    saved = save_all(drawings, tmp_path)
    assert [path.name for path in saved.stages[:2]] == ["sample-1-8.png", "sample-1-16.png"]
    assert len(saved.stages) == 10
    assert [path.name for path in saved.maps] == [f"maps-{n}.png" for n in range(1, 5)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in saved.paths)
    alone = save_all([last_stage_alone()], tmp_path / "alone")
    assert sorted(path.name for path in alone.paths) == ["attention.png", "drawing.html", "grid.png", "maps-1.png", "sample-1.png"]
    with Image.open(saved.stages[-1]) as picture:
        assert picture.text == {"caption": CAPTION, "seed": "4", "model": "stages"}  # type: ignore[attr-defined]
        np.testing.assert_array_equal(np.asarray(picture), drawings[4].stages[1])


def test_files_are_the_same_every_time(tmp_path: Path) -> None:
    one, two = (save_all(blobs(3, colours=3), tmp_path / name).paths for name in "ab")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=re.escape(str(tmp_path / "file"))):
        save_all(blobs(1), tmp_path / "file")
    with pytest.raises(OSError, match=re.escape(str(tmp_path / "missing" / "blob.png"))):
        growing_blob().save(tmp_path / "missing" / "blob.png")


def test_full_disk_names_the_file_and_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = growing_blob().save(tmp_path / "blob.png")
    before = path.read_bytes()

    def full(self: Path, content: bytes) -> None:
        with self.open("wb") as stream:
            stream.write(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"No space left on device\): .*blob\.png'") as caught:
        growing_blob(seed=8).save(path)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("drawings", "message"),
    [
        ([], "no drawings to show"),
        ([growing_blob(), growing_blob(caption="another")], "got caption 'the digit 3 is here .' and 'another'"),
        ([growing_blob(), dataclasses.replace(growing_blob(), model="other")], "got model 'blob' and 'other'"),
        ([growing_blob(), growing_blob(glimpses=3)], r"one shape, got \[12, 20, 20, 1\] and \[3, 20, 20, 1\]"),
        ([growing_blob(), growing_blob(reads=False)], "expected attention in all drawings or in none"),
        ([staged(), dataclasses.replace(staged(), maps=())], r"expected maps of one shape, got \[\[6, 8, 8\], .* and \[\]"),
        ([staged(), dataclasses.replace(staged(), maps=(), stages=())], r"expected stages of one shape, got \[\[8, 8, 3\], .* and \[\]"),
    ],
)
@pytest.mark.parametrize("show", [grid, attention_figure, page_data])
def test_only_samples_of_one_caption_are_shown_together(drawings: list[Drawing], message: str, show: object) -> None:
    with pytest.raises(ValueError, match=message):
        show(drawings)  # type: ignore[operator]


# Names of folders


@pytest.mark.parametrize(
    ("caption", "name"),
    [
        ("the digit 3 is at the top of the digit 1 .", "the-digit-3-is-at-the-top-of-the-digit-1"),
        ("  A  Stop Sign.", "a-stop-sign"),
        ("", "no-caption"),
    ],
)
def test_slug_of_plain_captions_is_plain(caption: str, name: str) -> None:
    assert slug(caption) == name


@pytest.mark.parametrize(
    "caption", ["../../etc/passwd", "con", "猫", "é", "e", "a/b", "a b?", "a b!", "a" * 500, "a " * 500, "...", "-", "\ud800"]
)
def test_slug_is_safe_and_tells_captions_apart(caption: str) -> None:
    name = slug(caption)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,58}[a-z0-9])?", name)
    assert name not in module.RESERVED_NAMES
    assert slug(caption) == name != slug(caption + " x")
    assert name != slug(caption + "?")
