"""Metadata, annotations and caption files of any content give records and problems, or a one-line error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cap2im.data.file_index import FileIndex
from cap2im.data.problems import Problem
from cap2im.data.readers import ColumnNames
from cap2im.data.records import usable_captions
from cap2im.data.sources import guess_kind
from cap2im.data.table_columns import as_captions, choose_columns
from cap2im.data.table_files import read_rows
from cap2im.data.text_files import caption_lines
from tests.data import sources

TEXT = st.text(alphabet=st.characters(), max_size=20)  # with lone surrogates
NAMES = (
    st.sampled_from(["a.png", "b.png", "A.PNG", "x/a.png", "x\\a.png", "../a.png", "/a.png", "C:\\a.png", "http://a.png", "a", ""]) | TEXT
)
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_subnormal=False) | TEXT | NAMES
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8)
KEYS = st.sampled_from(["file_name", "image", "text", "caption", "caption_1", "sentences", "split", "class_id", "raw", "tokens"])
ENTRIES = st.dictionaries(KEYS | TEXT, VALUES, max_size=4)
WORDS = [
    "file_name",
    "text",
    "image",
    "caption",
    "split",
    "train",
    "a.png",
    "b.png",
    "#0",
    "0 0.5 0.5 0.1",
    "\u2028",
    "\u00e9",
    "\ufeff",
    "\r\n",
]
PIECES = st.sampled_from([*WORDS, *",\t;|\"'\n\r\0 {}[]:"])
BYTES = st.binary(max_size=60) | st.lists(PIECES, max_size=40).map("".join).flatmap(
    lambda text: st.sampled_from(["utf-8", "utf-16", "utf-16-le", "utf-32", "utf-8-sig"]).map(lambda encoding: text.encode(encoding))
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("fuzz")
    for name in ("a.png", "x/a.png", "train2017/a.png", "train2017/x/a.png"):
        sources.save(root / name, 1)
    return root


def result_or_one_line(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Return a function's result, or None after a ValueError whose message is short."""
    try:
        return function(*arguments, **options)
    except ValueError as error:
        message = " ".join(str(error).split())
    assert 0 < len(message) < 3000
    return None


def read_or_one_line(kind: str, path: Path) -> None:
    """Read a source: its pictures lie below the folder, its ids are unique, and its problems can be printed."""
    source = result_or_one_line(sources.read, kind, path)
    if source is None:
        return
    root = path if path.is_dir() else path.parent
    records = [record for split in source.splits.values() for record in split]
    assert len({record.id for record in records}) == len(records)
    for record in records:
        assert root.resolve() in Path(record.image.name).resolve().parents
        usable_captions(record)
    assert all(str(problem).isprintable() for problem in source.problems)


@given(entries=st.lists(ENTRIES, max_size=5), layout=st.sampled_from(["lines", "list", "pretty"]))
def test_json_metadata(folder, entries, layout):
    file = folder / "metadata.jsonl"
    text = "\n".join(map(json.dumps, entries)) if layout == "lines" else json.dumps(entries, indent=1 if layout == "pretty" else None)
    file.write_text(text)
    read_or_one_line("folder", folder)
    read_or_one_line("table", file)
    file.unlink()


@given(data=BYTES, kind=st.sampled_from(["folder", "table", "flickr8k", "coco"]))
def test_bytes_of_any_kind_in_place_of_metadata(folder, data, kind):
    file = folder / {"folder": "metadata.csv", "flickr8k": "captions.txt", "coco": "captions_train2017.json"}.get(kind, "list.csv")
    file.write_bytes(data)
    read_or_one_line(kind, folder)
    result_or_one_line(guess_kind, str(file))
    file.unlink()


@given(
    document=st.fixed_dictionaries(
        {
            "images": st.lists(st.fixed_dictionaries({"id": SCALARS, "file_name": NAMES}) | VALUES, max_size=4) | VALUES,
            "annotations": st.lists(st.fixed_dictionaries({"image_id": SCALARS, "caption": TEXT}) | VALUES, max_size=4) | VALUES,
        }
    )
)
def test_coco(folder, document):
    file = folder / "annotations" / "captions_train2017.json"
    sources.write(file, json.dumps(document))
    read_or_one_line("coco", folder)
    file.unlink()


@given(
    images=st.lists(
        st.fixed_dictionaries(
            {"filename": NAMES, "split": st.sampled_from(["train", "val", "restval", "test", "odd"]) | SCALARS, "sentences": VALUES},
            optional={"filepath": NAMES},
        )
        | VALUES,
        max_size=4,
    )
)
def test_karpathy(folder, images):
    file = folder / "dataset_flickr8k.json"
    file.write_text(json.dumps({"images": images}))
    read_or_one_line("flickr8k", folder)
    file.unlink()


@given(data=BYTES)
def test_caption_files(folder, data):
    file = folder / "a.txt"
    file.write_bytes(data)
    problems: list[Problem] = []
    captions = caption_lines(file, problems)
    assert all(caption.strip() and "\0" not in caption for caption in captions)
    if rows := result_or_one_line(read_rows, file, problems):
        cells = [row for _, row in rows]
        result_or_one_line(choose_columns, list(dict.fromkeys(name for row in cells for name in row)), ColumnNames(), cells, "a.txt")
    file.unlink()


@given(value=VALUES)
def test_captions_of_any_value(value):
    captions = as_captions(value)
    assert captions is None or all(isinstance(caption, str) for caption in captions)


@given(name=NAMES, within=st.sampled_from(["", "x"]))
def test_names_never_leave_the_folder(folder, name, within):
    index = FileIndex(folder, [folder / "a.png", folder / "x" / "a.png"])
    found = index.find(name, within, anywhere=True)
    assert not isinstance(found, str) or found in index.files
