"""Paint captioned scenes from cut-outs.

Each cut-out is resized once to a few sizes. The things of a batch are blended with their backgrounds together and copied to their places.

Shapes: N scenes, n scenes with a thing at a place, A their side, M cut-outs, K sizes, P side of the largest, V things, G backgrounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from cap2im.data.cutouts import Cutouts
from cap2im.data.scenes import BACKGROUND_RANGE, BACKGROUNDS, LAYOUTS, PLACES, Arrangements, HeldOutScenes, Place

SIZES = 5  # most different sizes of a thing at a place
LEAST_DIFFERENCE = 75  # levels, between a pixel and the background, for the pixel to be seen
LEAST_SEEN = 0.5  # share of a cut-out's opaque pixels that must be seen
_SEEN_SIDE = 16  # pixels, of the cut-outs whose pixels are compared with backgrounds


@dataclass(frozen=True)
class CaptionedScenes:
    """Painted scenes with the content of their captions.

    Attributes:
        images: [N, 3, A, A] uint8.
        arrangements: what is painted.
        captions: of the scenes.
    """

    images: Tensor
    arrangements: Arrangements
    captions: list[str]

    @property
    def layouts(self) -> Tensor:
        """Index [N] into `LAYOUTS`."""
        return self.arrangements.layouts

    @property
    def things(self) -> Tensor:
        """Index of the things [N, 2], in the order of the layout's places; -1 if it has one."""
        return self.arrangements.things

    @property
    def backgrounds(self) -> Tensor:
        """Index [N] of the painted backgrounds."""
        return self.arrangements.backgrounds


def contrast(cutouts: Cutouts) -> Tensor:
    """Return whether cut-outs can be seen on backgrounds, [M, G].

    A cut-out can be seen if half of its opaque pixels differ from the middle of the background by `LEAST_DIFFERENCE` levels (Euclidean
    distance of red, green and blue, with the weights 2, 4 and 3 of the eye's sensitivity, divided by 3).
    """
    parts = []
    weights = torch.tensor([2.0, 4.0, 3.0]) / 3
    for images in cutouts.images.split(512):
        small = _resized(images, _SEEN_SIDE)
        opacity = small[:, 3]
        pixels = small[:, :3] / opacity.unsqueeze(1).clamp(min=1 / 255) * 255  # [m, 3, S, S]
        difference = ((pixels.unsqueeze(1) - _COLOURS[:, :, None, None]).square() * weights[:, None, None]).sum(2).sqrt()  # [m, G, S, S]
        opaque = (opacity > 0.5).unsqueeze(1)
        parts.append(((difference > LEAST_DIFFERENCE) & opaque).sum((2, 3)) >= LEAST_SEEN * opaque.sum((2, 3)).clamp(min=1))
    return torch.cat(parts)


def visible(cutouts: Cutouts) -> Tensor:
    """Return whether a thing can be seen on a background in at least one style, [V, G]."""
    table = torch.zeros(len(cutouts.things), len(BACKGROUNDS), dtype=torch.long)
    return table.index_add(0, cutouts.thing, contrast(cutouts).long()) > 0


def _resized(images: Tensor, side: int) -> Tensor:
    """Return cut-outs [m, 4, side, side] in 0..1, colours multiplied by the opacity.

    Args:
        images: [m, 4, S, S] uint8.
        side: in pixels.
    """
    pixels = images.float() / 255
    opacity = pixels[:, 3:]
    pixels = torch.cat([pixels[:, :3] * opacity, opacity], dim=1)
    pixels = F.interpolate(pixels, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)
    return torch.cat([torch.minimum(pixels[:, :3], pixels[:, 3:]), pixels[:, 3:]], dim=1)


def sizes_at(place: Place, side: int) -> list[int]:
    """Return the sizes in pixels of things at a place of scenes of a side."""
    low, high = (max(1, round(size * side)) for size in place.sizes)
    return sorted({round(low + (high - low) * i / (SIZES - 1)) for i in range(SIZES)})


