"""The figures of the alignDRAW paper (arXiv:1511.02793), for any model: `cap2im figures`.

Figure 1: scenes that training never showed. Figures 3 and 4: captions of which a word is changed, drawn from one seed, and the training
images nearest to the drawings. Figure 5: the words attended to most. Figure 6: captioned digits with their attention, seen and held out.
Figure 7: before and after sharpening.

Shapes: T glimpses, L words, H W canvas, C colours.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cap2im.config import DigitsData
from cap2im.data.captioned_images import CaptionedImages
from cap2im.data.dataset import PreparedDataset
from cap2im.data.mnist import load_digits
from cap2im.data.mnist_captions import CanvasMaker, Configuration, HeldOut
from cap2im.files import atomic_path, check_writable_folder
from cap2im.metrics.ssim import nearest_images
from cap2im.pipeline import Pipeline
from cap2im.randomness import generator
from cap2im.rendering.drawing import Drawing
from cap2im.rendering.folder import slug

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL = 1.7  # inches: side of a picture
SEEN_AND_HELD_OUT = 4  # rows of figure 6
NOVEL = 8  # scenes of figure 1, for captioned digits
SHARPENED = 6  # drawings of figure 7
COMPARED = 5  # captions of the picture of several models
MODEL_KEY = "model"  # in a figure's PNG text
MOST_WORDS = 12  # of figure 5
EXAMPLES, EXAMPLES_A_ROW, ATTENDED = 8, 4, 4  # captions of a model's own data; of them those whose words are shown

PAPER_NOVEL = (
    "a stop sign is flying in blue skies .",
    "a herd of elephants flying in the blue skies .",
    "a toilet seat sits open in the grass field .",
    "a person skiing on sand clad vast desert .",
)
PAPER_FLIPS = (
    tuple(f"a {colour} school bus parked in a parking lot ." for colour in ("yellow", "red", "green", "blue")),
    ("the decadent chocolate desert is on the table .", "a bowl of bananas is on the table ."),
    ("a vintage photo of a cat .", "a vintage photo of a dog ."),
    ("a very large commercial plane flying in blue skies .", "a very large commercial plane flying in rainy skies ."),
    ("a herd of elephants walking across a dry grass field .", "a herd of elephants walking across a green grass field ."),
)
PAPER_ATTENDED = (
    ("a rider on a blue motorcycle in the desert .", "a rider on a blue motorcycle in the forest ."),
    ("a surfer , a woman , and a child walk on the beach .", "a surfer , a woman , and a child walk on the sun ."),
)
DIGIT_FLIPS = (
    tuple(f"the digit {d} is at the top of the digit one ." for d in ("three", "four", "seven", "eight")),
    tuple(
        f"the digit five is {where} the digit two ." for where in ("on the left of", "on the right of", "at the top of", "at the bottom of")
    ),
    tuple(f"the digit seven is at the {corner} of the image ." for corner in ("top left", "top right", "bottom left", "bottom right")),
)

Nearest = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""Pictures [N, H, W, C] uint8 to the nearest training images of the same shape."""


@dataclass(frozen=True)
class Subjects:
    """What to draw.

    Attributes:
        novel: scenes that training never showed (figure 1).
        flips: groups of captions that differ in a word or two (figures 3 and 4).
        attended: such groups for the words attended to (figure 5).
        examples: captions of the model's own data, where it has neither digits nor the paper's captions.
        unknown: captions of the paper that were left out, since the model does not know a word of them.
    """

    novel: tuple[str, ...]
    flips: tuple[tuple[str, ...], ...]
    attended: tuple[tuple[str, ...], ...]
    unknown: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()


def subjects(pipeline: Pipeline, groups: Sequence[Sequence[str]] = ()) -> Subjects:
    """Return the captions of a model's figures.

    They are the user's groups; or else digits, for a model of those; or captions of the model's own data; or the paper's captions, for a
    model that does not say what it was trained on.

    Raises:
        ValueError: the model does not know a word of the user's captions.
    """
    if groups:
        pipeline.tokens([caption for group in groups for caption in group])
        given = tuple(tuple(group) for group in groups)
        return Subjects((), given, given)
    if held_out := _held_out(pipeline):
        novel = [c.caption for c in held_out.configurations() if not c.seen]
        return Subjects(tuple(_spread(novel, NOVEL)), DIGIT_FLIPS, DIGIT_FLIPS[:2])
    if own := tuple(pipeline.examples[:EXAMPLES]):
        return Subjects((), (), (own[:ATTENDED],), examples=own)
    captions = [*PAPER_NOVEL, *(c for group in (*PAPER_FLIPS, *PAPER_ATTENDED) for c in group)]
    unknown = {caption for caption in captions if not _knows(pipeline, caption)}
    flips, attended = _known(PAPER_FLIPS, unknown), _known(PAPER_ATTENDED, unknown)
    return Subjects(tuple(c for c in PAPER_NOVEL if c not in unknown), flips, attended or flips[:1], tuple(sorted(unknown)))


