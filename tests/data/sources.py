"""Write tiny sources of captioned images in the layouts of users and authors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cap2im.convert.pickles import read_pickle
from cap2im.data.readers import ColumnNames, ReadOptions
from cap2im.data.records import Source
from cap2im.data.sources import read_source


def read_options(
    image_column: str | None = None,
    caption_column: str | tuple[str, ...] = (),
    split_column: str | None = None,
    images: str | None = None,
    side: int = 32,
) -> ReadOptions:
    """Return options of reading a source, with the reader of pickles."""
    captions = (caption_column,) if isinstance(caption_column, str) else caption_column
    return ReadOptions(ColumnNames(image_column, captions, split_column), images, side, read_pickle)


def read(kind: str, path: Path | str, validation: float = 0.0, test: float = 0.0, **options: Any) -> Source:
    """Read a source with options by name."""
    return read_source(kind, str(path), read_options(**options), validation=validation, test=test)


def picture(number: int, width: int = 48, height: int = 40) -> Image.Image:
    """Return a smooth picture that is unique to the number: a gradient and a coloured block."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, number * 37 % 256)], -1).astype(np.uint8)
    pixels[: height // 2, : width // 3] = [(number * 83) % 256, (number * 131) % 256, (number * 29) % 256]
    return Image.fromarray(pixels)


def save(path: Path, number: int, width: int = 48, height: int = 40) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(number, width, height).save(path)
    return path


def coco(root: Path, year: str = "2017", captions: Mapping[str, Sequence[str]] | None = None) -> Path:
    """Three training images and two validation images with captions each, and one validation image without annotation."""
    for split, numbers in (("train", (1, 2, 3)), ("val", (4, 5))):
        prefix = f"COCO_{split}2014_" if year == "2014" else ""
        images, annotations = [], []
        for number in numbers:
            name = f"{prefix}{number:012d}.jpg"
            save(root / f"{split}{year}" / name, number)
            images.append({"id": number, "file_name": name, "width": 48, "height": 40})
            for k, caption in enumerate((captions or {}).get(name, [f"Caption {k} of a picture, number {number}.\n" for k in range(6)])):
                annotations.append({"id": 10 * number + k, "image_id": number, "caption": caption})
        path = root / "annotations" / f"captions_{split}{year}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"images": images, "annotations": annotations}))
    save(root / f"val{year}" / "000000000009.jpg", 9)
    return root


def pairs(root: Path, count: int = 4) -> Path:
    for number in range(count):
        save(root / f"p{number}.jpg", number)
        (root / f"p{number}.txt").write_text(f"a picture of the number {number}\n\nanother one, {number}\n")
    return root


def folder(root: Path, entries: Sequence[Mapping[str, object]], name: str = "metadata.jsonl") -> Path:
    """Images of an image folder, and its metadata.jsonl."""
    for number, file_name in enumerate(dict.fromkeys(str(entry["file_name"]) for entry in entries)):
        save(root / file_name, number)
    (root / name).write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return root


def python_2(value: object) -> bytes:
    """Return a value as Python 2 pickled it: protocol 2, with `str` for text."""
    return b"\x80\x02" + _python_2(value) + b"."


def _python_2(value: object) -> bytes:
    if isinstance(value, str):
        data = value.encode()
        return b"T" + len(data).to_bytes(4, "little") + data
    if isinstance(value, bool) or value is None:
        raise TypeError(value)
    if isinstance(value, (int, np.integer)):
        return b"J" + int(value).to_bytes(4, "little", signed=True)
    if isinstance(value, (list, tuple)):
        return b"](" + b"".join(map(_python_2, value)) + b"e"
    assert isinstance(value, dict)
    return b"}(" + b"".join(_python_2(key) + _python_2(item) for key, item in value.items()) + b"u"


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


BIRDS = ("001.Albatross/Albatross_0001", "001.Albatross/Albatross_0002", "002.Jay/Jay_0001", "002.Jay/Jay_0002")
BIRD_BOX = (60.0, 27.0, 325.0, 304.0)  # in a picture of 500 x 375


def birds(root: Path) -> Path:
    """CUB-200-2011 with captions; a bird's box is white, the rest black."""
    cub = root / "CUB_200_2011"
    for name in BIRDS:
        image = Image.new("RGB", (500, 375), "black")
        image.paste("white", (60, 27, 385, 331))
        path = cub / "images" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        write(root / "text" / f"{name}.txt", "".join(f"this bird is white, {k}.\n" for k in range(10)) + "\n")
    numbered = list(enumerate(BIRDS, 1))
    write(cub / "images.txt", "".join(f"{n} {name}.jpg\n" for n, name in numbered))
    write(cub / "bounding_boxes.txt", "".join(f"{n} {' '.join(map(str, BIRD_BOX))}\n" for n, _ in numbered))
    write(cub / "image_class_labels.txt", "".join(f"{n} {int(name[:3])}\n" for n, name in numbered))
    write(cub / "train_test_split.txt", "".join(f"{n} {int('0002' not in name)}\n" for n, name in numbered))
    return root


ATTNGAN_WORDS = {"<end>": 0, "a": 3, "bird": 1, "plane": 2, "red": 4}


def attngan(root: Path) -> Path:
    """AttnGAN's metadata for three training images and one test image, two captions each."""
    names = {"train": ["COCO_1", "COCO_2", "COCO_3"], "test": ["COCO_4"]}
    captions = {"train": [[3, 1], [3, 4, 1], [3, 2], [3, 4, 2], [1], [2]], "test": [[3, 4, 1], [3, 1]]}
    for split, listed in names.items():
        for name in listed:
            save(root / "images" / f"{name}.jpg", int(name[-1]))
        write(root / split / "filenames.pickle", python_2(listed))
        write(root / split / "class_info.pickle", python_2([int(name[-1]) * 10 for name in listed]))
    by_number = {number: word for word, number in ATTNGAN_WORDS.items()}
    write(root / "captions.pickle", python_2([captions["train"], captions["test"], by_number, ATTNGAN_WORDS]))
    return root


RELEASED_WORDS = {"UNK": 1, "a": 2, "dog": 3, "red": 4, ".": 5, "bus": 6}


def released(root: Path, side: int = 32, white: float = 1.0) -> Path:
    """alignDRAW's arrays: two training images, one each to validate and test, five captions of each."""
    for split, count in (("train", 2), ("dev", 1), ("test", 1)):
        pixels = np.stack([np.asarray(picture(n + len(split), side, side)).transpose(2, 0, 1) for n in range(count)])
        root.mkdir(parents=True, exist_ok=True)
        scaled = pixels.reshape(count, -1) / 255 * white
        np.save(root / f"{split}-images-{side}x{side}.npy", scaled.astype(np.uint8 if white == 255 else np.float32))
        captions = np.zeros((5 * count, 6), np.int32)
        for row in range(5 * count):
            captions[row, :4] = (2, 3 + row % 2, 6, 5)
        np.save(root / f"{split}-captions.npy", captions)
        np.save(root / f"{split}-captions-len.npy", np.full((5 * count, 1), 4))
        write(root / f"{split}-cap2im.pkl", python_2({row: row // 5 for row in range(5 * count)}))
    write(root / "dictionary.pkl", python_2(RELEASED_WORDS))
    return root
