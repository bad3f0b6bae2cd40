"""Print the report of `cap2im check`."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from cap2im.data.problems import Problem
    from cap2im.data.validate import DatasetReport


def print_check(path: str, report: DatasetReport, most: int | None) -> None:
    """Print the problems of captioned images and a table of the splits on standard output.

    Args:
        path: of the images, for the title.
        report: to print.
        most: number of problems to list of each kind; None lists all.
    """
    from cap2im.data.validate import missing_validation

    stdout = Console(highlight=False, emoji=False)
    print_problems(stdout, report.problems, most)
    table = Table(title=f"{escape(path)}: {report.kind}", caption="pixels and words: smallest / median / largest")
    for name in ("split", "images", "captions", "pixels", "words", "unknown words"):
        table.add_column(name, justify="left" if name == "split" else "right", no_wrap=name != "unknown words")
    for split, summary in report.splits.items():
        unknown = f"{100 * report.unknown[split]:.2f} %" if split in report.unknown else "-"
        sizes = map(_smallest_median_largest, (summary.sides, summary.lengths))
        table.add_row(split, f"{summary.images:,}", f"{summary.captions:,}", *sizes, unknown)
    stdout.print(table)
    if (hint := missing_validation({split: s for split, s in report.splits.items() if s.images})) is not None:
        stdout.print(hint, soft_wrap=True)
    verdict = "data would be lost" if report.loses_data else "fine, with warnings" if report.problems else "fine"
    stdout.print(f"{report.vocabulary:,} different words; {verdict}", soft_wrap=True)


def print_problems(stdout: Console, problems: Sequence[Problem], most: int | None) -> None:
    """Print problems, grouped by kind.

    Args:
        stdout: to print on.
        problems: of any kinds.
        most: number of problems to list of each kind; None lists all.
    """
    from cap2im.data.problems import PROBLEMS

    by_kind: dict[str, list[Problem]] = {}
    for problem in problems:
        by_kind.setdefault(problem.kind, []).append(problem)
    for kind, loses in PROBLEMS.items():
        if listed := by_kind.get(kind):
            stdout.print(f"{kind}: {len(listed):,} ({'data is lost' if loses else 'a warning'})", style="bold", soft_wrap=True)
            for problem in listed[:most]:
                stdout.print(escape(f"  {problem.file}" + (f": {problem.detail}" if problem.detail else "")), soft_wrap=True)
            if most is not None and len(listed) > most:
                stdout.print(f"  and {len(listed) - most:,} more; --all lists them", soft_wrap=True)


def _smallest_median_largest(numbers: Sequence[int]) -> str:
    return f"{min(numbers)} / {int(median(numbers))} / {max(numbers)}" if numbers else "-"
