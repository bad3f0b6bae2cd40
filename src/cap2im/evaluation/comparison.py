"""One table over several models, in which a column holds numbers of one protocol alone (alignDRAW, tables 1 and 3).

A number is only as good as what it was measured by: split, images, samples, seed, extractor, version. Evaluations keep that beside
every number; here, numbers whose protocols differ never share a column, and the table says in what the columns differ.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cap2im._version import __version__
from cap2im.checkpoint import WEIGHTS, read_config
from cap2im.convert.inception import find_inception
from cap2im.data.dataset import PreparedDataset
from cap2im.evaluation.evaluate import Measures, Subject, evaluate, ranks_images, shortlist_sha256
from cap2im.evaluation.other_dataset import source_name
from cap2im.files import JSONObject, check_writable_file, dump_json, file_sha256, read_json, write_atomically
from cap2im.loading import find_model
from cap2im.pipeline import Pipeline

LEADING = ("joint", "bound")  # columns that come first, and those that come last, whichever model is named first
LEGEND = (
    "After ±: for bounds the standard error over images, for SSIM, PSNR and the neural distance the standard deviation over drawings, for "
    "Inception Scores that over parts. In brackets: 95 % intervals. Bold: the best number of a column, and those that lie within its "
    "95 % interval, for they cannot be told from it; where that is all of them, none. FID has no interval: the lowest one is bold."
)
NORMAL_95 = 1.96  # standard errors on each side of a mean
JUDGED = {  # what networks say of drawings, by its key in an evaluation: the column, the number, whether higher is better
    "fid": ("FID", "distance", False),
    "inception_score": ("Inception Score", "mean", True),
    "r_precision": ("R-precision", "rate", True),
    "neural_distance": ("neural distance", "mean", True),
}
OTHERS = "others"  # evaluations of other protocols in the same file
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
        interval: the 95 % interval; None where it is not known.
    """

    name: str
    value: float
    shown: str
    protocol: Mapping[str, Any]
    higher_is_better: bool | None = True
    interval: tuple[float, float] | None = None


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
        """The model with the best number and those whose numbers lie within its 95 % interval; none where that is all of them."""
        measured = list(self.cells.values())
        if len(measured) < 2 or measured[0].higher_is_better is None:
            return frozenset()
        best = (max if measured[0].higher_is_better else min)(measured, key=lambda cell: cell.value)
        low, high = (best.value, best.value) if best.interval is None else best.interval
        tied = frozenset(model for model, cell in self.cells.items() if low <= cell.value <= high)
        return tied if len(tied) < len(measured) else frozenset()


@dataclass(frozen=True)
class Comparison:
    """Models and the columns of their numbers, in the order in which they were given and met; `notes` on single models."""

    models: tuple[str, ...]
    columns: tuple[Column, ...]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """The table, best numbers in bold, and below it the protocols of the columns in words."""
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
            lines += ["", f"*{'; '.join(titles)}*: {in_words(protocol)}."]
        for note in self.notes:
            lines += ["", note]
        return "\n".join([*lines, "", LEGEND]) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "models": list(self.models),
            "notes": list(self.notes),
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
    notes: dict[str, None] = {}
    for model, evaluation in zip(names, evaluations, strict=True):
        for number in measurements(evaluation):
            if (foreign := number.protocol.get("foreign")) is not None:  # of the model, not of how it was measured
                notes[_foreign_note(model, foreign)] = None
                number = dataclasses.replace(number, protocol={k: v for k, v in number.protocol.items() if k != "foreign"})
            key = json.dumps(number.protocol, sort_keys=True)
            found.setdefault(number.name, {}).setdefault(key, (number.protocol, {}))[1][model] = number
    columns = []
    for name in sorted(found, key=_place):
        protocols = found[name]
        marks = [""] if len(protocols) == 1 else [chr(ord("a") + i) for i in range(len(protocols))]
        columns += [Column(name, mark, protocol, cells) for mark, (protocol, cells) in zip(marks, protocols.values(), strict=True)]
    return Comparison(tuple(names), tuple(columns), tuple(notes))


