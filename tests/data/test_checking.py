"""Checking: every fault is told with its file, what loses data is told apart, and a prepared dataset is compared with its manifest."""

from __future__ import annotations

import json
import shutil

import pytest

from cap2im.convert.pickles import read_pickle
from cap2im.data.captioned import PROBLEMS, Problem
from cap2im.data.checking import check
from cap2im.data.preparing import Options, prepare
from cap2im.data.sources import read_source
from tests.data import sources
from tests.real_data import data_folder


def checked(path, **options):
    return check(str(path), read_pickle=read_pickle, workers=1, **options)


def found(report):
    return {(problem.kind, problem.file.split("/")[-1]) for problem in report.problems}


def test_nothing_wrong_with_what_is_fine(tmp_path):
    sources.pairs(tmp_path / "train", 4)
    report = checked(tmp_path)
    assert (report.kind, report.problems, report.loses_data) == ("pairs", [], False)
    summary = report.splits["train"]
    assert (summary.images, summary.captions, set(summary.sides)) == (4, 8, {40})
    assert sorted(set(summary.lengths)) == [5, 7]
    assert report.vocabulary == len(["a", "picture", "of", "the", "number", "another", "one", ",", "."]) + 4


def test_every_fault_is_told_with_its_file(tmp_path):
    sources.pairs(tmp_path / "train", 6)
    sources.pairs(tmp_path / "val", 1)  # the picture of train/p0
    train = tmp_path / "train"
    whole = (train / "p1.jpg").read_bytes()
    (train / "p1.jpg").write_bytes(whole[:-200])
    (train / "p2.txt").write_bytes(b"\xff\xfe")
    (train / "p3.txt").write_text("fine\n?!\n" + "word " * 300)
    (train / "p4.txt").unlink()
    (train / "p5.jpg").unlink()
    report = checked(tmp_path)
    assert found(report) == {
        ("unreadable image", "p1.jpg"),
        ("wrong encoding", "p2.txt, line 1"),
        ("image without captions", "p2.jpg"),
        ("empty caption", "p3.jpg"),
        ("over-long caption", "p3.jpg"),
        ("image without captions", "p4.jpg"),
        ("caption without image", "p5.txt"),
        ("duplicate across splits", "p0.jpg"),
    }
    assert report.loses_data
    (duplicate,) = [problem for problem in report.problems if problem.kind == "duplicate across splits"]
    assert "val/p0.jpg" in duplicate.file
    assert "train/p0.jpg" in duplicate.detail


def test_duplicates_are_pictures_not_files(tmp_path):
    """The same pixels in another file format are the same picture; within a split it does not matter."""
    for split, name in (("train", "a.png"), ("train", "b.png"), ("test", "c.bmp")):
        sources.save(tmp_path / split / name, 1)
        (tmp_path / split / name).with_suffix(".txt").write_text("a caption")
    report = checked(tmp_path)
    assert found(report) == {("duplicate across splits", "c.bmp")}
    assert not report.loses_data


def test_unknown_words_of_validation(tmp_path):
    sources.folder(tmp_path / "train", [{"file_name": "a.jpg", "text": "one two three"}])
    sources.folder(tmp_path / "val", [{"file_name": "b.jpg", "text": "one two four"}])
    sources.save(tmp_path / "val" / "b.jpg", 5)
    report = checked(tmp_path)
    assert report.problems == []
    assert report.unknown == {"validation": pytest.approx(1 / 4)}  # one two four .
    assert report.vocabulary == 4


def test_coco_mini_is_fine_with_warnings():
    report = checked(data_folder() / "coco-mini")
    assert report.kind == "coco"
    assert len(report.problems) == 80
    assert not report.loses_data
    assert {split: (s.images, s.captions) for split, s in report.splits.items()} == {"train": (80, 400), "validation": (79, 395)}
    assert max(max(summary.sides) for summary in report.splits.values()) <= 640


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    monkeypatch.setattr(Options, "shard_rows", 3)
    sources.pairs(tmp_path / "pairs", 7)
    source = read_source("pairs", str(tmp_path / "pairs"), read_pickle=read_pickle)
    prepare(source, tmp_path / "out", kind="pairs", path="pairs", workers=1)
    return tmp_path / "out"


def test_a_prepared_dataset_is_whole(prepared):
    report = checked(prepared)
    assert (report.kind, report.problems) == ("prepared", [])
    assert (report.splits["train"].images, report.splits["train"].captions) == (7, 14)
    assert report.unknown == {"train": 0}


@pytest.mark.parametrize("harm", ["altered", "truncated", "missing", "vocabulary", "stray"])
def test_a_damaged_dataset_is_told(prepared, harm):
    shard = prepared / "data" / "train-00001-of-00003.parquet"
    if harm == "altered":
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
    elif harm == "truncated":
        shard.write_bytes(shard.read_bytes()[:-9])
    elif harm == "missing":
        shard.unlink()
    elif harm == "vocabulary":
        (prepared / "vocabulary.json").write_text('{"words": ["a"]}')
    else:
        shutil.copy(shard, prepared / "data" / "test-00000-of-00001.parquet")
    report = checked(prepared)
    expected = {"vocabulary": "vocabulary.json", "stray": "test-00000-of-00001.parquet"}.get(harm, shard.name)
    assert found(report) == {("damaged file", expected)}
    assert report.loses_data
    assert report.splits["train"].images == (7 if harm in ("vocabulary", "stray") else 4)


def test_a_damaged_manifest_ends_in_one_line(prepared):
    (prepared / "manifest.json").write_text(json.dumps({"format": "?"}))
    with pytest.raises(ValueError, match=r"manifest.json: damaged \(KeyError"):
        checked(prepared)


def test_every_kind_of_problem_is_known():
    assert all(Problem(kind, "file") for kind in PROBLEMS)
    with pytest.raises(AssertionError):
        Problem("gremlins", "file")
