"""`cap2im draw`."""

from __future__ import annotations

import itertools
import json
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import track

import cap2im
from cap2im.cli.captions import read_captions
from cap2im.cli.options import PATH, DeviceOption, ModelOption, PrecisionOption, SharpenOption, examples
from cap2im.files import check_writable_folder

commands = typer.Typer()


class DrawingPart(StrEnum):
    """A part of a drawing that `cap2im draw --only` writes; typer wants an enumeration for an option that may be repeated."""

    PNG = "png"
    GIF = "gif"
    ATTENTION = "attention"
    HTML = "html"


@commands.command(
    epilog=examples(
        'cap2im draw "the digit three is at the top of the digit one" --samples 8',
        "cap2im draw --file captions.txt --model runs/mine --samples 1 --only png",
        "cap2im draw --file captions.txt --sharpen runs/sharp --out drawings",
        "echo 'the digit 7 is at the top left of the image' | cap2im draw --file -",
    )
)
def draw(
    captions: Annotated[list[str] | None, typer.Argument(help="What to draw; each caption in quotes.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "--captions", "-f", help="Captions, one a line; - is standard input.", **PATH)
    ] = None,
    model: ModelOption = cap2im.DEFAULT_MODEL,
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, max=1000, help="Pictures of each caption.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Picture k comes from seed + k.")] = 0,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder to write into; each caption gets a folder there, which replaces its earlier drawing.", **PATH
        ),
    ] = Path("drawings"),
    only: Annotated[
        list[DrawingPart] | None,
        typer.Option("--only", help="Write these alone: pictures, animation, attention, page; may be repeated. [default: all]"),
    ] = None,
    sharpen: SharpenOption = None,
    unknown: Annotated[
        Literal["error", "skip"], typer.Option(help="Words that the model does not know: refuse the caption, or leave them out.")
    ] = "error",
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "fp32",
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON on standard output.")] = False,
) -> None:
    """Draw captions: pictures, an animation, the attention over words, and an interactive page."""
    wanted = read_captions(captions or [], file)
    if not wanted and model == cap2im.DEFAULT_MODEL:
        raise ValueError('no caption given; try: cap2im draw "the digit three is at the top of the digit one"')
    check_writable_folder(out)
    from cap2im.pipeline import Pipeline
    from cap2im.rendering.drawing import (  # torch takes a second to import: bad arguments need not wait
        PARTS,
        drawn_by,
        folder_for,
        save_all,
        slug,
    )

    pipeline = Pipeline.load(model, device=device, sharpen=sharpen, precision=precision)
    if not wanted:
        example = shlex.quote(pipeline.examples[0]) if pipeline.examples else "CAPTION"
        raise ValueError(f"no caption given; try: cap2im draw {example} --model {shlex.quote(model)}")
    read = dict(zip(wanted, pipeline.tokens(wanted, unknown), strict=True))  # all problems of all captions, before anything is drawn
    out.mkdir(parents=True, exist_ok=True)
    if unknown == "skip":
        for caption in read:
            if strangers := pipeline.strangers(caption):
                print(f"left out of '{caption}': {', '.join(strangers)}", file=sys.stderr)
    drawer = pipeline.drawer
    one_of_each = {slug(caption): caption for caption in reversed(wanted)}  # captions of the same words share a folder: the first is drawn
    first = [caption for caption in read if one_of_each[slug(caption)] == caption]
    captions_of, seeds = [caption for caption in first for _ in range(samples)], [seed + k for _ in first for k in range(samples)]
    pictures = pipeline.iterate(captions_of, seeds, unknown=unknown)
    drawn: dict[str, dict[str, Any]] = {}
    quiet = len(first) * samples < 8  # a second or two
    for caption in track(first, "drawing", console=Console(stderr=True), disable=quiet):
        drawings = list(itertools.islice(pictures, samples))
        folder = folder_for(caption, drawer, out)
        replaced = drawn_by(folder) is not None
        saved = save_all(drawings, folder, PARTS if only is None else [part.value for part in only])
        drawn[slug(caption)] = {"files": [str(path) for path in saved.paths], "replaced": replaced}
        if not as_json:
            shown = saved.page or (saved.paths[0] if saved.paths else f"{folder}: nothing of that kind")
            more = f" and {beside} file{'s' * (beside > 1)} beside it" if (beside := len(saved.paths) - 1) > 0 else ""
            print(f"{caption}\n  {shown}{more}{', in place of the drawing that was there' if replaced else ''}")
    if as_json:
        same = {"model": pipeline.name, "precision": pipeline.precision, "seed": seed}
        written = [{"caption": each, "words": read[each].words} | same | drawn[slug(each)] for each in wanted]
        print(json.dumps(written, indent=1, ensure_ascii=False))
