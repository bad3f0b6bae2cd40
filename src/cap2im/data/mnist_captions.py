"""MNIST with captions: one or two handwritten digits on a 60 x 60 canvas, and the sentence that gives their places.

Source: alignDRAW (arXiv:1511.02793), appendix A; offsets and sentences from mansimov/text2image, mnist-captions/create-captions.py.

The released program differs, and `variant="released"` follows it: digits beside each other may overlap by up to four columns, where the
paper has non-overlapping digits; hidden digits are drawn from 0..10, so that a place may have none.

Shapes: N samples, A canvas side, M choices of offsets.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cap2im.data.mnist import DIGIT_SIDE, Digits
from cap2im.data.splits import Split

CANVAS_SIDE = 60
NUMERALS = tuple("0123456789")
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

DataVariant = Literal["paper", "released"]


@dataclass(frozen=True)
class Place:
    """Inclusive ranges of the row and the column of a digit's upper left corner."""

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
    """A sentence with the places of its digits, in the order of the sentence."""

    sentence: str
    places: tuple[str, ...]

    def caption(self, digits: tuple[int, ...]) -> str:
        """Return the sentence with its digits."""
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


@dataclass(frozen=True)
class Configuration:
    """A layout with its digits.

    Attributes:
        layout: index into `LAYOUTS`.
        digits: in the order of the sentence.
        split: "train" if training may show it, else the split that it is held out for.
    """

    layout: int
    digits: tuple[int, ...]
    split: Split

    @property
    def caption(self) -> str:
        """The sentence with its digits."""
        return LAYOUTS[self.layout].caption(self.digits)

    @property
    def places(self) -> tuple[str, ...]:
        """The places of the digits."""
        return LAYOUTS[self.layout].places

    @property
    def seen(self) -> bool:
        """Whether training may show it."""
        return self.split == "train"


HiddenDigits = tuple[tuple[int, ...], ...]
"""For each layout, the digit hidden at each place of its sentence. 10 hides nothing; only `variant="released"` draws it."""


@dataclass(frozen=True)
class HeldOut:
    """Digits that are hidden from training, which measure generalisation.

    Attributes:
        digits: hidden to measure on.
        validation: hidden as well, to choose settings by; empty if `digits` serve for both. A configuration with a digit of each counts
            as one of `digits`.
    """

    digits: HiddenDigits
    validation: HiddenDigits = ()

    @classmethod
    def from_seed(cls, seed: int, variant: DataVariant = "paper", validation_seed: int | None = None) -> HeldOut:
        """Draw the hidden digits; without `validation_seed`, none for validation alone."""
        return cls(_hidden_digits(seed, variant), () if validation_seed is None else _hidden_digits(validation_seed, variant))

    @classmethod
    def from_model(cls, data: Mapping[str, Any]) -> HeldOut | None:
        """Return what was held out from a model of captioned digits; None for other models.

        Args:
            data: entry of the model's `config.json`.
        """
        if "held_out" not in data:
            return None
        return cls(*(tuple(tuple(hidden) for hidden in data.get(key, ())) for key in ("held_out", "validation_held_out")))

    def as_json(self) -> dict[str, Any]:
        """Return the entries of a model's `config.json` that `from_model` reads."""
        entries = {"held_out": self.digits, "validation_held_out": self.validation}
        return {key: [list(hidden) for hidden in digits] for key, digits in entries.items() if digits}

    def configurations(self, split: Split | None = None) -> Iterator[Configuration]:
        """Yield configurations: four relations of 100 digit pairs, four corners of ten digits.

        Args:
            split: yield those that training shows and those held out for this split; None yields all 440.
        """
        held_out_for: Split = "validation" if split == "validation" and self.validation else "test"
        for index, layout in enumerate(LAYOUTS):
            for digits in np.ndindex(*(10,) * len(layout.places)):
                configuration = Configuration(index, digits, self._split(index, digits))
                if split is None or configuration.split in ("train", held_out_for):
                    yield configuration

    def _split(self, layout: int, digits: tuple[int, ...]) -> Split:
        if any(map(operator.eq, digits, self.digits[layout])):
            return "test"
        return "validation" if self.validation and any(map(operator.eq, digits, self.validation[layout])) else "train"


def _hidden_digits(seed: int, variant: DataVariant) -> HiddenDigits:
    highest = 10 if variant == "released" else 9
    random = np.random.default_rng(seed)
    return tuple(tuple(int(d) for d in random.integers(0, highest + 1, len(layout.places))) for layout in LAYOUTS)


@dataclass(frozen=True)
class CaptionedCanvases:
    """Canvases with the content of their captions.

    Attributes:
        images: [N, 1, A, A] uint8, 0 is background.
        layouts: [N] index into `LAYOUTS`.
        digits: [N, 2] in the order of the sentence; -1 if the layout has one digit.
    """

    images: Tensor
    layouts: Tensor
    digits: Tensor

    def __getitem__(self, rows: slice) -> CaptionedCanvases:
        """Return some of the canvases."""
        return CaptionedCanvases(self.images[rows], self.layouts[rows], self.digits[rows])

    def captions(self) -> list[str]:
        """Return the caption of each canvas."""
        rows = zip(self.layouts.tolist(), self.digits.tolist(), strict=True)
        return [LAYOUTS[layout].caption(tuple(d for d in digits if d >= 0)) for layout, digits in rows]

    def scenes(self) -> Tensor:
        """Return [N] int64, equal for canvases with the same digits at the same places, in any order of their captions."""
        names, scenes = list(PLACES), torch.zeros(len(self.layouts), dtype=torch.long)
        for index, layout in enumerate(LAYOUTS):
            weights = torch.tensor([11 ** names.index(place) for place in layout.places])  # numerals to the base 11; 0 is no digit
            rows = self.layouts == index
            scenes[rows] = ((self.digits[rows, : len(weights)] + 1) * weights).sum(dim=1)
        return scenes


