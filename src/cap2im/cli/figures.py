"""`cap2im figures`: draw the figures of the paper."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

import cap2im
from cap2im.cli.captions import read_groups
from cap2im.cli.options import PATH, DataOption, DeviceOption, ModelArgument, SharpenOption, examples
from cap2im.files import check_writable_folder, counted, shortened

commands = typer.Typer()


@commands.command(
    epilog=examples(
        "cap2im figures aligndraw-mnist --out figures",
        "cap2im figures aligndraw-mnist --data mnist/ --sharpen runs/sharpener-mnist",
        "cap2im figures runs/photos --data data/photos --captions flips.txt",
    )
)
def figures(
    model: ModelArgument = cap2im.DEFAULT_MODEL,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write into.", **PATH)] = Path("figures"),
    captions: Annotated[
        Path | None,
        typer.Option(
            "--captions",
            help="Captions to compare, one a line, in groups separated by empty lines; - reads standard input.",
            **PATH,
        ),
    ] = None,
    data: DataOption = None,
    sharpen: SharpenOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all drawings.")] = 0,
    device: DeviceOption = "cpu",
) -> None:
    """Draw the paper's figures: flipped captions, attended words, nearest training images, sharpening, held-out captions."""
    check_writable_folder(out)
    from cap2im.evaluation.figure_captions import figure_captions
    from cap2im.evaluation.figures import check_figures, figure_folder, nearest_training_images, write_figures
    from cap2im.pipeline import Pipeline

    groups = [] if captions is None else read_groups(captions)
    pipeline = Pipeline.load(model, device=device, sharpen=sharpen)
    chosen = figure_captions(pipeline, groups)
    if chosen.unknown:
        named = shortened("; ".join(f"{caption} ({', '.join(pipeline.unknown_words(caption))})" for caption in chosen.unknown), 500)
        print(f"left out {counted(len(chosen.unknown), 'caption')} with words that {pipeline.name} does not know: {named}", file=sys.stderr)
    folder = figure_folder(pipeline.name, out)
    check_figures(pipeline, chosen, folder)
    if folder != out:
        print(f"{out}: holds figures of another model; writing to {folder}", file=sys.stderr)
    elif (folder / "figure-3-caption-flips.png").exists() or (folder / "captions-of-its-data.png").exists():
        print(f"{folder}: replacing the figures of {pipeline.name}", file=sys.stderr)
    if data is not None and pipeline.config.data.get("source") == "digits":
        print(f"--data {data}: ignored, {pipeline.name} takes its digits from scikit-learn", file=sys.stderr)
    nearest = None if data is None else nearest_training_images(pipeline, data)
    for path in write_figures(pipeline, folder, chosen, seed=seed, nearest=nearest):
        print(path)