def identity(pipeline: Pipeline, asked: Mapping[str, Any]) -> dict[str, str]:
    """Return all that decides the numbers of an evaluation, beside the model's weights: evaluations of one identity are equal.

    Args:
        pipeline: the model.
        asked: `data`, and attributes of `Measures`.

    Raises:
        ValueError: a file or folder that is named there is missing or damaged.
    """
    measures = Measures(**{key: value for key, value in asked.items() if key != "data"})
    words = {key: str(value) for key, value in dataclasses.asdict(measures).items()}
    words |= {"device": pipeline.device.type, "torch": torch.__version__, "cap2im": __version__}
    if pipeline.precision != "fp32":
        words["precision"] = pipeline.precision
    if pipeline.sharpening is not None:
        words["sharpener"] = pipeline.sharpening.sha256
    if measures.inception is not None:
        words["inception"] = file_sha256(find_inception("fid", measures.inception))
    if measures.damsm is not None:
        words["damsm"] = str(read_config(find_model(measures.damsm)).get("sha256", {}).get(WEIGHTS))
    if measures.shortlist is not None:
        words["shortlist"] = shortlist_sha256(measures.shortlist)
    if Subject.of(pipeline).digits is not None:
        words["split"] = "test" if measures.split is None else measures.split
    elif asked.get("data") is not None:
        dataset = PreparedDataset.open(asked["data"])
        others, main = measures.splits(dataset)
        words |= {"data": dataset.sha256, "split": " ".join([*others, main])}
    return words


def evaluated(pipeline: Pipeline, file: Path, **asked: Any) -> dict[str, Any]:
    """Return the evaluation of a model, `evaluate(pipeline, **asked)`, kept in a file; an equal one is not measured again.

    Raises:
        ValueError: of `evaluate`.
        OSError: the file cannot be written.
    """
    if not ranks_images(pipeline.model):  # a GAN has its other numbers in the table
        asked |= {"shortlist": None, "candidates": None}
    whole = pipeline.config.sha256[WEIGHTS], identity(pipeline, asked)
    for kept in kept_evaluations(file):
        if (kept.get("weights_sha256"), kept.get("asked")) == whole and _is_whole(kept):
            return kept
    result = {**evaluate(pipeline, **asked), "asked": whole[1]}
    keep_evaluation(file, result)
    return result


def kept_evaluations(file: Path) -> list[dict[str, Any]]:
    """Return the evaluations that a file holds, the newest first; none where it is missing or damaged, for then they are measured again."""
    try:
        found = read_json(file, JSONObject).root
    except ValueError:
        return []
    others = found.pop(OTHERS, [])
    return [found, *(each for each in (others if isinstance(others, list) else []) if isinstance(each, dict))]


def _is_whole(kept: Mapping[str, Any]) -> bool:
    """Whether a table can be made of what was kept; a file may have been edited, or be of an older version."""
    try:
        compare([kept]).markdown()
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
        return False
    return True


def keep_evaluation(file: Path, result: Mapping[str, Any]) -> int:
    """Write an evaluation into a file. Earlier ones in it of other weights or another protocol are kept, in the list `others`.

    Args:
        file: is made, with its folder, if it is missing.
        result: of `evaluate`, with its `identity` as `asked`.

    Returns:
        how many others the file holds.
    """
    whole = result.get("weights_sha256"), result.get("asked")
    others = [each for each in kept_evaluations(file) if (each.get("weights_sha256"), each.get("asked")) != whole]
    file.parent.mkdir(parents=True, exist_ok=True)
    document = {**result, OTHERS: others} if others else dict(result)
    write_atomically(file, dump_json(document) + "\n")
    return len(others)


def check_evaluation_file(file: Path) -> None:
    """Check that an evaluation can be written into a file: it is missing, or holds evaluations.

    Raises:
        ValueError: it cannot be written, or holds something else.
    """
    check_writable_file(file)
    if file.exists() and file.stat().st_size and "model" not in next(iter(kept_evaluations(file)), {}):
        raise ValueError(f"{file}: exists, and is no evaluation; it is left as it is: give another --out")


