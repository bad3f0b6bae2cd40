"""Prepare cut-outs: crop, pad and resize pictures with transparency, and store them in one array; see `cutouts_manifest` for the files.

The same folder and options give the same bytes.
"""

from __future__ import annotations

import io
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cap2im._version import __version__
from cap2im.data.cutout_folder import CutoutFile, list_cutouts
from cap2im.data.cutouts_manifest import ARRAY, CARD, FORMAT, MANIFEST, PROBLEMS_FILE, CutoutsManifest, Thing
from cap2im.data.image_decoding import error_reason, read_image
from cap2im.data.problems import Problem
from cap2im.extras import require
from cap2im.files import check_writable_folder, dump_json, file_sha256, has_no_files, shortened, write_atomically
from cap2im.hub import licence_lines
from cap2im.progress import progress_bar

logger = logging.getLogger(__name__)

SIDE = 48
FOOD = frozenset({"bread", "butter", "cheese", "honey", "ice", "milk", "popcorn", "rice", "salt", "sushi"})
UNCOUNTABLE = FOOD | {"chess", "fog", "furniture", "grass", "jewellery", "jewelry", "luggage", "money", "tennis"}
ADDITIONS = re.compile(r"\s(?:without|over|\w+ing an?)\s")  # what follows the noun; inflect knows "with", "in" and "of"
LEAST_OPACITY = 16  # of 255, of a pixel that belongs to the cut-out
SMALLEST = 4  # pixels, of the longer side of a cut-out


