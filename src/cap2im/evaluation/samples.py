"""One drawing of each of many captions, and the arrays that metrics of drawings read.

Captions are spread evenly over a split. Each is drawn once, from noise of its own, and rounded to 8 bits. The real images are all images of
the split: of each the central square, resized to the drawings' side. Their statistics are stored beside the dataset, under a checksum of
everything that decides them. Wrong captions of R-precision are chosen among the drawn ones. The layers of the neural distance are trained
on at most `HEADS_PAIRS` pairs of the training split, spread evenly.

Shapes: N captions, C colours, A side, F features, K classes, E features of a DAMSM.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cap2im.data.batch import pad
from cap2im.data.captioned_images import CaptionedImages
from cap2im.evaluation.captions import CaptionInputs
from cap2im.evaluation.image_statistics import FOLDER, stored_statistics
from cap2im.evaluation.inputs import measurements_of, sharpened, with_protocol
from cap2im.evaluation.registry import METRICS, Metric, resolve
from cap2im.evaluation.scorers import RESIZE, InceptionExtractor, Scorers, batches, extract_features, to_uint8
from cap2im.evaluation.selection import CaptionSelection
from cap2im.metrics.elbo import Sharpen
from cap2im.metrics.fid import Statistics
from cap2im.metrics.measurement import Measurement
from cap2im.metrics.neural_distance import NeuralDistance, fit_heads
from cap2im.pipeline import Pipeline
from cap2im.randomness import item_noise

HEADS_PAIRS = 5_000  # at most


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Arrays that metrics of drawings read; those that no chosen metric names are None.

    Attributes:
        seed: of metrics that choose or order something.
        drawings: [N, C, A, A] uint8.
        images: [N, C, A, A] uint8 of the captions' images.
        features: [N, F] Inception features of the drawings.
        logits: [N, K] of the drawings.
        codes: [N, E] global image features of the drawings, by a DAMSM.
        sentences: [N, E] sentence features of the captions, by a DAMSM.
        classes: [N] equal for captions that are no wrong match for each other's images.
        real: statistics of the features of all real images of the split.
        heads: layers of the neural distance.
    """

    seed: int
    drawings: Tensor | None = None
    images: Tensor | None = None
    features: Tensor | None = None
    logits: Tensor | None = None
    codes: Tensor | None = None
    sentences: Tensor | None = None
    classes: Tensor | None = None
    real: Statistics | None = None
    heads: NeuralDistance | None = None


def measure_samples(inputs: CaptionInputs, metrics: dict[str, Metric]) -> dict[str, list[Measurement]]:
    """Draw the selected captions and measure metrics of the drawings, and of sharpened drawings if there is a sharpener.

    Args:
        inputs: the model and the data.
        metrics: by name, each with `samples` and `arrays`.

    Returns:
        the measurements of each metric.
    """
    assert inputs.selection is not None
    selection, sharpening = inputs.selection, inputs.pipeline.sharpening
    arrays = {array for metric in metrics.values() for array in metric.arrays}
    fixed = _fixed_arrays(inputs, selection, arrays)

    def measure(description: str, sharpen: Sharpen | None = None) -> dict[str, list[Measurement]]:
        samples = Samples(**fixed, **_drawn_arrays(inputs, selection, arrays, description, sharpen))
        measurements = {}
        for name, metric in metrics.items():
            result = resolve(metric.samples)(*(getattr(samples, array) for array in metric.arrays))
            measurements[name] = with_protocol(measurements_of(result), _protocol(inputs, selection, metric.arrays))
        return measurements

    measurements = measure("drawing captions")
    if sharpening is not None:
        sharpen = sharpening.conditioned_on(selection.texts, sharpening.training_unknown)
        for name, each in measure("drawing and sharpening captions", sharpen).items():
            measurements[name] += sharpened(each, sharpening)
    return measurements


def _protocol(inputs: CaptionInputs, selection: CaptionSelection, arrays: Collection[str]) -> dict[str, Any]:
    """Return the entries of a protocol that some arrays decide."""
    protocol: dict[str, Any] = {**inputs.about, **selection.protocol, "drawings": len(selection), **inputs.precision}
    inception, damsm = inputs.scorers.inception, inputs.scorers.damsm
    if inception is not None and not {"features", "logits"}.isdisjoint(arrays):
        protocol |= {"pictures": RESIZE, "inception": inception.sha256}
    if damsm is not None and not {"codes", "sentences"}.isdisjoint(arrays):
        protocol |= {"damsm": damsm.sha256}
    return protocol | ({"most_pairs": HEADS_PAIRS} if "heads" in arrays else {})


