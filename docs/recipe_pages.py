"""Sphinx extension: write `reference/recipes/NAME.md` for every recipe, from the recipes themselves."""

from __future__ import annotations

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
    rows = [f"| `{s.key}` | {cell(s.value)} | {cell(s.paper)} | {s.meaning} |" for s in settings(recipe)]
    note = f"The column *paper* has the values of `{reference}`." if reference else "No published recipe corresponds to this one."
    command = f"```sh\ncap2im train {name} --dry-run\n```"
    return (
        "\n\n".join([f"# {name}", f"{recipe.description[0].upper()}{recipe.description[1:]}.", note, command, "\n".join([HEADER, *rows])])
        + "\n"
    )


def write_pages(app: Any) -> None:
    """Write the pages, and leave alone those that are up to date."""
    folder = Path(app.srcdir) / "reference" / "recipes"
    folder.mkdir(exist_ok=True)
    for name in recipe_names():
        page = folder / f"{name}.md"
        text = recipe_page(name)
        if not page.exists() or page.read_text("utf-8") != text:
            page.write_text(text, "utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Register the extension."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}