class UnusableCutoutError(ValueError):
    """A picture that can be decoded but is no cut-out. Its argument is a `Problem` kind and a detail."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


def cut_out(image: Image.Image, side: int) -> np.ndarray[Any, Any]:
    """Crop a picture to its opaque part, pad it to a square and resize it, [4, side, side] uint8.

    Pillow resizes colours multiplied by the opacity, so that hidden colours do not show at edges.

    Args:
        image: with transparency.
        side: in pixels.

    Raises:
        UnusableCutoutError: no transparency, or nothing but transparency.
    """
    if not image.has_transparency_data:
        raise UnusableCutoutError("no transparency", f"its mode is {image.mode}; a cut-out has transparent pixels around its thing")
    image = image.convert("RGBA")
    opacity = image.getchannel("A")
    low, _ = opacity.getextrema()
    box = opacity.point(lambda value: 255 * (value >= LEAST_OPACITY)).getbbox()
    if box is None or max(box[2] - box[0], box[3] - box[1]) < SMALLEST:
        raise UnusableCutoutError(
            "empty cut-out", "all of its pixels are transparent" if box is None else f"less than {SMALLEST} pixels are opaque"
        )
    if low == 255:
        raise UnusableCutoutError("no transparency", "all of its pixels are opaque; a cut-out has transparent pixels around its thing")
    image = image.crop(box)
    longer = max(image.size)
    square = Image.new("RGBA", (longer, longer))
    square.paste(image, ((longer - image.width) // 2, (longer - image.height) // 2))
    return np.asarray(square.resize((side, side), Image.Resampling.LANCZOS)).transpose(2, 0, 1)


@dataclass
class CutoutsReport:
    """Cut-outs of a folder that can be used, and the problems of the others.

    Attributes:
        files: the cut-outs.
        pixels: [4, S, S] of each.
        problems: of all others.
    """

    files: list[CutoutFile] = field(default_factory=list)
    pixels: list[np.ndarray[Any, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def read_cutouts(folder: Path, side: int = SIDE) -> CutoutsReport:
    """Decode all cut-outs of a folder.

    Args:
        folder: see `list_cutouts`.
        side: of the cut-outs in pixels.

    Raises:
        ValueError: not a folder of cut-outs.
    """
    listed = list_cutouts(folder)
    report = CutoutsReport(problems=listed.problems)
    with progress_bar("images") as bar:
        task = bar.add_task("cutting out", total=len(listed.files))
        for file in listed.files:
            try:
                pixels = read_image(file.image, lambda image: cut_out(image, side))
            except UnusableCutoutError as error:
                report.problems.append(Problem(error.kind, file.image.name, str(error)))
            except Exception as error:  # a decoder can fail in any way; the image is reported
                report.problems.append(Problem("unreadable image", file.image.name, error_reason(error, file.image)))
            else:
                report.files.append(file)
                report.pixels.append(pixels)
            bar.advance(task)
    return report


def name_things(names: Sequence[str], plurals: dict[str, str]) -> tuple[Thing, ...]:
    """Return things with their article and their plural, by the rules of English.

    Args:
        names: without an article.
        plurals: of names whose plural is known.

    Raises:
        ValueError: inflect is not installed.
    """
    require("preparing cut-outs", "train", "inflect")
    import inflect  # slow to import

    english = inflect.engine()

    def thing(name: str) -> Thing:
        if name not in plurals and (name.split()[-1] in UNCOUNTABLE or _is_plural(name, english)):
            return Thing(name=name, one=name)
        noun = name[: addition.start()] if (addition := ADDITIONS.search(name)) else name
        return Thing(name=name, one=str(english.a(name)), two=plurals.get(name) or str(english.plural_noun(noun)) + name[len(noun) :])

    return tuple(thing(name) for name in names)


def _is_plural(name: str, english: Any) -> bool:
    """Return whether a name is a plural that ends in s: grapes, french fries, skis; not bus, dress, cactus, iris."""
    return re.search(r"(?<![uis])s$|\bskis$", name) is not None and bool(english.singular_noun(name))


def prepare_cutouts(folder: Path, out: Path, *, side: int = SIDE, title: str | None = None, licence: str | None = None) -> CutoutsManifest:
    """Write prepared cut-outs.

    Args:
        folder: of pictures with transparency; see `list_cutouts`.
        out: a folder that is absent or empty, or that an interrupted call has begun.
        side: of the cut-outs in pixels.
        title: name of the data in the cards of models trained on them.
        licence: of cut-outs without one in the table.

    Raises:
        ValueError: not a folder of cut-outs, none can be used, or `out` holds something else.
    """
    check_writable_folder(out)
    if out.is_dir() and not _is_free(out):
        raise ValueError(f"{out}: this folder is not empty; choose another")
    report = read_cutouts(folder, side)
    if not report.files:
        raise ValueError(f"{folder}: none of its pictures can be used; the first problem: {report.problems[0]}")
    names = sorted({file.thing for file in report.files})
    if len(names) == 1:
        raise ValueError(f"{folder}: all cut-outs are of one thing, {names[0]!r}; scenes need two or more things")
    things = name_things(names, {file.thing: file.plural for file in report.files if file.plural})
    styles = sorted({file.style for file in report.files})
    licences = sorted({file.licence or licence or "" for file in report.files})
    out.mkdir(parents=True, exist_ok=True)
    array = io.BytesIO()
    np.save(array, np.stack(report.pixels))
    write_atomically(out / ARRAY, array.getvalue())
    if report.problems:
        write_atomically(out / PROBLEMS_FILE, "".join(f"{problem}\n" for problem in report.problems))
        kinds = Counter(problem.kind for problem in report.problems)
        summary = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common())
        logger.warning("problems, listed in %s: %s", out / PROBLEMS_FILE, summary)
    manifest = CutoutsManifest(
        format=FORMAT,
        version=__version__,
        source=str(folder),
        title=title or None,
        side=side,
        things=things,
        styles=tuple(styles),
        licences=tuple(licences),
        thing=tuple(names.index(file.thing) for file in report.files),
        style=tuple(styles.index(file.style) for file in report.files),
        licence=tuple(licences.index(file.licence or licence or "") for file in report.files),
        array_sha256=file_sha256(out / ARRAY),
        problems=len(report.problems),
    )
    write_atomically(out / CARD, _card(manifest))
    write_atomically(out / MANIFEST, dump_json(manifest.model_dump(exclude_none=True)) + "\n")
    return manifest


def _is_free(out: Path) -> bool:
    """Return whether a folder has no files, or only those that a call wrote which ended before the manifest, the last file."""
    names = {path.name for path in out.iterdir() if not re.fullmatch(r"\..+\.draft", path.name)}
    return has_no_files(out, ARRAY, ()) or (ARRAY in names and names <= {ARRAY, PROBLEMS_FILE, CARD})


def _card(manifest: CutoutsManifest) -> str:
    """Return the README.md of prepared cut-outs: a YAML header, and a table of styles with their licences."""
    title = shortened(" ".join((manifest.title or "").split()), 200)
    counts = Counter(zip(manifest.style, manifest.licence, strict=True))
    rows = "".join(
        f"| {manifest.styles[style]} | {count:,} | {manifest.licences[licence] or 'not known'} |\n"
        for (style, licence), count in sorted(counts.items())
    )
    one = manifest.licences[0] if len(manifest.licences) == 1 else ""
    return (
        f"---\n{licence_lines(one)}task_categories:\n- text-to-image\n---\n\n# {title or 'Cut-outs'}\n\n"
        f"Made by `cap2im prepare cutouts` {manifest.version}: {len(manifest.thing):,} cut-outs of {len(manifest.things):,} things, "
        f"{manifest.side} x {manifest.side} pixels.\n\n| style | cut-outs | licence |\n| --- | --- | --- |\n{rows}"
    )
