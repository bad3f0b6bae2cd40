"""Test pictures with text files beside them."""

from __future__ import annotations

import os

import pytest

from cap2im.data.sources import guess_kind
from tests.data import sources


def read(kind, path, **options):
    return sources.read(kind, path, **options)


def problem_files(source):
    return {(problem.kind, problem.file.split("/")[-1]) for problem in source.problems}


def caption(id, text="a dog"):
    return {"id": 1, "image_id": id, "caption": text}


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
    assert problem_files(source) == {
        ("wrong encoding", "p1.txt, line 2"),
        ("image without captions", "p2.jpg"),
        ("caption without image", "lonely.txt"),
    }
    assert guess_kind(str(tmp_path)) == "pairs"


def test_file_names_that_are_not_utf8_are_problems(tmp_path):
    sources.pairs(tmp_path, 1)
    for ending in ("jpg", "txt"):
        (tmp_path / f"p0.{ending}").rename(os.fsdecode(bytes(tmp_path) + b"/caf\xe9." + ending.encode()))
    sources.pairs(tmp_path, 1)
    source = read("pairs", tmp_path, validation=0.5)
    assert [record.id for records in source.splits.values() for record in records] == ["p0"]
    assert problem_files(source) == {("wrong encoding", "caf\\udce9.jpg")}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_captions_are_decoded_by_their_byte_order_mark(tmp_path, encoding):
    sources.save(tmp_path / "a.jpg", 1)
    sources.write(tmp_path / "a.txt", "a café\r\na dog\n".encode(encoding))
    source = read("pairs", tmp_path)
    assert source.splits["train"][0].captions == ("a café", "a dog")
    assert source.problems == []


def test_utf16_without_a_mark_is_refused_by_name(tmp_path):
    sources.pairs(tmp_path, 2)
    sources.write(tmp_path / "p1.txt", "a dog runs".encode("utf-16-le"))
    source = read("pairs", tmp_path)
    assert [record.captions for record in source.splits["train"]][1:] == [()]
    assert problem_files(source) == {("wrong encoding", "p1.txt")}


@pytest.mark.parametrize(
    ("picture", "text"), [("a.png", "a.TXT"), ("a.png", "a.caption"), ("IMG.PNG", "img.txt"), ("é.png", "e\u0301.txt")]
)
def test_text_files_of_other_spellings_are_read(tmp_path, picture, text):
    sources.save(tmp_path / picture, 1)
    sources.write(tmp_path / text, "a dog")
    assert guess_kind(str(tmp_path)) == "pairs"
    source = read("pairs", tmp_path)
    assert (source.splits["train"][0].captions, source.problems) == (("a dog",), [])


@pytest.mark.parametrize(
    "line",
    [
        "0 0.5 0.5 0.1 0.2",
        '{"caption": "a dog"}',
        "['a dog']",
        "a.jpg,a dog",
        "1234_ab.jpg#0\ta dog",
        "image 1.png| 0| a dog",
        "<?xml version='1.0'?>",
    ],
)
def test_data_beside_a_picture_is_no_caption(tmp_path, line):
    sources.save(tmp_path / "a.png", 1)
    sources.write(tmp_path / "a.txt", f"a dog\n{line}\n3 dogs, 2 cats\n(a cat)\n")
    source = read("pairs", tmp_path)
    assert source.splits["train"][0].captions == ("a dog", "3 dogs, 2 cats", "(a cat)")
    assert problem_files(source) == {("not a caption", "a.txt, line 2")}


def test_pictures_of_other_formats_are_counted(tmp_path):
    sources.pairs(tmp_path, 1)
    for name in ("b.heic", "c.SVG", "c.txt", "d.mp3"):
        sources.write(tmp_path / name, "x")
    assert problem_files(read("pairs", tmp_path)) == {("picture format not read", "b.heic"), ("picture format not read", "c.SVG")}


def test_split_folders_one_folder_deeper_are_problems(tmp_path):
    sources.pairs(tmp_path / "archive" / "train", 1)
    sources.pairs(tmp_path / "archive" / "val", 1)
    (problem,) = read("pairs", tmp_path).problems
    assert (problem.kind, problem.file) == ("misplaced split folder", str(tmp_path / "archive"))
    assert "train and val in it do not count" in problem.detail


def test_split_folders_may_be_links(tmp_path):
    sources.pairs(tmp_path / "a", 2)
    sources.pairs(tmp_path / "b", 1)
    for split, target in (("train", "a"), ("val", "b")):
        (tmp_path / "photos" / split).parent.mkdir(exist_ok=True)
        (tmp_path / "photos" / split).symlink_to(tmp_path / target)
    source = read("pairs", tmp_path / "photos")
    assert {split: [record.id for record in records] for split, records in source.splits.items()} == {
        "train": ["train/p0", "train/p1"],
        "validation": ["val/p0"],
    }


def test_parquet_beside_pairs_is_no_dataset(tmp_path):
    sources.pairs(tmp_path / "00000", 2)
    sources.write(tmp_path / "00000.parquet", b"PAR1")
    assert guess_kind(str(tmp_path)) == "pairs"
