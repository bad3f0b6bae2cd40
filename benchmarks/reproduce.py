"""Reproduce published numbers: run their commands, and check each new number against the published 95 % interval.

    python -m benchmarks.reproduce                      # lists the names
    python -m benchmarks.reproduce NAME --folder work   # runs its commands in work/, which has the data that they name
    python -m benchmarks.reproduce --numbers FILE       # prints the numbers of an evaluation as lines of the record

The record of published numbers is docs/results/record.toml, one table for each set of commands. The exit status is 1 if a number is missing
or outside of its interval, and 2 if a command failed or wrote no evaluation.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from cap2im.evaluation.registry import TRAINING
from cap2im.evaluation.store import kept_evaluations
from cap2im.metrics.measurement import Measurement

RECORD = Path(__file__).parents[1] / "docs" / "results" / "record.toml"


class Number(BaseModel):
    """A published number.

    Attributes:
        text: as it is printed on the page, without bold.
        interval: 95 %, in printed units; None if none was published.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    interval: tuple[float, float] | None = None

    @property
    def value(self) -> float:
        """The number, in printed units."""
        return float(self.text.split()[0])

    @model_validator(mode="after")
    def _consistent(self) -> Number:
        if self.interval is not None and not self.interval[0] <= self.value <= self.interval[1]:
            raise ValueError(f"{self.text} is outside of its interval {self.interval}")
        return self


class Entry(BaseModel):
    """Published numbers of one model, and how they were made.

    Attributes:
        about: what was measured.
        page: where the numbers are published, relative to the record's folder.
        row: first cell of their row in a table of that page.
        commands: of cap2im, in their order.
        evaluation: file that the last command writes, in the layout of `cap2im evaluate`.
        seed: of training and measuring.
        updates: updates x batch size.
        time: of the whole.
        machine: that it ran on.
        note: what a reader must know before reproducing it.
        numbers: by the title of the measurement, e.g. "joint, held out, %".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    about: str
    page: str
    row: str
    commands: list[str] = Field(min_length=1)
    evaluation: str
    seed: int
    updates: str
    time: str
    machine: str
    note: str = ""
    numbers: dict[str, Number] = Field(min_length=1)


def read_record(path: Path = RECORD) -> dict[str, Entry]:
    """Return the entries of a record by name."""
    return TypeAdapter(dict[str, Entry]).validate_python(tomllib.loads(path.read_text("utf-8")))


def judge(entry: Entry, measured: Mapping[str, Measurement]) -> Iterator[tuple[bool, str]]:
    """Yield for each number of an entry whether it was reproduced, and a line that says so.

    A number without a published interval is reproduced if it was measured.
    """
    for title, published in entry.numbers.items():
        line = f"{title:32} published {published.text:24}"
        if title not in measured:
            yield False, f"{line} not measured"
            continue
        measurement = measured[title]
        value = float(measurement.number(measurement.value).replace(",", ""))  # rounded as the published number is
        line += f" measured {measurement.text:24}"
        if published.interval is None:
            yield True, f"{line} no interval was published"
            continue
        low, high = published.interval
        inside = low <= value <= high
        yield inside, f"{line} {'inside' if inside else 'OUTSIDE'} of {low:g} to {high:g}"


def number_lines(measurements: Iterable[Measurement]) -> Iterator[str]:
    """Yield the lines of the record for the numbers of an evaluation, as tables print them."""
    for each in measurements:
        if not each.detail and each.name not in TRAINING:
            ends = [] if each.interval is None else [each.number(end).replace(",", "") for end in each.interval]
            interval = f", interval = [{', '.join(ends)}]" if ends else ""
            yield f'"{each.title}" = {{ text = "{each.text}"{interval} }}'


def reproduce(entry: Entry, folder: Path) -> bool:
    """Run the commands of an entry in a folder, print each number beside the published one, and return whether all were reproduced.

    Raises:
        subprocess.CalledProcessError: a command failed.
        ValueError: the commands wrote no evaluation.
    """
    for command in entry.commands:
        print(f"$ {command}", flush=True)
        subprocess.run([sys.executable, "-m", *shlex.split(command)], cwd=folder, check=True)
    evaluations = kept_evaluations(folder / entry.evaluation)
    if not evaluations:
        raise ValueError(f"{folder / entry.evaluation}: no evaluation; the last command should have written it")
    lines = list(judge(entry, {each.title: each for each in evaluations[0].measurements}))
    print(*(line for _, line in lines), sep="\n")
    return all(reproduced for reproduced, _ in lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="an entry of docs/results/record.toml; without one, the names are listed")
    parser.add_argument("--folder", type=Path, default=Path(), help="where the commands run, with the data that they name")
    parser.add_argument(
        "--numbers", type=Path, metavar="FILE", help="print the numbers of the newest evaluation in a file, for a new entry"
    )
    given, record = parser.parse_args(arguments), read_record()
    if given.numbers is not None:
        if given.name is not None:
            parser.error(f"{given.name}: --numbers runs no commands; leave out one of the two")
        evaluations = kept_evaluations(given.numbers)
        if not evaluations:
            parser.error(f"--numbers {given.numbers}: expected a file of cap2im evaluate or cap2im compare")
        print(*number_lines(evaluations[0].measurements), sep="\n")
        return 0
    if given.name is None:
        for name, entry in record.items():
            print(f"{name:32} {entry.about} ({entry.time})")
        return 0
    if given.name not in record:
        parser.error(f"{given.name}: choose from {', '.join(record)}")
    if not given.folder.is_dir():
        parser.error(f"--folder {given.folder}: not a folder")
    entry = record[given.name]
    if entry.note:
        print(entry.note)
    try:
        return 0 if reproduce(entry, given.folder) else 1
    except subprocess.CalledProcessError as error:
        print(f"failed with exit status {error.returncode}: {' '.join(error.cmd[2:])}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
