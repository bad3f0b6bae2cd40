"""Test finding pictures by the names that people write."""

from __future__ import annotations

import unicodedata

import pytest

from cap2im.data.file_index import FileIndex, LookupFailure, unique_ids
from cap2im.data.folder_listing import list_files
from tests.data import sources


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
def test_names_that_match_nothing_have_a_reason(tmp_path, written, kind, detail):
    found = index(tmp_path, "a/b.png", "c.png", "c.PNG").find(written)
    assert isinstance(found, LookupFailure)
    assert found.kind == kind
    assert detail in found.detail


def test_names_may_lead_through_a_linked_folder(tmp_path):
    sources.write(tmp_path / "2024" / "a.png", "")
    (tmp_path / "current").symlink_to("2024")
    assert FileIndex(tmp_path, list_files(tmp_path).files).find("current/a.png") == "2024/a.png"


def test_ids_are_stems_unless_these_are_shared():
    assert unique_ids(["x/a.jpg", "x/b.jpg"]) == ["a", "b"]
    assert unique_ids(["left/0.png", "right/0.png", "right/1.png"]) == ["left/0", "right/0", "1"]
    assert unique_ids(["x/a.jpg", "x/a.png", "y/a.png"]) == ["x/a.jpg", "x/a.png", "y/a"]
