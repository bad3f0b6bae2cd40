"""Files below a folder, through links and with odd names, and the names that people write for them."""

from __future__ import annotations

import os
import unicodedata

import pytest

from cap2im.data.file_index import FileIndex, LookupFailure, unique_ids
from cap2im.data.folder_listing import list_files
from tests.data import sources


def names(listing):
    return [file.relative_to(listing.root).as_posix() for file in listing.files]


def told(listing):
    return {(problem.kind, os.path.basename(problem.file)) for problem in listing.problems}


def test_linked_folders_are_followed(tmp_path):
    sources.save(tmp_path / "elsewhere" / "deep" / "a.jpg", 1)
    sources.save(tmp_path / "elsewhere" / "b.jpg", 2)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "train").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "c.jpg").symlink_to(tmp_path / "elsewhere" / "b.jpg")
    listing = list_files(tmp_path / "photos")
    assert names(listing) == ["c.jpg", "train/b.jpg", "train/deep/a.jpg"]
    assert listing.problems == []


def test_links_in_a_circle_end_and_are_told(tmp_path):
    sources.save(tmp_path / "train" / "a.jpg", 1)
    for link, target in (("loop", tmp_path), ("val", tmp_path / "train"), ("self", tmp_path / "self"), ("gone", tmp_path / "nowhere")):
        (tmp_path / link).symlink_to(target)
    listing = list_files(tmp_path)
    assert names(listing) == ["train/a.jpg"]
    assert told(listing) == {
        ("linked folder", "loop"),
        ("linked folder", "val"),
        ("unreadable file", "self"),
        ("unreadable file", "gone"),
    }


def test_what_is_no_regular_file_is_told(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    listing = list_files(tmp_path)
    assert (names(listing), told(listing)) == ([], {("unreadable file", "a.jpg")})


def test_hidden_files_are_left_out(tmp_path):
    for name in ("._a.jpg", ".git/a.jpg", "__MACOSX/a.jpg", "a.jpg"):
        sources.save(tmp_path / name, 1)
    assert names(list_files(tmp_path)) == ["a.jpg"]


def test_names_that_begin_with_underscores_are_read(tmp_path):
    sources.save(tmp_path / "__drawn_by_me__" / "__cat__.jpg", 1)
    assert names(list_files(tmp_path)) == ["__drawn_by_me__/__cat__.jpg"]


def index(tmp_path, *files):
    for name in files:
        sources.write(tmp_path / name, "")
    return FileIndex(tmp_path, list_files(tmp_path).files)


@pytest.mark.parametrize(
    ("written", "file"),
    [
        ("a/b.png", "a/b.png"),
        ("./a//b.png", "a/b.png"),
        ("a/../a/b.png", "a/b.png"),
        ("a:b.png", "a:b.png"),
        (" a/b.png ", "a/b.png"),
        ("a\\b.png", "a/b.png"),
        ("A/B.PNG", "a/b.png"),
        ("a/b", "a/b.png"),
        (unicodedata.normalize("NFC", "café.png"), unicodedata.normalize("NFD", "café.png")),
        ("back\\slash.png", "back\\slash.png"),
    ],
)
def test_names_match_files(tmp_path, written, file):
    assert index(tmp_path, "a/b.png", "a:b.png", unicodedata.normalize("NFD", "café.png"), "back\\slash.png").find(written) == file


@pytest.mark.parametrize(
    ("written", "kind", "detail"),
    [
        ("/etc/passwd", "picture outside the folder", "is absolute"),
        ("/data/photos/b.png", "picture outside the folder", "is absolute: write 'a/b.png'"),
        ("C:\\photos\\b.png", "picture outside the folder", "write 'a/b.png'"),
        ("\\\\server\\b.png", "picture outside the folder", "write 'a/b.png'"),
        ("../b.png", "picture outside the folder", "write 'a/b.png'"),
        ("a/../../x.png", "picture outside the folder", "leaves"),
        ("https://example.org/b.png", "picture outside the folder", "is a URL"),
        ("data:image/png;base64,AA", "picture outside the folder", "is a URL"),
        ("b.png", "misplaced metadata file", "write 'a/b.png'"),
        ("a/b.jpg", "caption without image", "there is 'a/b.png'"),
        ("C.png", "caption without image", "may be any of 'c.PNG', 'c.png'"),
        ("", "unusable entry", "empty"),
        ("a\0b", "caption without image", "there is no"),
        ("\udce9" * 3, "caption without image", "there is no"),
        ("x" * 5000, "caption without image", "there is no"),
    ],
)
def test_names_that_match_nothing_say_why(tmp_path, written, kind, detail):
    found = index(tmp_path, "a/b.png", "c.png", "c.PNG").find(written)
    assert isinstance(found, LookupFailure)
    assert found.kind == kind
    assert detail in found.detail


def test_names_may_go_through_a_link_that_is_read_elsewhere(tmp_path):
    sources.write(tmp_path / "2024" / "a.png", "")
    (tmp_path / "current").symlink_to("2024")
    assert FileIndex(tmp_path, list_files(tmp_path).files).find("current/a.png") == "2024/a.png"


def test_ids_are_stems_unless_these_are_shared():
    assert unique_ids(["x/a.jpg", "x/b.jpg"]) == ["a", "b"]
    assert unique_ids(["left/0.png", "right/0.png", "right/1.png"]) == ["left/0", "right/0", "1"]
    assert unique_ids(["x/a.jpg", "x/a.png", "y/a.png"]) == ["x/a.jpg", "x/a.png", "y/a"]
