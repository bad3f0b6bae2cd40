"""One drawing of each of many captions, and what networks say of them in one pass: FID, Inception Score.

The protocol: captions spread evenly over a split (all of them, if so many are asked for), one drawing of each, from noise of its own. FID
compares them with all images of the split: of each the central square, resized to the drawings' side. These are looked at once: their
statistics are kept beside the dataset, under a checksum of all that decides them.

Shapes: N captions, C colours, A side, F features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cap2im.checkpoint import sha256
from cap2im.convert.inception import load_inception
from cap2im.data.captions import CaptionedImages, NumberedCaptions
from cap2im.data.digits import Split
from cap2im.data.prepared import PreparedDataset
from cap2im.data.vocabulary import pad
from cap2im.metrics.likelihood import Sharpen
from cap2im.metrics.perceptual import (
    METRIC_VERSION,
    RESIZE,
    SPLITS,
    Statistics,
    eight_bits,
    frechet_distance,
    inception_score,
    kept_statistics,
    look,
)
from cap2im.metrics.sharing import Sharing
from cap2im.models.inception import CLASSES, FEATURES, Inception
from cap2im.pipeline import Pipeline
from cap2im.randomness import generator, item_noise

PICTURES_AT_ONCE = 20  # bounds memory: of AttnGAN's largest maps each has tens of megabytes
STATISTICS = "image-statistics"  # folder beside a dataset's shards

Bar = Callable[[str, int], Callable[[int], None]]
"""Starts a progress bar of a name and a total; answers what advances it."""


@dataclass(frozen=True)
class Captions:
    """Captions of a split: all of its images, the captions' rows [N] in it, and the numbers of their words."""

    whole: CaptionedImages
    split: Split
    rows: Tensor
    numbers: list[list[int]]

    @classmethod
    def spread(cls, pipeline: Pipeline, dataset: PreparedDataset, split: Split, count: int) -> Captions:
        """At most `count` of those that a model knows a word of, spread evenly over the split.

        Raises:
            ValueError: the split is not on this machine, or the model knows none of its words.
        """
        if not dataset.is_here(split):
            raise ValueError(
                f"{dataset.folder}: is not on this machine, and FID and R-precision need all of its {split} images and captions"
            )
        whole = CaptionedImages(dataset, split)
        words = NumberedCaptions(whole.captions, pipeline.vocabulary)
        known = torch.from_numpy(np.flatnonzero(words.lengths))
        if not len(known):
            raise ValueError(f"{whole.name}: {pipeline.name} knows no word of its captions")
        rows = known[torch.linspace(0, len(known) - 1, min(count, len(known))).long()]
        return cls(whole, split, rows, [words[row] for row in rows.tolist()])

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def texts(self) -> list[str]:
        return [self.whole.captions[row] for row in self.rows.tolist()]

    @cached_property
    def images(self) -> Tensor:
        """[N] the row of each caption's image."""
        return torch.from_numpy(self.whole.image_of)[self.rows]

    @cached_property
    def sha256(self) -> str:
        """Which captions of which images these are."""
        pairs = zip(self.images.tolist(), self.texts, strict=True)
        return sha256("\n".join(f"{image} {caption}" for image, caption in pairs).encode())


@dataclass(frozen=True)
class Judge:
    """The network of FID and Inception Score, and the SHA-256 of its weights' file."""

    network: Inception
    sha256: str

    @classmethod
    def load(cls, path: str | None, device: torch.device) -> Judge:
        """Of a file of weights, or None for the published ones; errors are those of `load_inception`."""
        network, digest = load_inception("fid", "" if path is None else path)
        return cls(network.to(device).to(memory_format=torch.channels_last), digest)  # type: ignore[call-overload]


def _batches(run: range) -> Iterator[range]:
    for start in run[::PICTURES_AT_ONCE]:
        yield range(start, min(start + PICTURES_AT_ONCE, run.stop))


@torch.inference_mode()
def draw(pipeline: Pipeline, captions: Captions, rows: range, seed: int, sharpen: Sharpen | None = None) -> Tensor:
    """Drawings [N, C, A, A] in 0..1 of the captions of some rows; a caption's noise is its own, by its row."""
    model = pipeline.model
    tokens, mask = pad([captions.numbers[row] for row in rows])
    vectors = None if pipeline.encoder is None else pipeline.encoder.encode(captions.texts[rows.start : rows.stop]).to(model.device)
    text = model.encode(tokens.to(model.device), mask.to(model.device), vectors, alone=True)
    pictures = model.picture(text, item_noise("drawings", seed, rows, 0, model.noise_shape).to(model.device))
    return pictures if sharpen is None else sharpen(pictures, torch.tensor(rows))


