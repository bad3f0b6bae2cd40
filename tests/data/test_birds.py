"""Test CUB-200-2011 birds."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cap2im.data.birds import square_around
from cap2im.data.image_resizing import resize_image
from cap2im.data.sources import guess_kind
from tests.data import sources
from tests.real_data import data_folder


def read(kind, path, **options):
    return sources.read(kind, path, **options)


def test_square_around_a_bird_is_attngans():
    cases = json.loads((data_folder() / "parity" / "attngan" / "bbox.json").read_text())
    assert len(cases) > 10
    for case in cases:
        left, upper, right, lower = square_around(tuple(case["bbox"]))
        clipped = [max(0, left), max(0, upper), min(case["width"], right), min(case["height"], lower)]
        assert clipped == case["crop"]


def test_birds(tmp_path):
    source = read("birds", sources.birds(tmp_path))
    assert source.problems == []
    assert {split: [record.id for record in records] for split, records in source.splits.items()} == {
        "train": [sources.BIRDS[0], sources.BIRDS[2]],
        "test": [sources.BIRDS[1], sources.BIRDS[3]],
    }
    record = source.splits["test"][1]
    assert (record.class_id, len(record.captions), record.captions[9]) == (2, 10, "this bird is white, 9.")
    with record.image.open() as image:
        pixels = np.asarray(resize_image(image, 31, "stretch", record.box), float)[..., 0]
    # cut out are columns 0..465 and rows 0..375, of which the bird has 60..385 and 27..331
    assert pixels.mean() / 255 == pytest.approx(325 * 304 / (465 * 375), abs=0.01)
    assert guess_kind(str(tmp_path)) == "birds"
    assert len(read("birds", tmp_path / "CUB_200_2011").splits["train"]) == 2


def test_birds_of_attngans_file_names(tmp_path):
    sources.birds(tmp_path)
    sources.write(tmp_path / "train" / "filenames.pickle", sources.python_2([*sources.BIRDS[:2], "003.Gone/Gone_0001"]))
    sources.write(tmp_path / "test" / "filenames.pickle", sources.python_2(sources.BIRDS[2:]))
    (tmp_path / "text" / f"{sources.BIRDS[3]}.txt").unlink()
    source = read("birds", tmp_path)
    assert {split: [record.id for record in records] for split, records in source.splits.items()} == {
        "train": list(sources.BIRDS[:2]),
        "test": [sources.BIRDS[2]],
    }
    assert [problem.kind for problem in source.problems] == ["caption without image", "image without captions"]
