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


@commands.command(
    epilog=examples(
        "cap2im export aligndraw-mnist --format onnx --out exported/aligndraw-mnist",
        "cap2im export runs/photos --format onnx --words 24 --out exported/photos",
    )
)
def export(
    model: ModelArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the exported model.", **PATH)],
    format: Annotated[Format, typer.Option(help="onnx: graphs for onnxruntime, with vocabulary and sizes in model.json.")] = Format.ONNX,
    words: Annotated[int, typer.Option(min=1, max=200, help="Longest caption that the exported model reads, in words.")] = 32,
) -> None:
    """Export a model that draws. The exported model draws the same pictures without torch."""
    from cap2im.export.onnx import export_onnx
    from cap2im.pipeline import Pipeline

    pipeline = Pipeline.load(model)
    with Console(stderr=True).status(f"exporting {pipeline.name} as {format.value}"):  # ten seconds
        folder = export_onnx(pipeline, out, words=words)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{pipeline.name}: written to {folder} ({size / 2**20:.1f} MiB)")
