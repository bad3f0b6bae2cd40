"""Sphinx extension: write the pages of the command line and of every recipe from the code, and the record page from its TOML file."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from benchmarks.reproduce import Entry, read_record

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


RECORD_INTRODUCTION = """# The record of published numbers

How each published number was made. `benchmarks.reproduce` runs the commands of an entry, and says whether each number falls inside of the
published interval:

    python -m benchmarks.reproduce NAME --folder work

`work/` has the data that the commands name. `python -m benchmarks.reproduce` lists the names. This page is generated from
`docs/results/record.toml`.
"""


def record_page(record: dict[str, Entry]) -> str:
    """Return the page of published numbers: for each entry its commands, circumstances and numbers with their 95 % intervals."""
    return "\n".join([RECORD_INTRODUCTION, *(record_section(name, entry) for name, entry in record.items())])


def record_section(name: str, entry: Entry) -> str:
    """Return the section of an entry."""
    about = (
        f"{entry.about[0].upper()}{entry.about[1:]}, published in [{entry.page.removesuffix('.md')}]({entry.page}). {entry.note}".rstrip()
    )
    rows = [("seed", entry.seed), ("updates x batch size", entry.updates), ("time", entry.time), ("machine", entry.machine)]
    circumstances = "\n".join(["| | |", "| --- | --- |", *(f"| {key} | {value} |" for key, value in rows)])
    numbers = ["| number | published | 95 % interval |", "| --- | --- | --- |"]
    for title, number in entry.numbers.items():
        places = len(number.text.split()[0].partition(".")[2])
        interval = "not published" if number.interval is None else " to ".join(f"{end:.{places}f}" for end in number.interval)
        numbers.append(f"| {title} | {number.text} | {interval} |")
    commands = "\n".join(["```sh", *entry.commands, "```"])
    return "\n\n".join([f"## {name}", about, commands, circumstances, "\n".join(numbers)]) + "\n"


def write_pages(app: Any) -> None:
    """Write `reference/command-line.md`, `reference/recipes/NAME.md` and `results/record.md`."""
    (Path(app.srcdir) / "results" / "record.md").write_text(record_page(read_record()), "utf-8")
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
