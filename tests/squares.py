"""Cut-outs of plain squares, so that scenes can be read exactly."""

from __future__ import annotations

import torch

from cap2im.data.cutouts import Cutouts
from cap2im.data.cutouts_manifest import Thing

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
