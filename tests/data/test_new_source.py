"""Test that a new kind of captioned images is one module and one line of the registry."""

from __future__ import annotations

import json
import typing

import pytest

import cap2im.cli.data
from cap2im.data.prepare import prepare_dataset
from cap2im.data.problems import Problem
from cap2im.data.sources import SOURCES, read_source
from cap2im.data.validate import check_path
from tests.data import sources
from tests.toy.names import NamesReader


def test_a_new_source_is_a_module_and_a_line(tmp_path, monkeypatch):
    monkeypatch.setitem(SOURCES, "names", "tests.toy.names:NamesReader")
    for number, name in enumerate(("a-red-bus", "a-blue-cat", "bird")):
        sources.save(tmp_path / "photos" / f"{name}.jpg", number)
    (tmp_path / "photos" / "names.toy").touch()
    path = str(tmp_path / "photos")

    report = check_path(path, workers=1)
    assert (report.kind, report.splits["train"].captions, report.loses_data) == ("names", 2, True)
    assert report.problems == [Problem("image without captions", f"{path}/bird.jpg", "its name has no hyphen")]

    prepare_dataset(read_source("names", path), tmp_path / "out", kind="names", path=path, workers=1)
    assert check_path(str(tmp_path / "out"), workers=1).problems == []
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["source"]["kind"] == "names"
    assert manifest["splits"] == {"train": {"images": 2, "captions": 2}}


def test_a_reader_of_files_only_refuses_folders(tmp_path, monkeypatch):
    monkeypatch.setitem(SOURCES, "names", "tests.toy.names:NamesReader")
    monkeypatch.setattr(NamesReader, "reads_folders", False)
    with pytest.raises(ValueError, match="is a folder, and names needs a file"):
        read_source("names", str(tmp_path))


def test_the_command_line_offers_the_registered_kinds():
    assert typing.get_args(cap2im.cli.data.Kind) == (*SOURCES, cap2im.cli.data.CUTOUTS)
