"""The manifest of prepared cut-outs, and the layout of their files.

cutouts.npy    manifest.json    README.md    problems.txt (only if there are problems)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from cap2im.arrays import open_npy
from cap2im.files import file_sha256, read_json, sha256

FORMAT = "cap2im cutouts 1"
MANIFEST, ARRAY, PROBLEMS_FILE, CARD = "manifest.json", "cutouts.npy", "problems.txt", "README.md"

Index = Annotated[int, Field(ge=0, strict=True)]
Text = Annotated[str, Field(min_length=1)]


class Thing(BaseModel):
    """A thing that captions name.

    Attributes:
        name: without an article, in lower case.
        one: the name with its article, as "an apple"; names in the plural and uncountable ones have none.
        two: the plural, as "apples"; empty if there is none, as for "grapes" and "bread".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Text
    one: Text
    two: str = ""


class CutoutsManifest(BaseModel):
    """The `manifest.json` of prepared cut-outs.

    Attributes:
        format: `FORMAT`.
        version: of cap2im.
        source: path of the folder that was prepared.
        title: name of the data in model cards.
        side: of the cut-outs in pixels.
        things: all things.
        styles: all styles of drawing.
        licences: all licences; "" if it is not known.
        thing: index of each cut-out's thing.
        style: index of each cut-out's style.
        licence: index of each cut-out's licence.
        array_sha256: of the array file.
        problems: number of problems.
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
    array_sha256: str
    problems: int = 0

    @property
    def content_sha256(self) -> str:
        """SHA-256 hex digest of the cut-outs with their names and styles; it does not depend on their folder."""
        names = [[noun.model_dump() for noun in self.things], self.styles, self.thing, self.style]
        return sha256(json.dumps([self.array_sha256, names]).encode())

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


def open_array(folder: Path, manifest: CutoutsManifest) -> np.ndarray[Any, Any]:
    """Return the array of prepared cut-outs, which stays on the disk until it is used.

    Raises:
        ValueError: it is damaged or altered, or does not fit the manifest.
    """
    array = open_npy(folder / ARRAY)
    try:
        manifest.check(array)
    except ValueError as error:
        raise ValueError(f"{folder / MANIFEST}: {error}") from None
    if (actual := file_sha256(folder / ARRAY)) != manifest.array_sha256:
        raise ValueError(f"{folder / ARRAY}: truncated or altered: SHA-256 {actual[:12]}…, expected {manifest.array_sha256[:12]}…")
    return array
