"""Caption accuracy: does a drawing of MNIST with captions show what its caption says, where it says so, and nothing else?

No number of this kind has been published for any model, so here is the whole definition.

A canvas has eight places (`PLACES`): the four corners, and the left, right, top and bottom of the middle. Around each lies a window of
32 x 32 pixels, over which the digit's square of 28 x 28 moves by one or two pixels either way. A small network, the reader, trained on
real handwriting only (`cap2im.training.digit_reader`), looks at one window at a time, without knowing the caption, and gives probabilities
of eleven classes: the digits, and "nothing", which is also its answer to the parts of digits that stand at other places, to digits that are
clearly displaced, to ghosts, to blends of two digits and to scribbles. The class of a window is the most probable one.

Of one drawing, with the places and digits that its caption asks for:

- digits: at every asked place the most probable of the ten digits is the asked one, "nothing" left aside (a forced choice: guessing
  gets one in ten for a place);
- places: at every asked place the class is a digit, whichever;
- clean: at every other place the class is "nothing", and outside of the asked windows there is no stray ink: fewer than
  `STRAY_PIXELS` pixels are brighter than `INK`. (The ink finds what stands between the places, where the reader sees nothing to read. No
  validation or test digit of MNIST has fewer than 23 such pixels.)
- joint: all three, which is to say that the class at every place is exactly what the caption asks for, and no ink is astray. This is
  the number to compare.

All 440 captions are drawn equally often: four relations of 100 digit pairs, and four corners of ten digits. So the relations weigh ten
times what the corners do; the layouts are reported one by one too. Captions are grouped by what training was shown:

- seen, held_out: whether training shows the caption (`HeldOut`);
- held_out_pictures: the held-out captions whose picture was never seen in other words either. "3 on the left of 7" may be held out while
  "7 on the right of 3", which asks for the same picture, is seen. These few captions are the strictest test of generalisation.

Rates come with 95 % Wilson intervals. They tell the chance of the drawings' random numbers (for which they are cautious, the captions
being a full census); another training run of the same model may differ by more. Beside them stands the ceiling: the same captions made
of real digits of a split, read by the same reader.

What it does not measure: whether the handwriting is varied or beautiful. The reader is a judge for models that know nothing of it;
pictures optimised against a network's weights fool it, so a model must not be trained or selected on it.

Shapes: N pictures, P = 8 places, W window side, A = 60 canvas side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cap2im._version import __version__
from cap2im.data.mnist import DIGIT_SIDE, Digits
from cap2im.data.mnist_captions import CANVAS_SIDE, LAYOUTS, PLACES, CanvasMaker, Configuration, HeldOut
from cap2im.data.splits import Split
from cap2im.metrics.distributed import ProcessGroup
from cap2im.metrics.intervals import wilson
from cap2im.models.digit_reader import NO_DIGIT, DigitReader

METRIC_VERSION = 1  # goes up whenever the same drawings would get another number
INK = 0.4
STRAY_PIXELS = 20
READER = "reader-mnist"  # the bundled model
FIELDS = ("digits", "places", "clean", "joint")

Draw = Callable[[list[str], list[int]], Tensor]
"""Captions and one seed for each, to images [N, 1, A, A] in 0..1."""


@dataclass(frozen=True)
class Scores:
    """What each of N pictures gets right: booleans [N]; the module's docstring defines them."""

    digits: Tensor
    places: Tensor
    clean: Tensor
    joint: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Scores]) -> Scores:
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in FIELDS))


