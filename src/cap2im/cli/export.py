"""`cap2im export`: write a model in a form that other programs draw with."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from cap2im.cli.options import PATH, ModelArgument, examples
from cap2im.export.weights import Weights
from cap2im.files import counted

commands = typer.Typer()


class Format(StrEnum):
    """Formats of `--format`."""

    ONNX = "onnx"
    PAGE = "page"


@commands.command(
    epilog=examples(
        "cap2im export aligndraw-mnist --format onnx --out exported/aligndraw-mnist",
        "cap2im export runs/photos --format onnx --words 24 --out exported/photos",
        "cap2im export aligndraw-mnist --format onnx --weights int8 --tolerance 64 --out exported/small",
        "cap2im export aligndraw-mnist --format page --out site",
    )
)
def export(
    model: ModelArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the exported model.", **PATH)],
    format: Annotated[
        Format, typer.Option(help="onnx: graphs for onnxruntime, with vocabulary and sizes in model.json. page: a web page that draws.")
    ] = Format.ONNX,
    words: Annotated[int, typer.Option(min=1, max=200, help="Longest caption that the exported model reads, in words.")] = 32,
    weights: Annotated[
        Weights, typer.Option(help="Type of the weights, for onnx. fp16 and int8 are smaller and less exact.")
    ] = Weights.FP32,
    tolerance: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=255,
            help="Grey levels that 20 pictures by onnxruntime may differ from those by torch, for onnx. If they differ more, the exit "
            "status is 1. Default: 1 for fp32, else any.",
        ),
    ] = None,
    runtime: Annotated[
        Path | None,
        typer.Option(help="For a page: folder of the npm package onnxruntime-web. [default: the cache, else a download by npm]", **PATH),
    ] = None,
) -> None:
    """Export a model that draws. The exported model draws the same pictures without torch."""
    from cap2im.export.agreement import PICTURES, largest_difference
    from cap2im.export.onnx import export_onnx
    from cap2im.export.page import export_page
    from cap2im.pipeline import Pipeline

    if runtime is not None and format != Format.PAGE:
        raise ValueError(f"--runtime {runtime}: only for --format page")
    if format == Format.PAGE and (weights != Weights.FP32 or tolerance is not None):
        raise ValueError("--weights and --tolerance: only for --format onnx")
    pipeline = Pipeline.load(model)
    with Console(stderr=True).status(f"exporting {escape(pipeline.name)} as {format.value}"):  # ten seconds
        if format == Format.PAGE:
            folder = export_page(pipeline, out, words=words, runtime=runtime)
        else:
            folder = export_onnx(pipeline, out, words=words, weights=weights)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{pipeline.name}: written to {folder} ({size / 2**20:.1f} MiB)")
    if format == Format.ONNX:
        difference = largest_difference(pipeline, folder)
        print(f"{PICTURES} pictures by onnxruntime differ from those by torch by at most {counted(difference, 'grey level')} of 255")
        limit = 1 if tolerance is None and weights == Weights.FP32 else tolerance
        if limit is not None and difference > limit:
            print(f"this is more than the tolerance of {limit}", file=sys.stderr)
            raise typer.Exit(1)
