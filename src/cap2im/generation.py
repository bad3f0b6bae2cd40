"""Pictures of all captions of a dataset, each a file beside the real image that its caption is of; and a sample of such pairs.

    OUT/generated/IMAGE-c1-s1.png    of the image's first caption, the first picture
    OUT/real/IMAGE.png               the image itself at the model's side, where asked for
    OUT/pairs.jsonl                  a line for every picture: file, image, caption, seed
    OUT/manifest.json                model, dataset and how it was drawn

Every picture has a seed of its own, made of the run's, the image's name and the numbers of caption and picture, with which
`cap2im draw CAPTION --seed SEED` draws it again. Files are written whole; an interrupted run leaves out what it did not come to.

Source: taoxugit/AttnGAN, code/trainer.py (`sampling`), and the sampling script of shaivaldalal/AttnGAN, which wants pairs of random files
without replacement.

What the released programs do differently: of each image one random caption is drawn, after a random crop, and the last images are left
out; the script cannot be parsed, and its pairs are recognised by the ends of their file names.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, field_validator
from torch import Tensor

from cap2im._version import __version__
from cap2im.checkpoint import WEIGHTS, whole_folder
from cap2im.data.captioned_images import CaptionedImages
from cap2im.data.dataset import PreparedDataset
from cap2im.data.splits import Split
from cap2im.evaluation.other_dataset import foreign_data
from cap2im.files import (
    JSONObject,
    atomic_path,
    check_writable_folder,
    dump_json,
    has_no_files,
    naming,
    parse_json,
    read_json,
    read_text,
    safe_file_name,
    shortened,
    split_lines,
    write_atomically,
)
from cap2im.metrics.distributed import ProcessGroup
from cap2im.pipeline import Pipeline
from cap2im.progress import progress_bar
from cap2im.randomness import generator

logger = logging.getLogger(__name__)

MANIFEST, PAIRS = "manifest.json", "pairs.jsonl"
GENERATED, REAL = "generated", "real"
FORMAT = "cap2im generated pictures 1"


class _Begun(BaseModel):
    """What a run of `generate` says of itself; all of its entries are compared with those of the run that goes on."""

    model_config = ConfigDict(extra="allow")

    format: str


@dataclass(frozen=True)
class Pair:
    """A caption of an image and a picture of it.

    Attributes:
        file: of the picture, in the folder `generated`.
        image: the name of the image, as a file's.
        number: of the caption among the image's, from 1.
        sample: of the picture among the caption's, from 1.
        seed: `Pipeline.draw` draws the picture from it.
        caption: as it was typed.
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
    def _is_a_name(cls, name: str) -> str:
        if re.search(r"[/\\\0]", name) or name in ("", ".", ".."):
            raise ValueError("must be a file name without folders")
        return name


class _Drawn(BaseModel):
    """What a sample needs of `manifest.json`."""

    pictures: PositiveInt | None = None


def all_pairs(pipeline: Pipeline, images: CaptionedImages, per_caption: int, seed: int) -> tuple[list[Pair], int]:
    """The pictures of all captions that the model can read, and how many captions it cannot.

    Raises:
        ValueError: it can read none, or two images would have files of one name.
    """
    names, (most, times) = file_names(images), Counter(file_names(images)).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{images.name}: {times} images would be called {most}")
    pairs, unreadable = [], 0
    first = np.searchsorted(images.image_of, np.arange(len(images)))  # caption of each image
    for index, (image, caption) in enumerate(zip(images.image_of.tolist(), images.captions, strict=True)):
        if not _readable(pipeline, caption):
            unreadable += 1
            continue
        name, number = names[image], index - int(first[image]) + 1
        for sample in range(1, per_caption + 1):
            own = int(torch.randint(2**31, (), generator=generator("generated", seed, name, number, sample)))
            pairs.append(Pair(f"{name}-c{number}-s{sample}.png", name, number, sample, own, caption))
    if not pairs:
        raise ValueError(f"{images.name}: {pipeline.name} knows none of its captions' words")
    return pairs, unreadable


def file_names(images: CaptionedImages) -> list[str]:
    """Return what images are called as files, without ending."""
    return [safe_file_name(id) for id in images.ids]


def _readable(pipeline: Pipeline, caption: str) -> bool:
    try:
        pipeline.prompts([caption], pipeline.vocabulary.training_unknown)
    except ValueError:
        return False
    return True


