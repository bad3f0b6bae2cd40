"""Test image folders with metadata in every format."""

from __future__ import annotations

import json

import pytest

from cap2im.data.records import usable_captions
from cap2im.data.sources import guess_kind
from tests.data import sources


def read(kind, path, **options):
    return sources.read(kind, path, **options)


def problem_files(source):
    return {(problem.kind, problem.file.split("/")[-1]) for problem in source.problems}


def caption(id, text="a dog"):
    return {"id": 1, "image_id": id, "caption": text}


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_folder_with_metadata_of_each_format(tmp_path, ending):
    rows = [
        {"file_name": "a.jpg", "text": 'a "cat", on a chair'},
        {"file_name": "sub/b.png", "text": "größer als ein Hund"},
        {"file_name": "a.jpg", "text": "the same cat"},
    ]
    for number, name in enumerate(("a.jpg", "sub/b.png")):
        sources.save(tmp_path / name, number)
    if ending == "jsonl":
        (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    elif ending == "csv":
        lines = ["file_name,text", 'a.jpg,"a ""cat"", on a chair"', "sub/b.png,größer als ein Hund", "a.jpg,the same cat"]
        (tmp_path / "metadata.csv").write_text("\n".join(lines), "utf-8")
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "metadata.parquet")
    source = read("folder", tmp_path)
    assert source.problems == []
    assert {record.id: record.captions for record in source.splits["train"]} == {
        "a.jpg": ('a "cat", on a chair', "the same cat"),
        "sub/b.png": ("größer als ein Hund",),
    }
    assert guess_kind(str(tmp_path)) == "folder"


def test_folder_splits_lists_and_classes(tmp_path):
    sources.folder(tmp_path / "train", [{"file_name": "a.jpg", "captions": ["one", "two"], "class_id": 7}])
    sources.folder(tmp_path / "val", [{"file_name": "b.jpg", "captions": ["three"]}])
    sources.folder(tmp_path / "test", [{"file_name": "c.jpg", "captions": "four"}])
    source = read("folder", tmp_path)
    assert {split: [r.captions for r in records] for split, records in source.splits.items()} == {
        "train": [("one", "two")],
        "validation": [("three",)],
        "test": [("four",)],
    }
    assert [source.splits[split][0].class_id for split in ("train", "validation")] == [7, -1]


def test_folder_reports_problems(tmp_path):
    sources.folder(tmp_path, [{"file_name": "a.jpg", "text": "fine"}])
    with open(tmp_path / "metadata.jsonl", "ab") as file:
        file.write(b'{"file_name": "gone.jpg", "text": "of nothing"}\n{"file_name": \n')
        file.write(b'{"file_name": "deep.jpg", "text": "misplaced"}\n{"file_name": "a.jpg", "text": "\xff\xfe"}\n')
        file.write(b'{"file_name": "a.jpg", "text": 3}\n')
    sources.save(tmp_path / "images" / "deep.jpg", 8)
    sources.save(tmp_path / "stray.jpg", 9)
    source = read("folder", tmp_path)
    assert len(source.splits["train"]) == 1
    assert problem_files(source) == {
        ("caption without image", "metadata.jsonl, line 2"),
        ("unusable entry", "metadata.jsonl, line 3"),
        ("misplaced metadata file", "metadata.jsonl"),
        ("wrong encoding", "metadata.jsonl, line 5"),
        ("unusable entry", "metadata.jsonl, line 6"),
        ("image without captions", "stray.jpg"),
        ("image without captions", "deep.jpg"),
    }
    (misplaced,) = [problem for problem in source.problems if problem.kind.startswith("misplaced")]
    assert "line 4: file_name 'deep.jpg' is not relative to this folder: write 'images/deep.jpg'" in misplaced.detail


@pytest.mark.parametrize("name", ["metadata.json1", "meta_data.jsonl", "metadata.jsonl.txt"])
def test_misspelt_metadata_is_named(tmp_path, name):
    sources.folder(tmp_path, [{"file_name": "a.jpg", "text": "fine"}], name)
    assert guess_kind(str(tmp_path)) == "folder"
    with pytest.raises(ValueError, match=rf"no metadata.jsonl.*{name}: its name should be metadata.jsonl"):
        read("folder", tmp_path)


def test_line_breaks_in_csv_cells_are_spaces(tmp_path):
    for number in range(2):
        sources.save(tmp_path / f"a{number}.png", number)
    (tmp_path / "metadata.csv").write_text('file_name,text\na0.png,"a cat\nsits on\r\ngrass"\na1.png,a dog\n')
    records = read("folder", tmp_path).splits["train"]
    assert [usable_captions(record)[0] for record in records] == [["a cat sits on grass"], ["a dog"]]


@pytest.mark.parametrize(("rows", "reason"), [(3, "unexpected end of data"), (6000, "field larger than field limit")])
def test_an_unclosed_quote_in_csv_swallows_nothing(tmp_path, rows, reason):
    sources.save(tmp_path / "a.png", 1)
    text = "file_name,text\na.png,fine\n" + 'a.png,"a cat\n' + "a.png,a red bus on the street\n" * rows
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"metadata.csv: not CSV after line 2: {reason}.*; is a quote not closed\?$"):
        read("folder", tmp_path)


def test_commas_without_quotes_in_csv_are_problems(tmp_path):
    for number in range(2):
        sources.save(tmp_path / f"a{number}.png", number)
    (tmp_path / "metadata.csv").write_text("file_name,text\na0.png,a cat, on grass\na1.png,a dog\n")
    source = read("folder", tmp_path)
    assert [record.captions for record in source.splits["train"]] == [("a dog",)]
    assert ("unusable entry", "metadata.csv, line 2") in problem_files(source)


@pytest.mark.parametrize("line", ["[" * 200_000, '{"file_name": "a.jpg", "text": ' + "9" * 5000 + "}"])
def test_json_that_cannot_be_parsed_is_a_problem(tmp_path, line):
    sources.folder(tmp_path, [{"file_name": "a.jpg", "text": "fine"}])
    with open(tmp_path / "metadata.jsonl", "a", encoding="utf-8") as file:
        file.write(line)
    assert problem_files(read("folder", tmp_path)) == {("unusable entry", "metadata.jsonl, line 2")}


def test_unused_caption_columns_are_reported(tmp_path):
    sources.folder(tmp_path, [{"file_name": "a.jpg", "text": "a dog", "caption_1": "a cat"}])
    assert problem_files(read("folder", tmp_path)) == {("column not used", "metadata.jsonl")}
