"""Compositional accuracy: whether a drawing of a captioned scene shows the named things in the named relation on the named background.

This is the complete definition. A scene has five places (`PLACES`): the middle for one large thing, and left, right, top and bottom for
smaller things. A small network, the composition reader, which is trained on cut-outs only (`cap2im.training.composition_reader`), reads a
window of the picture around each place without the caption: one of its things, or "nothing", which is also the class of parts of things at
other places, of blends of two things and of blots. It also reads the background, one of the named colours. Pictures larger than `SIDE`
pixels are first reduced, smaller ones enlarged. The class of a window is the most probable one.

A thing in the middle covers parts of all other places. The probability of a thing at another place is therefore multiplied by that of
"nothing" in the middle.

For one drawing and its caption:

- things: every named thing is read at some place, whichever; two equal things are read at two places;
- background: the most probable background is the named one. Captions that name none do not count;
- relation: the places that hold a thing, whichever it is, are exactly those of the caption, and two different named things are more
  probable at their own sides than at each other's. (A drawing of two other things at these places is therefore right about half of the
  time; "things" finds it.)
- joint: the class at every place is exactly the captioned one, "nothing" at all other places, and the background is the named one, if one
  is named. This is the number to compare. It implies the other three.

Captions are grouped by what training shows (`cap2im.data.scenes.HeldOutScenes`): seen; and held out, either a pair of a thing and a
background, a triple of two things and their relation, or a word that training shows in another sentence only. One of the three is held out
of a caption, and the kinds are drawn equally often.

Rates have 95 % Wilson intervals, which cover the choice of captions and the randomness of the drawings; another training run of the same
model may differ by more. The groups "real" are the ceiling: the same captions, painted from cut-outs in the styles of drawing that the
model was trained on, and in the reading style, which only the reader was trained on.

Beauty and variety are not measured. The reader is only fair to models that were not optimised against it: pictures optimised against a
network's weights fool it, so a model must not be trained or selected on it.

Shapes: N pictures, P = 5 places, A side, W window side, V things, G backgrounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cap2im.data.scenes import BACKGROUND_NAMES, HELD_OUT_KINDS, LAYOUTS, PLACES, Scene
from cap2im.metrics.criteria import Criteria
from cap2im.metrics.measurement import ItemValues, Measurement, proportion
from cap2im.models.composition_reader import CompositionReader, CompositionReaderConfig

SIDE = 32  # pixels, of the pictures that are read
READER = "reader-scenes"  # the bundled composition reader, whose numbers can be compared
FIELDS = ("things", "background", "relation", "joint")


@dataclass(frozen=True)
class Readings:
    """What a reader reads in N pictures.

    Attributes:
        things: probabilities [N, P, V + 1] of the things and of "nothing" at each place, in the order of `PLACES`.
        backgrounds: probabilities [N, G].
    """

    things: Tensor
    backgrounds: Tensor


@dataclass(frozen=True)
class Targets:
    """The content of N captions, as classes of a reader.

    Attributes:
        things: [N, P] class at each place; "nothing" where the caption says nothing.
        backgrounds: [N] class; -1 if the caption names none.
    """

    things: Tensor
    backgrounds: Tensor

    def __getitem__(self, rows: slice) -> Targets:
        """Return some of the captions."""
        return Targets(self.things[rows], self.backgrounds[rows])


@dataclass(frozen=True)
class Scores(Criteria):
    """Which criteria each of N pictures meets: booleans [N], defined in the module's docstring.

    A background that the caption does not name is right.
    """

    things: Tensor
    background: Tensor
    relation: Tensor
    joint: Tensor


def place_windows(images: Tensor, side: int) -> Tensor:
    """Return windows [N, P, 3, W, W] around the places, in the order of `PLACES`, of images [N, 3, A, A] of any side.

    The window of the middle is the whole picture, reduced. The others are cut out of `SIDE` x `SIDE` pixels; those at the edge repeat its
    pixels.
    """
    if images.shape[-1] != SIDE:
        images = _fitted(images, SIDE)
    padded = F.pad(images, (side,) * 4, mode="replicate")
    windows = []
    for place in PLACES.values():
        if place.rows == place.columns:  # the whole picture
            windows.append(_fitted(images, side))
            continue
        y, x = (side + round(SIDE * (low + high) / 2 - side / 2) for low, high in (place.rows, place.columns))
        windows.append(padded[:, :, y : y + side, x : x + side])
    return torch.stack(windows, dim=1)


def _fitted(images: Tensor, side: int) -> Tensor:
    return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True, align_corners=False)


@torch.no_grad()
def read_pictures(reader: CompositionReader, images: Tensor, batch: int = 256) -> Readings:
    """Read pictures.

    Args:
        reader: in evaluation mode.
        images: [N, 3, A, A] in 0..1.
        batch: pictures at a time; it changes only the memory that is used.

    Raises:
        ValueError: images have another shape, are not floats, or have values outside of 0..1.
    """
    assert not reader.training, "batch normalisation of a reader in training mode mixes the pictures of a batch"
    _check(images)
    things, backgrounds = [], []
    for part in images.split(batch):
        windows = place_windows(part, reader.config.window)
        of_things, of_backgrounds = reader(windows.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        things.append(_exclusive(of_things.softmax(dim=1).view(len(part), len(PLACES), -1)))
        backgrounds.append(of_backgrounds.view(len(part), len(PLACES), -1)[:, 0].softmax(dim=1))
    return Readings(torch.cat(things), torch.cat(backgrounds))


def _exclusive(probabilities: Tensor) -> Tensor:
    """Return probabilities [N, P, V + 1] in which a place other than the middle holds a thing only as far as the middle holds none."""
    middle = list(PLACES).index("middle")
    free = probabilities[:, middle, -1, None, None]  # [N, 1, 1]
    things = probabilities[..., :-1] * free
    things[:, middle] = probabilities[:, middle, :-1]
    return torch.cat([things, 1 - things.sum(dim=2, keepdim=True)], dim=2)


def targets_of(scenes: Sequence[Scene], things: Sequence[str], reader: CompositionReaderConfig) -> Targets:
    """Return the content of captions, as classes of a reader.

    Args:
        scenes: N scenes.
        things: names of the things that the scenes number.
        reader: names its classes.

    Raises:
        ValueError: the reader does not know a thing or a background.
    """
    classes = {name: index for index, name in enumerate(reader.things)}
    if unknown := [name for name in things if name not in classes]:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise ValueError(f"the composition reader does not know {', '.join(unknown[:5])}{more}; train one on these things")
    if unknown := [name for name in BACKGROUND_NAMES if name not in reader.backgrounds]:
        raise ValueError(f"the composition reader does not know the background {unknown[0]}")
    names = list(PLACES)
    targets = torch.full((len(scenes), len(PLACES)), reader.nothing)
    for row, scene in enumerate(scenes):
        for place, thing in zip(scene.places, scene.things, strict=True):
            targets[row, names.index(place)] = classes[things[thing]]
    backgrounds = [-1 if scene.background < 0 else reader.backgrounds.index(BACKGROUND_NAMES[scene.background]) for scene in scenes]
    return Targets(targets, torch.tensor(backgrounds))


def score(readings: Readings, targets: Targets) -> Scores:
    """Score each picture against its caption."""
    assert len(readings.things) == len(targets.things)
    nothing = readings.things.shape[2] - 1
    wanted, named = targets.things.to(readings.things.device), targets.backgrounds.to(readings.things.device)
    captioned = wanted != nothing  # [N, P]
    read = readings.things.argmax(dim=2)

    times_wanted = (wanted[:, :, None] == wanted[:, None]).sum(dim=2)
    times_read = (wanted[:, :, None] == read[:, None]).sum(dim=2)
    things = ((times_read >= times_wanted) | ~captioned).all(dim=1)
    background = (readings.backgrounds.argmax(dim=1) == named) | (named < 0)
    occupied = ((read != nothing) == captioned).all(dim=1)
    return Scores(
        things=things,
        background=background,
        relation=occupied & ~_exchanged(readings.things, wanted, captioned),
        joint=(read == wanted).all(dim=1) & background,
    )


def _exchanged(probabilities: Tensor, wanted: Tensor, captioned: Tensor) -> Tensor:
    """Return whether two different named things are at least as probable at each other's place as at their own, [N]."""
    places = captioned.float().topk(2, dim=1).indices  # [N, 2]; of one thing, its place and another
    two = captioned.sum(dim=1) == 2
    names = wanted.take_along_dim(places, dim=1)  # [N, 2]
    at_places = probabilities.take_along_dim(places[..., None], dim=1)  # [N, 2, V + 1]
    own = at_places.take_along_dim(names[..., None], dim=2).clamp(min=1e-30).log().sum(dim=(1, 2))
    other = at_places.take_along_dim(names.flip(1)[..., None], dim=2).clamp(min=1e-30).log().sum(dim=(1, 2))
    return two & (names[:, 0] != names[:, 1]) & (other >= own)


