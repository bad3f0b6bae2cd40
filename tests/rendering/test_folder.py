"""The folder of a drawing and the files in it."""

from __future__ import annotations

import dataclasses
import errno
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cap2im.files import RESERVED_NAMES
from cap2im.rendering.attention import attention_figure
from cap2im.rendering.drawing import Drawing
from cap2im.rendering.folder import drawing_folder, drawing_model, save_drawings, slug
from cap2im.rendering.grid import grid
from cap2im.rendering.images import png_bytes
from cap2im.rendering.page import page_data
from cap2im.rendering.parts import PARTS, Part
from tests.rendering.samples import CAPTION, blobs, growing_blob, last_stage_alone, staged


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_every_part_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    paths = save_drawings(blobs(4), folder)
    assert {"sample-1.png", "sample-4.png", "grid.png", "drawing.gif", "attention.png", "drawing.html"} <= set(names(paths))
    written_by = [next(part for part, each in PARTS.items() if re.fullmatch(each.names, name)) for name in names(paths)]
    assert list(dict.fromkeys(written_by)) == list(PARTS)
    assert sorted(folder.iterdir()) == sorted(paths)
    for path in folder.glob("*.png"):
        with Image.open(path) as picture:
            picture.load()
            assert picture.text["caption"] == CAPTION  # type: ignore[attr-defined]


def test_parts_without_content_write_no_file(tmp_path: Path) -> None:
    paths = save_drawings([growing_blob(glimpses=1, caption="", reads=False, writes=False)], tmp_path)
    assert {"sample-1.png", "grid.png", "drawing.html"} <= set(names(paths))
    assert not {"drawing.gif", "attention.png"} & set(names(paths))
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_stages_and_maps_are_written(tmp_path: Path) -> None:
    drawings = [staged(seed=seed) for seed in range(5)]
    paths = save_drawings(drawings, tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    stages = [path for path in paths if path.name.count("-") == 2]
    assert names(stages) == [f"sample-{n}-{side}.png" for n in range(1, 6) for side in (8, 16)]
    assert [name for name in names(paths) if name.startswith("maps")] == [f"maps-{n}.png" for n in range(1, 5)]
    with Image.open(stages[-1]) as picture:
        assert picture.text == {"caption": CAPTION, "seed": "4", "model": "stages"}  # type: ignore[attr-defined]
        np.testing.assert_array_equal(np.asarray(picture), drawings[4].stages[1])
    paths = save_drawings([last_stage_alone()], tmp_path / "last")
    assert {"attention.png", "maps-1.png"} <= set(names(paths))
    assert "drawing.gif" not in names(paths)


def test_chosen_parts_replace_the_earlier_drawing(tmp_path: Path) -> None:
    save_drawings([staged(seed=seed) for seed in range(12)], tmp_path)
    (tmp_path / "notes.txt").write_text("kept")
    assert names(save_drawings(blobs(1), tmp_path, ["html", "gif"])) == ["drawing.gif", "drawing.html"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drawing.gif", "drawing.html", "notes.txt"]
    with pytest.raises(ValueError, match="unknown part 'pdf' of a drawing; choose from " + ", ".join(PARTS)):
        save_drawings(blobs(1), tmp_path, ["pdf"])


@pytest.mark.parametrize("name", ["contact.png", "contact.json"])
def test_a_new_part_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def contact(drawings: Sequence[Drawing]) -> Iterator[tuple[str, bytes]]:
        text = json.dumps(drawings[0].provenance).encode()
        yield name, png_bytes(drawings[0].image) if name.endswith(".png") else text

    monkeypatch.setattr("cap2im.rendering.grid.contact", contact, raising=False)
    monkeypatch.setitem(PARTS, "contact", Part("grid:contact", r"contact\.\w+", "a contact sheet"))
    (path,) = save_drawings(blobs(1), tmp_path, ["contact"])
    assert path.name == name
    assert drawing_model(tmp_path) == "blob"
    save_drawings(blobs(1), tmp_path, ["html"])
    assert not path.exists()


@pytest.mark.parametrize("part", PARTS)
def test_each_part_names_its_model(tmp_path: Path, part: str) -> None:
    folder = drawing_folder(CAPTION, "blob", tmp_path)
    assert drawing_model(folder) is None
    save_drawings(blobs(1), folder, [part])
    assert drawing_model(folder) == "blob"
    assert drawing_folder(CAPTION, "blob", tmp_path) == folder
    other = drawing_folder(CAPTION, "other", tmp_path)
    assert other.name == f"{folder.name}-by-other"
    other.write_text("a file")
    assert drawing_folder(CAPTION, "other", tmp_path).name == f"{folder.name}-by-other-2"


def test_files_are_the_same_every_time(tmp_path: Path) -> None:
    one, two = (save_drawings(blobs(3, colours=3), tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=re.escape(str(tmp_path / "file"))):
        save_drawings(blobs(1), tmp_path / "file")
    with pytest.raises(OSError, match=re.escape(str(tmp_path / "missing" / "blob.png"))):
        growing_blob().save(tmp_path / "missing" / "blob.png")


def test_full_disk_names_the_file_and_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        ([], "expected at least one drawing, got none"),
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
def test_slug_is_safe_and_unique(caption: str) -> None:
    name = slug(caption)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,58}[a-z0-9])?", name)
    assert name not in RESERVED_NAMES
    assert slug(caption) == name != slug(caption + " x")
    assert name != slug(caption + "?")
