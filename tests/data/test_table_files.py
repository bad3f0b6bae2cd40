"""Test tables of any format: separators, JSON, columns and cells."""

from __future__ import annotations

import json

import pytest

from cap2im.data.readers import ColumnNames
from cap2im.data.table_columns import as_captions, as_class_id, caption_columns, choose_columns
from cap2im.data.table_files import read_rows
from tests.data import sources

ROWS = [{"file_name": "a.jpg", "text": "a dog, brown"}, {"file_name": "b.jpg", "text": "a cat"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
CONTENTS = {
    "comma": 'file_name,text\na.jpg,"a dog, brown"\nb.jpg,a cat\n',
    "quoted header": '"file_name","text"\r\n"a.jpg","a dog, brown"\r\n"b.jpg","a cat"\r\n',
    "tab": "file_name\ttext\na.jpg\ta dog, brown\nb.jpg\ta cat\n",
    "semicolon": "file_name;text\na.jpg;a dog, brown\nb.jpg;a cat\n",
    "bar": "file_name| text\na.jpg| a dog, brown\n\nb.jpg| a cat\n",
    "no header": 'a.jpg,"a dog, brown"\nb.jpg,a cat\n',
    "lines": LINES,
    "list": json.dumps(ROWS),
    "pretty list": json.dumps(ROWS, indent=1),
    "object": json.dumps({"version": 1, "data": ROWS}, indent=1),
    "mapping": json.dumps({row["file_name"]: row["text"] for row in ROWS}),
    "pretty mapping": json.dumps({row["file_name"]: {"text": row["text"]} for row in ROWS}, indent=2),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("content", CONTENTS)
def test_every_format_is_read_whatever_its_name(tmp_path, content, encoding):
    problems = []
    for name in ("metadata.csv", "metadata.jsonl", "list.txt"):
        rows = read_rows(sources.write(tmp_path / name, CONTENTS[content].encode(encoding)), problems)
        assert [dict(row) for _, row in rows] == ROWS
    assert problems == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\x03\x04 and more", "is a spreadsheet or ZIP archive"),
        (b"\x1f\x8b and more", "is compressed with gzip"),
        (b"PAR1 and more", "not a Parquet file"),
        (b"[1, 2", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"images": [\n], "annotations": []}', "as COCO's or Karpathy's JSON do"),
        (b"file_name,text,text\na.jpg,x,y\n", "two columns are called 'text'"),
        (b"a.jpg,x,y\nb.jpg,z,w\n", "its first line names no columns"),
        (b'file_name,text\na.jpg,"a dog\nb.jpg,a cat\nc.jpg,big"\n', "a cell holds lines of the table"),
    ],
)
def test_invalid_tables_are_one_line(tmp_path, data, message):
    with pytest.raises(ValueError, match=message) as error:
        read_rows(sources.write(tmp_path / "x.csv", data), [])
    assert "\n" not in str(error.value)


def test_bars_of_flickr30k_are_read_despite_its_faults(tmp_path):
    text = 'image_name| comment_number| comment\na.jpg| 0| "Big" dog\nb.jpg| 1| 5" tall\nc.jpg| 2   no bar here\n'
    problems = []
    rows = read_rows(sources.write(tmp_path / "results.csv", text), problems)
    assert [row["comment"].strip() for _, row in rows] == ['"Big" dog', '5" tall', "no bar here"]
    assert problems == []


@pytest.mark.parametrize(
    ("value", "captions"),
    [
        (None, ()),
        (float("nan"), ()),
        ("a dog", ("a dog",)),
        (["a", "b"], ("a", "b")),
        (["a", None], ("a",)),
        ({"raw": "a dog", "tokens": ["a", "dog"]}, ("a dog",)),
        ({"tokens": ["a", "dog"]}, ("a dog",)),
        ([{"raw": "a dog"}, {"caption": "a cat"}], ("a dog", "a cat")),
        ([["a dog runs", "a cat"], ["a cow"]], ("a dog runs", "a cat", "a cow")),
        ([["a", "dog"], ["a", "cat"]], ("a dog", "a cat")),
        ("['a dog', \"it's a cat\"]", ("a dog", "it's a cat")),
        ('["a dog", "a cat"]', ("a dog", "a cat")),
        ("[a dog]", ("[a dog]",)),
        (3, None),
        ({"bbox": [1]}, None),
        ([1, 2], None),
        ([["a", 1]], None),
    ],
)
def test_captions_of_a_cell(value, captions):
    assert as_captions(value) == captions


def test_numbered_columns_belong_together():
    assert caption_columns(["image", "caption_10", "caption_2", "Caption 1"]) == (("Caption 1", "caption_2", "caption_10"), ())
    assert caption_columns(["caption", "text", "caption_0"]) == (("text",), ("caption", "caption_0"))


def choose(row, **asked):
    return choose_columns(list(row), ColumnNames(**asked), [row], "x.csv")


def test_columns_by_name_and_by_content():
    columns = choose({"Image Name": "a.jpg", "comment": "x", "SPLIT": "train"})
    assert (columns.image, columns.captions, columns.split) == ("Image Name", ("comment",), "SPLIT")
    assert choose({"where": "a.jpg", "what": "a dog", "n": 3}).captions == ("what",)
    asked = choose({"a": "a.jpg", "b": "x", "c": "y"}, image="a", captions=("c", "b"))
    assert (asked.image, asked.captions) == ("a", ("c", "b"))


@pytest.mark.parametrize(
    ("row", "asked", "message"),
    [
        ({"n": 3, "t": ["x"]}, {}, r"no column names the pictures .*; its columns: n \(numbers\), t \(list of text\)"),
        ({"file": "a.jpg", "x": "p", "y": {"q": 1}, "z": "p", "w": ""}, {}, r"x \(text\), y \(object with q\), z \(text\), w \(empty\)"),
        ({"file": "a.jpg", "text": "p"}, {"captions": ("te\u200bxt",)}, r"no column 'te\\u200bxt' \(--caption-column\)"),
        ({"file": "a.jpg", "te\u200bxt": "p", "x": "q"}, {}, r"te\\u200bxt \(text\)"),
        ({"file": "a.jpg", "text": "p"}, {"split": "fold"}, r"no column 'fold' \(--split-column\)"),
    ],
)
def test_messages_list_the_columns_with_what_they_hold(row, asked, message):
    with pytest.raises(ValueError, match=message):
        choose(row, **asked)


def test_class_numbers_have_63_bits():
    assert [as_class_id(value) for value in (7, "8", " 9 ", "x", 2**63, "9" * 30, True, None, 1.5)] == [7, 8, 9, -1, -1, -1, -1, -1, -1]


def test_columns_of_sentences_may_hold_captions():
    rows = [
        {"file": f"{n}.jpg", "title": f"a dog on {n} chairs", "text": "a dog", "url": "https://x", "terms": "all rights reserved"}
        for n in "abc"
    ]
    assert choose_columns(list(rows[0]), ColumnNames(), rows, "x.csv").unused == ("title",)
    assert choose_columns(list(rows[0]), ColumnNames(captions=("text",)), rows, "x.csv").unused == ()