def choose(pairs: Sequence[Pair], count: int, seed: int) -> list[Pair]:
    """A random picture of each of `count` random images, none of them twice, in their order; a smaller sample is a part of a larger one.

    Raises:
        ValueError: there are not so many images.
    """
    by_image: dict[str, list[int]] = {}
    for index, pair in enumerate(pairs):
        by_image.setdefault(pair.image, []).append(index)
    if count > len(by_image):
        raise ValueError(f"a sample of {count} images was asked for, and there are {len(by_image)}")
    rows = list(by_image.values())
    order = torch.randperm(len(rows), generator=generator("sample of images", seed))
    luck = torch.rand(len(rows), generator=generator("sample of pictures", seed)).tolist()
    return [pairs[index] for index in sorted(rows[row][int(luck[row] * len(rows[row]))] for row in order[:count].tolist())]


def generate(
    pipeline: Pipeline,
    dataset: PreparedDataset,
    out: Path,
    *,
    split: Split = "validation",
    per_caption: int = 1,
    sample: int | None = None,
    real: bool = False,
    seed: int = 0,
    resume: bool = False,
    processes: ProcessGroup = ProcessGroup(),  # noqa: B008
) -> list[Pair]:
    """Draws all captions of a split into a folder, or those of a sample of its images.

    Args:
        pipeline: the model; words that it does not know are treated as its training did.
        dataset: whose captions; its images may be of any size.
        out: a folder that is not there, or is empty.
        split: of the dataset.
        per_caption: pictures of each caption.
        sample: draw a picture of each of so many images alone; see `choose`.
        real: write the images, too, cut and resized to the model's side.
        seed: of the pictures and of the sample.
        resume: draw what is missing of an interrupted run.
        processes: among processes.

    Returns:
        the pairs of all processes.

    Raises:
        ValueError: missing or damaged data, a folder that holds something else, no caption that the model can read, a sample of more
            images than there are.
    """
    if (rows := sum(shard.rows for shard in dataset.shards(split))) < (sample or 0):
        raise ValueError(f"a sample of {sample} images was asked for, and there are {rows}")
    if not dataset.is_local(split):
        raise ValueError(f"{dataset.folder}: is not on this machine, or files of its {split} images are missing; all of them are needed")
    if processes.is_main_process:
        _check_folder(out, resume)
    images = CaptionedImages(dataset, split)
    pairs, unreadable = all_pairs(pipeline, images, per_caption, seed)
    pairs = pairs if sample is None else choose(pairs, sample, seed)
    sizes, foreign = pipeline.model.config, foreign_data(pipeline, dataset, [pair.caption for pair in pairs])
    if foreign is not None and processes.is_main_process:
        logger.warning(foreign.warning)
    manifest = {
        "format": FORMAT,
        "version": __version__,
        "model": pipeline.name,
        "weights_sha256": pipeline.config.sha256.get(WEIGHTS),
        "dataset": dataset.about(),
        "split": split,
        "per_caption": per_caption,
        "sample": sample,
        "seed": seed,
        "side": sizes.side,
        "precision": pipeline.precision,
        "unknown_words": pipeline.vocabulary.training_unknown,
        "captions_left_out": unreadable,
        **({} if foreign is None else foreign.protocol),
        "images": len({pair.image for pair in pairs}),
        "pictures": len(pairs),
    }
    with processes.main_process_first():
        if processes.is_main_process:
            _begin(out, manifest, resume)
            _write_pairs(out, pairs)
    mine = pairs[processes.rank :: processes.world_size]
    missing = [pair for pair in mine if not (out / GENERATED / pair.file).is_file()]
    with progress_bar("pictures") as bar:
        bar.disable = not processes.is_main_process
        task = bar.add_task("drawing", total=len(mine), completed=len(mine) - len(missing))
        for start in range(0, len(missing), pipeline.batch_size):
            part = missing[start : start + pipeline.batch_size]
            prompts = pipeline.prompts([p.caption for p in part], pipeline.vocabulary.training_unknown)
            pictures = pipeline.images(prompts, [p.seed for p in part])
            for pair, picture in zip(part, pictures, strict=True):
                _write_picture(out / GENERATED / pair.file, picture.mul(255).round().to(torch.uint8))
                bar.advance(task)
        if real:
            shown = {pair.image for pair in pairs}
            wanted = [(row, out / REAL / f"{name}.png") for row, name in enumerate(file_names(images)) if name in shown]
            for row, path in bar.track(wanted[processes.rank :: processes.world_size], description="real images"):
                if not path.is_file():
                    _write_picture(path, images.pixels([row], sizes.colours, sizes.side)[0])
    return pairs


