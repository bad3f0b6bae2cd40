"""Caption accuracy: whether a drawing of MNIST with captions shows what its caption says, where it says so, and nothing else.

No number of this kind has been published for any model, so this is the complete definition.

A canvas has eight places (`PLACES`): the four corners, and the left, right, top and bottom of the middle. Around each lies a window of
32 x 32 pixels, in which the digit's square of 28 x 28 moves by one or two pixels in each direction. A small network, the digit reader,
trained on real handwriting only (`cap2im.training.digit_reader`), classifies one window at a time without the caption. It has eleven
classes: the ten digits, and "no digit", which is also the class of parts of digits at other places, of digits that are clearly displaced,
of ghosts, of blends of two digits and of scribbles. The class of a window is the most probable one.

For one drawing, with the places and digits of its caption:

- digits: at every captioned place the most probable of the ten digits is the captioned one, ignoring "no digit" (a forced choice; guessing
  is right for one place in ten);
- places: at every captioned place the class is a digit, whichever;
- clean: at every other place the class is "no digit", and outside of the captioned windows fewer than `STRAY_PIXELS` pixels are brighter
  than `INK`. (The pixels find strokes between the places, where no window is read. No validation or test digit of MNIST has fewer than 23
  such pixels.)
- joint: all three; the class at every place is exactly the captioned one, and there are no stray pixels. This is the number to compare.

All 440 captions are drawn equally often: four relations of 100 digit pairs, and four corners of ten digits. Relations therefore weigh ten
times as much as corners; each layout is also reported separately. If training also hides captions to choose settings by, they are drawn
for the validation split only, in place of the held-out captions of the test split. Captions are grouped by what training shows:

- seen, held out: whether training shows the caption (`HeldOut`);
- held-out pictures: held-out captions whose picture training does not show under other words either. "3 on the left of 7" may be held out
  while "7 on the right of 3", the same picture, is seen. These few captions are the strictest test of generalisation.

Rates have 95 % Wilson intervals, which cover the randomness of the drawings (cautiously, as the captions are a full census); another
training run of the same model may differ by more. The group "real" is the ceiling: the same captions made of real digits of a split.

Variety and beauty of the handwriting are not measured. The reader is only fair to models that were not optimised against it: pictures
optimised against a network's weights fool it, so a model must not be trained or selected on it.

Shapes: N pictures, P = 8 places, W window side, A = 60 canvas side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cap2im.data.mnist import DIGIT_SIDE, Digits
from cap2im.data.mnist_captions import CANVAS_SIDE, LAYOUTS, PLACES, CanvasMaker, Configuration, HeldOut
from cap2im.metrics.criteria import Criteria
from cap2im.metrics.measurement import Measurement, proportion
from cap2im.models.digit_reader import NO_DIGIT, DigitReader

INK = 0.4
STRAY_PIXELS = 20
READER = "reader-mnist"  # the bundled digit reader, whose numbers can be compared
FIELDS = ("digits", "places", "clean", "joint")


@dataclass(frozen=True)
class Scores(Criteria):
    """Which criteria each of N pictures meets: booleans [N], defined in the module's docstring."""

    digits: Tensor
    places: Tensor
    clean: Tensor
    joint: Tensor