def free_stem(folder: Path, stem: str, of: Mapping[str, Any]) -> str:
    """Return a name for the files of a comparison in a folder: `stem`, or with a number where another comparison has that name.

    Args:
        folder: of the tables.
        stem: of the files, without number and ending.
        of: what is compared, JSON-ready; the same comparison gets the same name again.
    """
    number = 1
    while True:
        name = stem if number == 1 else f"{stem}-{number}"
        files = [folder / f"{name}.{ending}" for ending in ("json", "md", "png")]
        if not any(file.exists() for file in files) or next(iter(kept_evaluations(files[0])), {}).get("of") == of:
            return name
        number += 1


def measurements(evaluation: Mapping[str, Any]) -> Iterator[Measurement]:
    """The numbers of one evaluation that a table shows."""
    if accuracy := evaluation.get("caption_accuracy"):
        for group, told in (("seen", "seen"), ("held_out", "held out")):
            for found, after in ((accuracy, ""), (accuracy.get("sharpened"), "sharpened, ")):
                if found is not None:
                    joint = found["drawings"][group]["joint"]
                    shown = f"{100 * joint['rate']:.1f} ({100 * joint['low']:.1f}-{100 * joint['high']:.1f})"
                    name, protocol = f"joint, {after}{told}, %", accuracy["protocol"] | _sharpener(found)
                    yield Measurement(name, 100 * joint["rate"], shown, protocol, interval=_percent(joint))
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
            yield Measurement(f"{name}, %", 100 * rate["rate"], shown, found["protocol"], interval=_percent(rate))
        rank = found["median_rank"]
        shown = f"{rank['rank']:.1f} ({rank['low']:.1f}-{rank['high']:.1f})"
        interval = rank["low"], rank["high"]
        yield Measurement("median rank", rank["rank"], shown, found["protocol"], higher_is_better=False, interval=interval)
    if found := evaluation.get("similarity"):
        for name, key in (("SSIM", "ssim"), ("PSNR, dB", "psnr")):
            digits = 3 if key == "ssim" else 2
            for told, scores in ((name, found), (f"{name}, sharpened", found.get("sharpened"))):
                if scores is not None:
                    mean, deviation = scores[key]["mean"], scores[key]["deviation"]
                    shown = f"{mean:.{digits}f} ± {deviation:.{digits}f}"
                    within = _around(mean, scores[key].get("standard_error"))
                    yield Measurement(told, mean, shown, found["protocol"] | _sharpener(scores), interval=within)
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
        return Measurement(f"{name}, %", 100 * found["rate"], shown, protocol, interval=_percent(found))
    deviation = f" ± {found['deviation']:.2f}" if "deviation" in found else ""
    count = protocol.get("parts", protocol.get("drawings"))  # that the deviation is over
    error = found["deviation"] / math.sqrt(count) if "deviation" in found and isinstance(count, int) and count else None
    interval = _around(found[value], error)
    return Measurement(name, found[value], f"{found[value]:.2f}{deviation}", protocol, higher_is_better=higher, interval=interval)


def _bound(name: str, found: Mapping[str, Any], protocol: Mapping[str, Any]) -> Measurement:
    mean, error = found["bound"], found["standard_error"]
    return Measurement(f"{name}, nats", mean, f"{mean:.2f} ± {error:.2f}", protocol, interval=_around(mean, error))


def _percent(rate: Mapping[str, Any]) -> tuple[float, float]:
    return 100 * rate["low"], 100 * rate["high"]


def _around(mean: float, error: float | None) -> tuple[float, float] | None:
    """The 95 % interval of a mean with a standard error."""
    return None if error is None else (mean - NORMAL_95 * error, mean + NORMAL_95 * error)


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


