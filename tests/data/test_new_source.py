"""Test that a new kind of captioned images is one module and one line of the registry."""

from __future__ import annotations

import json
import typing

import cap2im.cli.data
from cap2im.data.prepare import prepare_dataset
from cap2im.data.sources import SOURCES, read_source
from cap2im.data.validate import check_path
from tests.data import sources

READER = '''
from cap2im.data.folder_listing import list_files
from cap2im.data.image_files import ImageFile
from cap2im.data.readers import SourceReader
from cap2im.data.records import CaptionedImage, Source


class NamesReader(SourceReader):
    """Reads pictures whose file names are their captions."""

    folder_patterns = ("names.toy",)

    def read(self, path, options):
        pictures = list_files(path).pictures()
        return Source({"train": [CaptionedImage(p.stem, ImageFile(p), (p.stem.replace("-", " "),)) for p in pictures]})
'''


def test_a_new_source_is_a_module_and_a_line(tmp_path, monkeypatch):
    (tmp_path / "names_source.py").write_text(READER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(SOURCES, "names", "names_source:NamesReader")
    for number, name in enumerate(("a-red-bus", "a-blue-cat")):
        sources.save(tmp_path / "photos" / f"{name}.jpg", number)
    (tmp_path / "photos" / "names.toy").touch()
    path = str(tmp_path / "photos")

    report = check_path(path, workers=1)
    assert (report.kind, report.problems, report.splits["train"].captions) == ("names", [], 2)

    prepare_dataset(read_source("names", path), tmp_path / "out", kind="names", path=path, workers=1)
    assert check_path(str(tmp_path / "out"), workers=1).problems == []
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["source"]["kind"] == "names"
    assert manifest["splits"] == {"train": {"images": 2, "captions": 2}}


def test_the_command_line_offers_the_registered_kinds():
    assert typing.get_args(cap2im.cli.data.Kind) == tuple(SOURCES)
