"""`cap2im draw`: draw captions into a folder."""

from __future__ import annotations

import itertools
import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import cap2im
from cap2im.cli.captions import read_captions
from cap2im.cli.options import PATH, DeviceOption, ModelOption, PrecisionOption, SharpenOption, examples
from cap2im.files import check_writable_folder
from cap2im.progress import track
from cap2im.rendering.parts import PARTS

if TYPE_CHECKING:
    from cap2im.pipeline import Pipeline

# worker processes write the files of many captions; starting them takes as long as the files of about ten
MANY_CAPTIONS = 20
MOST_SAMPLES = 16  # per caption: up to 16 captions wait in memory
MOST_WORKERS = 4  # more would wait for drawings

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
    help=f"Draw captions: {', '.join(part.description for part in PARTS.values())}.",
    epilog=examples(
        'cap2im draw "the digit three is at the top of the digit one" --samples 8',
        "cap2im draw --file captions.txt --model runs/mine --samples 1 --only png",
        "cap2im draw --file captions.txt --sharpen runs/sharp --out drawings",
        "echo 'the digit 7 is at the top left of the image' | cap2im draw --file -",
    ),
)
def draw(
    captions: Annotated[list[str] | None, typer.Argument(help="Captions, each in quotes.", metavar="CAPTION")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "--captions", "-f", help="File of captions, one a line; - reads standard input.", **PATH)
    ] = None,
    model: ModelOption = cap2im.DEFAULT_MODEL,
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, max=1000, help="Pictures per caption.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first picture; picture k has seed + k.")] = 0,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder to write into; each caption has a folder inside, which replaces an earlier drawing of it.", **PATH
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
        Literal["error", "skip"], typer.Option(help="What to do with unknown words: refuse the caption, or leave them out.")
    ] = "error",
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "fp32",
    as_json: Annotated[bool, typer.Option("--json", help="Print the written files as JSON on standard output.")] = False,
) -> None:
    """Draw captions into a folder."""
    texts = read_captions(captions or [], file)
    if not texts and model == cap2im.DEFAULT_MODEL:
        raise ValueError('no caption given; try: cap2im draw "the digit three is at the top of the digit one"')
    check_writable_folder(out)
    from cap2im.data.workers import available_workers, worker_pool
    from cap2im.pipeline import Pipeline  # imports torch, which takes a second; arguments are checked first
    from cap2im.rendering.folder import drawing_folder, drawing_model, save_drawings, slug

    pipeline = Pipeline.load(model, device=device, sharpen=sharpen, precision=precision)
    if not texts:
        example = shlex.quote(pipeline.examples[0]) if pipeline.examples else "CAPTION"
        raise ValueError(f"no caption given; try: cap2im draw {example} --model {shlex.quote(model)}")
    try:
        prompts = {prompt.caption: prompt for prompt in pipeline.prompts(texts, unknown)}  # raises before anything is drawn
    except ValueError as error:
        hint = _bundled_hint(model, texts) if any(map(pipeline.unknown_words, texts)) else ""
        raise ValueError(f"{error}{hint}") from None
    out.mkdir(parents=True, exist_ok=True)
    _report_words(pipeline, prompts, unknown)
    by_slug = {slug(caption): caption for caption in reversed(prompts)}  # captions of the same words share a folder: draw the first
    distinct = [caption for caption in prompts if by_slug[slug(caption)] == caption]
    seeds = [seed + k for _ in distinct for k in range(samples)]
    pictures = pipeline.iterate([prompts[caption] for caption in distinct for _ in range(samples)], seeds)
    written: dict[str, dict[str, Any]] = {}
    few = len(distinct) * samples < 8  # a second or two
    folders = {caption: drawing_folder(caption, pipeline.label, out) for caption in distinct}
    replaced = {caption: drawing_model(folder) is not None for caption, folder in folders.items()}
    parts = list(PARTS if only is None else only)
    drawn = ((caption, list(itertools.islice(pictures, samples))) for caption in distinct)
    many = len(distinct) >= MANY_CAPTIONS and samples <= MOST_SAMPLES
    with worker_pool(min(available_workers(), MOST_WORKERS) if many else 1) as pool:
        saved = pool.map(save_drawings, drawn, lambda item: (item[1], folders[item[0]], parts), items_per_task=1)
        for (caption, _), paths in track(saved, "drawing", total=len(distinct), show=not few):
            written[slug(caption)] = {"files": [str(path) for path in paths], "replaced": replaced[caption]}
            if not as_json:
                pages = [path for path in paths if path.suffix == ".html"]
                main_file = next(iter([*pages, *paths]), f"{folders[caption]}: this model has no such part")
                others = f" and {count} other file{'s' * (count > 1)}" if (count := len(paths) - 1) > 0 else ""
                print(f"{caption}\n  {main_file}{others}{', replacing an earlier drawing' if replaced[caption] else ''}")
    if as_json:
        common = {"model": pipeline.name, "precision": pipeline.precision, "seed": seed}
        entries = [{"caption": each, "words": prompts[each].tokens.words} | common | written[slug(each)] for each in texts]
        print(json.dumps(entries, indent=1, ensure_ascii=False))


def _report_words(pipeline: Pipeline, captions: Iterable[str], unknown: str) -> None:
    """Print the words that are left out of each caption, and those that only a sentence encoder knows, on standard error."""
    if unknown == "skip":
        for caption in captions:
            if unknown_words := pipeline.unknown_words(caption):
                print(f"left out of '{caption}': {', '.join(unknown_words)}", file=sys.stderr)
    if pipeline.encoder is not None:
        for caption in captions:
            for word in pipeline.untrained_words(caption):
                near = f" (nearest: {', '.join(similar)})" if (similar := pipeline.similar_words(word)) else ""
                print(f"{shlex.quote(word)} is not among the words of the training captions{near}", file=sys.stderr)


def _bundled_hint(model: str, captions: Sequence[str]) -> str:
    """Return a hint at another bundled model that knows all words of captions; empty if there is none, or `model` is not bundled."""
    from cap2im.checkpoint import read_config
    from cap2im.data.vocabulary import Vocabulary
    from cap2im.loading import bundled_models, find_model

    if model not in bundled_models():
        return ""
    for name in bundled_models():
        vocabulary = Vocabulary.model_validate(read_config(find_model(name))["vocabulary"])
        if name != model and all(vocabulary.numbered(caption) and not vocabulary.unknown_words(caption) for caption in captions):
            return f"; --model {name} knows all of these words"
    return ""
