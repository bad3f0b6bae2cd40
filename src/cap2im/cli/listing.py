"""`cap2im list`: show the bundled models and the recipes."""

from __future__ import annotations

import json
import tomllib
from importlib import resources

import typer
from rich.console import Console
from rich.table import Table

from cap2im.cli.options import examples

commands = typer.Typer()


@commands.command("list", epilog=examples("cap2im list"))
def list_models() -> None:
    """Show the bundled models and the recipes."""
    package = resources.files("cap2im")  # the files are read directly, because the functions that load them import torch
    table = Table("model", "parameters", "description")
    for folder in sorted(package.joinpath("pretrained").iterdir(), key=lambda folder: folder.name):
        if (file := folder.joinpath("config.json")).is_file():
            config = json.loads(file.read_text("utf-8"))
            use = " (used by cap2im evaluate)" if config["kind"] == "reader" else ""
            table.add_row(folder.name, f"{config['parameters']:,}" if "parameters" in config else "", config.get("description", "") + use)
    recipes = Table("recipe", "description")
    for file in sorted(package.joinpath("recipes").iterdir(), key=lambda file: file.name.removesuffix(".toml")):
        if file.name.endswith(".toml"):
            recipes.add_row(file.name.removesuffix(".toml"), tomllib.loads(file.read_text("utf-8"))["description"])
    stdout = Console(highlight=False)
    stdout.print(table)
    stdout.print(recipes)
