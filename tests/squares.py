"""Cut-outs of plain squares, so that scenes can be read exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cap2im.data.cutouts import Cutouts
from cap2im.data.cutouts_manifest import ARRAY, FORMAT, MANIFEST, CutoutsManifest, Thing
from cap2im.files import file_sha256

NAMES = ("apple", "bird", "cat", "dog", "egg", "fox", "grapes", "hat", "inn", "jar", "kite", "leaf")


def square_cutouts(names: tuple[str, ...] = NAMES, styles: tuple[str, ...] = ("flat", "round"), side: int = 8) -> Cutouts:
    """Cut-out of thing t in style s is an opaque square of red 100 + t, green 255 and blue 250 + s."""
    nouns = tuple(
        Thing(name=name, one=name)
        if name == "grapes"
        else Thing(name=name, one=f"{'an' if name[0] in 'aei' else 'a'} {name}", two=f"{name}s")
        for name in names
    )
    thing = torch.arange(len(names)).repeat_interleave(len(styles))
    style = torch.arange(len(styles)).repeat(len(names))
    colours = torch.stack([100 + thing, torch.full_like(thing, 255), 250 + style, torch.full_like(thing, 255)], dim=1)
    images = colours.to(torch.uint8)[:, :, None, None].expand(-1, -1, side, side).contiguous()
    return Cutouts(images, nouns, thing, styles, style, ("MIT",), torch.zeros_like(thing), "0" * 64)


def write_cutouts(folder: Path, cutouts: Cutouts) -> None:
    """Writes cut-outs into a folder as `cap2im prepare cutouts` does."""
    np.save(folder / ARRAY, cutouts.images.numpy())
    manifest = CutoutsManifest(
        format=FORMAT,
        version="0",
        source="squares",
        side=cutouts.images.shape[-1],
        things=cutouts.nouns,
        styles=cutouts.styles,
        licences=cutouts.licences,
        thing=tuple(cutouts.thing.tolist()),
        style=tuple(cutouts.style.tolist()),
        licence=tuple(cutouts.licence.tolist()),
        array_sha256=file_sha256(folder / ARRAY),
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(), "utf-8")
