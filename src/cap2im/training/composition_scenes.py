"""Training pictures of the composition reader: scenes of cut-outs as drawings look, and pictures that hold no such things.

The pictures hold:

- scenes of one or two things, and halves of scenes: one thing beside or above an empty place;
- scenes that are turned, stretched, bent, blurred, faded, tinted and noisy, because drawings are softer than cut-outs;
- what is nothing: ghosts (at most a fifth of the full contrast), blends of two things, things of which more than half is missing, blots of
  changing colours, and plain backgrounds.

Shapes: N pictures, P places, A side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from cap2im.data.cutouts import Cutouts
from cap2im.data.scene_maker import SceneMaker, visible
from cap2im.data.scenes import LAYOUTS, NEVER, PLACES, HeldOutScenes

UNLABELLED = -100  # label that the loss ignores
KINDS = ("scene", "partial", "ghost", "blend", "blots", "blank")
KIND_SHARES = (0.68, 0.14, 0.04, 0.08, 0.04, 0.02)


def any_scenes(cutouts: Cutouts, side: int) -> SceneMaker:
    """Return a maker of scenes of which none is held out."""
    count = len(cutouts.things)
    pairs = torch.zeros(count, 1, dtype=torch.uint8).masked_fill(~visible(cutouts), NEVER)
    triples = torch.zeros(count, count, 2, dtype=torch.uint8)
    triples[torch.arange(count), torch.arange(count)] = NEVER  # two equal things have a layout of their own
    return SceneMaker(cutouts, HeldOutScenes(cutouts.nouns, pairs, triples, torch.zeros(count, dtype=torch.uint8)), side)


@dataclass(frozen=True)
class ReadScenes:
    """Pictures with what there is to read.

    Attributes:
        images: [N, 3, A, A] in 0..1.
        things: [N, P] class at each place, or `UNLABELLED`.
        backgrounds: [N] index, or `UNLABELLED`.
    """

    images: Tensor
    things: Tensor
    backgrounds: Tensor


@dataclass(frozen=True)
class SceneMix:
    """Paints training pictures.

    Attributes:
        maker: paints scenes; its held-out scenes decide which ones.
    """

    maker: SceneMaker

    @property
    def nothing(self) -> int:
        """The class of places without a thing."""
        return len(self.maker.cutouts.things)

    @cached_property
    def _places(self) -> Tensor:
        """Index of each layout's places, [layouts, 2]; the number of places for none."""
        names = list(PLACES)
        return torch.tensor([[*(names.index(place) for place in layout.places), len(names)][:2] for layout in LAYOUTS])

    def make(self, count: int, random: torch.Generator) -> ReadScenes:
        """Return training pictures."""
        scenes = self.maker.make(count, random)
        images, backgrounds = scenes.images.float() / 255, scenes.backgrounds.clone()
        things = torch.full((count, len(PLACES) + 1), self.nothing)
        things.scatter_(1, self._places[scenes.layouts], scenes.things.where(scenes.things >= 0, self.nothing))
        things = things[:, :-1].contiguous()
        plain = _plain(images)
        kinds = torch.multinomial(torch.tensor(KIND_SHARES), count, replacement=True, generator=random)
        rows = {kind: (kinds == index).nonzero().flatten() for index, kind in enumerate(KINDS)}

        partial = rows["partial"]
        masks = _masks(scenes.layouts[partial], images.shape[-1], random)  # [n, A, A]
        images[partial] = images[partial].lerp(plain[partial], masks.unsqueeze(1).float())
        lost = masks[:, *self._centres] | (scenes.things[partial, 1] < 0).unsqueeze(1)  # [n, P]; more than half of one thing
        things[partial] = things[partial].masked_fill(lost, self.nothing)

        ghost = rows["ghost"]
        images[ghost] = plain[ghost].lerp(images[ghost], 0.2 * _uniform((len(ghost), 1, 1, 1), random))
        things[ghost] = self.nothing

        # two things in one place are nothing; a faded one may be read or not
        blend = rows["blend"]
        other = torch.randint(count, (len(blend),), generator=random)
        images[blend] = images[blend].lerp(images[other], 0.35 + 0.3 * _uniform((len(blend), 1, 1, 1), random))
        first, second = things[blend], things[other]
        mixed = torch.where((first != self.nothing) & (second != self.nothing), self.nothing, UNLABELLED)
        things[blend] = first.where(first == second, mixed)
        backgrounds[blend] = backgrounds[blend].where(backgrounds[blend] == backgrounds[other], UNLABELLED)

        for name in ("blots", "blank"):
            chosen = rows[name]
            images[chosen] = plain[chosen] if name == "blank" else _blots(plain[chosen], random)
            things[chosen] = self.nothing
        return ReadScenes(degrade(images, random), things, backgrounds)

    @cached_property
    def _centres(self) -> tuple[Tensor, Tensor]:
        """Row and column of the middle of each place, [P] each."""
        middle = [[sum(edges) / 2 for edges in (place.rows, place.columns)] for place in PLACES.values()]
        y, x = (torch.tensor(middle) * self.maker.side).long().unbind(1)
        return y, x


