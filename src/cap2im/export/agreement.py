"""Whether an exported model draws what its model draws."""

from __future__ import annotations

from itertools import cycle, islice
from pathlib import Path

import numpy as np

from cap2im.export.onnx_drawing import OnnxDrawer
from cap2im.pipeline import Pipeline

PICTURES = 20


def largest_difference(pipeline: Pipeline, folder: Path) -> int:
    """Draw `PICTURES` pictures with torch and with onnxruntime, and return by how many of 255 grey levels a pixel differs at most.

    Captions are the model's examples in turn, or its first word if it has none that the exported model reads. Picture k has the seed k.

    Args:
        pipeline: the model.
        folder: the exported model.
    """
    drawer, examples, vocabulary = OnnxDrawer.load(folder), pipeline.examples, pipeline.vocabulary
    readable = [prompt.caption for prompt in pipeline.prompts(examples) if len(prompt.tokens.words) <= drawer.about.words]
    first_word = next(filter(vocabulary.is_plain, vocabulary.words))
    captions, seeds = list(islice(cycle(readable or [first_word]), PICTURES)), range(PICTURES)
    by_torch = pipeline.iterate(pipeline.prompts(captions), seeds)
    pairs = zip(by_torch, drawer.draw(captions, seed=seeds), strict=True)
    return max(int(np.abs(one.canvases.astype(int) - other.canvases).max()) for one, other in pairs)
