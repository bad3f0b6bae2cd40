"""`cap2im convert`: turn published weights into a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from cap2im.cli.options import EXISTING, FILE, PATH, examples

commands = typer.Typer()


@commands.command(
    epilog=examples(
        "cap2im convert aligndraw.h5 --dictionary dictionary.pkl --out models/aligndraw-coco",
        "cap2im convert attention-vae.h5 --out models/aligndraw-mnist-2016",
        "cap2im convert gan.hdf5 --out models/sharpener",
        "cap2im convert current.ckpt --dictionary dictionary.pkl --out models/port",
        "cap2im convert skip-thoughts/ --out models/skip-thoughts",
        "cap2im convert coco_AttnGAN2.pth --text-encoder text_encoder100.pth --dictionary captions.pickle --out models/attngan-coco",
        "cap2im convert attngan-coco/ --out models/attngan-coco",
    )
)
def convert(
    file: Annotated[Path, typer.Argument(help="Legacy weights: HDF5, PyTorch, or a folder of skip-thoughts or AttnGAN.", **EXISTING)],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the model.", **PATH)],
    dictionary: Annotated[
        Path | None,
        typer.Option(help="Vocabulary of the weights: alignDRAW's dictionary.pkl, AttnGAN's captions.pickle.", **FILE),
    ] = None,
    text_encoder: Annotated[
        Path | None, typer.Option(help="Text encoder of AttnGAN's generator or image encoder: text_encoder….pth.", **FILE)
    ] = None,
    glimpses: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="T, which no file states. [default: 32, or 64 for DRAW]"),
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store word vectors of skip-thoughts in half precision: 2.3 GB, not 4.6.")] = False,
) -> None:
    """Turn the authors' weights, or those of a PyTorch port, into a model folder. Nothing in the files is executed."""
    from cap2im.checkpoint import read_config
    from cap2im.convert.legacy import convert as convert_weights

    with Console(stderr=True).status(f"reading {escape(str(file))}"):  # the captions.pickle of COCO takes ten seconds
        folder = convert_weights(file, out, dictionary=dictionary, text_encoder=text_encoder, glimpses=glimpses, half=half)
    print(f"{read_config(folder)['description']}: written to {folder}")