def offset_choices(layout: Layout, variant: DataVariant) -> Tensor:
    """Return all allowed offsets of a layout's digits, [M, 2, 2]: digit, then row and column; -1 for a digit that does not exist.

    Digits beside each other share their row, digits above each other their column, as in the released program.
    """
    places = [PLACES[name] for name in layout.places]
    ranges = [np.arange(low, high + 1) for place in places for low, high in (place.rows, place.columns)]
    offsets = np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, len(places), 2)
    if len(places) == 1:
        return torch.from_numpy(np.concatenate([offsets, np.full_like(offsets, -1)], axis=1))
    shared, apart = (0, 1) if layout.places[0] in ("left", "right") else (1, 0)  # row, column
    first, second = offsets[:, 0], offsets[:, 1]
    allowed = first[:, shared] == second[:, shared]
    if variant == "paper":
        allowed &= np.abs(first[:, apart] - second[:, apart]) >= DIGIT_SIDE
    return torch.from_numpy(offsets[allowed])


@dataclass(frozen=True)
class CanvasMaker:
    """Draws captioned canvases from handwritten digits.

    Attributes:
        digits: handwritten digits to place.
        held_out: configurations that `make` never draws.
        variant: "released" lets digits overlap.

    Raises:
        ValueError: a numeral has no handwritten digit.
    """

    digits: Digits
    held_out: HeldOut
    variant: DataVariant = "paper"

    def __post_init__(self) -> None:
        missing = [numeral for numeral in range(10) if not (self.digits.labels == numeral).any()]
        if missing:
            raise ValueError(f"digits without an example: {missing}")

    @cached_property
    def _offsets(self) -> list[Tensor]:
        """Offsets [M, 2, 2] of each layout."""
        return [offset_choices(layout, self.variant) for layout in LAYOUTS]

    @cached_property
    def _examples(self) -> tuple[Tensor, Tensor, Tensor]:
        """Digits sorted by label, and the start and the count of each label among them."""
        labels = self.digits.labels.long()
        counts = labels.bincount(minlength=10)
        return labels.argsort(stable=True), counts.cumsum(0) - counts, counts

    @cached_property
    def _allowed(self) -> Tensor:
        """Whether a digit may be drawn, [layouts, 2, 10]; all zero at the second place of layouts with one digit."""
        allowed = torch.zeros(len(LAYOUTS), 2, 10)
        for index, layout in enumerate(LAYOUTS):
            allowed[index, : len(layout.places)] = 1
        for hidden_digits in (self.held_out.digits, self.held_out.validation):
            for index, hidden in enumerate(hidden_digits):
                for place, digit in enumerate(hidden):
                    if digit < 10:
                        allowed[index, place, digit] = 0
        return allowed

    def make(self, count: int, generator: torch.Generator) -> CaptionedCanvases:
        """Draw canvases of configurations that are not held out: layouts, then allowed digits, each equally likely."""
        layouts = torch.randint(len(LAYOUTS), (count,), generator=generator)
        has_none = self._allowed.sum(2) == 0  # [layouts, 2]
        allowed = self._allowed.masked_fill(has_none.unsqueeze(2), 1)
        digits = torch.multinomial(allowed[layouts].flatten(0, 1), 1, generator=generator).view(count, 2)
        return self.render(layouts, digits.masked_fill(has_none[layouts], -1), generator)

    def render(self, layouts: Tensor, digits: Tensor, generator: torch.Generator) -> CaptionedCanvases:
        """Draw canvases of given configurations, with random handwriting and offsets.

        Args:
            layouts: [N] index into `LAYOUTS`.
            digits: [N, 2] in the order of the sentence; -1 for none.
            generator: of handwriting and offsets.
        """
        count = len(layouts)
        handwriting = torch.rand(count, 2, generator=generator)
        position = torch.rand(count, generator=generator)
        offsets = torch.empty(count, 2, 2, dtype=torch.long)
        for index, choices in enumerate(self._offsets):
            rows = layouts == index
            offsets[rows] = choices[(position[rows] * len(choices)).long()]
        images = torch.zeros(count, CANVAS_SIDE, CANVAS_SIDE, dtype=torch.uint8)
        order, starts, counts = self._examples
        pixels = torch.arange(DIGIT_SIDE)
        for place in (0, 1):
            canvases = (digits[:, place] >= 0).nonzero().flatten()  # [n]
            labels = digits[canvases, place]
            examples = order[starts[labels] + (handwriting[canvases, place] * counts[labels]).long()]
            rows = offsets[canvases, place, 0, None, None] + pixels[:, None]  # [n, 28, 1]
            columns = offsets[canvases, place, 1, None, None] + pixels  # [n, 1, 28]
            images[canvases[:, None, None], rows, columns] = self.digits.images[examples]
        return CaptionedCanvases(images.unsqueeze(1), layouts, digits)
