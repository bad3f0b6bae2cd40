"""`cap2im draw`."""

from __future__ import annotations

import itertools
import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import track

import cap2im
from cap2im.cli.captions import read_captions
from cap2im.cli.options import PATH, DeviceOption, ModelOption, PrecisionOption, SharpenOption, examples
from cap2im.files import check_writable_folder
from cap2im.rendering.parts import PARTS

commands = typer.Typer()


def parse_part(text: Any) -> str:
    """Return the name of a part of a drawing.

    Raises:
        BadParameter: there is no such part.
    """
    if text in PARTS:
        return str(text)
    raise typer.BadParameter(f"{text!r} is not one of {', '.join(map(repr, PARTS))}")


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
        list[str] | None,
        typer.Option(
            "--only",
            help="Write only this part of a drawing; may be repeated. [default: all]",
            parser=parse_part,
            metavar=f"[{'|'.join(PARTS)}]",
        ),
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
    from cap2im.pipeline import Pipeline  # imports torch, which takes a second; arguments are checked first
    from cap2im.rendering.folder import drawing_folder, drawing_model, save_drawings, slug

    pipeline = Pipeline.load(model, device=device, sharpen=sharpen, precision=precision)
    if not wanted:
        example = shlex.quote(pipeline.examples[0]) if pipeline.examples else "CAPTION"
        raise ValueError(f"no caption given; try: cap2im draw {example} --model {shlex.quote(model)}")
    prompts = {prompt.caption: prompt for prompt in pipeline.prompts(wanted, unknown)}  # raises before anything is drawn
    out.mkdir(parents=True, exist_ok=True)
    if unknown == "skip":
        for caption in prompts:
            if unknown_words := pipeline.unknown_words(caption):
                print(f"left out of '{caption}': {', '.join(unknown_words)}", file=sys.stderr)
    one_of_each = {slug(caption): caption for caption in reversed(wanted)}  # captions of the same words share a folder: the first is drawn
    first = [caption for caption in prompts if one_of_each[slug(caption)] == caption]
    seeds = [seed + k for _ in first for k in range(samples)]
    pictures = pipeline.iterate([prompts[caption] for caption in first for _ in range(samples)], seeds)
    drawn: dict[str, dict[str, Any]] = {}
    quiet = len(first) * samples < 8  # a second or two
    for caption in track(first, "drawing", console=Console(stderr=True), disable=quiet):
        drawings = list(itertools.islice(pictures, samples))
        folder = drawing_folder(caption, pipeline.label, out)
        replaced = drawing_model(folder) is not None
        paths = save_drawings(drawings, folder, PARTS if only is None else only)
        drawn[slug(caption)] = {"files": [str(path) for path in paths], "replaced": replaced}
        if not as_json:
            pages = [path for path in paths if path.suffix == ".html"]
            shown = next(iter([*pages, *paths]), f"{folder}: nothing of that kind")
            more = f" and {beside} file{'s' * (beside > 1)} beside it" if (beside := len(paths) - 1) > 0 else ""
            print(f"{caption}\n  {shown}{more}{', in place of the drawing that was there' if replaced else ''}")
    if as_json:
        same = {"model": pipeline.name, "precision": pipeline.precision, "seed": seed}
        written = [{"caption": each, "words": prompts[each].tokens.words} | same | drawn[slug(each)] for each in wanted]
        print(json.dumps(written, indent=1, ensure_ascii=False))