def _foreign_note(model: str, foreign: Mapping[str, Any]) -> str:
    """A footnote on a model that was measured on another dataset than its own."""
    share, trained = foreign.get("unknown_words"), foreign.get("trained_on")
    words = "" if share is None else f"; it does not know {100 * share:.1f} % of the words"
    if trained is None:
        return f"{model} does not say what it was trained on{words} of {foreign.get('measured_on')}."
    return f"{model} was trained on {trained}, not on {foreign.get('measured_on')}{words}."


def in_words(protocol: Mapping[str, Any]) -> str:
    """Return a protocol as a phrase for people; every entry is in it, so that different protocols have different phrases."""
    rest = dict(protocol)
    told = []
    if "side" in rest:
        colours = f" in {_count(rest.pop('colours'), 'colour')}" if "colours" in rest else ""
        told.append(f"{rest['side']} x {rest.pop('side')} pixels{colours}")
    if "samples" in rest:
        count = rest.pop("samples")
        told.append(f"{_count(count, 'drawing')} a caption" if "window" in rest else f"{_count(count, 'posterior sample')} an image")
    for key, tell in PHRASES.items():
        if key in rest:
            told.append(tell(rest.pop(key)))
    told += [f"{key.replace('_', ' ')} {_plain(value)}" for key, value in rest.items()]
    return ", ".join(told)


def _count(number: Any, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}" if isinstance(number, int) else f"{noun}s {_plain(number)}"


def _data(data: Any) -> str:
    if not isinstance(data, Mapping):
        return f"captioned digits ({data})"
    return f"dataset {source_name(data)} with SHA-256 {_plain(data.get('sha256'))}"


PHRASES: dict[str, Callable[[Any], str]] = {
    "images": lambda value: _count(value, "image"),
    "drawings": lambda value: _count(value, "drawing"),
    "captions": lambda value: _count(value, "caption") if isinstance(value, int) else f"captions with SHA-256 {_plain(value)}",
    "samples_per_caption": lambda value: f"{_count(value, 'drawing')} a caption",
    "split": lambda value: f"{value} split",
    "configurations": lambda value: f"captions {value} in training",
    "data": _data,
    "digits": lambda value: f"digits with SHA-256 {_plain(value)}",
    "held_out": lambda value: f"held-out digits of each layout {' '.join('-'.join(map(str, hidden)) for hidden in value)}",
    "variant": lambda value: f"canvases of the {value} variant",
    "resize": lambda value: f"images fitted by {value}",
    "observation": lambda value: f"{value} pixels",
    "shortlist": lambda value: f"shortlists of {value.get('extractor') or value.get('file')} with SHA-256 {_plain(value.get('sha256'))}",
    "candidates": lambda value: f"{value:,} candidates",
    "training_captions": lambda value: f"mean of {value:,} training captions",
    "window": lambda value: f"SSIM window of {value} pixels",
    "data_range": lambda value: f"pixels in 0 to {value:g}",
    "reader": lambda value: f"reader with SHA-256 {_plain(value)}",
    "damsm": lambda value: f"matching model with SHA-256 {_plain(value)}",
    "wrong_captions": lambda value: f"{value} wrong captions",
    "inception": lambda value: f"Inception weights with SHA-256 {_plain(value)}",
    "pictures": lambda value: f"pictures resized {value}",
    "features": lambda value: f"{value:,} features",
    "real_images": lambda value: f"{value:,} real images",
    "parts": lambda value: f"{value} parts",
    "sharpener": lambda value: f"sharpener {value.get('name')} with SHA-256 {_plain(value.get('sha256'))}",
    "seed": lambda value: f"seed {value}",
    "precision": lambda value: f"drawn in {value}",
    "device": lambda value: f"on {value}",
    "torch": lambda value: f"torch {value}",
    "cap2im": lambda value: f"cap2im {value}",
    "version": lambda value: f"version {value} of the metric",
}
"""How each entry of a protocol is told, in the order of telling."""


def _plain(value: Any) -> str:
    """A protocol's value in a sentence: long hashes by their beginning."""
    text = json.dumps(value) if isinstance(value, (list, dict)) else str(value)
    return text[:12] if len(text) == 64 and all(c in "0123456789abcdef" for c in text) else text