def _fixed_arrays(inputs: CaptionInputs, selection: CaptionSelection, arrays: Collection[str]) -> dict[str, Any]:
    """Return the arrays of captions and of real images."""
    c, scorers = inputs.pipeline.model.config, inputs.scorers
    fixed: dict[str, Any] = {"seed": inputs.settings.seed, "classes": selection.classes}
    if "images" in arrays:
        fixed["images"] = selection.whole.pixels(selection.images.tolist(), c.colours, c.side)
    if "real" in arrays:
        assert scorers.inception is not None
        fixed["real"] = real_statistics(inputs, selection.whole, selection.split, scorers.inception)
    if scorers.damsm is not None and "sentences" in arrays:
        fixed["sentences"] = scorers.damsm.sentences(selection.texts)
    if "heads" in arrays:
        fixed["heads"] = train_heads(inputs)
    return fixed


def _drawn_arrays(
    inputs: CaptionInputs, selection: CaptionSelection, arrays: Collection[str], description: str, sharpen: Sharpen | None
) -> dict[str, Any]:
    """Draw the captions and return the arrays of the drawings; pictures are kept only if a metric reads them."""
    pipeline, kept = inputs.pipeline, []

    def pictures(rows: range) -> Tensor:
        drawings = to_uint8(draw(pipeline, selection, rows, inputs.settings.seed, sharpen))
        if "drawings" in arrays:
            kept.append(drawings.cpu())
        return drawings

    count, advance = len(selection), inputs.bar(description, len(selection))
    features = extract_features(inputs.scorers, pictures, count, pipeline.batch_size, inputs.processes, advance)
    drawn = {"features": features.features, "logits": features.logits, "codes": features.codes}
    if "drawings" in arrays:
        c = pipeline.model.config
        empty = torch.empty(0, c.colours, c.side, c.side, dtype=torch.uint8)  # a process may have no row
        drawn["drawings"] = inputs.processes.all_gather(torch.cat([empty, *kept]))
    return drawn


@torch.inference_mode()
def draw(pipeline: Pipeline, selection: CaptionSelection, rows: range, seed: int, sharpen: Sharpen | None = None) -> Tensor:
    """Draw selected captions; the noise of a caption is a function of seed and row.

    Args:
        pipeline: the model.
        selection: the captions.
        rows: which of them.
        seed: of the noise.
        sharpen: sharpens the pictures.

    Returns:
        pictures [n, C, A, A] in 0..1.
    """
    model = pipeline.model
    tokens, mask = pad([selection.numbers[row] for row in rows])
    vectors = None if pipeline.encoder is None else pipeline.encoder.encode(selection.texts[rows.start : rows.stop]).to(model.device)
    text = model.encode(tokens.to(model.device), mask.to(model.device), vectors, independent=True)
    pictures = pipeline.sample_images(text, item_noise("drawings", seed, rows, 0, model.noise_shape).to(model.device))
    return pictures if sharpen is None else sharpen(pictures, torch.tensor(rows))


def real_statistics(inputs: CaptionInputs, whole: CaptionedImages, split: str, inception: InceptionExtractor) -> Statistics:
    """Return the statistics of all images of a split, cropped and resized like the model's drawings."""
    c, processes = inputs.pipeline.model.config, inputs.processes

    def measure() -> Statistics:
        statistics = Statistics.of(torch.empty(0, inception.features))
        advance = inputs.bar(f"features of the {split} images", len(whole))
        for rows in batches(processes.shard(len(whole)), inputs.pipeline.batch_size):
            statistics += Statistics.of(inception.extract(whole.pixels(rows, c.colours, c.side))[0])
            advance(len(rows))
        return statistics.all_gather(processes)

    about = {"dataset": inputs.dataset.sha256, "split": split, "side": c.side, "colours": c.colours, "inception": inception.sha256}
    folder = Path(inputs.dataset.folder) / FOLDER
    return stored_statistics(folder, about | {"version": METRICS["fid"].version}, measure, processes)


def train_heads(inputs: CaptionInputs) -> NeuralDistance:
    """Train the layers of the neural distance on captions and images of the training split."""
    damsm, c = inputs.scorers.damsm, inputs.pipeline.model.config
    assert damsm is not None
    captions = CaptionSelection.spread(inputs.dataset, "train", HEADS_PAIRS, damsm.vocabulary)
    images, place = captions.images.unique(return_inverse=True)

    def pictures(rows: range) -> Tensor:
        return captions.whole.pixels(images[rows.start : rows.stop].tolist(), c.colours, c.side)

    inception, advance = Scorers(inputs.scorers.inception), inputs.bar("features of training images", len(images))
    features = extract_features(inception, pictures, len(images), inputs.pipeline.batch_size, inputs.processes, advance).features
    assert features is not None
    return fit_heads(features[place], damsm.sentences(captions.texts), seed=inputs.settings.seed)
