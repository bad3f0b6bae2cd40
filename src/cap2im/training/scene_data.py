"""Captioned scenes as a recipe describes them: the cut-outs, the held-out scenes and the captions of the sample grids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cap2im.config import ScenesData
from cap2im.data.cutouts import Cutouts
from cap2im.data.scene_batches import scene_tokens
from cap2im.data.scene_maker import SceneMaker, visible
from cap2im.data.scenes import HELD_OUT_KINDS, HeldOutScenes, Kind
from cap2im.data.splits import Split
from cap2im.data.vocabulary import Vocabulary
from cap2im.randomness import generator
from cap2im.training.samples import ShownCaptions

SHOWN: tuple[tuple[Split, Kind, int], ...] = (("train", "seen", 5), *(("validation", kind, 2) for kind in HELD_OUT_KINDS))
EXAMPLES = 10  # captions that a model folder names


@dataclass(frozen=True)
class SceneData:
    """The cut-outs of a training and the scenes hidden from it.

    Attributes:
        cutouts: of the things and styles that training shows.
        held_out: hidden scenes.
    """

    cutouts: Cutouts
    held_out: HeldOutScenes

    @classmethod
    def load(cls, settings: ScenesData, path: str | Path | None) -> SceneData:
        """Open prepared cut-outs.

        Args:
            settings: of the recipe.
            path: of the prepared folder.

        Raises:
            ValueError: no folder is given, it is not prepared or damaged, or lacks a thing or a style.
        """
        if path is None:
            raise ValueError("this recipe trains on cut-outs: give their folder with --data (cap2im prepare cutouts makes one)")
        everything = Cutouts.open(path)
        if settings.reading_style and settings.reading_style not in everything.styles:
            raise ValueError(f"{path}: data.reading_style {settings.reading_style!r} is none of its styles: {', '.join(everything.styles)}")
        shown = [style for style in everything.styles if style != settings.reading_style]
        if not shown:
            raise ValueError(f"{path}: data.reading_style {settings.reading_style!r} is its only style, and none is left to train on")
        cutouts = everything.choose(settings.things, shown)
        held_out = HeldOutScenes.from_seed(settings.held_out_seed, cutouts.nouns, visible(cutouts), sides=settings.sides)
        return cls(cutouts, held_out)

    def maker(self, side: int) -> SceneMaker:
        """Return a maker of scenes."""
        return SceneMaker(self.cutouts, self.held_out, side)

    def about(self) -> dict[str, Any]:
        """Return the entries of `config.json` that rebuild captions and splits without the cut-outs; see `HeldOutScenes.from_model`."""
        examples = self.held_out.captions(self.held_out.draw(EXAMPLES, generator("example scenes")))
        return {"scenes": self.held_out.about(), "dataset": self.cutouts.about(), "shown": examples}

    def shown(self, maker: SceneMaker, vocabulary: Vocabulary) -> ShownCaptions:
        """Return the captions of the sample grids with painted scenes: some that training shows, and some of each held-out kind."""
        captions, texts, images = [], [], []
        for split, kind, count in SHOWN:
            if not self.held_out.has(split, kind):
                continue
            random = generator("shown scenes", kind)
            painted = maker.render(self.held_out.draw(count, random, split, kind), random)
            captions += painted.captions
            texts += [f"{caption} ({'training' if kind == 'seen' else f'held-out {kind}'})" for caption in painted.captions]
            images.append(painted.images.float() / 255)
        return ShownCaptions(tuple(texts), *scene_tokens(captions, vocabulary), None, torch.cat(images))
