"""What the command line's measurements and checks print: tables and lines of numbers that were found elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from cap2im.data.problems import Problem
    from cap2im.data.validate import DatasetReport


def print_evaluation(result: dict[str, Any], sharpen: str | None) -> None:
    """What `cap2im evaluate` found, on standard output.

    Args:
        result: of `cap2im.evaluation.evaluate.evaluate`.
        sharpen: the sharpener that was asked for, if one was.
    """
    stdout = Console(highlight=False)
    if "caption_accuracy" in result:
        stdout.print(_accuracy_table(result["model"], result["caption_accuracy"]))
    for likelihood in (*result.get("other_splits", {}).values(), *([result["likelihood"]] if "likelihood" in result else [])):
        protocol = likelihood["protocol"]
        told = f"; {protocol['split']} images, n = {likelihood['images']}, L = {likelihood['samples']}; pixels: {protocol['observation']}"
        _print_bound(stdout, "bound", likelihood, told)
        if "sharpened" in likelihood:
            _print_bound(stdout, "after sharpening", likelihood["sharpened"])
        elif sharpen is not None:
            stdout.print(f"after sharpening: no bound, which Bernoulli pixels alone have; these are {protocol['observation']}")
    if "likelihood" not in result:
        unasked = result.keys().isdisjoint({"caption_accuracy", "similarity", "fid", "r_precision"})
        hint = "; --similarity, --fid and --damsm measure its drawings" if unasked else ""
        stdout.print(f"no bound: a model of this kind has no likelihood{hint}", soft_wrap=True)
    if "retrieval" in result:
        stdout.print(_retrieval_table(result["model"], result["retrieval"]))
    if "similarity" in result:
        found = result["similarity"]
        told = f"{found['protocol']['split']} images, {found['captions']} captions, {found['samples']} drawings each"
        for what, scores in (("SSIM", found), *([("SSIM after sharpening", found["sharpened"])] if "sharpened" in found else [])):
            ssim, psnr = scores["ssim"], scores["psnr"]
            stdout.print(
                f"{what} {ssim['mean']:.3f} ± {ssim['deviation']:.3f} (of drawings; standard error {ssim['standard_error']:.4f}), "
                f"PSNR {psnr['mean']:.2f} ± {psnr['deviation']:.2f} dB; {told}",
                soft_wrap=True,
            )
    _print_judged(stdout, result)


def _print_judged(stdout: Console, result: dict[str, Any]) -> None:
    """What networks say of drawings: a line for each measure."""
    from cap2im.models.inception import FEATURES

    def precision(found: dict[str, Any]) -> str:
        return f"{100 * found['rate']:.1f} % ({100 * found['low']:.1f}-{100 * found['high']:.1f}, chance {100 * found['chance']:.0f})"

    tellers: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
        "fid": ("FID", lambda found: f"{found['distance']:.2f}"),
        "inception_score": ("Inception Score", lambda found: f"{found['mean']:.2f} ± {found['deviation']:.2f}"),
        "r_precision": ("R-precision", precision),
        "neural_distance": ("neural distance", lambda found: f"{found['mean']:.3f} ± {found['deviation']:.3f}"),
    }
    for key, (name, tell) in tellers.items():
        if key in result:
            found, protocol = result[key], result[key]["protocol"]
            told = f"{found['drawings']:,} drawings" + (f" of {protocol['split']} captions" if "split" in protocol else "")
            if key == "fid":
                told += f", {protocol['real_images']:,} images"
            if key == "neural_distance":
                told += f"; of other captions {found['other_captions']['mean']:.3f}"
            if "held_out" in found:
                told += f"; seen {100 * found['seen']['rate']:.1f} %, held out {100 * found['held_out']['rate']:.1f} %"
            stdout.print(f"{name} {tell(found)}; {told}", soft_wrap=True)
            if "sharpened" in found:
                stdout.print(f"{name} after sharpening {tell(found['sharpened'])}", soft_wrap=True)
    if "fid" in result and min(result["fid"]["drawings"], result["fid"]["protocol"]["real_images"]) <= FEATURES:
        stdout.print(f"(FID of so few pictures is far too high: it has {FEATURES:,} features; 30,000 drawings are usual)", soft_wrap=True)


def _print_bound(stdout: Console, what: str, found: dict[str, Any], protocol: str = "") -> None:
    stdout.print(
        f"{what} {found['bound']:.2f} ± {found['standard_error']:.2f} nats an image: reconstruction {found['reconstruction']:.2f}, KL "
        f"{found['kl']:.2f}; importance-weighted {found['importance_weighted']:.2f} ± {found['importance_weighted_error']:.2f}{protocol}",
        soft_wrap=True,
    )


def _retrieval_table(model: str, found: dict[str, Any]) -> Table:
    protocol = found["protocol"]
    told = f"{found['captions']} captions, {found['candidates']} {protocol['split']} images each, L = {protocol['samples']}"
    table = Table(title=f"{escape(model)}: image retrieval", caption=f"{told}; 95 % intervals")
    for name in ("", "found", "interval", "chance"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for name, rate in found.items():
        if name.startswith("R@"):
            table.add_row(
                f"{name}, %",
                f"{100 * rate['rate']:.1f}",
                f"{100 * rate['low']:.1f}-{100 * rate['high']:.1f}",
                f"{100 * rate['chance']:.1f}",
            )
    rank = found["median_rank"]
    table.add_row("median rank", f"{rank['rank']:.1f}", f"{rank['low']:.1f}-{rank['high']:.1f}", f"{rank['chance']:.1f}")
    return table


def _accuracy_table(model: str, accuracy: dict[str, Any]) -> Table:
    from cap2im.metrics.caption_accuracy import FIELDS

    table = Table(title=f"{escape(model)}: caption accuracy, % of pictures", caption="joint has its 95 % interval beside it")
    table.add_column("captions", no_wrap=True)
    table.add_column("n", justify="right")
    for name in FIELDS:
        table.add_column(name, justify="right", no_wrap=True)
    sharpened = accuracy.get("sharpened", {}).get("drawings")
    for source, label in ((accuracy["drawings"], "drawn"), (sharpened, "sharpened"), (accuracy["real"], "real")):
        for group in ("seen", "held_out", "all") if source else ():
            rates = source[group]
            cells = [f"{100 * rates[name]['rate']:.1f}" for name in FIELDS]
            cells[-1] += f" ({100 * rates['joint']['low']:.1f}-{100 * rates['joint']['high']:.1f})"
            table.add_row(f"{label}, {group.replace('_', ' ')}", str(rates["n"]), *cells)
    return table


def print_check(path: str, report: DatasetReport, most: int | None) -> None:
    """What `cap2im check` found, on standard output: at most so many problems of a kind."""
    from cap2im.data.problems import PROBLEMS
    from cap2im.data.validate import missing_validation

    stdout = Console(highlight=False, emoji=False)
    by_kind: dict[str, list[Problem]] = {}
    for problem in report.problems:
        by_kind.setdefault(problem.kind, []).append(problem)
    for kind, loses in PROBLEMS.items():
        found = by_kind.get(kind, [])
        if found:
            stdout.print(f"{kind}: {len(found):,} ({'data is lost' if loses else 'a warning'})", style="bold", soft_wrap=True)
            for problem in found[:most]:
                stdout.print(escape(f"  {problem.file}" + (f": {problem.detail}" if problem.detail else "")), soft_wrap=True)
            if most is not None and len(found) > most:
                stdout.print(f"  and {len(found) - most:,} more; --all lists them", soft_wrap=True)
    table = Table(
        title=f"{escape(path)}: {report.kind}", caption="pixels (of the shorter side) and words (of a caption): smallest / median / largest"
    )
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


def _smallest_median_largest(numbers: Sequence[int]) -> str:
    return f"{min(numbers)} / {int(median(numbers))} / {max(numbers)}" if numbers else "-"
