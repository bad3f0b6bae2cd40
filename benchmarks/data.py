"""Measure how fast photos are prepared, and whether training waits for its batches.

    python -m benchmarks.data COCO_FOLDER [--workers 2] [--repeat 8]
    python -m benchmarks.data --scenes CUTOUTS

Prepares a COCO folder, its images repeated, as a dataset of 32 x 32 images, then reads batches of 100 from it, beside a training step of
the COCO configuration on the same machine. With `--scenes` it paints batches of 100 scenes from prepared cut-outs, beside a training step
of aligndraw-scenes; both in processor time, which other work on the machine changes little.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import tempfile
import time
from pathlib import Path

import torch
from benchmarks.speed import COCO_WORDS, Clock, precisions_of, training_step

from cap2im.config import load_recipe
from cap2im.data.caption_batches import CaptionBatches
from cap2im.data.captioned_images import CaptionedImages
from cap2im.data.dataset import PreparedDataset
from cap2im.data.prepare import prepare_dataset
from cap2im.data.shard_batches import ShardBatches
from cap2im.data.sources import read_source
from cap2im.data.workers import available_workers
from cap2im.models.aligndraw import DRAW
from cap2im.training.data import DataSource, load_training_data

BATCH = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("coco", type=Path, nargs="?")
    source.add_argument("--scenes", type=Path, metavar="CUTOUTS")
    parser.add_argument("--workers", type=int, default=available_workers())
    parser.add_argument("--repeat", type=int, default=8, help="times that each photo is prepared")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of the training step")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    print(f"{platform.machine()}, {arguments.workers} workers, {arguments.threads} threads; torch {torch.__version__}\n")

    if arguments.scenes is not None:
        time_scenes(arguments.scenes)
    else:
        time_photos(arguments)


def time_photos(arguments: argparse.Namespace) -> None:
    source = read_source("coco", str(arguments.coco))
    for split, records in source.splits.items():
        source.splits[split] = [
            dataclasses.replace(record, id=f"{record.id}-{turn}") for turn in range(arguments.repeat) for record in records
        ]
    images = sum(len(records) for records in source.splits.values())
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "prepared"
        start = time.perf_counter()
        prepare_dataset(source, out, kind="coco", path=str(arguments.coco), workers=arguments.workers)
        seconds = time.perf_counter() - start
        print("| what | result |\n| --- | --- |")
        print(f"| preparing | {images:,} photos in {seconds:.1f} s: {images / seconds:.0f} a second |")

        dataset = PreparedDataset.open(out)
        config = load_recipe("aligndraw-coco-paper").model.model_copy(update={"vocabulary_size": COCO_WORDS})
        noise_shape = (config.glimpses, config.latent)
        lazily = CaptionBatches(CaptionedImages(dataset, "train"), dataset.vocabulary, noise_shape, colours=3, batch_size=BATCH)
        streamed = ShardBatches(dataset, "train", noise_shape, side=32, colours=3, batch_size=BATCH)
        clock = Clock(torch.device("cpu"), runs=5)
        precision = precisions_of(clock.device)[-1]
        step = clock.seconds(training_step(DRAW(config), clock.device, precision))
        for name, batches in (("reading a batch lazily", lazily), ("reading a batch, streamed", streamed)):
            counter = iter(range(10**9))
            seconds = clock.seconds(lambda batches=batches, counter=counter: batches.at(next(counter)), repeat=5)
            print(f"| {name} | {seconds * 1000:.0f} ms, where a training step in {precision} takes {step:.2f} s: {seconds / step:.1%} |")


def time_scenes(cutouts: Path) -> None:
    recipe = load_recipe("aligndraw-scenes", [f"train.batch_size={BATCH}"])
    data = load_training_data(recipe, DataSource(cutouts))
    clock = Clock(torch.device("cpu"), runs=5, now=time.process_time)
    precision = precisions_of(clock.device)[-1]
    step = clock.seconds(training_step(DRAW(data.recipe.model), clock.device, precision))
    counter = iter(range(10**9))
    batch = clock.seconds(lambda: data.batches.at(next(counter)), repeat=20)
    print(f"| a batch of scenes | {batch * 1000:.1f} ms, where a training step in {precision} takes {step:.2f} s: {batch / step:.1%} |")


if __name__ == "__main__":
    main()
