"""`cap2im export`: write a model in a form that other programs draw with."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cap2im.cli.options import PATH, ModelArgument, examples

commands = typer.Typer()


class Format(StrEnum):
    """Formats of `--format`."""

    ONNX = "onnx"
    PAGE = "page"


@commands.command(
    epilog=examples(
        "cap2im export aligndraw-mnist --format onnx --out exported/aligndraw-mnist",
        "cap2im export runs/photos --format onnx --words 24 --out exported/photos",
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
    runtime: Annotated[
        Path | None,
        typer.Option(help="For a page: folder of the npm package onnxruntime-web. [default: the cache, else a download by npm]", **PATH),
    ] = None,
) -> None:
    """Export a model that draws. The exported model draws the same pictures without torch."""
    from cap2im.export.onnx import export_onnx
    from cap2im.export.page import export_page
    from cap2im.pipeline import Pipeline

    if runtime is not None and format != Format.PAGE:
        raise ValueError(f"--runtime {runtime}: only for --format page")
    pipeline = Pipeline.load(model)
    with Console(stderr=True).status(f"exporting {pipeline.name} as {format.value}"):  # ten seconds
        if format == Format.PAGE:
            folder = export_page(pipeline, out, words=words, runtime=runtime)
        else:
            folder = export_onnx(pipeline, out, words=words)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{pipeline.name}: written to {folder} ({size / 2**20:.1f} MiB)")
