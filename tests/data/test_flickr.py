"""Test Flickr8k, Flickr30k and Karpathy's JSON in the layouts in which they are distributed."""

from __future__ import annotations

import json

import pytest

from cap2im.data.sources import guess_kind
from tests.data import sources
from tests.real_data import data_folder

NAMES = ("a.jpg", "b.jpg", "c.jpg")
TOKENS = "".join(f'{name}#{k}\tcaption {k} of {name[0]}, "drawn" .\n' for name in NAMES for k in range(2))
CSV = "image,caption\n" + "".join(f'{name},"caption {k} of {name[0]}, ""drawn"" ."\n' for name in NAMES for k in range(2))
BARS = "image_name| comment_number| comment\n" + "".join(f'{n}| {k}| caption {k} of {n[0]}, "drawn" .\n' for n in NAMES for k in range(2))
CAPTIONS = {name[0]: tuple(f'caption {k} of {name[0]}, "drawn" .' for k in range(2)) for name in NAMES}
LISTS = {"train": "a.jpg\n", "dev": "b.jpg\n", "test": "c.jpg"}


def read(path):
    return sources.read("flickr8k", path)


def listed(source):
    return {split: {record.id: record.captions for record in records} for split, records in source.splits.items()}


@pytest.mark.parametrize("file", ["path", "file"])
@pytest.mark.parametrize(
    ("images", "name", "content"),
    [
        ("Flicker8k_Dataset", "Flickr8k_text/Flickr8k.token.txt", TOKENS),
        ("Flicker8k_Dataset/Flicker8k_Dataset", "Flickr8k.token.txt", TOKENS),
        ("flickr30k-images", "results_20130124.token", TOKENS),
        ("Images", "captions.txt", CSV),
        ("Images", "captions.txt", TOKENS.replace("\t", " ", 1)),
        ("flickr30k_images", "results.csv", BARS),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_layouts(tmp_path, images, name, content, file, encoding):
    for number, each in enumerate(NAMES):
        sources.save(tmp_path / images / each, number)
    path = sources.write(tmp_path / name, content.encode(encoding))
    given = tmp_path if file == "path" else path
    assert guess_kind(str(given)) == "flickr8k"
    source = read(given)
    assert listed(source) == {"train": CAPTIONS}
    assert source.problems == []


def test_split_lists_decide(tmp_path):
    for number, name in enumerate((*NAMES, "d.jpg")):
        sources.save(tmp_path / "Images" / name, number)
    sources.write(
        tmp_path / "Flickr8k_text" / "Flickr8k.token.txt", TOKENS + "d.jpg#0\tin no list\ngone.jpg#0\tx\ngone.jpg#1\ty\nnonsense\n"
    )
    for split, names in LISTS.items():
        sources.write(tmp_path / "Flickr8k_text" / f"Flickr_8k.{split}Images.txt", names)
    source = read(tmp_path)
    assert listed(source) == {"train": {"a": CAPTIONS["a"]}, "validation": {"b": CAPTIONS["b"]}, "test": {"c": CAPTIONS["c"]}}
    assert sorted((problem.kind, problem.detail.split("/")[-1]) for problem in source.problems) == [
        ("caption without image", "gone.jpg (2 captions)"),
        ("picture in no split", "in no split list"),
        ("unusable entry", "not IMAGE.jpg#N and a caption: nonsense"),
    ]


def karpathy(*images):
    return json.dumps({"dataset": "coco", "images": list(images)})


def test_karpathys_splits(tmp_path):
    for number, name in enumerate(("train2014/a.jpg", "val2014/b.jpg", "val2014/c.jpg")):
        sources.save(tmp_path / name, number)
    images = [
        {"filepath": "train2014", "filename": "a.jpg", "split": "train", "sentences": [{"raw": "a dog", "tokens": ["a", "dog"]}]},
        {"filepath": "val2014", "filename": "b.jpg", "split": "restval", "sentences": [{"tokens": ["a", "cat"]}]},
        {"filepath": "val2014", "filename": "c.jpg", "split": "val", "sentences": [{"raw": "a cow"}]},
    ]
    sources.write(tmp_path / "dataset_coco.json", karpathy(*images))
    assert guess_kind(str(tmp_path)) == guess_kind(str(tmp_path / "dataset_coco.json")) == "flickr8k"
    source = read(tmp_path)
    assert listed(source) == {"train": {"a": ("a dog",), "b": ("a cat",)}, "validation": {"c": ("a cow",)}}
    assert source.problems == []


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        (7, "unusable entry"),
        ({"filename": "b.jpg", "split": "train"}, "unusable entry"),
        ({"filename": "b.jpg", "split": "odd", "sentences": []}, "split not used"),
        ({"filename": "b.jpg", "split": "train", "sentences": [3]}, "unusable entry"),
        ({"filename": "/etc/b.png", "split": "train", "sentences": [{"raw": "x"}]}, "picture outside the folder"),
        ({"filename": "../b.png", "split": "train", "sentences": [{"raw": "x"}]}, "picture outside the folder"),
        ({"filename": "http://x/b.jpg", "split": "train", "sentences": [{"raw": "x"}]}, "picture outside the folder"),
    ],
)
def test_one_bad_image_of_karpathys_is_reported(tmp_path, entry, kind):
    sources.save(tmp_path / "images" / "a.jpg", 1)
    good = {"filename": "a.jpg", "split": "train", "sentences": [{"raw": "a dog"}]}
    sources.write(tmp_path / "dataset_flickr8k.json", karpathy(good, entry))
    source = read(tmp_path)
    assert listed(source)["train"]["a"] == ("a dog",)
    assert kind in {problem.kind for problem in source.problems}


def test_plain_captions_of_a_picture_are_no_flickr(tmp_path):
    sources.save(tmp_path / "captions.jpg", 1)
    sources.write(tmp_path / "captions.txt", "a dog, running\n")
    assert guess_kind(str(tmp_path)) == "pairs"


def test_flickr8k():
    source = read(data_folder() / "flickr8k")
    assert {split: len(records) for split, records in source.splits.items()} == {"train": 6000, "validation": 1000, "test": 1000}
    assert all(len(record.captions) == 5 for records in source.splits.values() for record in records)
    assert sum(problem.kind == "picture in no split" for problem in source.problems) == 91
    (lost,) = [problem for problem in source.problems if problem.kind != "picture in no split"]
    assert lost.detail.endswith("2258277193_586949ec62.jpg.1 (5 captions)")
