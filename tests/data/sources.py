"""Tiny sources of captioned images in the layouts that people and authors use."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def picture(number: int, width: int = 48, height: int = 40) -> Image.Image:
    """A smooth picture that no other number has: a gradient and a coloured block."""
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
