"""The figures of the alignDRAW paper (arXiv:1511.02793), for any model.

Figure 1: scenes outside the training data. Figures 3 and 4: captions with a changed word, drawn from one seed, and the training images
nearest to the drawings. Figure 5: the words with the most attention. Figure 6: captioned digits with their attention, seen in training
and held out. Figure 7: before and after sharpening.

Shapes: H W canvas, C colours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cap2im.config import DigitsData
from cap2im.data.captioned_images import CaptionedImages
from cap2im.data.dataset import PreparedDataset
from cap2im.data.mnist import load_digits
from cap2im.data.mnist_captions import CanvasMaker
from cap2im.evaluation.figure_captions import FigureCaptions, configurations_of_layouts, model_held_out, shared_captions
from cap2im.files import check_writable_folder, write_atomically
from cap2im.metrics.nearest_images import nearest_images
from cap2im.pipeline import Pipeline
from cap2im.randomness import generator
from cap2im.rendering.attention import attended_words, attention_columns
from cap2im.rendering.drawing import Drawing
from cap2im.rendering.folder import slug
from cap2im.rendering.images import png_bytes
from cap2im.rendering.panels import Panel, Row, panel_rows

COLUMNS = 4  # drawings in a row of figure 1 and of a model's own captions
SHARPENED = 6  # drawings of figure 7
MODEL_KEY = "model"  # entry of a figure's PNG text

Nearest = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""Map pictures [N, H, W, C] uint8 to the nearest training images of the same shape."""