def _uniform(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=random)


def _smooth(count: int, planes: int, knots: int, side: int, random: torch.Generator) -> Tensor:
    """Return random smooth fields [n, planes, side, side] through standard normal values at a grid of knots."""
    return F.interpolate(torch.randn(count, planes, knots, knots, generator=random), size=(side, side), mode="bicubic", align_corners=True)


def _plain(images: Tensor) -> Tensor:
    """Return pictures without their things, [N, 3, A, A]. No layout has a thing in the corner of a scene."""
    return images[:, :, :1, :1].expand_as(images)


def _masks(layouts: Tensor, side: int, random: torch.Generator) -> Tensor:
    """Return masks [n, A, A]: of two things, the half with one of them; of one thing, more than half of the scene on one side of a line."""
    n = len(layouts)
    vertical = torch.tensor(["top" in layout.places for layout in LAYOUTS])[layouts]
    one = torch.tensor([len(layout.places) == 1 for layout in LAYOUTS])[layouts]
    half_turn = (_uniform((n,), random) < 0.5).float() + 0.5 * vertical.float()
    angle = math.pi * torch.where(one, 2 * _uniform((n,), random), half_turn)
    offset = torch.where(one, 0.05 + 0.15 * _uniform((n,), random), 0.0)
    axis = (torch.arange(side) + 0.5) / side - 0.5
    along = angle.cos()[:, None, None] * axis + angle.sin()[:, None, None] * axis[:, None]
    return along < offset[:, None, None]


def _blots(images: Tensor, random: torch.Generator) -> Tensor:
    """Paint a smooth blot of changing colours over each plain picture [n, 3, A, A]."""
    n, side = len(images), images.shape[-1]
    cover = (3 * _smooth(n, 1, 5, side, random)).sigmoid()
    colours = (0.5 + 0.5 * _smooth(n, 3, 4, side, random)).clamp(0, 1)
    return images.lerp(colours, cover)


def bend(images: Tensor, random: torch.Generator) -> Tensor:
    """Turn (up to 9 degrees), scale (up to a tenth), shift (up to 4 % of the side) and bend pictures [N, 3, A, A]."""
    n, side = len(images), images.shape[-1]
    strength = _uniform((n, 1), random)
    turn, tall, wide, down, across = (strength * (2 * _uniform((n, 5), random) - 1)).unbind(1)
    turn = turn * math.radians(9)
    affine = torch.stack(
        [
            torch.stack([turn.cos() * (1 + 0.1 * wide), -turn.sin(), 0.08 * across], dim=1),
            torch.stack([turn.sin(), turn.cos() * (1 + 0.1 * tall), 0.08 * down], dim=1),
        ],
        dim=1,
    )  # [N, 2, 3]
    grid = F.affine_grid(affine, [n, 3, side, side], align_corners=False)
    bumps = _smooth(n, 2, 6, side, random).permute(0, 2, 3, 1)  # [N, A, A, 2]
    grid = grid + bumps * (strength * 0.7 * 2 / 32)[:, :, None, None]
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def degrade(images: Tensor, random: torch.Generator) -> Tensor:
    """Make three of four pictures [N, 3, A, A] as soft as drawings: bent, blurred, faded, tinted and noisy."""
    n, side = len(images), images.shape[-1]

    def amount(planes: int = 1) -> Tensor:
        return _uniform((n, planes, 1, 1), random)

    line = torch.tensor([1.0, 2.0, 1.0]) / 4
    blur = (line[:, None] * line).expand(3, 1, 3, 3)
    soft = bend(images, random)
    blurred = F.conv2d(F.pad(soft, (1,) * 4, mode="replicate"), blur, groups=3)
    blurrier = F.conv2d(F.pad(blurred, (1,) * 4, mode="replicate"), blur, groups=3)
    soft = soft.lerp(blurred.lerp(blurrier, amount().square()), amount())
    plain = _plain(images)
    soft = soft.lerp(plain, 0.5 * amount().square())  # faded things
    soft = soft + 0.08 * amount().square() * _smooth(n, 3, 4, side, random).clamp(-1, 1)  # blotches
    soft = soft * (1 + 0.08 * (2 * amount(3) - 1)) + 0.03 * (2 * amount(3) - 1)
    soft = soft + 0.08 * amount().square() * torch.randn(images.shape, generator=random)
    return torch.where(amount() < 0.75, soft.clamp(0, 1), images)