def compositional_accuracy(scores: Scores, scenes: Sequence[Scene]) -> list[Measurement]:
    """Return the rate of each of `FIELDS` for seen and held-out captions, each kind of held-out captions, and each layout of both.

    Args:
        scores: of N pictures.
        scenes: N captions.

    Returns:
        a measurement for each field of each group that has pictures; for `background`, that has captions which name one.
    """
    groups = {
        "seen": [scene.kind == "seen" for scene in scenes],
        "held out": [scene.kind != "seen" for scene in scenes],
        **{f"held-out {kind}s": [scene.kind == kind for scene in scenes] for kind in HELD_OUT_KINDS},
    }
    for index, layout in enumerate(LAYOUTS):
        groups[f"seen, {layout.name}"] = [scene.kind == "seen" and scene.layout == index for scene in scenes]
        groups[f"held out, {layout.name}"] = [scene.kind != "seen" and scene.layout == index for scene in scenes]
    named = torch.tensor([scene.background >= 0 for scene in scenes], dtype=torch.bool)
    measurements = []
    for group, rows in groups.items():
        for name in FIELDS:
            chosen = torch.tensor(rows, dtype=torch.bool)
            if name == "background":
                chosen &= named
            if not chosen.any():
                continue
            met = getattr(scores, name).cpu()[chosen]
            compared = group in ("seen", "held out")
            values = ItemValues.of(met) if compared and name == "joint" else None
            measurements.append(proportion(name, int(met.sum()), len(met), group=group, detail=not compared, per_item=values))
    return measurements


def _check(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3] or not images.is_floating_point() or not len(images):
        raise ValueError(f"images of shape {list(images.shape)} and type {images.dtype}; expected floats [N, 3, A, A]")
    low, high = images.min().item(), images.max().item()
    if not (low >= 0 and high <= 1):  # also when they are not numbers
        raise ValueError(f"images with values from {low} to {high}; expected 0..1")
