"""`cap2im generate` and `cap2im sample`: draw the captions of a dataset, and choose pairs of real and generated images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cap2im.cli.options import (
    FOLDER,
    PATH,
    PLACE,
    DeviceOption,
    ModelArgument,
    PairsSeedOption,
    PrecisionOption,
    examples,
)
from cap2im.extras import require
from cap2im.files import check_writable_folder

commands = typer.Typer()


@commands.command(
    epilog=examples(
        "cap2im generate runs/mine --data data/coco --out generated",
        "cap2im generate runs/mine --data data/coco --out generated --resume",
        "cap2im generate runs/mine --data data/coco --split test --sample 10000 --real --out pairs",
        "accelerate launch --multi_gpu --num_processes 2 -m cap2im generate runs/mine --data data/coco --device cuda",
    )
)
def generate(
    model: ModelArgument,
    data: Annotated[str, typer.Option("--data", help="Prepared dataset.", **PLACE)],
    split: Annotated[Literal["train", "validation", "test"], typer.Option(help="Split whose captions to draw.")] = "validation",
    per_caption: Annotated[int, typer.Option(min=1, max=10_000, help="Pictures per caption.")] = 1,
    sample: Annotated[int | None, typer.Option(min=1, help="Draw one picture for each of N random images only.")] = None,
    real: Annotated[bool, typer.Option("--real", help="Also write the real images, at the size of the drawings.")] = False,
    seed: PairsSeedOption = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for pictures, pairs.jsonl and manifest.json.", **PATH)] = Path(
        "generated"
    ),
    resume: Annotated[bool, typer.Option("--resume", help="Draw the missing pictures of an interrupted run.")] = False,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "fp32",
) -> None:
    """Draw all captions of a dataset into one file each; several processes share the work."""
    require("reading prepared data", "train", "datasets")
    check_writable_folder(out)
    from cap2im.data.dataset import PreparedDataset
    from cap2im.files import JSONObject, read_json

    dataset = PreparedDataset.open(data)
    dataset.shards(split)  # raises if there are none
    from cap2im.generation import generate as generate_pictures
    from cap2im.metrics.distributed import ProcessGroup
    from cap2im.pipeline import Pipeline

    pipeline, processes = Pipeline.load(model, device=device, precision=precision), ProcessGroup.from_environment()
    options: dict[str, Any] = {"split": split, "per_caption": per_caption, "sample": sample, "real": real, "seed": seed, "resume": resume}
    pairs = generate_pictures(pipeline, dataset, out, processes=processes, **options)
    if processes.is_main_process:
        manifest = read_json(out / "manifest.json", JSONObject).root
        if left_out := manifest["captions_left_out"]:
            print(f"left out: {left_out:,} captions without a word that {pipeline.name} knows", file=sys.stderr)
        print(f"{len(pairs):,} pictures of {manifest['images']:,} images: written to {out}")


@commands.command(epilog=examples("cap2im sample generated --count 10000 --out pairs"))
def sample(
    folder: Annotated[Path, typer.Argument(help="Folder written by cap2im generate --real.", **FOLDER)],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Number of images, each with one of its pictures.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for real/ and generated/, with equal file names.", **PATH)],
    seed: PairsSeedOption = 0,
) -> None:
    """Choose random pairs of a generated picture and its real image, without replacement."""
    from cap2im.generated_pairs import sample_pairs

    print(f"{len(sample_pairs(folder, count, out, seed=seed)):,} pairs: written to {out}")