@dataclass(frozen=True)
class _Sprites:
    """Cut-outs in the sizes of a place.

    Attributes:
        tiles: [K * M, 4, P, P] uint8, each in the upper left corner of its tile, colours multiplied by the opacity.
        sizes: [K] in pixels.
    """

    tiles: Tensor
    sizes: Tensor


@dataclass(frozen=True)
class SceneMaker:
    """Paints captioned scenes.

    Attributes:
        cutouts: things to paint.
        held_out: scenes that `make` never paints.
        side: of the scenes in pixels.

    Raises:
        ValueError: the held-out scenes are of other things, or a thing has no cut-out.
    """

    cutouts: Cutouts
    held_out: HeldOutScenes
    side: int

    def __post_init__(self) -> None:
        if self.cutouts.nouns != self.held_out.nouns:
            raise ValueError("the cut-outs and the held-out scenes are of different things")
        counts = self.cutouts.thing.bincount(minlength=len(self.cutouts.things))
        if missing := [name for name, count in zip(self.cutouts.things, counts.tolist(), strict=True) if not count]:
            raise ValueError(f"things without a cut-out: {', '.join(missing[:5])}")

    @cached_property
    def _contrast(self) -> Tensor:
        return contrast(self.cutouts)

    @cached_property
    def _sprites(self) -> dict[tuple[float, float], _Sprites]:
        sprites = {}
        for place in PLACES.values():
            if place.sizes not in sprites:
                sizes = sizes_at(place, self.side)
                tiles = torch.zeros(len(sizes), len(self.cutouts), 4, sizes[-1], sizes[-1], dtype=torch.uint8)
                for index, size in enumerate(sizes):
                    resized = [_resized(images, size) for images in self.cutouts.images.split(512)]
                    tiles[index, :, :, :size, :size] = torch.cat(resized).mul(255).round().to(torch.uint8)
                sprites[place.sizes] = _Sprites(tiles.flatten(0, 1), torch.tensor(sizes))
        return sprites

    @cached_property
    def _boxes(self) -> Tensor:
        """First and last row, first and last column in pixels of each place of each layout, [layouts, 2, 4]."""
        boxes = torch.zeros(len(LAYOUTS), 2, 4)
        for index, layout in enumerate(LAYOUTS):
            for slot, name in enumerate(layout.places):
                boxes[index, slot] = torch.tensor([*PLACES[name].rows, *PLACES[name].columns])
        return boxes.mul(self.side).round().long()

    def _choices(self, styles: Sequence[str] | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return cut-outs sorted by thing and background, and where those of each [V * G] start and how many they are.

        They are those that can be seen on the background; if there are none, all of the thing.

        Raises:
            ValueError: an unknown style, or a thing has no cut-out in these styles.
        """
        cutouts = self.cutouts
        allowed = torch.ones(len(cutouts), dtype=torch.bool)
        if styles is not None:
            if unknown := [name for name in styles if name not in cutouts.styles]:
                raise ValueError(f"style {unknown[0]!r}: the cut-outs are in {', '.join(cutouts.styles)}")
            allowed = torch.isin(cutouts.style, torch.tensor([cutouts.styles.index(name) for name in styles]))
        seen = self._contrast & allowed.unsqueeze(1)  # [M, G]
        some = torch.zeros(len(cutouts.things), len(BACKGROUNDS), dtype=torch.long).index_add(0, cutouts.thing, seen.long())
        rows, backgrounds = (seen | ((some == 0)[cutouts.thing] & allowed.unsqueeze(1))).nonzero().unbind(1)
        keys = cutouts.thing[rows] * len(BACKGROUNDS) + backgrounds
        counts = keys.bincount(minlength=some.numel())
        if not counts.all():
            missing = cutouts.things[int((counts == 0).nonzero()[0]) // len(BACKGROUNDS)]
            raise ValueError(f"{missing!r} has no cut-out in the styles {', '.join(styles or cutouts.styles)}")
        return rows[keys.argsort(stable=True)], counts.cumsum(0) - counts, counts

    @cached_property
    def _all_choices(self) -> tuple[Tensor, Tensor, Tensor]:
        return self._choices(None)

    def make(self, count: int, random: torch.Generator, *, one_thing: bool = False) -> CaptionedScenes:
        """Paint random scenes that training may show, of one thing only or of any number."""
        return self.render(self.held_out.draw(count, random, one_thing=one_thing), random)

    def render(self, scenes: Arrangements, random: torch.Generator, styles: Sequence[str] | None = None) -> CaptionedScenes:
        """Paint given scenes, with random cut-outs, sizes, positions and shades of the backgrounds.

        Args:
            scenes: what to paint.
            random: generator.
            styles: to paint in; None is all styles of the cut-outs.

        Raises:
            ValueError: an unknown style, or a thing has no cut-out in these styles.
        """
        order, starts, counts = self._all_choices if styles is None else self._choices(styles)
        count, layouts = len(scenes), scenes.layouts
        shade = BACKGROUND_RANGE * (2 * torch.rand(count, 3, generator=random) - 1)
        which, size = torch.rand(2, count, 2, generator=random)
        where = torch.rand(2, count, 2, generator=random)  # down and across
        keys = scenes.things.clamp(min=0) * len(BACKGROUNDS) + scenes.backgrounds.unsqueeze(1)
        chosen = order[starts[keys] + (which * counts[keys]).long()]  # [N, 2]
        chosen[:, 1] = chosen[:, 1].where(~_EQUAL[layouts], chosen[:, 0])
        background = (_COLOURS[scenes.backgrounds] + shade).round().clamp(0, 255)  # [N, 3]
        margin = max(int(sprites.sizes[-1]) for sprites in self._sprites.values())  # tiles may be larger than their things
        width = self.side + margin
        canvas = background.to(torch.uint8)[..., None, None].repeat(1, 1, width, width)
        pixels = canvas.numpy()
        for slot in range(2):
            for sizes, sprites in self._sprites.items():
                rows = _USES[sizes][layouts, slot].nonzero().flatten()  # [n]
                index = (size[rows, slot] * len(sprites.sizes)).long()
                tiles = sprites.tiles.index_select(0, index * len(self.cutouts) + chosen[rows, slot]).float()  # [n, 4, P, P]
                top, bottom, left, right = self._boxes[layouts[rows], slot].unbind(1)
                free = (torch.stack([bottom - top, right - left]) - sprites.sizes[index] + 1).clamp(min=1)  # [2, n]
                y, x = torch.stack([top, left]) + (where[:, rows, slot] * free).long()
                # places do not overlap, and a tile's margin is covered by what is painted later: the background is behind every tile
                blended = torch.addcmul(tiles[:, :3], background[rows, :, None, None] / 255, 255 - tiles[:, 3:])
                high = tiles.shape[-1]
                blocks = zip(rows.tolist(), y.tolist(), x.tolist(), blended.round_().to(torch.uint8).numpy(), strict=True)
                for row, i, j, block in blocks:  # copies of slices take a tenth of the time of one assignment by index tensors
                    pixels[row, :, i : i + high, j : j + high] = block
        images = canvas[:, :, : self.side, : self.side].contiguous()
        return CaptionedScenes(images, scenes, self.held_out.captions(scenes))


_COLOURS = torch.tensor(list(BACKGROUNDS.values()), dtype=torch.float32)  # [G, 3]
_EQUAL = torch.tensor([layout.equal for layout in LAYOUTS])
# sizes -> whether the thing of a layout's slot has them, [layouts, 2]
_USES = {
    sizes: torch.tensor([[*(PLACES[name].sizes == sizes for name in layout.places), False][:2] for layout in LAYOUTS])
    for sizes in {place.sizes for place in PLACES.values()}
}
