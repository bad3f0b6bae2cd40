"""The routes of AttnGAN's released API (eval/main.py), for any model: `/api/v1.0/bird` and `/api/v1.0/birds`.

They answer as they were meant to. The released program put the attention maps between the pictures, so that "medium" and "large" were links
to maps, and "map1" and "map2" to whatever came next. Like it, they draw a new picture at each request and leave out unknown words; unlike
it, they answer with the seed, and take one, so that a picture can be drawn again.
"""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from cap2im.drawing import Drawing, attention_figure, maps_figure

BIRDS = 6  # pictures of one caption that /birds draws
SIZES = ("small", "medium", "large")
MAPS = ("map1", "map2")


def three_sizes(drawing: Drawing) -> list[Image.Image]:
    """The picture small, medium and large: the last stages of a model that draws in rising sizes, then halves of the smallest there is."""
    pictures = [Image.fromarray(stage.squeeze(-1) if stage.shape[2] == 1 else stage) for stage in drawing.stages[:-1][-2:]]
    pictures.append(drawing.image)
    while len(pictures) < len(SIZES):
        half = (max(1, pictures[0].width // 2), max(1, pictures[0].height // 2))
        pictures.insert(0, pictures[0].resize(half, Image.Resampling.LANCZOS))
    return pictures


def two_maps(drawing: Drawing) -> list[Image.Image | None]:
    """Where the words were read, a figure for each of the last two times; of a model that says only when, that figure; else None."""
    figures: list[Image.Image | None] = [
        maps_figure(replace(drawing, stages=(stage,), maps=(weights,)), scale=1) for stage, weights in drawing.mapped[-len(MAPS) :]
    ]
    if not figures and drawing.attention is not None:
        figures.append(attention_figure([drawing], scale=1))
    return [*figures, *[None] * (len(MAPS) - len(figures))]