def nearest_training_images(pipeline: Pipeline, data: str | Path | None) -> Nearest:
    """Finds the training images nearest to pictures: of captioned digits, among as many canvases as an epoch shows.

    Args:
        pipeline: whose training images.
        data: the folder of MNIST's files (None for the cache or a download), or a prepared dataset.

    Raises:
        ValueError: data are missing or damaged.
    """
    colours, side = pipeline.model.config.colours, pipeline.model.config.side
    if (held_out := _held_out(pipeline)) is not None:
        settings = DigitsData.from_model(pipeline.config["data"])
        digits = load_digits(settings.source, "train", None if data is None else Path(data))
        maker = CanvasMaker(digits, held_out, settings.variant)
        images = maker.make(settings.samples_per_epoch, generator("canvases", 0, 0)).images  # [M, 1, A, A]
    elif data is None:
        raise ValueError(f"{pipeline.name} draws more than captioned digits: give its prepared dataset with --data")
    else:
        images = CaptionedImages(PreparedDataset.open(data), "train").all_pixels(colours, side)  # [M, C, A, A]

    def nearest(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
        rows, _ = nearest_images(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255, images)
        return images[rows].permute(0, 2, 3, 1).numpy()

    return nearest


def _known(groups: Iterable[tuple[str, ...]], unknown: set[str]) -> tuple[tuple[str, ...], ...]:
    return tuple(group for group in groups if not unknown.intersection(group))


def _knows(pipeline: Pipeline, caption: str) -> bool:
    try:
        pipeline.tokens([caption])
    except ValueError:
        return False
    return True


def _held_out(pipeline: Pipeline) -> HeldOut | None:
    """The configurations hidden from a model of captioned digits; None for other models."""
    hidden = pipeline.config.get("data", {}).get("held_out")
    return None if hidden is None else HeldOut(tuple(tuple(digits) for digits in hidden))


def write_figures(
    pipeline: Pipeline,
    folder: Path,
    wanted: Subjects,
    *,
    seed: int = 0,
    nearest: Nearest | None = None,
) -> list[Path]:
    """Draws and writes every figure that the model can have, as PNG.

    Args:
        pipeline: the model; one with a sharpener has figure 7, and is unsharpened in the others.
        folder: is made if it is missing.
        wanted: what to draw.
        seed: the one seed of all drawings.
        nearest: finds the training images of figure 4; None leaves it out.

    Raises:
        ValueError: matplotlib is not installed, or there is nothing to draw.
    """
    check_figures(pipeline, wanted, folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []

    def save(name: str, figure: Figure) -> None:
        with atomic_path(folder / f"{name}.png") as draft:
            figure.savefig(draft, dpi=144, format="png", metadata={MODEL_KEY: pipeline.name})
        written.append(folder / f"{name}.png")

    plain = dataclasses.replace(pipeline, sharpening=None)

    def draw(captions: Sequence[str]) -> list[Drawing]:
        return plain.draw(list(captions), seed=seed)

    if wanted.novel:
        save("figure-1-novel-scenes", pictures([draw(wanted.novel[i : i + 4]) for i in range(0, len(wanted.novel), 4)]))
    rows = [wanted.examples[i : i + EXAMPLES_A_ROW] for i in range(0, len(wanted.examples), EXAMPLES_A_ROW)]
    flips = [draw(group) for group in (*wanted.flips, *rows)]
    if rows:
        save("captions-of-its-data", pictures(flips[len(wanted.flips) :]))
    if wanted.flips:
        save("figure-3-caption-flips", pictures(flips[: len(wanted.flips)]))
    if nearest is not None and flips:
        save("figure-4-nearest-training-images", pictures([row for group in flips for row in (_nearest_row(group, nearest), group)]))
    attended = [drawing for group in wanted.attended for drawing in draw(group) if drawing.attention is not None]
    if attended:
        save("figure-5-attended-words", attended_words(attended))
    held_out = _held_out(pipeline)
    if held_out is not None and all(_of_different_layouts(held_out, seen) for seen in (True, False)):
        save("figure-6-seen-and-held-out", seen_and_held_out(plain, held_out, seed))
    if pipeline.sharpening is not None:
        captions = [caption for group in (wanted.novel, *wanted.flips, wanted.examples) for caption in group][:SHARPENED]
        after = pipeline.draw(captions, seed=seed)
        before = [Panel(drawing.canvases[-2], drawing.caption) for drawing in after]
        save("figure-7-sharpening", pictures([before, after], ("before", "after sharpening")))
    return written


def check_figures(pipeline: Pipeline, wanted: Subjects, folder: Path) -> None:
    """Check all that can be checked before anything is read or drawn.

    Raises:
        ValueError: matplotlib is not installed, there is nothing to draw, or the folder cannot be written.
    """
    needs_matplotlib()
    if not (wanted.novel or wanted.flips or wanted.examples):
        raise ValueError(f"{pipeline.name}: no captions to draw; give some with --captions")
    check_writable_folder(folder)


def folder_for(model: str, folder: Path) -> Path:
    """Return a folder for a model's figures: `folder`, or one beside it with the model's name where it holds figures of another model."""
    chosen, number = folder, 1
    while _models_of(chosen) - {model}:
        chosen = folder.with_name(f"{folder.resolve().name}-{slug(model)}" + ("" if number == 1 else f"-{number}"))
        number += 1
    return chosen


def _models_of(folder: Path) -> set[str]:
    """The names of the models whose figures are in a folder; an empty one for figures that do not say."""
    models = set()
    for path in (*folder.glob("figure-[1-7]-*.png"), *folder.glob("captions-of-its-data.png")):
        try:
            with Image.open(path) as picture:
                models.add(str(picture.info.get(MODEL_KEY, "")))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            models.add("")
    return models


def needs_matplotlib() -> None:
    """Check that figures can be drawn.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise ValueError("figures need more than the core; in the checkout: pip install -c constraints.txt '.[metrics]'") from None


@dataclass(frozen=True)
class Panel:
    """A picture with words above it."""

    picture: NDArray[np.uint8]
    title: str


def _nearest_row(drawings: Sequence[Drawing], nearest: Nearest) -> list[Panel]:
    found = nearest(np.stack([drawing.canvases[-1] for drawing in drawings]))
    return [Panel(picture, "nearest training image") for picture in found]


def pictures(rows: Sequence[Sequence[Drawing | Panel]], names: Sequence[str] = ()) -> Figure:
    """Rows of pictures, each with its caption above it.

    Args:
        rows: of drawings, or of other pictures.
        names: of the rows, told on their left.
    """
    from matplotlib.figure import Figure

    columns = max(len(row) for row in rows)
    figure = Figure(figsize=(columns * (PANEL + 0.25) + 0.3, len(rows) * (PANEL + 0.62)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for index, (row, places) in enumerate(zip(rows, axes, strict=True)):
        for place in places:
            place.set_axis_off()
        for place, item in zip(places, row, strict=False):
            panel = Panel(item.canvases[-1], item.caption) if isinstance(item, Drawing) else item
            _show(place, panel.picture)
            place.set_title(_wrapped(panel.title), fontsize=7)
        if names:
            places[0].text(-0.06, 0.5, names[index], transform=places[0].transAxes, rotation=90, ha="right", va="center", fontsize=8)
    return figure


def comparison_picture(pipelines: Sequence[Pipeline], seed: int) -> Figure:
    """The same captions from the same seed by several models, a row each (figure 5, bottom).

    Raises:
        ValueError: matplotlib is not installed, or the models share no captions that they know.
    """
    needs_matplotlib()
    captions: list[str] = []
    for wanted in map(subjects, pipelines):
        captions += [*(group[0] for group in wanted.flips), *wanted.novel, *(caption for group in wanted.flips for caption in group[1:])]
        captions += wanted.examples
    captions = list(dict.fromkeys(captions))
    known = [caption for caption in captions if all(_knows(pipeline, caption) for pipeline in pipelines)][:COMPARED]
    if not known:
        raise ValueError(f"{', '.join(pipeline.name for pipeline in pipelines)}: know none of each other's example captions")
    return pictures([pipeline.draw(known, seed=seed) for pipeline in pipelines], [pipeline.name for pipeline in pipelines])


def _show(place: Axes, picture: NDArray[np.uint8]) -> None:
    grey: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 255}
    place.imshow(picture[..., 0] if picture.shape[2] == 1 else picture, interpolation="nearest", **(grey if picture.shape[2] == 1 else {}))


def _wrapped(text: str, width: int = 26) -> str:
    return "\n".join(textwrap.wrap(text.removesuffix(" ."), width))


def attended_words(drawings: Sequence[Drawing]) -> Figure:
    """Each drawing beside its words, those read most on top, by their mean attention over the glimpses (figure 5).

    Raises:
        ValueError: a drawing has no attention.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, (len(drawings) + 1) // 2 * (PANEL + 0.55)), layout="constrained")
    axes = figure.subplots((len(drawings) + 1) // 2, 4, squeeze=False, width_ratios=(1, 1.5, 1, 1.5)).reshape(-1, 2)
    for picture, bars in axes:
        picture.set_axis_off()
        bars.set_axis_off()
    for (picture, bars), drawing in zip(axes, drawings, strict=False):
        if drawing.attention is None:
            raise ValueError(f"{drawing.model} does not attend to words")
        _show(picture, drawing.canvases[-1])
        picture.set_title(_wrapped(drawing.caption), fontsize=7)
        weights = drawing.attention.mean(axis=0)  # [L]
        most = np.argsort(-weights, kind="stable")[:MOST_WORDS]
        bars.set_axis_on()
        bars.barh(range(len(most)), weights[most], color="#5b5bd6")
        bars.set_yticks(range(len(most)), [f"{drawing.words[i]} ({i + 1})" for i in most], fontsize=6)
        bars.tick_params(axis="x", labelsize=6)
        bars.set_xlim(0, 1)
        bars.invert_yaxis()
        bars.spines[["top", "right"]].set_visible(False)
        bars.set_title("mean attention; in brackets the word's place", fontsize=6)
    return figure


def seen_and_held_out(pipeline: Pipeline, held_out: HeldOut, seed: int) -> Figure:
    """Captioned digits with their attention: on the left captions that training showed, on the right hidden ones (figure 6)."""
    from matplotlib.figure import Figure

    sides = [_of_different_layouts(held_out, seen) for seen in (True, False)]
    figure = Figure(figsize=(12, SEEN_AND_HELD_OUT * (PANEL + 0.75)), layout="constrained")
    halves: Any = figure.subfigures(1, 2)
    for half, configurations, told in zip(halves, sides, ("seen in training", "hidden from training"), strict=True):
        half.suptitle(told, fontsize=10)
        axes = half.subplots(len(configurations), 2, squeeze=False, width_ratios=(1, 1.6))
        drawings = pipeline.draw([c.caption for c in configurations], seed=seed)
        for (picture, heat), drawing in zip(axes, drawings, strict=True):
            picture.set_axis_off()
            _show(picture, drawing.canvases[-1])
            picture.set_title(_wrapped(drawing.caption), fontsize=7)
            if drawing.attention is None:
                heat.set_axis_off()
                continue
            heat.imshow(drawing.attention.T, aspect="auto", cmap="Purples", vmin=0, vmax=1, interpolation="nearest")
            heat.set_yticks(range(len(drawing.words)), drawing.words, fontsize=6)
            heat.set_xticks([0, drawing.glimpses - 1], ["1", str(drawing.glimpses)], fontsize=6)
            heat.set_xlabel("glimpse", fontsize=6, labelpad=-4)
    return figure


def _spread(captions: Sequence[str], count: int) -> list[str]:
    """At most `count` captions from all over a list."""
    return [captions[i] for i in np.linspace(0, len(captions) - 1, min(count, len(captions))).astype(int)]


def _of_different_layouts(held_out: HeldOut, seen: bool) -> list[Configuration]:
    """A few configurations, of different layouts."""
    layouts = (0, 2, 3, 7) if seen else (0, 1, 2, 5)
    chosen = []
    for layout in layouts:
        there = [c for c in held_out.configurations() if c.layout == layout and c.seen == seen]
        chosen += there[len(there) // 3 :][:1]
    return chosen


def image_of(figure: Figure) -> Image.Image:
    """A figure as a picture, for notebooks and tests."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
