"""Training canvases of the digit reader: real digits and other objects on 60 x 60 canvases.

The canvases hold:

- one to three digits at places of a layout, at any places, or anywhere. A window is labelled with a digit if the corner of the digit's
  square is within `NEAR` pixels of the range of the place, and with no digit if all digits are at least `FAR` pixels away from it.
  Windows in between have no label, and neither have digits with common strokes.
- digits that are rotated, scaled, bent, blurred, unevenly dark, faded to a third of their contrast, in haze and noise, because drawings
  are softer than handwriting.
- objects that are no digits, at the places of digits: ghosts (at most a fifth of the full contrast), blends of digits, digits of which
  more than half is erased, scribbles, and plain grey.

Shapes: N canvases, S = 3 slots of a canvas for objects, n objects, G = 28 side of an object, P = 8 places, A canvas side, W window side.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from cap2im.data.mnist import DIGIT_SIDE, Digits
from cap2im.data.mnist_captions import CANVAS_SIDE, LAYOUTS, PLACES
from cap2im.models.digit_reader import NO_DIGIT

NEAR, FAR = 2, 6  # pixels from the range of a place, in the larger of the two directions
CROWDED = 14  # pixels; digits whose corners are closer in both directions have common strokes
SLOTS = 3
UNLABELLED = -100  # label that the loss ignores
KINDS = ("digit", "ghost", "blend", "erased", "scribble")
KIND_SHARES = (0.74, 0.04, 0.12, 0.05, 0.05)


class CanvasMix:
    """Renders training canvases of digits."""

    def __init__(self, digits: Digits) -> None:
        self.images = digits.images.float() / 255
        self.labels = digits.labels.long()
        self.low = torch.tensor([[place.rows[0], place.columns[0]] for place in PLACES.values()])  # [P, 2]
        self.high = torch.tensor([[place.rows[1], place.columns[1]] for place in PLACES.values()])
        names = list(PLACES)
        self.layouts = torch.tensor([[*(names.index(p) for p in layout.places), -1, -1][:SLOTS] for layout in LAYOUTS])

    def make(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return canvases [N, 1, A, A] in 0..1, labels of places [N, P] (a digit, NO_DIGIT or UNLABELLED) and whether they are occupied."""
        objects, labels, contrast = self.objects(count * SLOTS, generator)
        offsets, present = self.offsets(count, generator)
        objects = (objects * contrast[:, None, None]).view(count, SLOTS, DIGIT_SIDE, DIGIT_SIDE) * present[..., None, None]
        canvas = torch.zeros(count, CANVAS_SIDE, CANVAS_SIDE)
        rows, steps = torch.arange(count)[:, None, None], torch.arange(DIGIT_SIDE)
        for slot in range(SLOTS):
            y = offsets[:, slot, 0, None, None] + steps[:, None]  # [N, G, 1]
            x = offsets[:, slot, 1, None, None] + steps  # [N, 1, G]
            canvas[rows, y, x] = torch.maximum(canvas[rows, y, x], objects[:, slot])
        canvas = degrade(canvas.unsqueeze(1), ~present.any(dim=1), generator)
        return canvas, *self.place_labels(labels.view(count, SLOTS), offsets, present)

    def objects(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return objects [n, G, G], their labels [n] and their contrasts [n]."""
        kinds = torch.multinomial(torch.tensor(KIND_SHARES), count, replacement=True, generator=generator)
        pick = torch.randint(len(self.labels), (count,), generator=generator)
        other = torch.randint(len(self.labels), (count,), generator=generator)
        labels = self.labels[pick].clone()
        images = distort(self.images[pick], generator)
        contrast = 1 - 0.65 * _uniform((count,), generator).square()

        ghost = kinds == KINDS.index("ghost")
        contrast[ghost] = 0.2 * _uniform((int(ghost.sum()),), generator)
        labels[ghost] = NO_DIGIT

        # two digits that nearly cover each other still look like one of them, and get no label
        blend = kinds == KINDS.index("blend")
        first, second = images[blend], distort(self.images[other[blend]], generator)
        third = second.lerp(first.flip(0), 0.5 * (_uniform((len(first), 1, 1), generator) < 0.4))  # sometimes three or four digits
        share = 0.35 + 0.3 * _uniform((len(first), 1, 1), generator)
        overlaid = _uniform((len(first), 1, 1), generator) < 0.5
        images[blend] = torch.where(overlaid, torch.maximum(first, third), share * first + (1 - share) * third)
        apart = torch.minimum(_uncovered(first, second), _uncovered(second, first)) > 0.35
        labels[blend] = torch.where(apart & (self.labels[other[blend]] != labels[blend]), NO_DIGIT, UNLABELLED)

        # the rest of a digit may be a stick, which looks like a short 1: sticks get no label
        erased = kinds == KINDS.index("erased")
        images[erased] = erase(images[erased], generator)
        labels[erased] = torch.where(_breadth(images[erased]) > 1.7, NO_DIGIT, UNLABELLED)

        scribble = kinds == KINDS.index("scribble")
        images[scribble] = scribbles(int(scribble.sum()), generator)
        labels[scribble] = NO_DIGIT
        return images * fade(count, generator), labels, contrast

    def offsets(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the corners [N, S, 2] of the slots as row and column, and whether a slot holds an object [N, S]."""
        anywhere = torch.randint(CANVAS_SIDE - DIGIT_SIDE + 1, (count, SLOTS, 2), generator=generator)
        layout = self.layouts[torch.randint(len(self.layouts), (count,), generator=generator)]  # [N, S]
        places = torch.rand(count, len(PLACES), generator=generator).argsort(dim=1)[:, :SLOTS]
        some = torch.arange(SLOTS) <= torch.randint(SLOTS, (count, 1), generator=generator)
        way = torch.rand(count, 1, generator=generator)
        by_layout, by_place, blank = way < 0.6, way < 0.88, way > 0.98
        place = torch.where(by_layout, layout, places)
        reach = self.high - self.low + 1
        inside = self.low[place] + (_uniform((count, SLOTS, 2), generator) * reach[place]).long()
        return torch.where(by_place[..., None], inside, anywhere), torch.where(by_layout, layout >= 0, some) & ~blank

    def place_labels(self, labels: Tensor, offsets: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Return the labels of places [N, P] and whether they are occupied [N, P].

        Args:
            labels: [N, S] of the objects.
            offsets: [N, S, 2] row and column of their corners.
            present: [N, S] whether a slot holds an object.
        """
        corner = offsets[:, :, None]  # [N, S, 1, 2]
        distance = torch.maximum(self.low - corner, corner - self.high).clamp(min=0).amax(dim=-1)  # [N, S, P]
        gap = (offsets[:, :, None] - offsets[:, None]).abs().amax(dim=-1)  # [N, S, S]
        both = present[:, :, None] & present[:, None] & ~torch.eye(SLOTS, dtype=torch.bool)
        crowded = ((gap < CROWDED) & both).any(dim=2)[..., None]  # [N, S, 1]
        near = present[..., None] & (distance <= NEAR)
        between = present[..., None] & (distance > NEAR) & (distance < FAR)
        answer = torch.full((len(labels), len(PLACES)), NO_DIGIT)
        for slot in range(SLOTS):
            answer = torch.where(near[:, slot], torch.where(crowded[:, slot], UNLABELLED, labels[:, slot, None]), answer)
        unsure = between & (crowded | (labels != NO_DIGIT)[..., None])
        return answer.masked_fill(unsure.any(dim=1), UNLABELLED), near.any(dim=1)


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator)


def _smooth(count: int, planes: int, knots: int, side: int, generator: torch.Generator) -> Tensor:
    """Return random smooth fields [n, planes, side, side] through standard normal values at a grid of knots."""
    return F.interpolate(
        torch.randn(count, planes, knots, knots, generator=generator), size=(side, side), mode="bicubic", align_corners=True
    )


def _uncovered(of: Tensor, by: Tensor) -> Tensor:
    """Return the share [n] of the ink of pictures [n, G, G] that is not within one pixel of the ink of others."""
    near = F.max_pool2d(by.unsqueeze(1), 3, stride=1, padding=1).squeeze(1)
    return (of - near).clamp(min=0).sum(dim=(1, 2)) / of.sum(dim=(1, 2)).clamp(min=1)


def _breadth(images: Tensor) -> Tensor:
    """Return the standard deviation [n] of the ink of pictures [n, G, G] across its longer axis, in pixels."""
    share = images / images.sum(dim=(1, 2), keepdim=True).clamp(min=1e-6)
    axis = torch.arange(float(DIGIT_SIDE))
    y, x = axis[:, None] - (share.sum(dim=2) @ axis)[:, None, None], axis - (share.sum(dim=1) @ axis)[:, None, None]
    tall, wide, both = ((share * moment).sum(dim=(1, 2)) for moment in (y * y, x * x, y * x))
    return ((tall + wide) / 2 - (((tall - wide) / 2).square() + both.square()).sqrt()).clamp(min=0).sqrt()


def distort(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate (up to 15 degrees), scale (up to a quarter), slant and bend pictures [n, G, G], each by its own strength."""
    n = len(images)
    if not n:  # affine_grid raises an error for no pictures
        return images
    strength = _uniform((n, 1), generator)
    turn, tall, wide, slant = (strength * (2 * _uniform((n, 4), generator) - 1)).unbind(1)
    turn, slant = turn * math.radians(15), 0.2 * slant
    zero = torch.zeros(n)
    affine = torch.stack(
        [
            torch.stack([turn.cos() * (1 + 0.25 * wide), slant - turn.sin(), zero], dim=1),
            torch.stack([turn.sin(), turn.cos() * (1 + 0.25 * tall), zero], dim=1),
        ],
        dim=1,
    )  # [n, 2, 3]
    grid = F.affine_grid(affine, [n, 1, DIGIT_SIDE, DIGIT_SIDE], align_corners=False)
    bumps = _smooth(n, 2, 5, DIGIT_SIDE, generator).permute(0, 2, 3, 1)  # [n, G, G, 2]
    grid = grid + bumps * (strength * 0.8 * 2 / DIGIT_SIDE)[:, :, None, None]
    return F.grid_sample(images.unsqueeze(1), grid, align_corners=False).squeeze(1)


def erase(images: Tensor, generator: torch.Generator) -> Tensor:
    """Keep 25 to 45 % of the ink of pictures [n, G, G], on one side of a straight line."""
    n = len(images)
    angle = 2 * math.pi * _uniform((n, 1, 1), generator)
    axis = torch.linspace(-1, 1, DIGIT_SIDE)
    along = (angle.cos() * axis[:, None] + angle.sin() * axis).flatten(1)  # [n, G * G]
    order = along.argsort(dim=1)
    ink = images.flatten(1).take_along_dim(order, dim=1).cumsum(dim=1)
    keep = 0.25 + 0.2 * _uniform((n, 1), generator)
    kept = torch.zeros_like(along).scatter(1, order, (ink <= keep * ink[:, -1:]).float())
    return images * kept.view_as(images)


def fade(count: int, generator: torch.Generator) -> Tensor:
    """Return factors [n, G, G] that fade parts of an object, by up to seven tenths."""
    depth = 0.7 * _uniform((count, 1, 1), generator).square()
    return 1 - depth * (2 * _smooth(count, 1, 3, DIGIT_SIDE, generator).squeeze(1)).sigmoid()


def scribbles(count: int, generator: torch.Generator) -> Tensor:
    """Return random curves [n, G, G]: the zero crossings of a smooth field."""
    field = _smooth(count, 1, 5, DIGIT_SIDE, generator).squeeze(1)
    axis = torch.linspace(-1, 1, DIGIT_SIDE)
    disk = ((0.8 - (axis[:, None].square() + axis.square()).sqrt()) * 10).sigmoid()
    return (-(field / 0.2).square()).exp() * disk


def degrade(canvas: Tensor, blank: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, brighten and add haze and noise to two of three canvases [N, 1, A, A]; fill blank ones [N] with any grey."""
    n = len(canvas)

    def amount() -> Tensor:
        return _uniform((n, 1, 1, 1), generator)

    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16  # a deviation of one pixel
    blur = (line[:, None] * line)[None, None]
    soft = F.conv2d(canvas, blur, padding=2)
    softer = F.conv2d(soft, blur, padding=2)
    degraded = canvas.lerp(soft.lerp(softer, amount().square()), amount()) * (0.9 + 0.6 * amount())
    haze = 0.3 * amount().square() * (0.5 + 0.5 * _smooth(n, 1, 4, CANVAS_SIDE, generator)).clamp(0, 1)
    haze = torch.where(blank[:, None, None, None], amount(), haze)
    degraded = 1 - (1 - degraded.clamp(0, 1)) * (1 - haze)
    degraded = degraded + 0.1 * amount().square() * torch.randn(canvas.shape, generator=generator)
    return torch.where((amount() < 0.67) | blank[:, None, None, None], degraded.clamp(0, 1), canvas)
