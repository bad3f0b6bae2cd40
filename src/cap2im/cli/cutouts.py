"""`cap2im prepare cutouts` and `cap2im check` of cut-outs."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cap2im.cli.data_report import print_problems
from cap2im.files import counted


def prepare_folder_of_cutouts(path: str, out: Path, side: int | None, title: str | None, licence: str | None) -> None:
    """Prepare a folder of pictures with transparency, and print the numbers of cut-outs, things and styles."""
    from cap2im.data.cutout_preparation import SIDE, prepare_cutouts

    folder = Path(os.path.expanduser(path))
    manifest = prepare_cutouts(folder, out, side=SIDE if side is None else side, title=title, licence=licence)
    counts = (
        counted(len(names), noun) for names, noun in ((manifest.thing, "cut-out"), (manifest.things, "thing"), (manifest.styles, "style"))
    )
    print("{} of {} in {}".format(*counts) + f"\nwritten to {out}")


def are_cutouts(path: str) -> bool:
    """Return whether a path is surely a folder of cut-outs, prepared or not."""
    from cap2im.data.cutout_folder import has_cutouts_table
    from cap2im.data.cutouts_manifest import is_prepared_cutouts

    folder = Path(os.path.expanduser(path))
    return is_prepared_cutouts(folder) or has_cutouts_table(folder)


def check_cutouts(path: str, most: int | None) -> bool:
    """Print the problems of cut-outs and a table of the styles; return whether data would be lost.

    Args:
        path: of a folder, prepared or not.
        most: number of problems to list of each kind; None lists all.
    """
    from cap2im.data.cutout_preparation import read_cutouts
    from cap2im.data.cutouts_manifest import is_prepared_cutouts, open_array, read_manifest
    from cap2im.data.problems import PROBLEMS

    folder = Path(os.path.expanduser(path))
    stdout = Console(highlight=False, emoji=False)
    if is_prepared_cutouts(folder):
        open_array(folder, read_manifest(folder))
        print(f"{path}: prepared cut-outs; fine")
        return False
    report = read_cutouts(folder)
    print_problems(stdout, report.problems, most)
    table = Table(title=f"{escape(path)}: cut-outs")
    for name in ("style", "cut-outs", "licence"):
        table.add_column(name, justify="right" if name == "cut-outs" else "left")
    for (style, licence), count in sorted(Counter((file.style, file.licence) for file in report.files).items()):
        table.add_row(escape(style), f"{count:,}", escape(licence) or "not known")
    stdout.print(table)
    loses = any(PROBLEMS[problem.kind] for problem in report.problems)
    things = {file.thing for file in report.files}
    verdict = "data would be lost" if loses else "fine, with warnings" if report.problems else "fine"
    if len(things) == 1:
        loses, verdict = True, "scenes need two or more"
    stdout.print(f"{counted(len(things), 'thing')}; {verdict}", soft_wrap=True)
    return loses