def window_corner(place: str, side: int) -> tuple[int, int]:
    """Row and column of a place's window, in pixels of the canvas: the middle of the window is the middle of where its digit may lie."""
    rows, columns = PLACES[place].rows, PLACES[place].columns
    return tuple((low + high + DIGIT_SIDE - side) // 2 for low, high in (rows, columns))  # type: ignore[return-value]


def place_windows(images: Tensor, side: int) -> Tensor:
    """[N, P, 1, W, W], the window of side W around each place in the order of `PLACES`, of images [N, 1, A, A]; the outside is 0."""
    padded = F.pad(images, (side,) * 4)
    corners = [window_corner(place, side) for place in PLACES]
    return torch.stack([padded[:, :, side + y : 2 * side + y, side + x : 2 * side + x] for y, x in corners], dim=1)


@torch.no_grad()
def read_canvases(reader: DigitReader, images: Tensor, batch: int = 256) -> Tensor:
    """[N, P, 11] probabilities of the digits and of "nothing" at each place in the order of `PLACES`.

    Args:
        reader: in evaluation mode.
        images: [N, 1, A, A] in 0..1.
        batch: canvases at a time; it changes nothing but the memory that is used.

    Raises:
        ValueError: images of another shape, not of floats, or with values outside of 0..1.
    """
    assert not reader.training, "a reader in training mode lets the pictures of a batch influence each other"
    _check(images)
    readings = []
    for part in images.split(batch):
        windows = place_windows(part, reader.config.window).flatten(0, 1)  # [N * P, 1, W, W]
        readings.append(reader(windows.contiguous(memory_format=torch.channels_last)).softmax(dim=1).view(len(part), len(PLACES), -1))
    return torch.cat(readings)


def stray_pixels(images: Tensor, configurations: Sequence[Configuration], side: int = 32) -> Tensor:
    """[N] how many pixels brighter than `INK` lie outside of the windows of the asked places, of images [N, 1, A, A]."""
    outside = torch.ones(len(LAYOUTS), CANVAS_SIDE, CANVAS_SIDE, dtype=torch.bool)
    for index, layout in enumerate(LAYOUTS):
        for place in layout.places:
            y, x = window_corner(place, side)
            outside[index, max(y, 0) : y + side, max(x, 0) : x + side] = False
    layouts = torch.tensor([c.layout for c in configurations])
    return ((images[:, 0] > INK) & outside[layouts].to(images.device)).sum(dim=(1, 2))


def score(probabilities: Tensor, images: Tensor, configurations: Sequence[Configuration]) -> Scores:
    """What each picture gets right of its configuration.

    Args:
        probabilities: [N, P, 11] of `read_canvases`.
        images: [N, 1, A, A] that were read, for the stray ink.
        configurations: N of them.
    """
    assert len(probabilities) == len(images) == len(configurations)
    names = list(PLACES)
    wanted = torch.full((len(configurations), len(PLACES)), NO_DIGIT)  # [N, P]
    for row, configuration in enumerate(configurations):
        for place, digit in zip(configuration.places, configuration.digits, strict=True):
            wanted[row, names.index(place)] = digit
    wanted = wanted.to(probabilities.device)
    asked = wanted != NO_DIGIT
    found = probabilities.argmax(dim=2)  # [N, P]
    forced = probabilities[..., :NO_DIGIT].argmax(dim=2)
    clean = ((found == NO_DIGIT) | asked).all(dim=1) & (stray_pixels(images, configurations) < STRAY_PIXELS)
    return Scores(
        digits=((forced == wanted) | ~asked).all(dim=1),
        places=((found != NO_DIGIT) | ~asked).all(dim=1),
        clean=clean,
        joint=(found == wanted).all(dim=1) & clean,
    )


def summary(scores: Scores, configurations: Sequence[Configuration]) -> dict[str, Any]:
    """Rates of all, seen and held-out captions, of held-out pictures and of each layout: JSON-ready.

    Each group has `n` pictures and, for each of `FIELDS`, {"rate", "low", "high"}: the proportion and its 95 % Wilson interval. A group
    of no pictures is None.
    """
    pictures = [frozenset(zip(c.places, c.digits, strict=True)) for c in configurations]
    shown = {picture for picture, c in zip(pictures, configurations, strict=True) if c.seen}

    def rates(rows: list[bool]) -> dict[str, Any] | None:
        chosen = torch.tensor(rows)
        n = int(chosen.sum())
        if n == 0:
            return None
        group: dict[str, Any] = {"n": n}
        for name in FIELDS:
            right = int(getattr(scores, name).cpu()[chosen].sum())
            low, high = wilson(right, n)
            group[name] = {"rate": right / n, "low": low, "high": high}
        return group

    return {
        "all": rates([True for _ in configurations]),
        "seen": rates([c.seen for c in configurations]),
        "held_out": rates([not c.seen for c in configurations]),
        "held_out_pictures": rates([picture not in shown for picture in pictures]),
        "layouts": {layout.sentence: rates([c.layout == index for c in configurations]) for index, layout in enumerate(LAYOUTS)},
    }


def real_canvases(digits: Digits, configurations: Sequence[Configuration], seed: int) -> Tensor:
    """[N, 1, A, A] in 0..1: the configurations made of real digits, with random handwriting and offsets."""
    nothing_hidden = HeldOut(tuple((10,) * len(layout.places) for layout in LAYOUTS))
    layouts = torch.tensor([c.layout for c in configurations])
    wanted = torch.tensor([(*c.digits, -1)[:2] for c in configurations])
    return CanvasMaker(digits, nothing_hidden).render(layouts, wanted, torch.Generator().manual_seed(seed)).images.float() / 255


def caption_accuracy(
    draw: Draw,
    reader: DigitReader,
    held_out: HeldOut,
    *,
    digits: Digits,
    split: Split,
    samples: int = 10,
    seed: int = 0,
    batch: int = 110,
    processes: ProcessGroup = ProcessGroup(),  # noqa: B008  # frozen
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Caption accuracy of a model over all 440 captions, beside that of real canvases; JSON-ready.

    Args:
        draw: draws captions, one seed for each. The seeds are different for every picture and every `seed`, and do not depend on `batch`.
        reader: who reads; the bundled `READER` for numbers that can be compared.
        held_out: what the model's training did not show.
        digits: real digits for the ceiling, which neither the model nor the reader was trained on.
        split: what `digits` are, for the protocol.
        samples: drawings of each caption.
        seed: of the drawings and of the real canvases.
        batch: captions that `draw` gets at once.
        processes: of the drawings among processes.
        progress: called with the pictures done and their total, of this process.

    Returns:
        "protocol" (what has to be equal for two numbers to be compared), and `summary` of the "drawings" and of the "real" canvases.

    Raises:
        ValueError: `samples` or `batch` below 1, or drawings of another number, shape or range.
    """
    if samples < 1 or batch < 1:
        raise ValueError(f"samples {samples}, batch {batch}: both must be at least 1")
    captions = list(held_out.configurations())
    configurations = [c for c in captions for _ in range(samples)]
    total = len(configurations)
    mine = processes.shard(total)
    parts = []
    for start in mine[::batch]:
        rows = range(start, min(start + batch, mine.stop))
        asked = [configurations[row] for row in rows]
        images = draw([c.caption for c in asked], [seed * total + row for row in rows])
        if len(images) != len(rows):
            raise ValueError(f"{len(rows)} captions were given to draw, {len(images)} images came back")
        parts.append(score(read_canvases(reader, images), images, asked))
        if progress is not None:
            progress(rows.stop - mine.start, len(mine))
    real = real_canvases(digits, configurations, seed)[mine.start : mine.stop]
    of_real = score(read_canvases(reader, real), real, configurations[mine.start : mine.stop])
    drawn, measured = (
        Scores(*(processes.all_gather(getattr(scores, name)) for name in FIELDS)) for scores in (Scores.joined(parts), of_real)
    )
    return {
        "metric": "caption accuracy",
        "protocol": {
            "version": METRIC_VERSION,
            "reader": reader.digest(),
            "split": split,
            "digits": hashlib.sha256(digits.images.numpy().tobytes() + digits.labels.numpy().tobytes()).hexdigest(),
            "captions": len(captions),
            "samples_per_caption": samples,
            "seed": seed,
            "held_out": [list(hidden) for hidden in held_out.digits],
            "cap2im": __version__,
        },
        "drawings": summary(drawn, configurations),
        "real": summary(measured, configurations),
    }


def _check(images: Tensor) -> None:
    expected = (1, CANVAS_SIDE, CANVAS_SIDE)
    if images.shape[1:] != expected or not images.is_floating_point() or not len(images):
        raise ValueError(
            f"images of shape {list(images.shape)} and type {images.dtype}; expected floats [N, 1, {CANVAS_SIDE}, {CANVAS_SIDE}]"
        )
    low, high = images.min().item(), images.max().item()
    if not (low >= 0 and high <= 1):  # also when they are not numbers
        raise ValueError(f"images with values from {low} to {high}; expected 0..1")
