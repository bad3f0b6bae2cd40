"""One table over several models, in which a column holds numbers of one protocol alone (alignDRAW, tables 1 and 3).

A number is only as good as what it was measured by: split, images, samples, seed, extractor, version. Evaluations keep that beside
every number; here, numbers whose protocols differ never share a column, and the table says in what the columns differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import cap2im
from cap2im.checkpoint import WEIGHTS, read_config
from cap2im.convert.inception import find_inception
from cap2im.data.prepared import MANIFEST, PreparedDataset
from cap2im.files import JSONObject, dump_json, file_sha256, read_json, write_atomically
from cap2im.metrics.evaluation import evaluate, ranks_images, shortlist_sha256
from cap2im.pipeline import Pipeline, find_model

LEADING = ("joint", "bound")  # columns that come first, and those that come last, whichever model is named first
LEGEND = (
    "After ±: of bounds the standard error over images, of SSI and PSNR the deviation over drawings, of Inception Scores that over parts, "
    "of the neural distance that over drawings. In brackets: 95 % intervals."
)
JUDGED = {  # what networks say of drawings, by its key in an evaluation: the column, the number, whether higher is better
    "fid": ("FID", "distance", False),
    "inception_score": ("Inception Score", "mean", True),
    "r_precision": ("R-precision", "rate", True),
    "neural_distance": ("neural distance", "mean", True),
}
TRAILING = ("seconds a step", "parameters")


@dataclass(frozen=True)
class Measurement:
    """One number of one model.

    Attributes:
        name: of the column, e.g. "joint, seen, %".
        value: the number.
        shown: the number in print, with its uncertainty where there is one.
        protocol: all that has to be equal for two numbers to be compared.
        higher_is_better: None where neither is.
    """

    name: str
    value: float
    shown: str
    protocol: Mapping[str, Any]
    higher_is_better: bool | None = True


@dataclass(frozen=True)
class Column:
    """Numbers of one name and one protocol; `mark` tells columns of one name apart, and is empty where there is one."""

    name: str
    mark: str
    protocol: Mapping[str, Any]
    cells: Mapping[str, Measurement]

    @property
    def title(self) -> str:
        return f"{self.name} [{self.mark}]" if self.mark else self.name

    @property
    def best(self) -> frozenset[str]:
        """The models with the best number, where several have one."""
        measured = list(self.cells.values())
        if len(measured) < 2 or measured[0].higher_is_better is None:
            return frozenset()
        best = (max if measured[0].higher_is_better else min)(cell.value for cell in measured)
        return frozenset(model for model, cell in self.cells.items() if cell.value == best)


@dataclass(frozen=True)
class Comparison:
    """Models and the columns of their numbers, in the order in which they were given and met."""

    models: tuple[str, ...]
    columns: tuple[Column, ...]

    def markdown(self) -> str:
        """The table, best numbers in bold, and below it the protocols of the columns."""
        lines = [
            f"| model | {' | '.join(column.title for column in self.columns)} |",
            f"| --- |{' --- |' * len(self.columns)}",
        ]
        for model in self.models:
            cells = []
            for column in self.columns:
                shown = column.cells[model].shown if model in column.cells else "-"
                cells.append(f"**{shown}**" if model in column.best else shown)
            lines.append(f"| {model} | {' | '.join(cells)} |")
        for protocol, titles in _by_protocol(self.columns):
            told = ", ".join(f"{key} {_plain(value)}" for key, value in protocol.items())
            lines += ["", f"*{'; '.join(titles)}*: {told}."]
        return "\n".join([*lines, "", LEGEND]) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "models": list(self.models),
            "columns": [
                {
                    "name": column.name,
                    "mark": column.mark,
                    "protocol": dict(column.protocol),
                    "values": {model: {"value": cell.value, "shown": cell.shown} for model, cell in column.cells.items()},
                }
                for column in self.columns
            ],
        }


def compare(evaluations: Sequence[Mapping[str, Any]]) -> Comparison:
    """The table of several evaluations, as `cap2im evaluate` writes them.

    Raises:
        ValueError: there is none, two are of one name, or one is not an evaluation.
    """
    names = [str(evaluation.get("model", "")) for evaluation in evaluations]
    if not names or "" in names:
        raise ValueError("nothing to compare" if not names else "an evaluation without a model's name cannot be compared")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two evaluations are called {twice[0]!r}: give the models different names (the folder's name is the model's)")
    found: dict[str, dict[str, tuple[Mapping[str, Any], dict[str, Measurement]]]] = {}  # name -> protocol -> cells
    for model, evaluation in zip(names, evaluations, strict=True):
        for number in measurements(evaluation):
            key = json.dumps(number.protocol, sort_keys=True)
            found.setdefault(number.name, {}).setdefault(key, (number.protocol, {}))[1][model] = number
    columns = []
    for name in sorted(found, key=_place):
        protocols = found[name]
        marks = [""] if len(protocols) == 1 else [chr(ord("a") + i) for i in range(len(protocols))]
        columns += [Column(name, mark, protocol, cells) for mark, (protocol, cells) in zip(marks, protocols.values(), strict=True)]
    return Comparison(tuple(names), tuple(columns))


def evaluated(pipeline: Pipeline, file: Path, **asked: Any) -> dict[str, Any]:
    """Return the evaluation of a model, `evaluate(pipeline, **asked)`, kept in a file; an equal one is not measured again.

    Raises:
        ValueError: of `evaluate`.
        OSError: the file cannot be written.
    """
    if not ranks_images(pipeline.model):  # a GAN has its other numbers in the table
        asked |= {"shortlist": None, "candidates": None}
    words = {key: str(value) for key, value in asked.items()}
    words |= {"device": pipeline.device.type, "torch": torch.__version__, "cap2im": cap2im.__version__}
    if pipeline.precision != "fp32":
        words["precision"] = pipeline.precision
    if pipeline.sharpening is not None:
        words["sharpener"] = pipeline.sharpening.sha256
    if asked.get("inception") is not None:
        words["inception"] = file_sha256(find_inception("fid", asked["inception"]))
    if asked.get("damsm") is not None:
        words["damsm"] = str(read_config(find_model(asked["damsm"])).get("sha256", {}).get(WEIGHTS))
    if asked.get("shortlist") is not None:
        words["shortlist"] = shortlist_sha256(asked["shortlist"])
    if (data := asked.get("data")) is not None and (Path(data) / MANIFEST).is_file():
        words["data"] = PreparedDataset.open(data).sha256
    kept = _kept(file)
    if kept.get("asked") == words and kept.get("weights_sha256") == pipeline.config["sha256"][WEIGHTS]:
        return kept
    result = {**evaluate(pipeline, **asked), "asked": words}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, dump_json(result) + "\n")
    return result


def _kept(file: Path) -> dict[str, Any]:
    """Return what a file holds of an earlier evaluation; nothing if it is missing, damaged, or lacks what the table shows."""
    try:
        found = read_json(file, JSONObject).root
        compare([found]).markdown()
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError):  # it is measured again
        return {}
    return found


def measurements(evaluation: Mapping[str, Any]) -> Iterator[Measurement]:
    """The numbers of one evaluation that a table shows."""
    if accuracy := evaluation.get("caption_accuracy"):
        for group, told in (("seen", "seen"), ("held_out", "held out")):
            for found, after in ((accuracy, ""), (accuracy.get("sharpened"), "sharpened, ")):
                if found is not None:
                    joint = found["drawings"][group]["joint"]
                    shown = f"{100 * joint['rate']:.1f} ({100 * joint['low']:.1f}-{100 * joint['high']:.1f})"
                    yield Measurement(f"joint, {after}{told}, %", 100 * joint["rate"], shown, accuracy["protocol"] | _sharpener(found))
    likelihoods = [*evaluation.get("other_splits", {}).values(), *filter(None, [evaluation.get("likelihood")])]
    for found in likelihoods:
        protocol, split = found["protocol"], found["protocol"]["split"]
        yield _bound(f"bound, {split}", found, protocol)
        if "sharpened" in found:
            yield _bound(f"bound, sharpened, {split}", found["sharpened"], protocol | _sharpener(found["sharpened"]))
    if found := evaluation.get("retrieval"):
        for name in (key for key in found if key.startswith("R@")):
            rate = found[name]
            shown = f"{100 * rate['rate']:.1f} ({100 * rate['low']:.1f}-{100 * rate['high']:.1f})"
            yield Measurement(f"{name}, %", 100 * rate["rate"], shown, found["protocol"])
        rank = found["median_rank"]
        shown = f"{rank['rank']:.1f} ({rank['low']:.1f}-{rank['high']:.1f})"
        yield Measurement("median rank", rank["rank"], shown, found["protocol"], higher_is_better=False)
    if found := evaluation.get("similarity"):
        for name, key in (("SSI", "ssim"), ("PSNR, dB", "psnr")):
            digits = 3 if key == "ssim" else 2
            for told, scores in ((name, found), (f"{name}, sharpened", found.get("sharpened"))):
                if scores is not None:
                    mean, deviation = scores[key]["mean"], scores[key]["deviation"]
                    shown = f"{mean:.{digits}f} ± {deviation:.{digits}f}"
                    yield Measurement(told, mean, shown, found["protocol"] | _sharpener(scores))
    for key, (name, value, higher) in JUDGED.items():
        if found := evaluation.get(key):
            for told, scores in ((name, found), (f"{name}, sharpened", found.get("sharpened"))):
                if scores is not None:
                    yield _judged(told, value, scores, found["protocol"] | _sharpener(scores), higher)
    if trained := evaluation.get("trained"):
        seconds = trained["seconds"] / trained["steps"]
        protocol = {"machine": trained["machine"], "batch size": trained["batch_size"]}
        yield Measurement("seconds a step", seconds, f"{seconds:.3f}", protocol, higher_is_better=None)
    if parameters := evaluation.get("parameters"):
        yield Measurement("parameters", parameters, f"{parameters:,}", {}, higher_is_better=None)


def _sharpener(found: Mapping[str, Any]) -> dict[str, Any]:
    """What sharpened the pictures of a number, for its protocol."""
    return {"sharpener": found["sharpener"]} if "sharpener" in found else {}


def _judged(name: str, value: str, found: Mapping[str, Any], protocol: Mapping[str, Any], higher: bool) -> Measurement:
    """What a network says of drawings."""
    if value == "rate":
        shown = f"{100 * found['rate']:.1f} ({100 * found['low']:.1f}-{100 * found['high']:.1f})"
        return Measurement(f"{name}, %", 100 * found["rate"], shown, protocol)
    deviation = f" ± {found['deviation']:.2f}" if "deviation" in found else ""
    return Measurement(name, found[value], f"{found[value]:.2f}{deviation}", protocol, higher_is_better=higher)


def _bound(name: str, found: Mapping[str, Any], protocol: Mapping[str, Any]) -> Measurement:
    return Measurement(f"{name}, nats", found["bound"], f"{found['bound']:.2f} ± {found['standard_error']:.2f}", protocol)


def _place(name: str) -> int:
    """Where a column stands; those of one place stay as they were met."""
    if name in TRAILING:
        return len(LEADING) + 1 + TRAILING.index(name)
    return next((place for place, start in enumerate(LEADING) if name.startswith(start)), len(LEADING))


def _by_protocol(columns: Sequence[Column]) -> list[tuple[Mapping[str, Any], list[str]]]:
    """The protocols that say something, each with the titles of its columns."""
    titles: dict[str, tuple[Mapping[str, Any], list[str]]] = {}
    for column in columns:
        if column.protocol:
            titles.setdefault(json.dumps(column.protocol, sort_keys=True), (column.protocol, []))[1].append(column.title)
    return list(titles.values())


def _plain(value: Any) -> str:
    """A protocol's value in a sentence: long hashes by their beginning."""
    text = json.dumps(value) if isinstance(value, (list, dict)) else str(value)
    return text[:12] if len(text) == 64 and all(c in "0123456789abcdef" for c in text) else text
