"""Test that checks report each problem and compare a prepared dataset with its manifest."""

from __future__ import annotations

import json
import shutil
import tarfile

import pytest

from cap2im.data.prepare import PrepareOptions, prepare_dataset
from cap2im.data.problems import PROBLEMS, Problem
from cap2im.data.validate import check_path
from tests.data import sources
from tests.real_data import data_folder


def checked(path, kind=None, tokens=None, **options):
    return check_path(str(path), sources.read_options(**options), kind=kind, tokens=tokens, workers=1)


def problem_files(report):
    return {(problem.kind, problem.file.split("/")[-1]) for problem in report.problems}


def test_valid_data_have_no_problems(tmp_path):
    sources.pairs(tmp_path / "train", 4)
    report = checked(tmp_path)
    assert (report.kind, report.problems, report.loses_data) == ("pairs", [], False)
    summary = report.splits["train"]
    assert (summary.images, summary.captions, set(summary.sides)) == (4, 8, {40})
    assert sorted(set(summary.lengths)) == [5, 7]
    assert report.vocabulary == len(["a", "picture", "of", "the", "number", "another", "one", ",", "."]) + 4


def test_every_fault_is_reported(tmp_path):
    sources.pairs(tmp_path / "train", 6)
    sources.pairs(tmp_path / "val", 1)  # the picture of train/p0
    train = tmp_path / "train"
    whole = (train / "p1.jpg").read_bytes()
    (train / "p1.jpg").write_bytes(whole[:-200])
    (train / "p2.txt").write_bytes(b"caf\xe9")
    (train / "p3.txt").write_text("fine\n?!\n" + "word " * 300)
    (train / "p4.txt").unlink()
    (train / "p5.jpg").unlink()
    report = checked(tmp_path)
    assert problem_files(report) == {
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
    assert problem_files(report) == {("duplicate across splits", "c.bmp")}
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
    monkeypatch.setattr(PrepareOptions, "shard_rows", 3)
    sources.pairs(tmp_path / "pairs", 7)
    source = sources.read("pairs", tmp_path / "pairs")
    prepare_dataset(source, tmp_path / "out", kind="pairs", path="pairs", workers=1)
    return tmp_path / "out"


def test_a_prepared_dataset_is_whole(prepared):
    report = checked(prepared)
    assert (report.kind, report.problems) == ("prepared", [])
    assert (report.splits["train"].images, report.splits["train"].captions) == (7, 14)
    assert report.unknown == {"train": 0}


@pytest.mark.parametrize("harm", ["altered", "truncated", "missing", "vocabulary", "stray"])
def test_a_damaged_dataset_is_reported(prepared, harm):
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
    assert problem_files(report) == {("damaged file", expected)}
    assert report.loses_data
    assert report.splits["train"].images == (7 if harm in ("vocabulary", "stray") else 4)


def test_what_prepare_would_leave_out_is_reported(tmp_path):
    sources.birds(tmp_path / "birds")
    boxes = tmp_path / "birds" / "CUB_200_2011" / "bounding_boxes.txt"
    boxes.write_text(boxes.read_text().replace("1 60.0 27.0", "1 900.0 900.0"))
    report = checked(tmp_path / "birds")
    assert ("unreadable image", "Albatross_0001.jpg") in problem_files(report)
    assert report.splits["train"].images == 1


def test_captions_are_read_as_the_tokenizer_does(tmp_path):
    sources.folder(tmp_path, [{"file_name": "a.jpg", "text": ["猫 犬", "a cat."]}])
    assert checked(tmp_path).splits["train"].captions == 2
    report = checked(tmp_path, tokens="attngan")
    assert problem_files(report) == {("caption without words", "a.jpg")}
    assert (report.splits["train"].captions, report.splits["train"].lengths) == (1, [2])


def test_options_that_do_not_apply_are_refused(tmp_path, prepared):
    with pytest.raises(ValueError, match="is a prepared dataset, and --tokens, --caption-column does not apply"):
        checked(prepared, tokens="attngan", caption_column="text")
    with pytest.raises(ValueError, match="--tokens released: this source has its own vocabulary"):
        checked(sources.attngan(tmp_path / "a"), tokens="released")


def test_tar_shards_and_urls(prepared):
    """A manifest that was written by hand: fewer entries, shards in tar files, and elsewhere."""
    manifest = json.loads((prepared / "manifest.json").read_text())
    with tarfile.open(prepared / "data" / "validation-0.tar", "w") as archive:
        for number in range(3):
            path = prepared.parent / "pairs" / f"p{number}.jpg"
            archive.add(path, path.name)
            archive.add(path.with_suffix(".txt"), f"p{number}.txt")
    first, second, third = (shard["file"] for shard in manifest["shards"])
    shards = [
        {"file": first, "rows": 3},
        {"file": f"file://{prepared}/train-0.parquet", "rows": 4},
        {"file": f"file://{prepared}/data/train-gone.parquet", "rows": 4},
        {"file": "data/validation-0.tar", "rows": 3},
    ]
    (prepared / third).unlink()
    (prepared / second).rename(prepared / "train-0.parquet")
    (prepared / "manifest.json").write_text(
        json.dumps({key: manifest[key] for key in ("format", "side", "fit", "source")} | {"shards": shards})
    )
    with pytest.raises(ValueError, match="URLs are followed only if the dataset itself is given as a URL: file:///"):
        checked(prepared)
    report = check_path(prepared.as_uri(), workers=1)
    assert {split: (s.images, s.captions) for split, s in report.splits.items()} == {"train": (6, 12), "validation": (3, 6)}
    lost = {problem.file.split("/")[-1]: problem for problem in report.problems if PROBLEMS[problem.kind]}
    assert set(lost) == {"train-0.parquet", "train-gone.parquet"}
    assert lost["train-0.parquet"].detail == "holds 3 images; the manifest lists 4"
    shards[0]["file"] = "data/valid-0.tar"
    (prepared / "manifest.json").write_text(json.dumps(manifest | {"shards": shards}))
    with pytest.raises(ValueError, match=r"manifest.json: .*the name begins with none of train, validation, test"):
        checked(prepared)


def test_a_damaged_manifest_ends_in_one_line(prepared):
    (prepared / "manifest.json").write_text(json.dumps({"format": "?"}))
    with pytest.raises(ValueError, match=r"manifest.json: side: Field required; fit: Field required"):
        checked(prepared)


def test_every_kind_of_problem_is_described():
    assert all(Problem(kind, "file") for kind in PROBLEMS)
    with pytest.raises(AssertionError):
        Problem("gremlins", "file")
