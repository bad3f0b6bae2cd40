"""A table of several models, in which a column holds numbers of one protocol only (alignDRAW, tables 1 and 3).

Each number comes with the protocol that it was measured by: split, images, samples, seed, networks, versions. Numbers of different
protocols never share a column, and the text below the table describes the protocol of each column.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from cap2im.checkpoint import WEIGHTS
from cap2im.evaluation.differences import Difference, paired_differences
from cap2im.evaluation.evaluate import evaluate, settings_words
from cap2im.evaluation.evaluation import Evaluation
from cap2im.evaluation.inputs import StartProgress, no_progress
from cap2im.evaluation.other_dataset import note_on
from cap2im.evaluation.protocol import in_words
from cap2im.evaluation.registry import TRAINING
from cap2im.evaluation.settings import Settings
from cap2im.evaluation.store import keep_evaluation, kept_evaluations
from cap2im.evaluation.subject import Subject
from cap2im.metrics.measurement import Measurement
from cap2im.metrics.paired_bootstrap import RESAMPLES
from cap2im.pipeline import Pipeline

FIRST, LAST = ("joint", "bound"), TRAINING  # names of the first and the last columns
LEGEND = (
    "In brackets: 95 % intervals. Bold: the best number of a column and the numbers within its 95 % interval, which do not differ "
    "significantly from it; if those are all, none. Without an interval, the best number is bold."
)


DIFFERENCES_LEGEND = (
    f"Differences: first minus second model, with 95 % intervals of a paired bootstrap: {RESAMPLES:,} resamples of the captions or images, "
    "the same ones for both models. Bold: the interval excludes 0."
)


@dataclass(frozen=True)
class Column:
    """Numbers of one title and one protocol.

    Attributes:
        name: title of the numbers.
        mark: letter that distinguishes columns of one name; empty if there is one.
        protocol: of the numbers.
        cells: numbers by model.
    """

    name: str
    mark: str
    protocol: Mapping[str, Any]
    cells: Mapping[str, Measurement]

    @cached_property
    def differences(self) -> tuple[Difference, ...]:
        """Differences between each pair of models whose values of single items were kept."""
        return paired_differences(self.cells)

    @property
    def chance(self) -> float | None:
        """The number that guessing has; None if it is unknown."""
        return next((cell.chance for cell in self.cells.values() if cell.chance is not None), None)

    def number(self, value: float) -> str:
        """Return a number of the column in print, without its unit."""
        return next(iter(self.cells.values())).number(value)

    @property
    def title(self) -> str:
        """Name and mark."""
        return f"{self.name} [{self.mark}]" if self.mark else self.name

    @property
    def best(self) -> frozenset[str]:
        """The model with the best number and those with numbers within its 95 % interval; empty if those are all models."""
        numbers = list(self.cells.values())
        if len(numbers) < 2 or numbers[0].higher_is_better is None:
            return frozenset()
        best = (max if numbers[0].higher_is_better else min)(numbers, key=lambda cell: cell.value)
        low, high = (best.value, best.value) if best.interval is None else best.interval
        tied = frozenset(model for model, cell in self.cells.items() if low <= cell.value <= high)
        return tied if len(tied) < len(numbers) else frozenset()


@dataclass(frozen=True)
class Comparison:
    """A table of models.

    Attributes:
        models: names, in the order of the rows.
        columns: in order.
        notes: footnotes on single models.
    """

    models: tuple[str, ...]
    columns: tuple[Column, ...]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """Return the table with the best numbers in bold, followed by the protocols of the columns in words."""
        lines = [
            f"| model | {' | '.join(column.title for column in self.columns)} |",
            f"| --- |{' --- |' * len(self.columns)}",
        ]
        for model in self.models:
            cells = []
            for column in self.columns:
                text = column.cells[model].text if model in column.cells else "-"
                cells.append(f"**{text}**" if model in column.best else text)
            lines.append(f"| {model} | {' | '.join(cells)} |")
        if any(column.chance is not None for column in self.columns):
            chances = [("" if column.chance is None else column.number(column.chance)) for column in self.columns]
            lines.append(f"| chance | {' | '.join(chances)} |")
        for protocol, titles in _titles_by_protocol(self.columns):
            lines += ["", f"*{'; '.join(titles)}*: {in_words(protocol)}."]
        for note in self.notes:
            lines += ["", note]
        return "\n".join([*lines, "", f"{_deviations(self.columns)}{LEGEND}", *self._differences()]) + "\n"

    def _differences(self) -> list[str]:
        """Return the lines of the table of differences; none if no values of single items were kept."""
        columns = [column for column in self.columns if column.differences]
        if not columns:
            return []
        lines = ["", f"| difference | {' | '.join(column.title for column in columns)} |", f"| --- |{' --- |' * len(columns)}"]
        for pair in combinations(self.models, 2):
            texts = {}
            for column in columns:
                for each in column.differences:
                    if each.models == pair:
                        texts[column.title] = f"**{each.text}**" if each.excludes_zero else each.text
            if texts:
                lines.append(f"| {pair[0]} - {pair[1]} | {' | '.join(texts.get(column.title, '-') for column in columns)} |")
        return [*lines, "", DIFFERENCES_LEGEND]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "models": list(self.models),
            "notes": list(self.notes),
            "columns": [
                {
                    "name": column.name,
                    "mark": column.mark,
                    "protocol": dict(column.protocol),
                    "values": {model: {"value": cell.value, "shown": cell.text} for model, cell in column.cells.items()},
                    "chance": column.chance,
                }
                for column in self.columns
            ],
            "differences": [
                {
                    "name": column.name,
                    "mark": column.mark,
                    "models": list(each.models),
                    "value": each.value,
                    "interval": list(each.interval),
                    "shown": each.text,
                }
                for column in self.columns
                for each in column.differences
            ],
        }


def compare(evaluations: Sequence[Evaluation]) -> Comparison:
    """Return the table of several evaluations.

    Args:
        evaluations: of models of different names.

    Raises:
        ValueError: there is none, or two have one name.
    """
    names = [evaluation.model for evaluation in evaluations]
    if not names:
        raise ValueError("nothing to compare")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two evaluations are called {twice[0]!r}: give the models different names (the folder's name is the model's)")
    cells: dict[str, dict[str, dict[str, Measurement]]] = {}  # title -> protocol -> model
    notes: dict[str, None] = {}
    for evaluation in evaluations:
        for measurement in evaluation.measurements:
            if measurement.detail:
                continue
            if (note := note_on(evaluation.model, measurement.protocol)) is not None:
                notes[note] = None
            protocol = {key: value for key, value in measurement.protocol.items() if key != "foreign"}  # of the model, not of the number
            column = cells.setdefault(measurement.title, {}).setdefault(json.dumps(protocol, sort_keys=True), {})
            column[evaluation.model] = measurement.model_copy(update={"protocol": protocol})
    columns = []
    for title in sorted(cells, key=_place):
        marks = [""] if len(cells[title]) == 1 else [chr(ord("a") + i) for i in range(len(cells[title]))]
        for mark, column in zip(marks, cells[title].values(), strict=True):
            columns.append(Column(title, mark, next(iter(column.values())).protocol, column))
    return Comparison(tuple(names), tuple(columns), tuple(notes))


def evaluate_once(
    pipeline: Pipeline, file: Path, settings: Settings, *, data: str | None, start_progress: StartProgress = no_progress
) -> Evaluation:
    """Return the evaluation of a model that a file holds, or measure it and add it to the file.

    Args:
        pipeline: the model; metrics that its network does not allow are left out.
        file: of its evaluations.
        settings: what to measure, and how.
        data: the data to measure on.
        start_progress: starts progress bars.

    Raises:
        ValueError: of `evaluate`.
        OSError: the file cannot be written.
    """
    settings = Subject.of(pipeline).allowed(settings)
    identity = pipeline.config.sha256[WEIGHTS], settings_words(pipeline, settings, data)
    for kept in kept_evaluations(file):
        if kept.identity == identity:
            return kept
    evaluation = evaluate(pipeline, settings, data=data, start_progress=start_progress)
    keep_evaluation(file, evaluation)
    return evaluation


def _place(title: str) -> int:
    """Return the position of a column; columns of one position stay in the order of the models."""
    if title in LAST:
        return len(FIRST) + 1 + LAST.index(title)
    return next((place for place, start in enumerate(FIRST) if title.startswith(start)), len(FIRST))


def _deviations(columns: Sequence[Column]) -> str:
    """Return what the numbers after ± are, by the names of their quantities."""
    names: dict[str, dict[str, None]] = {}
    for cell in (cell for column in columns for cell in column.cells.values() if cell.deviation_of):
        names.setdefault(cell.deviation_of, {})[cell.name] = None
    kinds = [f"the {kind} ({', '.join(quantities)})" for kind, quantities in names.items()]
    return f"After ±: {'; '.join(kinds)}. " if kinds else ""


def _titles_by_protocol(columns: Sequence[Column]) -> list[tuple[Mapping[str, Any], list[str]]]:
    """Return the protocols that have entries, with the titles of their columns."""
    titles: dict[str, tuple[Mapping[str, Any], list[str]]] = {}
    for column in columns:
        if column.protocol:
            titles.setdefault(json.dumps(column.protocol, sort_keys=True), (column.protocol, []))[1].append(column.title)
    return list(titles.values())
