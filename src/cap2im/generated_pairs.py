"""The folder of generated pictures: each is paired with the caption and the real image that it belongs to.

    OUT/generated/IMAGE-c1-s1.png    picture 1 of the image's caption 1
    OUT/real/IMAGE.png               the image itself at the model's side, if requested
    OUT/pairs.jsonl                  a line for every picture: file, image, caption, seed
    OUT/manifest.json                model, dataset and settings

Source: the sampling script of shaivaldalal/AttnGAN, which samples pairs of files without replacement. (The script cannot be parsed, and
recognises pairs by the ends of their file names.)
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, field_validator

from cap2im.data.captioned_images import CaptionedImages
from cap2im.files import (
    atomic_folder,
    check_writable_folder,
    dump_json,
    naming,
    parse_json,
    read_json,
    read_text,
    safe_file_name,
    split_lines,
    write_atomically,
)
from cap2im.pipeline import Pipeline
from cap2im.randomness import generator

MANIFEST, PAIRS = "manifest.json", "pairs.jsonl"
GENERATED, REAL = "generated", "real"


@dataclass(frozen=True)
class Pair:
    """A caption of an image and a generated picture.

    Attributes:
        file: name of the picture in the folder `generated`.
        image: name of the image, without suffix.
        number: number of the caption among the image's, from 1.
        sample: number of the picture among the caption's, from 1.
        seed: `Pipeline.draw` draws the picture from it.
        caption: as typed.
    """

    file: str
    image: str
    number: int
    sample: int
    seed: int
    caption: str


class _PairLine(BaseModel):
    """A line of `pairs.jsonl`."""

    model_config = ConfigDict(extra="forbid")
    file: str
    image: str
    number: PositiveInt
    sample: PositiveInt
    seed: NonNegativeInt
    caption: str

    @field_validator("file", "image")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if re.search(r"[/\\\0]", name) or name in ("", ".", ".."):
            raise ValueError("must be a file name without folders")
        return name


class _Manifest(BaseModel):
    """The fields of `manifest.json` that `read_pairs` reads."""

    pictures: PositiveInt | None = None


def all_pairs(pipeline: Pipeline, images: CaptionedImages, per_caption: int, seed: int) -> tuple[list[Pair], int]:
    """Return the pairs of all captions that the model can read, and the number of captions that it cannot.

    Raises:
        ValueError: it can read none, or two images have the same file name.
    """
    names = file_names(images)
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{images.name}: {times} images would be called {name}")
    pairs, unreadable = [], 0
    first_captions = np.searchsorted(images.image_of, np.arange(len(images)))  # [N] of each image
    for index, (image, caption) in enumerate(zip(images.image_of.tolist(), images.captions, strict=True)):
        if not _is_readable(pipeline, caption):
            unreadable += 1
            continue
        name, number = names[image], index - int(first_captions[image]) + 1
        for sample in range(1, per_caption + 1):
            picture_seed = int(torch.randint(2**31, (), generator=generator("generated", seed, name, number, sample)))
            pairs.append(Pair(f"{name}-c{number}-s{sample}.png", name, number, sample, picture_seed, caption))
    if not pairs:
        raise ValueError(f"{images.name}: {pipeline.name} knows none of its captions' words")
    return pairs, unreadable


def file_names(images: CaptionedImages) -> list[str]:
    """Return the file names of images, without suffix."""
    return [safe_file_name(id) for id in images.ids]


def _is_readable(pipeline: Pipeline, caption: str) -> bool:
    try:
        pipeline.prompts([caption], pipeline.vocabulary.training_unknown)
    except ValueError:
        return False
    return True


def choose(pairs: Sequence[Pair], count: int, seed: int) -> list[Pair]:
    """Return a random picture of each of `count` random images, in their order; a smaller sample is a subset of a larger one.

    Raises:
        ValueError: there are fewer images.
    """
    by_image: dict[str, list[int]] = {}
    for index, pair in enumerate(pairs):
        by_image.setdefault(pair.image, []).append(index)
    if count > len(by_image):
        raise ValueError(f"a sample of {count} images was asked for, and there are {len(by_image)}")
    rows = list(by_image.values())
    order = torch.randperm(len(rows), generator=generator("sample of images", seed))
    choices = torch.rand(len(rows), generator=generator("sample of pictures", seed)).tolist()
    return [pairs[index] for index in sorted(rows[row][int(choices[row] * len(rows[row]))] for row in order[:count].tolist())]


def write_pairs(folder: Path, pairs: Sequence[Pair]) -> None:
    """Write `pairs.jsonl`."""
    write_atomically(folder / PAIRS, "".join(dump_json(asdict(pair), indent=None) + "\n" for pair in pairs))


def read_pairs(folder: Path) -> list[Pair]:
    """Return the pairs of a folder that `cap2im generate` wrote.

    Raises:
        ValueError: they are missing or damaged.
    """
    path = folder / PAIRS
    if not path.exists():
        raise ValueError(f"{folder}: has no {PAIRS}; cap2im generate MODEL --data DIR --real --out DIR makes it, with the pictures")
    lines = enumerate(split_lines(read_text(path)), 1)
    pairs = [Pair(**parse_json(line, _PairLine, f"{path}: line {number}").model_dump()) for number, line in lines]
    manifest = folder / MANIFEST
    pictures = read_json(manifest, _Manifest).pictures if manifest.exists() else None
    if pictures is not None and len(pairs) != pictures:
        raise ValueError(f"{path}: has {len(pairs)} pictures; {manifest} says {pictures}; cap2im generate --resume writes it again")
    return pairs


def sample_pairs(folder: Path, count: int, out: Path, *, seed: int = 0) -> list[Pair]:
    """Copy a sample of generated pictures and their real images into two folders of equal file names.

    Args:
        folder: that `cap2im generate --real` filled.
        count: images, each with one picture; see `choose`.
        out: a new or empty folder; gets `generated`, `real` and `pairs.jsonl`.
        seed: of the choice.

    Raises:
        ValueError: the pictures are missing, there are fewer images than `count`, or `out` is not empty.
    """
    check_writable_folder(out)
    chosen = choose(read_pairs(folder), count, seed)
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out}: this folder is not empty; choose another")
    for name, files in ((GENERATED, [pair.file for pair in chosen]), (REAL, [f"{pair.image}.png" for pair in chosen])):
        missing = [file for file in files if not (folder / name / file).is_file()]
        if missing:
            hint = "cap2im generate --resume draws what is missing" + (", with --real the real images" if name == REAL else "")
            raise ValueError(f"{folder / name}: {len(missing)} of {len(files)} files of the sample are missing, e.g. {missing[0]}; {hint}")
    with atomic_folder(out) as draft:
        for name in (GENERATED, REAL):
            (draft / name).mkdir()
        for pair in chosen:
            for source, name in ((folder / GENERATED / pair.file, GENERATED), (folder / REAL / f"{pair.image}.png", REAL)):
                content, target = source.read_bytes(), draft / name / pair.file
                with naming(target):
                    target.write_bytes(content)
        write_pairs(draft, chosen)
    return chosen
