"""All numbers of a model on MNIST with captions, with the protocol that each was measured by."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import cap2im
from cap2im.checkpoint import WEIGHTS
from cap2im.config import DigitsData
from cap2im.data.canvas_batches import caption_tokens, load_digits
from cap2im.data.digits import Split
from cap2im.data.mnist_captions import CanvasMaker, HeldOut
from cap2im.metrics.caption_accuracy import caption_accuracy, load_reader
from cap2im.metrics.likelihood import lower_bound
from cap2im.pipeline import Pipeline
from cap2im.randomness import generator


def evaluate_digits(
    pipeline: Pipeline, *, data: Path | None, split: Split, samples: int, bound_samples: int, images: int, seed: int
) -> dict[str, Any]:
    """Caption accuracy over all 440 captions, and the bound on fresh canvases of seen configurations; JSON-ready.

    Args:
        pipeline: a model of captioned digits.
        data: folder of MNIST's files, for models trained on MNIST; None for the cache or a download.
        split: digits that the canvases of the bound, and the real canvases of caption accuracy, are made of.
        samples: drawings of each caption.
        bound_samples: L of equation 15.
        images: canvases for the bound.
        seed: of everything random.

    Raises:
        ValueError: the model was not trained on captioned digits, or the digits are missing or damaged.
    """
    trained_on = pipeline.config.get("data", {})
    if "held_out" not in trained_on:
        raise ValueError(f"{pipeline.name}: not a model of captioned digits, which is what this evaluation measures")
    held_out = HeldOut(tuple(tuple(hidden) for hidden in trained_on["held_out"]))
    recipe = DigitsData.model_validate({k: v for k, v in trained_on.items() if k != "held_out"})
    digits = load_digits(recipe.source, split, data)
    reader = load_reader()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
    work = f"{440 * samples:,} drawings, {images * bound_samples:,} posterior samples"
    print(f"measuring {pipeline.name}: {work}; a minute or a few", file=sys.stderr)  # the bar shows on terminals alone
    with Progress(*columns) as progress:
        bar = progress.add_task("drawing the 440 captions", total=440 * samples)
        accuracy = caption_accuracy(
            pipeline.images,
            reader,
            held_out,
            digits=digits,
            split=split,
            samples=samples,
            seed=seed,
            progress=lambda done, _: progress.update(bar, completed=done),
        )
        canvases = CanvasMaker(digits, held_out, recipe.variant).make(images, generator("evaluation", seed))
        tokens, mask = caption_tokens(canvases, pipeline.vocabulary)
        bar = progress.add_task("estimating the bound", total=images * bound_samples)
        likelihood = lower_bound(
            pipeline.model,
            canvases.images.float() / 255,
            tokens,
            mask,
            samples=bound_samples,
            seed=seed,
            advance=lambda pairs: progress.advance(bar, pairs),
        )
    protocol = {
        "data": recipe.source,
        "variant": recipe.variant,
        "split": split,
        "configurations": "seen",
        "held_out": [list(hidden) for hidden in held_out.digits],
        "images": images,
        "samples": bound_samples,
        "seed": seed,
        "device": pipeline.device.type,
        "torch": torch.__version__,
        "cap2im": cap2im.__version__,
    }
    return {
        "model": pipeline.name,
        "weights_sha256": pipeline.config["sha256"][WEIGHTS],
        "caption_accuracy": accuracy,
        "likelihood": {"metric": "variational lower bound, nats an image", "protocol": protocol, **likelihood.to_dict()},
    }
