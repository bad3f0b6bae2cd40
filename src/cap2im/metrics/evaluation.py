"""All numbers of a model on what it was trained on, with the protocol that each was measured by."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import cap2im
from cap2im.checkpoint import WEIGHTS
from cap2im.config import DigitsData
from cap2im.data.canvas_batches import caption_tokens, load_digits
from cap2im.data.captions import CaptionBatches, CaptionedImages, sentence_vectors
from cap2im.data.digits import Split
from cap2im.data.mnist_captions import CanvasMaker, HeldOut
from cap2im.data.prepared import PreparedDataset
from cap2im.data.shards import ShardBatches
from cap2im.metrics.caption_accuracy import caption_accuracy, load_reader
from cap2im.metrics.likelihood import Likelihood, lower_bound
from cap2im.models.interface import LikelihoodModel
from cap2im.pipeline import Pipeline
from cap2im.randomness import generator


def _progress() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())


def evaluate(
    pipeline: Pipeline, *, data: str | Path | None, split: Split, samples: int, bound_samples: int, images: int, seed: int
) -> dict[str, Any]:
    """What can be measured of a model: `evaluate_digits` if it was trained on captioned digits, else `evaluate_captions`; JSON-ready.

    Raises:
        ValueError: data are missing, damaged or of another size.
    """
    if "held_out" in pipeline.config.get("data", {}):
        digits = None if data is None else Path(data)
        return evaluate_digits(pipeline, data=digits, split=split, samples=samples, bound_samples=bound_samples, images=images, seed=seed)
    if data is None:
        raise ValueError(f"{pipeline.name} draws more than captioned digits: give a prepared dataset with --data")
    return evaluate_captions(pipeline, data=data, split=split, bound_samples=bound_samples, images=images, seed=seed)


def evaluate_captions(pipeline: Pipeline, *, data: str | Path, split: Split, bound_samples: int, images: int, seed: int) -> dict[str, Any]:
    """The bound on captioned images of a prepared dataset, of a model that has one; JSON-ready.

    Args:
        pipeline: a model of captioned images.
        data: the prepared dataset; another one than the model's is allowed, and told in the protocol.
        split: whose images to take.
        bound_samples: L of equation 15.
        images: captions, with their images, spread evenly over the split; at most.
        seed: of everything random.

    Raises:
        ValueError: there is no such dataset or split, or its images are of another size than the model's.
    """
    model, c = pipeline.model, pipeline.model.config
    dataset = PreparedDataset.open(data)
    if not isinstance(model, LikelihoodModel):
        return _result(pipeline)
    noise_shape = model.noise_shape
    if dataset.is_here(split):
        dataset.require_size(c.side, f"a drawing of {pipeline.name}")
        there = CaptionedImages(dataset, split)
        vectors = None if pipeline.encoder is None else sentence_vectors(dataset, split, there.captions, pipeline.encoder)
        batch = CaptionBatches(there, pipeline.vocabulary, noise_shape, colours=c.colours, batch_size=1, vectors=vectors).fixed(images)
    else:
        dataset = dataclasses.replace(dataset, vocabulary=pipeline.vocabulary)
        streamed = ShardBatches(dataset, split, noise_shape, side=c.side, colours=c.colours, batch_size=1, encoder=pipeline.encoder)
        batch = streamed.fixed(images)
    with _progress() as progress:
        bar = progress.add_task("estimating the bound", total=len(batch) * bound_samples)
        likelihood = lower_bound(
            model,
            batch.images,
            batch.tokens,
            batch.mask,
            batch.vectors,
            samples=bound_samples,
            seed=seed,
            advance=lambda pairs: progress.advance(bar, pairs),
        )
    protocol = {
        "observation": model.observation,
        "data": dataset.about(),
        "split": split,
        "images": len(batch),
        "samples": bound_samples,
        "seed": seed,
        **_versions(pipeline),
    }
    return _result(pipeline, likelihood=_likelihood(protocol, likelihood))


def _versions(pipeline: Pipeline) -> dict[str, str]:
    return {"device": pipeline.device.type, "torch": torch.__version__, "cap2im": cap2im.__version__}


def _likelihood(protocol: dict[str, Any], likelihood: Likelihood) -> dict[str, Any]:
    return {"metric": "variational lower bound, nats an image", "protocol": protocol, **likelihood.to_dict()}


def _result(pipeline: Pipeline, **metrics: dict[str, Any]) -> dict[str, Any]:
    return {"model": pipeline.name, "weights_sha256": pipeline.config["sha256"][WEIGHTS], **metrics}


def evaluate_digits(
    pipeline: Pipeline, *, data: Path | None, split: Split, samples: int, bound_samples: int, images: int, seed: int
) -> dict[str, Any]:
    """Caption accuracy over all 440 captions, and the bound, where there is one, on fresh canvases of seen configurations; JSON-ready.

    Args:
        pipeline: a model of captioned digits.
        data: folder of MNIST's files, for models trained on MNIST; None for the cache or a download.
        split: digits that the canvases of the bound, and the real canvases of caption accuracy, are made of.
        samples: drawings of each caption.
        bound_samples: L of equation 15.
        images: canvases for the bound.
        seed: of everything random.

    Raises:
        ValueError: the digits are missing or damaged.
    """
    trained_on = pipeline.config["data"]
    held_out = HeldOut(tuple(tuple(hidden) for hidden in trained_on["held_out"]))
    recipe = DigitsData.model_validate({k: v for k, v in trained_on.items() if k != "held_out"})
    digits = load_digits(recipe.source, split, data)
    reader = load_reader()
    model = pipeline.model
    estimates = f", {images * bound_samples:,} posterior samples" if isinstance(model, LikelihoodModel) else ""
    work = f"{440 * samples:,} drawings{estimates}"
    print(f"measuring {pipeline.name}: {work}; a minute or a few", file=sys.stderr)  # the bar shows on terminals alone
    with _progress() as progress:
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
        if not isinstance(model, LikelihoodModel):
            return _result(pipeline, caption_accuracy=accuracy)
        canvases = CanvasMaker(digits, held_out, recipe.variant).make(images, generator("evaluation", seed))
        tokens, mask = caption_tokens(canvases, pipeline.vocabulary)
        bar = progress.add_task("estimating the bound", total=images * bound_samples)
        likelihood = lower_bound(
            model,
            canvases.images.float() / 255,
            tokens,
            mask,
            samples=bound_samples,
            seed=seed,
            advance=lambda pairs: progress.advance(bar, pairs),
        )
    protocol = {
        "observation": model.observation,
        "data": recipe.source,
        "variant": recipe.variant,
        "split": split,
        "configurations": "seen",
        "held_out": [list(hidden) for hidden in held_out.digits],
        "images": images,
        "samples": bound_samples,
        "seed": seed,
        **_versions(pipeline),
    }
    return _result(pipeline, caption_accuracy=accuracy, likelihood=_likelihood(protocol, likelihood))
