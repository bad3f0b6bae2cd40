"""`cap2im prepare` and `cap2im check`: turn captioned images into a dataset, and report their problems."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cap2im.cli.cutouts import are_cutouts, check_cutouts, prepare_folder_of_cutouts
from cap2im.cli.data_report import print_check
from cap2im.cli.options import (
    PATH,
    PLACE,
    CaptionColumnOption,
    ImageColumnOption,
    ImagesFolderOption,
    SplitColumnOption,
    TokensOption,
    WorkersOption,
    examples,
)
from cap2im.data.sources import SOURCES
from cap2im.extras import require
from cap2im.files import check_writable_folder, counted

CUTOUTS = "cutouts"  # a kind that is no source of captioned images

if TYPE_CHECKING:
    Kind = str
else:
    Kind = Literal[(*SOURCES, CUTOUTS)]  # typer lists the choices

commands = typer.Typer()


@commands.command(
    epilog=examples(
        "cap2im prepare coco coco/ --out data/coco --captions 5",
        "cap2im prepare folder photos/ --out data/photos --side 56 --fit crop --validation 0.1",
        "cap2im prepare pairs photos/ --out data/photos --resume",
        "cap2im prepare flickr8k Flickr8k/ --out data/flickr8k",
        "cap2im prepare table list.csv --images photos/ --image-column file --caption-column title --out data/photos",
        "cap2im prepare huggingface OWNER/NAME --out data/name --caption-column text",
        "cap2im prepare webdataset 'shards/{0000..0099}.tar' --out data/shards",
        "cap2im prepare webdataset 'shards/{0000..0999}.tar' --out data/shards --engine ray",
        "cap2im prepare cutouts sprites/ --out data/cutouts",
    )
)
def prepare(
    context: typer.Context,
    kind: Annotated[
        Kind, typer.Argument(help="Kind of PATH; see the guide Train on your own captions.", show_choices=True, metavar="KIND")
    ],
    path: Annotated[str, typer.Argument(help="Folder or file; for huggingface also OWNER/NAME on the hub.", **PLACE | {"metavar": "PATH"})],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the prepared dataset.", **PATH)],
    side: Annotated[int | None, typer.Option(min=4, max=1024, help="Side of the images, in pixels. [default: 32; 48 for cutouts]")] = None,
    fit: Annotated[
        Literal["stretch", "crop", "shorter"],
        typer.Option(help="Stretch to the square, crop the central square, or scale the shorter side."),
    ] = "stretch",
    captions: Annotated[int | None, typer.Option(min=1, help="Most captions per image; 5 in the paper. [default: all]")] = None,
    tokens: TokensOption = None,
    minimum_count: Annotated[int, typer.Option(min=1, help="Smallest count of a word in the vocabulary.")] = 1,
    words: Annotated[int | None, typer.Option(min=2, help="Most words in the vocabulary. [default: all]")] = None,
    validation: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Share of training images to validate on, if there are no others.")
    ] = 0.0,
    test: Annotated[float, typer.Option(min=0.0, max=0.9, help="Share of training images to test on, if there are no others.")] = 0.0,
    image_column: ImageColumnOption = None,
    caption_column: CaptionColumnOption = None,
    split_column: SplitColumnOption = None,
    images: ImagesFolderOption = None,
    title: Annotated[str | None, typer.Option(help="Title of the data, for the cards of models trained on it.")] = None,
    licence: Annotated[
        str | None, typer.Option("--licence", "--license", help="Licence of the data, for those cards; e.g. cc-by-4.0.")
    ] = None,
    workers: WorkersOption = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Prepare on this machine, or on the Ray cluster that runs here or at RAY_ADDRESS.")
    ] = "local",
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
) -> None:
    """Turn captioned images of any kind, or cut-outs, into a dataset to train on."""
    require("preparing data", "train", "datasets")
    check_writable_folder(out)
    if kind == CUTOUTS:
        applies = {"kind", "path", "out", "side", "title", "licence"}
        _refuse_options(context, "cut-outs have no captions, no splits and no shards", applies)
        prepare_folder_of_cutouts(path, out, side, title, licence)
        return
    from cap2im.convert.pickles import read_pickle
    from cap2im.data.prepare import PrepareOptions, prepare_dataset
    from cap2im.data.readers import ColumnNames, ReadOptions
    from cap2im.data.sources import read_source
    from cap2im.data.validate import missing_validation

    if engine == "ray" and workers is not None:
        raise ValueError(f"--workers {workers}: the cluster of --engine ray decides; only for --engine local")
    side = 32 if side is None else side
    options = PrepareOptions(side, fit, captions, tokens, minimum_count, words, title, licence)
    columns = ColumnNames(image_column, tuple(caption_column or ()), split_column)
    source = read_source(kind, path, ReadOptions(columns, images, side, read_pickle), validation=validation, test=test)
    manifest = prepare_dataset(source, out, kind=kind, path=path, options=options, workers=workers, resume=resume, engine=engine)
    counts = ", ".join(
        f"{split}: {counted(n.images, 'image')} with {counted(n.captions, 'caption')}" for split, n in manifest.splits.items()
    )
    print(f"{counts}; {manifest.vocabulary.words:,} words\nwritten to {out}")
    if (hint := missing_validation(manifest.splits, validation)) is not None:
        print(hint, file=sys.stderr)


@commands.command(epilog=examples("cap2im check photos/", "cap2im check coco/ --kind coco --all", "cap2im check data/photos"))
def check(
    context: typer.Context,
    path: Annotated[str, typer.Argument(help="Captioned images of any kind, or a prepared dataset.", **PLACE | {"metavar": "PATH"})],
    kind: Annotated[Kind | None, typer.Option(help="Kind of PATH. [default: guessed from its content]")] = None,
    list_all: Annotated[bool, typer.Option("--all", help="List every problem, not only ten of each kind.")] = False,
    tokens: TokensOption = None,
    image_column: ImageColumnOption = None,
    caption_column: CaptionColumnOption = None,
    split_column: SplitColumnOption = None,
    images: ImagesFolderOption = None,
    workers: WorkersOption = None,
) -> None:
    """Report the problems of captioned images; the exit status is 1 if `prepare` would lose data."""
    require("preparing data", "train", "datasets")
    from cap2im.convert.pickles import read_pickle
    from cap2im.data.readers import ColumnNames, ReadOptions
    from cap2im.data.validate import check_path

    if kind == CUTOUTS or (kind is None and are_cutouts(path)):
        _refuse_options(context, f"{path} holds cut-outs, which have no captions", {"kind", "path", "list_all"})
        if check_cutouts(path, None if list_all else 10):
            raise typer.Exit(1)
        return
    options = ReadOptions(ColumnNames(image_column, tuple(caption_column or ()), split_column), images, read_pickle=read_pickle)
    report = check_path(path, options, kind=kind, tokens=tokens, workers=workers)
    print_check(path, report, None if list_all else 10)
    if report.loses_data:
        raise typer.Exit(1)


def _refuse_options(context: typer.Context, reason: str, allowed: Collection[str]) -> None:
    """Refuse options that do not apply.

    Raises:
        ValueError: one was given.
    """
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if unused := [f"--{name.replace('_', '-')}" for name in given if name not in allowed]:
        raise ValueError(f"{', '.join(unused)}: {reason}")
