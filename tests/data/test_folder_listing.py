"""Test listing files through links and with odd names."""

from __future__ import annotations

import os

from cap2im.data.folder_listing import list_files
from tests.data import sources


def names(listing):
    return [file.relative_to(listing.root).as_posix() for file in listing.files]


def reported(listing):
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


def test_circular_links_end_and_are_problems(tmp_path):
    sources.save(tmp_path / "train" / "a.jpg", 1)
    for link, target in (("loop", tmp_path), ("val", tmp_path / "train"), ("self", tmp_path / "self"), ("gone", tmp_path / "nowhere")):
        (tmp_path / link).symlink_to(target)
    listing = list_files(tmp_path)
    assert names(listing) == ["train/a.jpg"]
    assert reported(listing) == {
        ("linked folder", "loop"),
        ("linked folder", "val"),
        ("unreadable file", "self"),
        ("unreadable file", "gone"),
    }


def test_irregular_files_are_problems(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    listing = list_files(tmp_path)
    assert (names(listing), reported(listing)) == ([], {("unreadable file", "a.jpg")})


def test_hidden_files_are_left_out(tmp_path):
    for name in ("._a.jpg", ".git/a.jpg", "__MACOSX/a.jpg", "a.jpg"):
        sources.save(tmp_path / name, 1)
    assert names(list_files(tmp_path)) == ["a.jpg"]


def test_names_that_begin_with_underscores_are_read(tmp_path):
    sources.save(tmp_path / "__drawn_by_me__" / "__cat__.jpg", 1)
    assert names(list_files(tmp_path)) == ["__drawn_by_me__/__cat__.jpg"]
