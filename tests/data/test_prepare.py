"""Test what preparing writes and skips, and that an interruption changes nothing."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cap2im.data import prepare as prepare_module
from cap2im.data.captioned_images import CaptionedImages
from cap2im.data.dataset import PreparedDataset
from cap2im.data.image_files import ImageFile
from cap2im.data.image_preparation import prepare_image
from cap2im.data.image_resizing import resize_image
from cap2im.data.prepare import PrepareOptions, prepare_dataset
from tests.data import sources
from tests.real_data import data_folder


def prepared(kind, path, out, options=None, **more):
    source = sources.read(kind, path, **more.pop("reading", {}))
    manifest = prepare_dataset(source, out, kind=kind, path=str(path), options=options, **{"workers": 1} | more)
    return manifest.model_dump(exclude_none=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def load(out, cache):
    import datasets

    return datasets.load_dataset(str(out), cache_dir=str(cache))


def test_datasets_library_opens_it(tmp_path):
    manifest = prepared("coco", sources.coco(tmp_path / "coco"), tmp_path / "out", PrepareOptions(side=8, captions=5))
    opened = load(tmp_path / "out", tmp_path / "cache")
    assert {split: table.num_rows for split, table in opened.items()} == {"train": 3, "validation": 2}
    assert {name: type(feature).__name__ for name, feature in opened["train"].features.items()} == {
        "id": "Value",
        "image": "Image",
        "captions": "List",
        "class_id": "Value",
    }
    row = opened["train"][1]
    assert (row["id"], row["class_id"]) == ("000000000002", -1)
    assert row["captions"] == [f"Caption {k} of a picture, number 2." for k in range(5)]
    assert (row["image"].size, row["image"].mode) == ((8, 8), "RGB")
    expected = np.asarray(sources.picture(2).resize((8, 8), Image.Resampling.BICUBIC), float)
    assert np.abs(np.asarray(row["image"], float) - expected).mean() < 6  # JPEG stands between them
    assert manifest["splits"] == {"train": {"images": 3, "captions": 15}, "validation": {"images": 2, "captions": 10}}


def test_training_opens_it(tmp_path):
    prepared("pairs", sources.pairs(tmp_path / "pairs"), tmp_path / "out", PrepareOptions(side=8), reading={"validation": 0.4})
    dataset = PreparedDataset.open(tmp_path / "out")
    assert {"picture", "another", ".", "UNK"} <= set(dataset.vocabulary.words)
    train = CaptionedImages(dataset, "train")
    assert len(train) + len(CaptionedImages(dataset, "validation")) == 4
    assert train.pixels([0], 3).shape == (1, 3, 8, 8)


def test_twice_and_in_parallel_gives_the_same_bytes(tmp_path):
    sources.coco(tmp_path / "coco")
    prepared("coco", tmp_path / "coco", tmp_path / "one")
    prepared("coco", tmp_path / "coco", tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_coco_mini(tmp_path, caplog):
    manifest = prepared("coco", data_folder() / "coco-mini", tmp_path / "out", PrepareOptions(captions=5))
    assert manifest["splits"] == {"train": {"images": 80, "captions": 400}, "validation": {"images": 79, "captions": 395}}
    reported = (tmp_path / "out" / "problems.txt").read_text().splitlines()
    assert len(reported) == 80
    assert all(line.startswith("image without annotation: ") and line.endswith("not in captions_val2017.json") for line in reported)
    assert "80 x image without annotation" in caplog.text


def test_unreadable_images_are_skipped_and_reported(tmp_path, caplog):
    sources.pairs(tmp_path / "pairs", 5)
    whole = (tmp_path / "pairs" / "p0.jpg").read_bytes()
    (tmp_path / "pairs" / "p0.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "pairs" / "p1.jpg").write_bytes(b"no picture")
    (tmp_path / "pairs" / "p2.jpg").write_bytes(b"")
    (tmp_path / "pairs" / "p3.txt").write_text(" \n")
    manifest = prepared("pairs", tmp_path / "pairs", tmp_path / "out")
    assert manifest["splits"] == {"train": {"images": 1, "captions": 2}}
    reported = (tmp_path / "out" / "problems.txt").read_text().splitlines()
    assert [line.split(": ")[0] for line in reported] == ["unreadable image"] * 3 + ["image without captions"]
    assert [f"p{n}.jpg" in line for n, line in enumerate(reported)] == [True] * 4
    assert "truncated" in reported[0].lower()
    assert caplog.text.count("problems, listed in") == 1


def test_nothing_usable_is_refused(tmp_path):
    sources.pairs(tmp_path / "pairs", 1)
    (tmp_path / "pairs" / "p0.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"none of its training images can be used; the first problem: unreadable image: .*p0.jpg"):
        prepared("pairs", tmp_path / "pairs", tmp_path / "out")


KILLED = """
import multiprocessing, os, signal, sys
from cap2im.data import prepare as prepare_module
from cap2im.data.prepare import PrepareOptions, prepare_dataset
from cap2im.data.sources import read_source

