"""Every kind of source in a tiny original layout: splits, records, captions, and what is told of its faults."""

from __future__ import annotations

import json
import os

import pytest

from cap2im.convert.pickles import read_pickle
from cap2im.data.captioned import held_out, usable_captions
from cap2im.data.class_folders import class_caption
from cap2im.data.sources import guess_kind, read_source
from tests.data import sources
from tests.real_data import data_folder


def read(kind, path, **options):
    return read_source(kind, str(path), read_pickle=read_pickle, **options)


def found(source):
    return {(problem.kind, problem.file.split("/")[-1]) for problem in source.problems}


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_coco_is_what_its_annotations_say(tmp_path, year):
    source = read("coco", sources.coco(tmp_path, year))
    assert {split: len(records) for split, records in source.splits.items()} == {"train": 3, "validation": 2}
    record = source.splits["train"][1]
    assert record.id.endswith("000000000002")
    assert len(record.captions) == 6
    assert usable_captions(record, 5)[0] == [f"Caption {k} of a picture, number 2." for k in range(5)]
    assert found(source) == {("image without annotation", "000000000009.jpg")}
    assert guess_kind(str(tmp_path)) == "coco"


def test_coco_tells_missing_images_and_stray_captions(tmp_path):
    sources.coco(tmp_path)
    (tmp_path / "train2017" / "000000000002.jpg").unlink()
    file = tmp_path / "annotations" / "captions_val2017.json"
    document = json.loads(file.read_text())
    document["annotations"].append({"id": 1, "image_id": 77, "caption": "of nothing"})
    file.write_text(json.dumps(document))
    source = read("coco", tmp_path)
    assert ("caption without image", "000000000002.jpg") in found(source)
    assert ("caption without image", "captions_val2017.json") in found(source)
    assert len(source.splits["train"]) == 2


def test_coco_of_one_file_and_of_two_years(tmp_path):
    sources.coco(tmp_path)
    source = read("coco", tmp_path / "annotations" / "captions_val2017.json")
    assert {split: len(records) for split, records in source.splits.items()} == {"validation": 2}
    sources.coco(tmp_path, "2014")
    with pytest.raises(ValueError, match=r"several annotations of one split .*captions_train2014.json.*captions_train2017.json"):
        read("coco", tmp_path)


def test_coco_mini():
    source = read("coco", data_folder() / "coco-mini")
    assert {split: len(records) for split, records in source.splits.items()} == {"train": 80, "validation": 79}
    assert all(len(record.captions) == 5 for records in source.splits.values() for record in records)
    assert len(source.problems) == 80
    assert {problem.kind for problem in source.problems} == {"image without annotation"}


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


