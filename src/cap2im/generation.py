"""Draw all captions of a dataset into a folder, each picture beside the real image of its caption; see `cap2im.generated_pairs`.

Every picture has its own seed, made of the run's seed, the image's name and the numbers of caption and picture. `cap2im draw CAPTION --seed
SEED` draws the same picture. Files are written whole, and an interrupted run can be resumed.

Source: taoxugit/AttnGAN, code/trainer.py (`sampling`). The release draws one random caption of each image, after a random crop, and leaves
out the last images.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cap2im._version import __version__
from cap2im.checkpoint import WEIGHTS
from cap2im.data.captioned_images import CaptionedImages
from cap2im.data.dataset import PreparedDataset
from cap2im.data.splits import Split
from cap2im.evaluation.other_dataset import other_dataset
from cap2im.files import (
    JSONObject,
    atomic_path,
    check_writable_folder,
    dump_json,
    has_no_files,
    parse_json,
    read_json,
    shortened,
    write_atomically,
)
from cap2im.generated_pairs import GENERATED, MANIFEST, REAL, Pair, all_pairs, choose, file_names, write_pairs
from cap2im.metrics.distributed import ProcessGroup
from cap2im.pipeline import Pipeline
from cap2im.progress import progress_bar

FORMAT = "cap2im generated pictures 1"

logger = logging.getLogger(__name__)


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
    """Draw all captions of a split into a folder, or those of a sample of its images.

    Args:
        pipeline: the model; unknown words are treated as in its training.
        dataset: provides the captions; its images may be of any size.
        out: a new or empty folder.
        split: of the dataset.
        per_caption: pictures of each caption.
        sample: draw one picture of each of this many images only; see `choose`.
        real: also write the images, cropped and resized to the model's side.
        seed: of the pictures and of the sample.
        resume: draw what is missing of an interrupted run.
        processes: that share the work.

    Returns:
        the pairs of all processes.

    Raises:
        ValueError: missing or damaged data, a folder with other content, no caption that the model can read, or fewer images than `sample`.
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
    sizes, foreign = pipeline.model.config, other_dataset(pipeline, dataset, [pair.caption for pair in pairs])
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
            _start(out, manifest, resume)
            write_pairs(out, pairs)
    shard = pairs[processes.rank :: processes.world_size]
    missing = [pair for pair in shard if not (out / GENERATED / pair.file).is_file()]
    with progress_bar("pictures") as bar:
        bar.disable = not processes.is_main_process
        task = bar.add_task("drawing", total=len(shard), completed=len(shard) - len(missing))
        for start in range(0, len(missing), pipeline.batch_size):
            batch = missing[start : start + pipeline.batch_size]
            prompts = pipeline.prompts([pair.caption for pair in batch], pipeline.vocabulary.training_unknown)
            pictures = pipeline.images(prompts, [pair.seed for pair in batch])
            for pair, picture in zip(batch, pictures, strict=True):
                _write_picture(out / GENERATED / pair.file, picture.mul(255).round().to(torch.uint8))
                bar.advance(task)
        if real:
            paired = {pair.image for pair in pairs}
            files = [(row, out / REAL / f"{name}.png") for row, name in enumerate(file_names(images)) if name in paired]
            for row, path in bar.track(files[processes.rank :: processes.world_size], description="real images"):
                if not path.is_file():
                    _write_picture(path, images.pixels([row], sizes.colours, sizes.side)[0])
    return pairs


def _start(out: Path, manifest: dict[str, Any], resume: bool) -> None:
    """Create the folder, or check that it was started with the same settings; one without a manifest holds no pictures and is reused.

    Raises:
        ValueError: it has other content.
    """
    if _check_folder(out, resume):
        try:
            before = read_json(out / MANIFEST, JSONObject).root
        except ValueError as error:
            raise ValueError(f"{error}; draw into another folder") from None
        now = parse_json(dump_json(manifest), JSONObject, MANIFEST).root
        if changed := [key for key in now if key != "version" and before.get(key) != now[key]]:
            changes = "; ".join(f"{key}: {shortened(repr(before.get(key)), 200)} -> {shortened(repr(now[key]), 200)}" for key in changed)
            raise ValueError(f"{out}: was started with other settings: {changes}; draw into another folder")
    for name in (GENERATED, REAL):
        (out / name).mkdir(parents=True, exist_ok=True)
    write_atomically(out / MANIFEST, dump_json(manifest) + "\n")


def _check_folder(out: Path, resume: bool) -> bool:
    """Check that pictures can be written into a folder, and return whether it has a manifest.

    Raises:
        ValueError: the folder cannot be written, or has other content.
    """
    check_writable_folder(out)
    started = (out / MANIFEST).is_file()
    if out.is_dir() and not has_no_files(out, MANIFEST, (GENERATED, REAL)) and not (resume and started):
        hint = "--resume draws the missing pictures" if started else "choose another"
        raise ValueError(f"{out}: this folder is not empty; {hint}")
    return started


def _write_picture(path: Path, pixels: Tensor) -> None:
    """Write a picture [C, A, A] uint8, whole or not at all."""
    array = pixels.permute(1, 2, 0).cpu().numpy()
    with atomic_path(path) as draft:
        Image.fromarray(array[..., 0] if len(pixels) == 1 else array).save(draft, "PNG")
