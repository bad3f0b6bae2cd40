"""Cut-outs: pictures of single things without a background, prepared by `cap2im prepare cutouts`.

A prepared folder holds cutouts.npy, manifest.json, README.md and, if there are problems, problems.txt.

Shapes: N cut-outs, S their side, V things.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from cap2im.arrays import open_npy
from cap2im.files import file_sha256, read_json

FORMAT = "cap2im cutouts 1"
MANIFEST, ARRAY, PROBLEMS_FILE, CARD = "manifest.json", "cutouts.npy", "problems.txt", "README.md"

Index = Annotated[int, Field(ge=0, strict=True)]
Text = Annotated[str, Field(min_length=1)]


class Thing(BaseModel):
    """A thing that captions name.

    Attributes:
        name: without an article, in lower case.
        one: the name with its article, as "an apple"; names in the plural have none.
        two: the plural, as "apples"; empty if the name is a plural itself, as "grapes".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Text
    one: Text
    two: str = ""


class CutoutsManifest(BaseModel):
    """The `manifest.json` of prepared cut-outs.

    Attributes:
        format: `FORMAT`.
        source: path of the folder that was prepared.
        title: name of the data in model cards.
        side: of the cut-outs in pixels.
        things: all things.
        styles: all styles of drawing.
        licences: all licences; "" if it is not known.
        thing: index of each cut-out's thing.
        style: index of each cut-out's style.
        licence: index of each cut-out's licence.
        sha256: of the array file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str
    version: str
    source: str
    title: str | None = None
    side: int = Field(ge=1, le=1024, strict=True)
    things: tuple[Thing, ...] = Field(min_length=1)
    styles: tuple[str, ...] = Field(min_length=1)
    licences: tuple[str, ...] = Field(min_length=1)
    thing: tuple[Index, ...]
    style: tuple[Index, ...]
    licence: tuple[Index, ...]
    sha256: str
    problems: int = 0

    def check(self, array: np.ndarray[Any, Any]) -> None:
        """Compare the entries with each other and with the array of cut-outs.

        Raises:
            ValueError: they do not fit.
        """
        if self.format != FORMAT:
            raise ValueError(f"its format is {self.format!r}, this version of cap2im reads {FORMAT!r}")
        count, expected = len(self.thing), (len(self.thing), 4, self.side, self.side)
        if array.dtype != np.uint8 or array.shape != expected:
            raise ValueError(f"{ARRAY} holds {array.dtype} {array.shape}, the manifest announces uint8 {expected}")
        for key, names in (("thing", self.things), ("style", self.styles), ("licence", self.licences)):
            indices = getattr(self, key)
            if len(indices) != count or max(indices, default=len(names)) >= len(names):
                raise ValueError(f"its {key} needs {count} numbers below {len(names)}")
        if len({thing.name for thing in self.things}) < len(self.things):
            raise ValueError("a thing is listed twice")


@dataclass(frozen=True)
class Cutouts:
    """Cut-outs of things in one or more styles of drawing.

    Attributes:
        images: [N, 4, S, S] uint8: red, green, blue, and opacity.
        nouns: V things as captions name them.
        thing: [N] index into `things`.
        styles: names of the styles.
        style: [N] index into `styles`.
        licences: names of the licences; "" if it is not known.
        licence: [N] index into `licences`.
        sha256: of all cut-outs of the folder that they come from.
        title: name of the data.
    """

    images: Tensor
    nouns: tuple[Thing, ...]
    thing: Tensor
    styles: tuple[str, ...]
    style: Tensor
    licences: tuple[str, ...]
    licence: Tensor
    sha256: str
    title: str | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def things(self) -> tuple[str, ...]:
        """Names of the V things."""
        return tuple(noun.name for noun in self.nouns)

    @classmethod
    def open(cls, folder: Path | str) -> Cutouts:
        """Open a prepared folder; its images stay on disk until they are used.

        Raises:
            ValueError: no such folder, not prepared, damaged, or of another version.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        array = open_npy(folder / ARRAY)
        try:
            manifest.check(array)
        except ValueError as error:
            raise ValueError(f"{folder / MANIFEST}: {error}") from None
        return cls(
            torch.from_numpy(array),
            manifest.things,
            torch.tensor(manifest.thing),
            manifest.styles,
            torch.tensor(manifest.style),
            manifest.licences,
            torch.tensor(manifest.licence),
            manifest.sha256,
            manifest.title,
        )

    def choose(self, things: Sequence[str] = (), styles: Sequence[str] = ()) -> Cutouts:
        """Return the cut-outs of some things, in the order given, and of some styles; none given means all.

        Things without a cut-out in these styles keep their place in `nouns`.

        Raises:
            ValueError: an unknown thing or style, or no cut-out is left.
        """
        missing = [f"the thing {name!r}" for name in things if name not in self.things]
        missing += [f"the style {name!r}" for name in styles if name not in self.styles]
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise ValueError(f"the cut-outs lack {', '.join(missing[:5])}{more}; their styles are {', '.join(self.styles)}")
        things = things if things else self.things
        order = torch.full((len(self.things),), -1)
        order[[self.things.index(name) for name in things]] = torch.arange(len(things))
        thing = order[self.thing]
        kept = thing >= 0
        if styles:
            kept &= torch.isin(self.style, torch.tensor([self.styles.index(name) for name in styles]))
        rows = kept.nonzero().flatten()
        if not len(rows):
            raise ValueError(f"no cut-out of the {len(things)} things is in the styles {', '.join(styles)}")
        nouns = dict(zip(self.things, self.nouns, strict=True))
        return dataclasses.replace(
            self,
            images=self.images[rows],
            nouns=tuple(nouns[name] for name in things),
            thing=thing[rows],
            style=self.style[rows],
            licence=self.licence[rows],
        )


def is_prepared_cutouts(folder: Path) -> bool:
    """Return whether a folder holds prepared cut-outs."""
    return (folder / ARRAY).is_file() and (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> CutoutsManifest:
    """Read the manifest of prepared cut-outs.

    Raises:
        ValueError: no such folder, not prepared, or damaged.
    """
    if not is_prepared_cutouts(folder):
        reason = "no such folder" if not folder.exists() else f"no {ARRAY} and {MANIFEST} in it"
        raise ValueError(f"{folder}: {reason}; cap2im prepare cutouts FOLDER --out OUT makes a folder of cut-outs")
    return read_json(folder / MANIFEST, CutoutsManifest)


def check_array(folder: Path) -> None:
    """Compare the array of prepared cut-outs with their manifest.

    Raises:
        ValueError: damaged or altered.
    """
    manifest = read_manifest(folder)
    try:
        manifest.check(open_npy(folder / ARRAY))
    except ValueError as error:
        raise ValueError(f"{folder / MANIFEST}: {error}") from None
    if (sha256 := file_sha256(folder / ARRAY)) != manifest.sha256:
        raise ValueError(f"{folder / ARRAY}: its SHA-256 is {sha256}, the manifest has {manifest.sha256}")
