"""MNIST with captions: one or two handwritten digits on a 60 x 60 canvas, and the sentence that says where.

Source: alignDRAW (arXiv:1511.02793), appendix A; offsets and sentences from mansimov/text2image, mnist-captions/create-captions.py.

What the released program does differently (`variant="released"` follows it): digits beside each other may overlap by up to four
columns, where the paper says non-overlapping; a hidden digit is drawn from 0..10, so that a place may have none.

Shapes: N samples, A canvas side, L words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cap2im.data.mnist import DIGIT_SIDE, Digits

CANVAS_SIDE = 60
NUMERALS = tuple("0123456789")
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Place:
    """Where the upper left corner of a digit may lie: inclusive ranges of rows and columns."""

    rows: tuple[int, int]
    columns: tuple[int, int]


PLACES = {
    "left": Place((16, 18), (0, 4)),
    "right": Place((16, 18), (28, 32)),
    "top": Place((0, 2), (16, 18)),
    "bottom": Place((30, 32), (16, 18)),
    "top left": Place((0, 2), (0, 4)),
    "top right": Place((0, 2), (28, 32)),
    "bottom left": Place((30, 32), (0, 4)),
    "bottom right": Place((30, 32), (28, 32)),
}


@dataclass(frozen=True)
class Layout:
    """One way to place digits: the sentence, and the places in the order in which the sentence names the digits."""

    sentence: str
    places: tuple[str, ...]

    def caption(self, digits: tuple[int, ...]) -> str:
        return self.sentence.format(*digits)


LAYOUTS = (
    Layout("the digit {} is on the left of the digit {} .", ("left", "right")),
    Layout("the digit {} is on the right of the digit {} .", ("right", "left")),
    Layout("the digit {} is at the top of the digit {} .", ("top", "bottom")),
    Layout("the digit {} is at the bottom of the digit {} .", ("bottom", "top")),
    Layout("the digit {} is at the top left of the image .", ("top left",)),
    Layout("the digit {} is at the bottom right of the image .", ("bottom right",)),
    Layout("the digit {} is at the top right of the image .", ("top right",)),
    Layout("the digit {} is at the bottom left of the image .", ("bottom left",)),
)

WORDS = tuple(dict.fromkeys(" ".join([*NUMERALS, *(layout.sentence.replace("{} ", "") for layout in LAYOUTS)]).split()))
ALIASES = dict(zip(NUMBER_WORDS, NUMERALS, strict=True))
WORDS_PER_CAPTION = 12

DataVariant = Literal["paper", "released"]


@dataclass(frozen=True)
class Configuration:
    """A layout with its digits, and whether training may show it."""

    layout: int
    digits: tuple[int, ...]
    seen: bool

    @property
    def caption(self) -> str:
        return LAYOUTS[self.layout].caption(self.digits)

    @property
    def places(self) -> tuple[str, ...]:
        return LAYOUTS[self.layout].places


@dataclass(frozen=True)
class HeldOut:
    """For each layout, the digit that training never shows at the first and at the second place of its sentence.

    The number 10 hides nothing; only `variant="released"` draws it.
    """

    digits: tuple[tuple[int, ...], ...]

    @classmethod
    def from_seed(cls, seed: int, variant: DataVariant = "paper") -> HeldOut:
        highest = 10 if variant == "released" else 9
        random = np.random.default_rng(seed)
        return cls(tuple(tuple(int(d) for d in random.integers(0, highest + 1, len(layout.places))) for layout in LAYOUTS))

    def configurations(self) -> Iterator[Configuration]:
        """All 440: four relations of 100 digit pairs, four corners of ten digits."""
        for index, (layout, hidden) in enumerate(zip(LAYOUTS, self.digits, strict=True)):
            for digits in np.ndindex(*(10,) * len(layout.places)):
                yield Configuration(index, digits, all(d != h for d, h in zip(digits, hidden, strict=True)))


@dataclass(frozen=True)
class CaptionedCanvases:
    """Canvases with what their captions say.

    Attributes:
        images: [N, 1, A, A] uint8, 0 is background.
        layouts: [N] index into LAYOUTS.
        digits: [N, 2] in the order of the sentence; -1 where the layout has one digit.
    """

    images: Tensor
    layouts: Tensor
    digits: Tensor

    def captions(self) -> list[str]:
        rows = zip(self.layouts.tolist(), self.digits.tolist(), strict=True)
        return [LAYOUTS[layout].caption(tuple(d for d in digits if d >= 0)) for layout, digits in rows]

    def scenes(self) -> Tensor:
        """[N] int64, equal for canvases that show the same digits at the same places, in whichever order their captions name them."""
        names, scenes = list(PLACES), torch.zeros(len(self.layouts), dtype=torch.long)
        for index, layout in enumerate(LAYOUTS):
            weights = torch.tensor([11 ** names.index(place) for place in layout.places])  # a numeral to the base 11; 0 is no digit
            here = self.layouts == index
            scenes[here] = ((self.digits[here, : len(weights)] + 1) * weights).sum(dim=1)
        return scenes


def _offset_choices(layout: Layout, variant: DataVariant) -> Tensor:
    """[M, 2, 2] every allowed pair of (row, column) offsets of the layout's places, equally likely.

    Digits beside each other share their row, digits above each other their column, as released.
    """
    places = [PLACES[name] for name in layout.places]
    ranges = [np.arange(low, high + 1) for place in places for low, high in (place.rows, place.columns)]
    grid = np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, len(places), 2)
    if len(places) == 2:
        across = layout.places[0] in ("left", "right")
        shared, apart = (0, 1) if across else (1, 0)
        grid = grid[grid[:, 0, shared] == grid[:, 1, shared]]
        if variant == "paper":
            grid = grid[np.abs(grid[:, 0, apart] - grid[:, 1, apart]) >= DIGIT_SIDE]
    else:
        grid = np.concatenate([grid, np.full_like(grid, -1)], axis=1)
    return torch.from_numpy(grid)


@dataclass(frozen=True)
class CanvasMaker:
    """Draws captioned canvases from handwritten digits, all of a call at once.

    Args:
        digits: the handwritten digits to place.
        held_out: what `make` never shows.
        variant: "released" lets digits overlap.
    """

    digits: Digits
    held_out: HeldOut
    variant: DataVariant = "paper"
    _offsets: tuple[Tensor, ...] = field(init=False, repr=False)
    _by_label: tuple[Tensor, Tensor, Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        labels = self.digits.labels.long()
        counts = labels.bincount(minlength=10)
        if (counts[:10] == 0).any():
            raise ValueError(f"digits without an example: {(counts[:10] == 0).nonzero().flatten().tolist()}")
        starts = counts.cumsum(0) - counts
        object.__setattr__(self, "_offsets", tuple(_offset_choices(layout, self.variant) for layout in LAYOUTS))
        object.__setattr__(self, "_by_label", (labels.argsort(stable=True), starts, counts))

    def make(self, count: int, generator: torch.Generator) -> CaptionedCanvases:
        """`count` canvases of configurations that are not held out: layouts equally likely, then the digits allowed in them."""
        layouts = torch.randint(len(LAYOUTS), (count,), generator=generator)
        allowed = torch.zeros(len(LAYOUTS), 2, 10)
        for index, hidden in enumerate(self.held_out.digits):
            for place, digit in enumerate(hidden):
                allowed[index, place] = 1
                if digit < 10:
                    allowed[index, place, digit] = 0
        single = allowed.sum(2) == 0  # [layouts, 2]
        allowed[single] = 1
        digits = torch.multinomial(allowed[layouts].flatten(0, 1), 1, generator=generator).view(count, 2)
        return self.render(layouts, digits.masked_fill(single[layouts], -1), generator)

    def render(self, layouts: Tensor, digits: Tensor, generator: torch.Generator) -> CaptionedCanvases:
        """Canvases of given layouts [N] and digits [N, 2] (-1: none), with random handwriting and offsets."""
        count = len(layouts)
        order, starts, counts = self._by_label
        pick = torch.rand(count, 2, generator=generator)
        spot = torch.rand(count, generator=generator)
        offsets = torch.empty(count, 2, 2, dtype=torch.long)
        for index, choices in enumerate(self._offsets):
            here = layouts == index
            offsets[here] = choices[(spot[here] * len(choices)).long()]
        images = torch.zeros(count, CANVAS_SIDE, CANVAS_SIDE, dtype=torch.uint8)
        steps = torch.arange(DIGIT_SIDE)
        for place in (0, 1):
            rows = (digits[:, place] >= 0).nonzero().flatten()
            label = digits[rows, place]
            example = order[starts[label] + (pick[rows, place] * counts[label]).long()]
            y = offsets[rows, place, 0, None, None] + steps[:, None]  # [n, 28, 1]
            x = offsets[rows, place, 1, None, None] + steps  # [n, 1, 28]
            images[rows[:, None, None], y, x] = self.digits.images[example]
        return CaptionedCanvases(images.unsqueeze(1), layouts, digits)