prepare_module.PrepareOptions.shard_rows = 4
write, written = prepare_module.write_shard, []
def write_then_die(*arguments):
    written.append(arguments)
    if len(written) == 3:  # in the middle of the third shard
        prepare_module.Path(sys.argv[3]).write_text(" ".join(str(child.pid) for child in multiprocessing.active_children()))
        arguments = (*arguments[:-1], lambda rows: os.kill(os.getpid(), signal.SIGKILL))
    return write(*arguments)
prepare_module.write_shard = write_then_die
source = read_source("pairs", sys.argv[1])
prepare_module.prepare_dataset(source, prepare_module.Path(sys.argv[2]), kind="pairs", path=sys.argv[1], workers=2)
"""


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_killed_and_resumed_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(PrepareOptions, "shard_rows", 4)
    sources.pairs(tmp_path / "pairs", 18)
    (tmp_path / "pairs" / "p1.jpg").write_bytes(b"no picture")
    prepared("pairs", tmp_path / "pairs", tmp_path / "whole")
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(tmp_path / "pairs"), str(out), str(tmp_path / "workers")]
    assert subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == -signal.SIGKILL
    workers = (tmp_path / "workers").read_text().split()
    assert workers
    wait_until(lambda: not any(alive(int(worker)) for worker in workers))  # they must not wait for ever for their parent
    left = {path.name: path.stat().st_mtime_ns for path in (out / "data").glob("*.parquet")}
    assert sorted(left) == ["train-00000-of-00005.parquet", "train-00001-of-00005.parquet"]
    assert any(path.name.endswith(".draft") for path in (out / "data").iterdir())
    assert not (out / "manifest.json").exists()
    with pytest.raises(ValueError, match="not empty; --resume continues"):
        prepared("pairs", tmp_path / "pairs", out)
    prepared("pairs", tmp_path / "pairs", out, resume=True)
    assert contents(out) == contents(tmp_path / "whole")
    assert {name: (out / "data" / name).stat().st_mtime_ns for name in left} == left  # these were not made again
    prepared("pairs", tmp_path / "pairs", out, resume=True)  # nothing is left to do
    assert contents(out) == contents(tmp_path / "whole")


def test_a_damaged_shard_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(PrepareOptions, "shard_rows", 4)
    prepared("pairs", sources.pairs(tmp_path / "pairs", 10), tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    for name in ("manifest.json", "vocabulary.json", "README.md"):
        (tmp_path / "out" / name).unlink()
    (tmp_path / "out" / "preparing.json").write_text(json.dumps({key: manifest[key] for key in ("fingerprint", "shards")}))
    (tmp_path / "out" / "data" / "train-00001-of-00003.parquet").write_bytes(b"damaged")
    prepared("pairs", tmp_path / "pairs", tmp_path / "out", resume=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("harm", ["missing", "damaged", "vocabulary"])
def test_resuming_mends_a_finished_dataset(tmp_path, monkeypatch, harm):
    monkeypatch.setattr(PrepareOptions, "shard_rows", 4)
    sources.pairs(tmp_path / "pairs", 10)
    (tmp_path / "pairs" / "p5.jpg").write_bytes(b"no picture")
    prepared("pairs", tmp_path / "pairs", tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "out")
    shard = tmp_path / "out" / "data" / "train-00000-of-00003.parquet"
    if harm == "missing":
        shard.unlink()
    else:
        (tmp_path / "out" / "vocabulary.json" if harm == "vocabulary" else shard).write_bytes(b"damaged")
    prepared("pairs", tmp_path / "pairs", tmp_path / "out", resume=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")  # also the problems of whole shards


def test_resuming_with_another_vocabulary_keeps_the_shards(tmp_path):
    sources.pairs(tmp_path / "pairs")
    prepared("pairs", tmp_path / "pairs", tmp_path / "whole", PrepareOptions(words=5))
    prepared("pairs", tmp_path / "pairs", tmp_path / "out")
    (shard,) = (tmp_path / "out" / "data").iterdir()
    before = shard.stat().st_mtime_ns
    prepared("pairs", tmp_path / "pairs", tmp_path / "out", PrepareOptions(words=5), resume=True)
    assert shard.stat().st_mtime_ns == before
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_an_empty_vocabulary_is_refused_before_decoding(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "write_shard", lambda *_: pytest.fail("a picture was read"))
    with pytest.raises(ValueError, match="no word is left"):
        prepared("pairs", sources.pairs(tmp_path / "pairs"), tmp_path / "out", PrepareOptions(minimum_count=99))
    assert not (tmp_path / "out").exists()


def test_an_empty_vocabulary_of_a_table_keeps_its_shards(tmp_path):
    import h5py

    with h5py.File(tmp_path / "mnist.h5", "w") as file:
        file["train"], file["train_labels"] = np.zeros((3, 784), np.uint8), np.arange(3)
    with pytest.raises(ValueError, match="no word is left"):
        prepared("released", tmp_path / "mnist.h5", tmp_path / "out", PrepareOptions(minimum_count=99))
    (shard,) = (tmp_path / "out" / "data").iterdir()
    before = shard.stat().st_mtime_ns
    assert prepared("released", tmp_path / "mnist.h5", tmp_path / "out", resume=True)["splits"]["train"]["images"] == 3
    assert shard.stat().st_mtime_ns == before


@pytest.mark.parametrize("options", [PrepareOptions(tokens="released"), PrepareOptions(minimum_count=2), PrepareOptions(words=3)])
def test_a_source_with_a_vocabulary_takes_no_options_for_one(tmp_path, options):
    with pytest.raises(ValueError, match="this source has its own vocabulary"):
        prepared("attngan", sources.attngan(tmp_path / "a"), tmp_path / "out", options)
    manifest = prepared("attngan", tmp_path / "a", tmp_path / "out")
    assert manifest["tokens"] == "attngan"
    assert not {"minimum_count", "words"} & set(manifest)


def test_resume_refuses_another_dictionary(tmp_path):
    sources.released(tmp_path / "a")
    prepared("released", tmp_path / "a", tmp_path / "out")
    prepared("released", tmp_path / "a", tmp_path / "out", resume=True)
    words = sources.RELEASED_WORDS | {"cat": sources.RELEASED_WORDS["dog"]}
    del words["dog"]
    sources.write(tmp_path / "a" / "dictionary.pkl", sources.python_2(words))
    with pytest.raises(ValueError, match="began with another source or other options"):
        prepared("released", tmp_path / "a", tmp_path / "out", resume=True)


def test_resume_refuses_other_columns_and_another_share(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    text = datasets.Value("string")
    rows = {"image": [sources.picture(n) for n in range(8)], "a": ["a cat"] * 8, "b": ["a dog"] * 8}
    table = datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image(), "a": text, "b": text}))
    table.to_parquet(tmp_path / "two.parquet")

    def run(**more):
        reading = {"caption_column": "a", "validation": 0.5} | more
        return prepared("huggingface", tmp_path / "two.parquet", tmp_path / "out", reading=reading, resume=True)

    assert run()["splits"] == run()["splits"]
    for other in ({"caption_column": "b"}, {"validation": 0.2}):
        with pytest.raises(ValueError, match="began with another source or other options"):
            run(**other)


def test_two_runs_do_not_write_into_one_folder(tmp_path, monkeypatch):
    sources.pairs(tmp_path / "pairs")
    write = prepare_module.write_shard

    def meanwhile(*arguments):
        with pytest.raises(ValueError, match="out: another cap2im prepare is writing there"):
            prepared("pairs", tmp_path / "pairs", tmp_path / "out", resume=True)
        monkeypatch.setattr(prepare_module, "write_shard", write)
        return write(*arguments)

    monkeypatch.setattr(prepare_module, "write_shard", meanwhile)
    prepared("pairs", tmp_path / "pairs", tmp_path / "out")
    prepared("pairs", tmp_path / "pairs", tmp_path / "out", resume=True)  # the lock is gone


def test_a_split_without_usable_pictures_is_not_written(tmp_path):
    sources.pairs(tmp_path / "pairs" / "train", 3)
    sources.pairs(tmp_path / "pairs" / "test", 1)
    (tmp_path / "pairs" / "test" / "p0.jpg").write_bytes(b"no picture")
    for resume in (False, True):
        manifest = prepared("pairs", tmp_path / "pairs", tmp_path / "out", resume=resume)
        assert list(manifest["splits"]) == ["train"]
        assert [path.name for path in (tmp_path / "out" / "data").iterdir()] == ["train-00000-of-00001.parquet"]
        assert "split: test" not in (tmp_path / "out" / "README.md").read_text()
        assert (tmp_path / "out" / "problems.txt").read_text().startswith("unreadable image: ")


def test_a_folder_whose_name_is_not_utf8(tmp_path):
    folder = sources.pairs(Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9")), 2)
    (folder / "p0.jpg").write_bytes(b"no picture")
    manifest = prepared("pairs", folder, tmp_path / "out")
    assert manifest["splits"]["train"]["images"] == 1
    assert PreparedDataset.open(tmp_path / "out").manifest.source["path"] == str(folder).replace("\udce9", "\\udce9")
    assert "caf\\udce9/p0.jpg" in (tmp_path / "out" / "problems.txt").read_text("utf-8")


def test_text_that_cannot_be_written_is_left_out(tmp_path):
    entries = [{"file_name": "a.jpg", "text": "a cat \ud83d on"}, {"file_name": "b.jpg", "text": "a dog"}]
    manifest = prepared("folder", sources.folder(tmp_path / "a", entries), tmp_path / "out")
    assert manifest["splits"] == {"train": {"images": 1, "captions": 1}}
    assert "wrong encoding: " in (tmp_path / "out" / "problems.txt").read_text("utf-8")


def test_captions_without_a_word_for_the_tokenizer_are_left_out(tmp_path):
    entries = [{"file_name": "a.jpg", "text": "猫 犬"}, {"file_name": "b.jpg", "text": "a dog"}]
    sources.folder(tmp_path / "a", entries)
    assert prepared("folder", tmp_path / "a", tmp_path / "one")["splits"]["train"]["images"] == 2
    assert prepared("folder", tmp_path / "a", tmp_path / "two", PrepareOptions(tokens="attngan"))["splits"]["train"]["images"] == 1
    assert "caption without words: " in (tmp_path / "two" / "problems.txt").read_text("utf-8")


@pytest.mark.parametrize("change", ["captions", "picture", "options", "more"])
def test_resume_refuses_another_source_or_other_options(tmp_path, change):
    sources.pairs(tmp_path / "pairs")
    prepared("pairs", tmp_path / "pairs", tmp_path / "out")
    options = PrepareOptions()
    if change == "captions":
        (tmp_path / "pairs" / "p0.txt").write_text("another caption")
    elif change == "picture":
        os.utime(tmp_path / "pairs" / "p0.jpg", (1, 1))
    elif change == "options":
        options = replace(options, fit="crop")
    else:
        sources.pairs(tmp_path / "pairs", 5)
    with pytest.raises(ValueError, match="began with another source or other options"):
        prepared("pairs", tmp_path / "pairs", tmp_path / "out", options, resume=True)


def test_a_folder_that_is_in_use_is_refused(tmp_path):
    sources.pairs(tmp_path / "pairs")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("dear")
    for resume in (False, True):
        with pytest.raises(ValueError, match="not empty; choose another"):
            prepared("pairs", tmp_path / "pairs", tmp_path / "out", resume=resume)
    with pytest.raises(ValueError, match="is a file, and a folder is needed"):
        prepared("pairs", tmp_path / "pairs", tmp_path / "out" / "thesis.txt")


def test_vocabulary_is_of_the_training_captions(tmp_path):
    sources.folder(tmp_path / "a" / "train", [{"file_name": "a.jpg", "text": ["A cat, a CAT.", "a rare word"]}])
    sources.folder(tmp_path / "a" / "val", [{"file_name": "b.jpg", "text": "only here"}])
    manifest = prepared("folder", tmp_path / "a", tmp_path / "out")
    assert PreparedDataset.open(tmp_path / "out").vocabulary.words == ("a", ".", "cat", ",", "rare", "word", "UNK")
    assert manifest["vocabulary"]["words"] == 7
    prepared("folder", tmp_path / "a", tmp_path / "two", PrepareOptions(tokens="attngan", minimum_count=2))
    assert PreparedDataset.open(tmp_path / "two").vocabulary.words == ("<end>", "a", "cat")
    prepared("folder", tmp_path / "a", tmp_path / "three", PrepareOptions(words=3))
    assert PreparedDataset.open(tmp_path / "three").vocabulary.words == ("a", ".", "UNK")


# Pictures


def from_file(tmp_path, image: Image.Image, name: str, **saving) -> Image.Image:
    image.save(tmp_path / name, **saving)
    data = prepare_image(ImageFile(tmp_path / name), 16, "stretch", None)
    assert isinstance(data, bytes), data
    return Image.open(io.BytesIO(data))


def test_fits(tmp_path):
    wide = Image.new("RGB", (400, 100), "black")
    wide.paste("white", (150, 0, 250, 100))
    for fit, size, mean in (("stretch", (20, 20), 255 / 4), ("crop", (20, 20), 255), ("shorter", (80, 20), 255 / 4)):
        result = resize_image(wide, 20, fit)
        assert result.size == size, fit
        assert np.asarray(result).mean() == pytest.approx(mean, abs=2), fit
    boxed = resize_image(wide, 20, "stretch", (150, 0, 250, 100))
    assert np.asarray(boxed).mean() == pytest.approx(255, abs=2)


def test_reduced_jpeg_is_close_to_a_full_decode(tmp_path):
    """JPEG's own reduction is a shortcut, also for boxes and for pictures that lie on their side."""
    y, x = np.mgrid[:600, :800] / 100
    smooth = np.stack([np.sin(x + y), np.cos(2 * x), np.sin(3 * y)], -1) * 127 + 128
    smooth[:300, :400] = [250, 20, 20]
    image = Image.fromarray(smooth.astype(np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    for exif in (None, turned):
        image.save(tmp_path / "a.jpg", quality=97, **({} if exif is None else {"exif": exif}))
        upright = image if exif is None else image.transpose(Image.Transpose.ROTATE_270)
        for fit in ("stretch", "crop", "shorter"):
            for box in (None, (40.0, 60.0, 520.0, 560.0), (-100.0, -50.0, 300.0, 350.0)):
                got = resize_image(Image.open(tmp_path / "a.jpg"), 32, fit, box)
                expected = resize_image(upright, 32, fit, box)
                assert got.size == expected.size
                assert np.abs(np.asarray(got, float) - np.asarray(expected, float)).mean() < 2, (exif is None, fit, box)


def test_every_mode_becomes_rgb_on_white(tmp_path):
    grey = Image.new("L", (40, 40), 90)
    for name, image in {
        "grey.png": grey,
        "grey.jpg": grey,
        "palette.gif": Image.new("RGB", (40, 40), (90, 90, 90)).convert("P"),
        "cmyk.jpg": Image.new("RGB", (40, 40), (90, 90, 90)).convert("CMYK"),
        "deep.png": Image.fromarray(np.full((40, 40), 90 * 257, np.uint16)),
    }.items():
        result = from_file(tmp_path, image, name)
        assert result.mode == "RGB", name
        assert np.asarray(result).mean() == pytest.approx(90, abs=4), name
    clear = Image.new("RGBA", (40, 40), (10, 10, 10, 0))
    clear.paste((255, 0, 0, 255), (0, 0, 20, 40))
    result = from_file(tmp_path, clear, "clear.png")
    assert result.getpixel((2, 8)) == (255, 0, 0)
    assert result.getpixel((13, 8)) == (255, 255, 255)


def test_numbers_without_a_white_are_refused(tmp_path):
    for name, image, what in (
        ("f.tif", np.full((40, 40), 0.5, np.float32), "floating-point numbers"),
        ("i.tif", np.full((40, 40), 200, np.int32), "integers"),
    ):
        Image.fromarray(image).save(tmp_path / name)
        reason = prepare_image(ImageFile(tmp_path / name), 16, "stretch", None)
        assert isinstance(reason, str), name
        assert reason.startswith(f"its pixels are {what}"), name


def test_large_sides_are_stored_as_jpeg(tmp_path):
    sources.save(tmp_path / "a.png", 1, 300, 300)
    for side, stored in ((64, "PNG"), (65, "JPEG")):
        data = prepare_image(ImageFile(tmp_path / "a.png"), side, "stretch", None)
        assert Image.open(io.BytesIO(data)).format == stored
        assert PrepareOptions(side=side).image_format == stored


def test_preparing_is_quick_enough(tmp_path):
    """150 COCO-size JPEGs a second on two cores are wanted; half of half of that on one core leaves room for a busy machine."""
    files = sorted((data_folder() / "coco-mini" / "train2017").glob("*.jpg"))[:40]
    start = time.process_time()
    for file in files:
        assert isinstance(prepare_image(ImageFile(file), 32, "stretch", None), bytes)
    assert len(files) / (time.process_time() - start) > 75 / 2