def nearest_training_images(pipeline: Pipeline, data: str | Path | None) -> Nearest:
    """Return a function that finds the training images nearest to pictures.

    For captioned digits, the search covers as many canvases as an epoch has.

    Args:
        pipeline: the model whose training images are searched.
        data: a prepared dataset, or the folder of MNIST's files (None for the cache or a download).

    Raises:
        ValueError: data are missing or damaged.
    """
    colours, side = pipeline.model.config.colours, pipeline.model.config.side
    if (held_out := model_held_out(pipeline)) is not None:
        settings = DigitsData.from_model(pipeline.config.data)
        digits = load_digits(settings.source, "train", None if data is None else Path(data))
        maker = CanvasMaker(digits, held_out, settings.variant)
        images = maker.make(settings.samples_per_epoch, generator("canvases", 0, 0)).images  # [M, 1, A, A]
    elif data is None:
        raise ValueError(f"{pipeline.name} was not trained on captioned digits: give its prepared dataset with --data")
    else:
        images = CaptionedImages(PreparedDataset.open(data), "train").all_pixels(colours, side)  # [M, C, A, A]

    def nearest(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
        rows, _ = nearest_images(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255, images)
        return images[rows].permute(0, 2, 3, 1).numpy()

    return nearest


def write_figures(
    pipeline: Pipeline, folder: Path, captions: FigureCaptions, *, seed: int = 0, nearest: Nearest | None = None
) -> list[Path]:
    """Draw every figure that a model can have, and write each as PNG.

    Args:
        pipeline: the model. A sharpener adds figure 7; the other figures are not sharpened.
        folder: created if it is missing.
        captions: of the figures.
        seed: of every drawing.
        nearest: finds the training images of figure 4; None leaves the figure out.

    Returns:
        The written files.

    Raises:
        ValueError: there is nothing to draw.
    """
    check_figures(pipeline, captions, folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in _figures(pipeline, captions, seed, nearest):
        path = folder / f"{name}.png"
        write_atomically(path, png_bytes(figure, {MODEL_KEY: pipeline.name}))
        written.append(path)
    return written


def _figures(pipeline: Pipeline, captions: FigureCaptions, seed: int, nearest: Nearest | None) -> Iterator[tuple[str, Image.Image]]:
    """Yield the name and the picture of each figure that a model can have."""
    unsharpened = dataclasses.replace(pipeline, sharpening=None)

    def draw(group: Sequence[str]) -> list[Drawing]:
        return unsharpened.draw(list(group), seed=seed)

    if captions.novel:
        yield "figure-1-novel-scenes", _drawing_rows([draw(group) for group in _groups(captions.novel)])
    flips, examples = [draw(group) for group in captions.flips], [draw(group) for group in _groups(captions.examples)]
    if examples:
        yield "captions-of-its-data", _drawing_rows(examples)
    if flips:
        yield "figure-3-caption-flips", _drawing_rows(flips)
    if nearest is not None and (searched := flips or examples):
        pairs = [row for group in searched for row in (_nearest_row(group, nearest), _drawing_row(group))]
        yield "figure-4-nearest-training-images", panel_rows(pairs)
    attended = [drawing for group in captions.attended for drawing in draw(group) if drawing.attention is not None]
    if attended:
        yield "figure-5-attended-words", attended_words(attended)
    if (held_out := model_held_out(pipeline)) is not None:
        columns = [configurations_of_layouts(held_out, seen) for seen in (True, False)]
        if all(columns):
            seen, hidden = (draw([configuration.caption for configuration in column]) for column in columns)
            if seen[0].attention is not None:
                yield "figure-6-seen-and-held-out", attention_columns([("seen in training", seen), ("held out", hidden)])
            else:
                rows = [_drawing_row(seen, "seen in training"), _drawing_row(hidden, "held out")]
                yield "figure-6-seen-and-held-out", panel_rows(rows)
    if pipeline.sharpening is not None:
        group = [caption for group in (captions.novel, *captions.flips, captions.examples) for caption in group][:SHARPENED]
        after = pipeline.draw(group, seed=seed)
        before = [Panel(drawing.canvases[-2], Panel.from_drawing(drawing).title) for drawing in after]
        yield "figure-7-sharpening", panel_rows([Row(before, "before sharpening"), _drawing_row(after, "after sharpening")])


def check_figures(pipeline: Pipeline, captions: FigureCaptions, folder: Path) -> None:
    """Check what can be checked before anything is read or drawn.

    Raises:
        ValueError: there is nothing to draw, or the folder cannot be written.
    """
    if not (captions.novel or captions.flips or captions.examples):
        raise ValueError(f"{pipeline.name}: no captions to draw; give some with --captions")
    check_writable_folder(folder)


def figure_folder(model: str, folder: Path) -> Path:
    """Return `folder`, or a folder beside it named after the model if `folder` holds figures of another model."""
    chosen, number = folder, 1
    while _figure_models(chosen) - {model}:
        chosen = folder.with_name(f"{folder.resolve().name}-{slug(model)}" + ("" if number == 1 else f"-{number}"))
        number += 1
    return chosen


def _figure_models(folder: Path) -> set[str]:
    """Return the models of the figures in a folder; "" stands for figures that name none."""
    models = set()
    for path in (*folder.glob("figure-[1-7]-*.png"), *folder.glob("captions-of-its-data.png")):
        try:
            with Image.open(path) as picture:
                models.add(str(picture.info.get(MODEL_KEY, "")))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            models.add("")
    return models


def comparison_figure(pipelines: Sequence[Pipeline], seed: int) -> Image.Image:
    """Draw the same captions from the same seed by several models, a row each (figure 5, bottom).

    Raises:
        ValueError: the models share no captions.
    """
    captions = shared_captions(pipelines)
    rows = [_drawing_row(pipeline.draw(captions, seed=seed), pipeline.name) for pipeline in pipelines]
    untitled = [Row([Panel(panel.picture) for panel in row.panels], row.heading) for row in rows[1:]]
    return panel_rows([rows[0], *untitled])


def _groups(captions: Sequence[str]) -> list[Sequence[str]]:
    return [captions[start : start + COLUMNS] for start in range(0, len(captions), COLUMNS)]


def _drawing_row(drawings: Sequence[Drawing], heading: str = "") -> Row:
    return Row([Panel.from_drawing(drawing) for drawing in drawings], heading)


def _drawing_rows(groups: Sequence[Sequence[Drawing]]) -> Image.Image:
    return panel_rows([_drawing_row(drawings) for drawings in groups])


def _nearest_row(drawings: Sequence[Drawing], nearest: Nearest) -> Row:
    pictures = nearest(np.stack([drawing.canvases[-1] for drawing in drawings]))
    return Row([Panel(picture) for picture in pictures], "nearest training images of the row below")