def test_folder_tells_what_is_wrong(tmp_path):
    sources.folder(tmp_path, [{"file_name": "a.jpg", "text": "fine"}])
    with open(tmp_path / "metadata.jsonl", "ab") as file:
        file.write(b'{"file_name": "gone.jpg", "text": "of nothing"}\n{"file_name": \n')
        file.write(b'{"file_name": "deep.jpg", "text": "misplaced"}\n{"file_name": "a.jpg", "text": "\xff\xfe"}\n')
        file.write(b'{"file_name": "a.jpg", "text": 3}\n')
    sources.save(tmp_path / "images" / "deep.jpg", 8)
    sources.save(tmp_path / "stray.jpg", 9)
    source = read("folder", tmp_path)
    assert len(source.splits["train"]) == 1
    assert found(source) == {
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


@pytest.mark.parametrize("name", ["metadata.json1", "Metadata.jsonl", "metadata.json", "meta_data.jsonl", "metadata.jsonl.txt"])
def test_misspelt_metadata_is_named(tmp_path, name):
    sources.folder(tmp_path, [{"file_name": "a.jpg", "text": "fine"}], name)
    assert guess_kind(str(tmp_path)) == "folder"
    with pytest.raises(ValueError, match=rf"no metadata.jsonl.*{name}: its name should be metadata.jsonl"):
        read("folder", tmp_path)


def test_pairs(tmp_path):
    sources.pairs(tmp_path / "train", 3)
    sources.pairs(tmp_path / "test", 1)
    (tmp_path / "train" / "p1.txt").write_bytes("\ufeffwith a mark\n".encode() + "caf\u00e9\n".encode("latin-1"))
    (tmp_path / "train" / "p2.txt").rename(tmp_path / "train" / "lonely.txt")
    source = read("pairs", tmp_path)
    assert {record.id: record.captions for record in source.splits["train"]} == {
        "train/p0": ("a picture of the number 0", "another one, 0"),
        "train/p1": ("with a mark",),
    }
    assert len(source.splits["test"]) == 1
    assert found(source) == {
        ("wrong encoding", "p1.txt, line 2"),
        ("image without captions", "p2.jpg"),
        ("caption without image", "lonely.txt"),
    }
    assert guess_kind(str(tmp_path)) == "pairs"


def test_held_out_share(tmp_path):
    sources.pairs(tmp_path, 40)
    source = read("pairs", tmp_path, validation=0.25)
    before = {record.id for record in source.splits["validation"]}
    assert 4 <= len(before) <= 16
    assert len(source.splits["train"]) + len(before) == 40
    sources.pairs(tmp_path, 50)
    assert before <= {record.id for record in read("pairs", tmp_path, validation=0.25).splits["validation"]}
    assert sum(held_out(str(number), 0.1) for number in range(10_000)) == pytest.approx(1000, abs=100)


def test_captions_are_tidied_and_the_useless_ones_told(tmp_path):
    sources.folder(tmp_path, [{"file_name": "a.jpg", "text": ["  two\n words ", "", "?!", "word " * 201]}])
    captions, problems = usable_captions(read("folder", tmp_path).splits["train"][0])
    assert captions == ["two words"]
    assert sorted(problem.kind for problem in problems) == ["empty caption", "empty caption", "over-long caption"]


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


def test_commas_without_quotes_in_csv_are_told(tmp_path):
    for number in range(2):
        sources.save(tmp_path / f"a{number}.png", number)
    (tmp_path / "metadata.csv").write_text("file_name,text\na0.png,a cat, on grass\na1.png,a dog\n")
    source = read("folder", tmp_path)
    assert [record.captions for record in source.splits["train"]] == [("a dog",)]
    assert ("unusable entry", "metadata.csv, line 2") in found(source)


@pytest.mark.parametrize("line", ["[" * 200_000, '{"file_name": "a.jpg", "text": ' + "9" * 5000 + "}"])
def test_json_that_no_parser_takes_is_told(tmp_path, line):
    sources.folder(tmp_path, [{"file_name": "a.jpg", "text": "fine"}])
    with open(tmp_path / "metadata.jsonl", "a") as file:
        file.write(line)
    assert found(read("folder", tmp_path)) == {("unusable entry", "metadata.jsonl, line 2")}


@pytest.mark.parametrize("caption", [None, ["a", "b"], 3])
def test_coco_captions_that_are_no_text_are_told(tmp_path, caption):
    sources.coco(tmp_path)
    file = tmp_path / "annotations" / "captions_train2017.json"
    document = json.loads(file.read_text())
    document["annotations"][0]["caption"] = caption
    file.write_text(json.dumps(document))
    source = read("coco", tmp_path)
    assert ("unusable entry", "captions_train2017.json") in found(source)
    assert [len(record.captions) for record in source.splits["train"]] == [5, 6, 6]


def test_half_characters_are_told(tmp_path):
    sources.folder(tmp_path, [{"file_name": "a.jpg", "text": ["a cat \ud83d on", "a cat"]}])  # written as \ud83d
    captions, problems = usable_captions(read("folder", tmp_path).splits["train"][0])
    assert captions == ["a cat"]
    assert [(problem.kind, "\\ud83d" in problem.detail) for problem in problems] == [("wrong encoding", True)]
    str(problems[0]).encode()


def test_file_names_that_are_not_utf8_are_told(tmp_path):
    sources.pairs(tmp_path, 1)
    for ending in ("jpg", "txt"):
        (tmp_path / f"p0.{ending}").rename(os.fsdecode(bytes(tmp_path) + b"/caf\xe9." + ending.encode()))
    sources.pairs(tmp_path, 1)
    source = read("pairs", tmp_path, validation=0.5)
    assert [record.id for records in source.splits.values() for record in records] == ["p0"]
    assert found(source) == {("wrong encoding", "caf\\udce9.jpg")}


def test_captions_without_a_word_for_the_tokenizer_are_told(tmp_path):
    sources.folder(tmp_path, [{"file_name": "a.jpg", "text": ["猫 犬", "a cat"]}])
    (record,) = read("folder", tmp_path).splits["train"]
    assert usable_captions(record) == (["猫 犬", "a cat"], [])
    captions, problems = usable_captions(record, tokens="attngan")
    assert captions == ["a cat"]
    assert [problem.kind for problem in problems] == ["caption without words"]


@pytest.mark.parametrize(("kind", "option"), [("pairs", "caption_column"), ("folder", "image_column"), ("coco", "image_column")])
def test_columns_are_refused_where_there_are_none(tmp_path, kind, option):
    with pytest.raises(ValueError, match=f"--{option.replace('_', '-')} x: a source of kind {kind} has no columns"):
        read(kind, tmp_path, **{option: "x"})


@pytest.mark.parametrize("name", ["./nothere", "nothere", "~/nothere", "../a/b", "here/nothere", "a/b/c", "/nothere"])
def test_a_missing_path_is_not_looked_for_on_the_hub(tmp_path, monkeypatch, name):
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda **_: pytest.fail("asked the hub"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(ValueError, match=f"^{name}: no such file or folder, nor a name on the Hugging Face hub"):
        read("huggingface", name)


def test_articles():
    assert class_caption("airplane") == "a photo of an airplane ."
    assert class_caption("truck") == "a photo of a truck ."


BAD = [
    ("coco", {}, "no annotations/captions_train2017.json"),
    ("folder", {}, "no metadata.jsonl, metadata.csv or metadata.parquet"),
    ("pairs", {}, "no image in this folder has a text file"),
    ("cifar", {}, "neither train.tar nor a folder train"),
    ("birds", {}, "images.txt: no such file"),
    ("attngan", {}, "filenames.pickle: no such file"),
    ("released", {}, "dictionary.pkl: no such file"),
    ("coco", {"captions_train2017.json": b"{"}, "captions_train2017.json: not JSON"),
    ("coco", {"captions_train2017.json": b"[]"}, "captions_train2017.json: not COCO's captions"),
    ("folder", {"metadata.jsonl": b'{"text": "no name"}'}, "metadata.jsonl, line 1: no file_name; its columns: text"),
    ("folder", {"metadata.jsonl": b'{"file_name": "a.jpg", "label": 3}'}, "no column of captions"),
    ("folder", {"metadata.jsonl": b"", "metadata.csv": b""}, "two metadata files in one folder"),
    ("folder", {"metadata.parquet": b"nonsense"}, "metadata.parquet: not a Parquet file"),
    ("cifar", {"train.tar": b"nonsense"}, "train.tar: not an uncompressed tar file"),
]


@pytest.mark.parametrize(("kind", "files", "message"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_bad_sources_end_in_one_line(tmp_path, kind, files, message):
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        read(kind, tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_nothing_cannot_be_guessed(tmp_path):
    with pytest.raises(ValueError, match=r"cannot tell what kind .* name it with --kind: coco, birds"):
        guess_kind(str(tmp_path))
    with pytest.raises(ValueError, match="no such file or folder"):
        guess_kind(str(tmp_path / "gone"))
