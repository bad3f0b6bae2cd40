"""Test pictures sorted into folders by class."""

from __future__ import annotations

import tarfile

import numpy as np
import pytest

from cap2im.data.class_folders import class_caption
from cap2im.data.sources import guess_kind
from tests.data import sources


def read(kind, path, **options):
    return sources.read(kind, path, **options)


def test_articles():
    assert class_caption("airplane") == "a photo of an airplane ."
    assert class_caption("truck") == "a photo of a truck ."


def test_two_pictures_of_one_name_in_a_tar_file(tmp_path):
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        for number, folder in enumerate(("a", "b")):
            archive.add(sources.save(tmp_path / f"{number}.jpg", number), f"{folder}/cat/1.jpg")
    with pytest.raises(ValueError, match=r"train.tar: two pictures in it are cat/1.jpg"):
        read("cifar", tmp_path)


@pytest.mark.parametrize("packed", [True, False])
def test_classes_as_captions(tmp_path, packed):
    for split, count in (("train", 20), ("test", 2)):
        for name in ("airplane", "truck"):
            for number in range(count):
                sources.save(tmp_path / split / name / f"{number:04d}.jpg", number + 50 * len(name), 32, 32)
        if packed:
            with tarfile.open(tmp_path / f"{split}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
                for file in sorted((tmp_path / split).rglob("*.jpg")):
                    archive.add(file, str(file.relative_to(tmp_path / split)))
                    file.unlink()
    source = read("cifar", tmp_path)
    assert {split: len(records) for split, records in source.splits.items()} == {"train": 36, "validation": 4, "test": 4}
    assert {record.id for record in source.splits["validation"]} == {
        f"train/{c}/{n:04d}.jpg" for c in ("airplane", "truck") for n in (18, 19)
    }
    first, second = source.splits["train"][:2]
    assert (first.captions, first.class_id, second.captions, second.class_id) == (
        ("a photo of an airplane .",),
        0,
        ("a photo of a truck .",),
        1,
    )
    with second.image.open() as image:
        assert np.abs(np.asarray(image, float) - np.asarray(sources.picture(50 * len("truck"), 32, 32), float)).mean() < 8
    assert guess_kind(str(tmp_path)) == "cifar"
