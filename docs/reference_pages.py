"""Sphinx extension: write the pages of the command line and of every recipe, from the code."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from cap2im.config import load_recipe, recipe_names, settings

HEADER = "| key | value | paper | meaning |\n| --- | --- | --- | --- |"


def cell(value: Any) -> str:
    """Return a value as a cell of a Markdown table."""
    return "" if value is None else f"`{value}`".replace("|", "\\|")


def recipe_page(name: str) -> str:
    """Return the page of a recipe: its description and all of its settings."""
    recipe = load_recipe(name)
    reference = recipe.paper_recipe()
    rows = [f"| `{s.key}` | {cell(s.value)} | {cell(s.paper if s.differs else None)} | {s.meaning} |" for s in settings(recipe)]
    note = (
        f"The column *paper* has the values of `{reference}` that differ." if reference else "No published recipe corresponds to this one."
    )
    command = f"```sh\ncap2im train {name} --dry-run\n```"
    return (
        "\n\n".join([f"# {name}", f"{recipe.description[0].upper()}{recipe.description[1:]}.", note, command, "\n".join([HEADER, *rows])])
        + "\n"
    )


def write_pages(app: Any) -> None:
    """Write `reference/command-line.md` and `reference/recipes/NAME.md`."""
    reference = Path(app.srcdir) / "reference"
    recipes = reference / "recipes"
    recipes.mkdir(exist_ok=True)
    for name in recipe_names():
        (recipes / f"{name}.md").write_text(recipe_page(name), "utf-8")
    page = reference / "command-line.md"
    subprocess.run(["typer", "cap2im.cli", "utils", "docs", "--name", "cap2im", "--output", str(page)], check=True, capture_output=True)
    page.write_text(page.read_text("utf-8").replace("# `cap2im`", "# Command line", 1), "utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Register the extension."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}