def _begin(out: Path, manifest: dict[str, Any], resume: bool) -> None:
    """Make the folder, or check that it is of a run that was the same.

    What a run left that was killed before it wrote its manifest is no obstacle: there are no pictures in it.

    Raises:
        ValueError: it holds something else.
    """
    begun = _check_folder(out, resume)
    if begun:
        try:
            before = read_json(out / MANIFEST, JSONObject).root
        except ValueError as error:
            raise ValueError(f"{error}; draw into another folder") from None
        now = parse_json(dump_json(manifest), JSONObject, MANIFEST).root
        if changed := [key for key in now if key != "version" and before.get(key) != now[key]]:
            told = "; ".join(f"{key}: {shortened(repr(before.get(key)), 200)} -> {shortened(repr(now[key]), 200)}" for key in changed)
            raise ValueError(f"{out}: was begun otherwise: {told}; draw into another folder")
    for name in (GENERATED, REAL):
        (out / name).mkdir(parents=True, exist_ok=True)
    write_atomically(out / MANIFEST, dump_json(manifest) + "\n")


def _check_folder(out: Path, resume: bool) -> bool:
    """Check that pictures can be written into a folder; return whether a run was begun there.

    Raises:
        ValueError: the folder cannot be written, or holds something else.
    """
    check_writable_folder(out)
    begun = (out / MANIFEST).is_file()
    if out.is_dir() and not has_no_files(out, MANIFEST, (GENERATED, REAL)) and not (resume and begun):
        hint = "--resume draws what is missing of the pictures begun there" if begun else "choose another"
        raise ValueError(f"{out}: this folder is not empty; {hint}")
    return begun


def _write_pairs(out: Path, pairs: Sequence[Pair]) -> None:
    write_atomically(out / PAIRS, "".join(dump_json(asdict(pair), indent=None) + "\n" for pair in pairs))


def _write_picture(path: Path, pixels: Tensor) -> None:
    """Write a picture [C, A, A] uint8, whole or not at all."""
    levels = pixels.permute(1, 2, 0).cpu().numpy()
    with atomic_path(path) as draft:
        Image.fromarray(levels[..., 0] if len(pixels) == 1 else levels).save(draft, "PNG")


def read_pairs(folder: Path) -> list[Pair]:
    """Return the pairs of a folder that `generate` made.

    Raises:
        ValueError: there are none, or they are damaged.
    """
    path = folder / PAIRS
    if not path.exists():
        raise ValueError(f"{folder}: has no {PAIRS}; cap2im generate MODEL --data DIR --real --out DIR makes it, with the pictures")
    lines = enumerate(split_lines(read_text(path)), 1)
    pairs = [Pair(**parse_json(line, _PairLine, f"{path}: line {number}").model_dump()) for number, line in lines]
    manifest = folder / MANIFEST
    drawn = read_json(manifest, _Drawn).pictures if manifest.exists() else None
    if drawn is not None and len(pairs) != drawn:
        raise ValueError(f"{path}: has {len(pairs)} pictures; {manifest} says {drawn}; cap2im generate --resume writes it again")
    return pairs


def sample_pairs(folder: Path, count: int, out: Path, *, seed: int = 0) -> list[Pair]:
    """Copies a sample of the pictures that `generate` made, and their real images, into two folders of equal file names.

    Args:
        folder: that `generate` filled, with real images.
        count: images, each with one picture; see `choose`.
        out: a folder that is not there, or is empty; gets `generated`, `real` and `pairs.jsonl`.
        seed: of the choice.

    Raises:
        ValueError: no such pictures, fewer images than asked for, files that are missing, or a folder that holds something.
    """
    check_writable_folder(out)
    chosen = choose(read_pairs(folder), count, seed)
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out}: this folder is not empty; choose another")
    for name, files in ((GENERATED, [pair.file for pair in chosen]), (REAL, [f"{pair.image}.png" for pair in chosen])):
        gone = [file for file in files if not (folder / name / file).is_file()]
        if gone:
            hint = "cap2im generate --resume draws what is missing" + (", with --real the real images" if name == REAL else "")
            raise ValueError(f"{folder / name}: {len(gone)} of {len(files)} files of the sample are missing, e.g. {gone[0]}; {hint}")
    with whole_folder(out) as draft:
        for name in (GENERATED, REAL):
            (draft / name).mkdir()
        for pair in chosen:
            for source, kind in ((folder / GENERATED / pair.file, GENERATED), (folder / REAL / f"{pair.image}.png", REAL)):
                content, target = source.read_bytes(), draft / kind / pair.file
                with naming(target):
                    target.write_bytes(content)
        _write_pairs(draft, chosen)
    return chosen