def real_statistics(
    pipeline: Pipeline, dataset: PreparedDataset, captions: Captions, judge: Judge, sharing: Sharing, bar: Bar
) -> Statistics:
    """Of all images of the captions' split, seen as the model's drawings are."""
    c, whole, split = pipeline.model.config, captions.whole, captions.split

    def measure() -> Statistics:
        advance, found = bar(f"looking at the {split} images", len(whole)), Statistics.of(torch.empty(0, FEATURES))
        for rows in _batches(sharing.mine(len(whole))):
            squares = [_middle(picture, c.side) for picture in whole.pictures(rows, c.colours, c.side)]
            found += Statistics.of(look(judge.network, torch.stack(squares)).features)
            advance(len(rows))
        return found.joined(sharing)

    about = {"dataset": dataset.sha256, "split": split, "side": c.side, "colours": c.colours, "inception": judge.sha256}
    return kept_statistics(Path(dataset.folder) / STATISTICS, about | {"version": METRIC_VERSION}, measure, sharing)


def _middle(picture: Tensor, side: int) -> Tensor:
    """[C, A, A] the central square of a picture [C, H, W] whose shorter side is A."""
    top, left = ((length - side) // 2 for length in picture.shape[1:])
    return picture[:, top : top + side, left : left + side]


def measure_drawings(
    pipeline: Pipeline,
    dataset: PreparedDataset,
    captions: Captions,
    judge: Judge,
    *,
    seed: int,
    protocol: dict[str, Any],
    sharing: Sharing,
    bar: Bar,
) -> dict[str, Any]:
    """FID and Inception Score of a model's drawings, and of the sharpened ones where there is a sharpener; JSON-ready.

    Args:
        pipeline: the model.
        dataset: that the captions are of.
        captions: what to draw.
        judge: who looks.
        seed: of the drawings.
        protocol: what has to be equal for two numbers to be compared, but for what is added here.
        sharing: among processes.
        bar: starts a progress bar.

    Raises:
        ValueError: there are fewer captions than parts of the Inception Score.
    """
    require_pictures(len(captions))
    real = real_statistics(pipeline, dataset, captions, judge, sharing, bar)

    def judged(what: str, sharpen: Sharpen | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        advance, found, logits = bar(what, len(captions)), Statistics.of(torch.empty(0, FEATURES)), [torch.empty(0, CLASSES["fid"])]
        for rows in _batches(sharing.mine(len(captions))):
            seen = look(judge.network, eight_bits(draw(pipeline, captions, rows, seed, sharpen)))
            found += Statistics.of(seen.features)
            logits.append(seen.logits)
            advance(len(rows))
        order = torch.randperm(len(captions), generator=generator("inception score", seed))
        mean, deviation = inception_score(sharing.joined(torch.cat(logits))[order])
        return {"distance": frechet_distance(found.joined(sharing), real)}, {"mean": mean, "deviation": deviation}

    told = protocol | {"version": METRIC_VERSION, "inception": judge.sha256, "pictures": RESIZE}
    fid = {"metric": "Fréchet Inception Distance", "protocol": told | {"features": FEATURES, "real_images": real.count}}
    score = {"metric": "Inception Score", "protocol": told | {"parts": SPLITS}}
    for each, measured in zip((fid, score), judged("drawing, and looking at the drawings"), strict=True):
        each |= {"drawings": len(captions)} | measured
    if (sharpening := pipeline.sharpening) is not None:
        sharpen = sharpening.of(captions.texts, sharpening.training_unknown)
        for each, measured in zip((fid, score), judged("the same of sharpened drawings", sharpen), strict=True):
            each["sharpened"] = measured | {"sharpener": {"name": sharpening.name, "sha256": sharpening.sha256}}
    return {"fid": fid, "inception_score": score}


def require_pictures(count: int) -> None:
    """Raises ValueError where there are too few drawings for FID and Inception Score."""
    if count < SPLITS:
        raise ValueError(f"{count} captions: FID and Inception Score need drawings of {SPLITS} at least")