def window_corner(place: str, side: int) -> tuple[int, int]:
    """Return row and column of a place's window on the canvas; its centre is the centre of the positions that the digit may have."""
    rows, columns = PLACES[place].rows, PLACES[place].columns
    return tuple((low + high + DIGIT_SIDE - side) // 2 for low, high in (rows, columns))  # type: ignore[return-value]


def place_windows(images: Tensor, side: int) -> Tensor:
    """Return the windows [N, P, 1, W, W] around the places, in the order of `PLACES`, of images [N, 1, A, A]; pixels outside are 0."""
    padded = F.pad(images, (side,) * 4)
    corners = [window_corner(place, side) for place in PLACES]
    return torch.stack([padded[:, :, side + y : 2 * side + y, side + x : 2 * side + x] for y, x in corners], dim=1)


@torch.no_grad()
def read_canvases(reader: DigitReader, images: Tensor, batch: int = 256) -> Tensor:
    """Return the probabilities [N, P, 11] of the digits and of "no digit" at each place in the order of `PLACES`.

    Args:
        reader: in evaluation mode.
        images: [N, 1, A, A] in 0..1.
        batch: canvases at a time; it changes only the memory that is used.

    Raises:
        ValueError: images have another shape, are not floats, or have values outside of 0..1.
    """
    assert not reader.training, "batch normalisation of a reader in training mode mixes the pictures of a batch"
    _check(images)
    readings = []
    for part in images.split(batch):
        windows = place_windows(part, reader.config.window).flatten(0, 1)  # [N * P, 1, W, W]
        readings.append(reader(windows.contiguous(memory_format=torch.channels_last)).softmax(dim=1).view(len(part), len(PLACES), -1))
    return torch.cat(readings)


def stray_pixels(images: Tensor, configurations: Sequence[Configuration], side: int = 32) -> Tensor:
    """Return the number [N] of pixels brighter than `INK` outside of the windows of the captioned places, of images [N, 1, A, A]."""
    outside = torch.ones(len(LAYOUTS), CANVAS_SIDE, CANVAS_SIDE, dtype=torch.bool)
    for index, layout in enumerate(LAYOUTS):
        for place in layout.places:
            y, x = window_corner(place, side)
            outside[index, max(y, 0) : y + side, max(x, 0) : x + side] = False
    layouts = torch.tensor([c.layout for c in configurations])
    return ((images[:, 0] > INK) & outside[layouts].to(images.device)).sum(dim=(1, 2))


def score(probabilities: Tensor, images: Tensor, configurations: Sequence[Configuration]) -> Scores:
    """Score each picture against its caption.

    Args:
        probabilities: [N, P, 11] of `read_canvases`.
        images: [N, 1, A, A] that were read, for the stray pixels.
        configurations: N captions.
    """
    assert len(probabilities) == len(images) == len(configurations)
    names = list(PLACES)
    targets = torch.full((len(configurations), len(PLACES)), NO_DIGIT)  # [N, P]
    for row, configuration in enumerate(configurations):
        for place, digit in zip(configuration.places, configuration.digits, strict=True):
            targets[row, names.index(place)] = digit
    targets = targets.to(probabilities.device)
    captioned = targets != NO_DIGIT
    predicted = probabilities.argmax(dim=2)  # [N, P]
    forced = probabilities[..., :NO_DIGIT].argmax(dim=2)
    clean = ((predicted == NO_DIGIT) | captioned).all(dim=1) & (stray_pixels(images, configurations) < STRAY_PIXELS)
    return Scores(
        digits=((forced == targets) | ~captioned).all(dim=1),
        places=((predicted != NO_DIGIT) | ~captioned).all(dim=1),
        clean=clean,
        joint=(predicted == targets).all(dim=1) & clean,
    )


def caption_accuracy(scores: Scores, configurations: Sequence[Configuration]) -> list[Measurement]:
    """Return the rate of each of `FIELDS` for all pictures, seen and held-out captions, held-out pictures and each layout.

    Args:
        scores: of N pictures.
        configurations: N captions.

    Returns:
        a measurement for each field of each group that has pictures.
    """
    pictures = [frozenset(zip(c.places, c.digits, strict=True)) for c in configurations]
    shown = {picture for picture, c in zip(pictures, configurations, strict=True) if c.seen}
    groups = {
        "seen": [c.seen for c in configurations],
        "held out": [not c.seen for c in configurations],
        "held-out pictures": [picture not in shown for picture in pictures],
        "all": [True for _ in configurations],
        **{_short(layout.sentence): [c.layout == index for c in configurations] for index, layout in enumerate(LAYOUTS)},
    }
    measurements = []
    for group, rows in groups.items():
        chosen = torch.tensor(rows, dtype=torch.bool)
        for name in FIELDS if any(rows) else ():
            compared = name == "joint" and group in ("seen", "held out")
            successes = int(getattr(scores, name).cpu()[chosen].sum())
            fields = {"group": group, "detail": not compared}
            measurements.append(proportion(name, successes, int(chosen.sum()), **fields))
    return measurements


def _short(sentence: str) -> str:
    """Return the position in a layout's sentence, e.g. "on the left of" or "at the top left"."""
    return sentence.removeprefix("the digit {} is ").removesuffix(" the digit {} .").removesuffix(" of the image .")


def real_canvases(digits: Digits, configurations: Sequence[Configuration], seed: int) -> Tensor:
    """Return canvases [N, 1, A, A] in 0..1 of captions, made of real digits with random handwriting and offsets."""
    nothing_hidden = HeldOut(tuple((10,) * len(layout.places) for layout in LAYOUTS))
    layouts = torch.tensor([c.layout for c in configurations])
    digit_rows = torch.tensor([(*c.digits, -1)[:2] for c in configurations])
    return CanvasMaker(digits, nothing_hidden).render(layouts, digit_rows, torch.Generator().manual_seed(seed)).images.float() / 255


def _check(images: Tensor) -> None:
    expected = (1, CANVAS_SIDE, CANVAS_SIDE)
    if images.shape[1:] != expected or not images.is_floating_point() or not len(images):
        raise ValueError(
            f"images of shape {list(images.shape)} and type {images.dtype}; expected floats [N, 1, {CANVAS_SIDE}, {CANVAS_SIDE}]"
        )
    low, high = images.min().item(), images.max().item()
    if not (low >= 0 and high <= 1):  # also when they are not numbers
        raise ValueError(f"images with values from {low} to {high}; expected 0..1")
