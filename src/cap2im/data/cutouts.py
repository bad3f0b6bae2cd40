"""Cut-outs: pictures of single things without a background, prepared by `cap2im prepare cutouts`.

Shapes: N cut-outs, S their side, V things.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cap2im.data.cutouts_manifest import Thing, open_array, read_manifest


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
        sha256: of the content of the folder that they come from, with all its things and styles.
        source: name of the folder that was prepared.
        title: name of the data in model cards.
    """

    images: Tensor
    nouns: tuple[Thing, ...]
    thing: Tensor
    styles: tuple[str, ...]
    style: Tensor
    licences: tuple[str, ...]
    licence: Tensor
    sha256: str
    source: str = ""
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
        return cls(
            torch.from_numpy(open_array(folder, manifest)),
            manifest.things,
            torch.tensor(manifest.thing),
            manifest.styles,
            torch.tensor(manifest.style),
            manifest.licences,
            torch.tensor(manifest.licence),
            manifest.content_sha256,
            Path(manifest.source).name,
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

    def about(self) -> dict[str, Any]:
        """Return the identity of the cut-outs for models and measurements, JSON-ready, without local paths."""
        known = [self.licences[index] or "not known" for index in self.licence.unique().tolist()]
        about = {"sha256": self.sha256, "source": {"kind": "cutouts", "path": self.source}, "images": len(self)}
        return about | ({"title": self.title} if self.title else {}) | {"licence": ", ".join(known)}
