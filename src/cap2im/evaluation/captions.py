"""Bound and similarity of a model on the captioned images of a prepared dataset."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cap2im.data.batch import Batch
from cap2im.data.dataset import PreparedDataset
from cap2im.data.splits import SPLITS, Split
from cap2im.evaluation.inputs import Inputs, StartProgress, sharpened, versions, with_protocol
from cap2im.evaluation.other_dataset import other_dataset
from cap2im.evaluation.registry import Metric
from cap2im.evaluation.scorers import DAMSMScorer, InceptionExtractor, Scorers
from cap2im.evaluation.selection import CaptionSelection, SplitSample
from cap2im.evaluation.settings import Settings
from cap2im.metrics import elbo
from cap2im.metrics import ssim as similarity
from cap2im.metrics.distributed import ProcessGroup
from cap2im.metrics.elbo import BERNOULLI, Sharpen
from cap2im.metrics.inception_score import PARTS
from cap2im.metrics.measurement import Measurement
from cap2im.metrics.r_precision import OTHERS, fewest_wrong
from cap2im.models.interface import LikelihoodModel, pictures_at_once
from cap2im.pipeline import Pipeline

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaptionInputs(Inputs):
    """A model of captioned images and the data to measure it on.

    Attributes:
        dataset: the data.
        main: sample of the split on which everything is measured; None if no metric reads it.
        others: samples of the splits on which only the bound is estimated.
        selection: captions to draw once each; None if no metric reads such drawings.
        scorers: networks that encode drawings.
        about: entries of all protocols.
    """

    dataset: PreparedDataset
    main: SplitSample | None
    others: tuple[SplitSample, ...]
    selection: CaptionSelection | None
    scorers: Scorers
    about: dict[str, Any]

    @classmethod
    def read(
        cls,
        pipeline: Pipeline,
        data: str | Path,
        settings: Settings,
        metrics: Mapping[str, Metric],
        processes: ProcessGroup,
        start_progress: StartProgress,
    ) -> CaptionInputs:
        """Read the data and the networks of the chosen metrics, and make all checks that come before long measurements.

        Args:
            pipeline: the model.
            data: a prepared dataset.
            settings: what to measure, and how.
            metrics: the chosen metrics; at least one.
            processes: share the work.
            start_progress: starts progress bars.

        Raises:
            ValueError: data or networks are missing, damaged or do not fit, or there are too few captions.
        """
        dataset = PreparedDataset.open(data)
        other_splits, split = settings.splits(dataset)
        selection, scorers = None, Scorers()
        if any(metric.samples for metric in metrics.values()):
            scorers = load_scorers(pipeline, settings, metrics)
            vocabularies = (pipeline.vocabulary, *([] if scorers.damsm is None else [scorers.damsm.vocabulary]))
            selection = CaptionSelection.spread(dataset, split, settings.images, *vocabularies)
            require_captions(metrics, len(selection), fewest_wrong(len(selection), selection.classes))
        main, others = None, []
        if any(metric.captions for metric in metrics.values()):
            main = SplitSample.read(pipeline, dataset, split, settings.images, processes)
            if "bound" in metrics:
                others = [SplitSample.read(pipeline, dataset, each, settings.images, processes) for each in other_splits]
        samples = [*(sample.captions for sample in (main, *others) if sample is not None), *([selection.texts] if selection else [])]
        left_out = [each.left_out for each in (main, selection) if each is not None]
        foreign = other_dataset(pipeline, dataset, samples[0])
        if processes.is_main_process:
            if foreign is not None:
                logger.warning(foreign.warning)
            _log_splits(settings, dataset, split, left_out[0])
        if pipeline.sharpening is not None:
            for captions in samples:
                pipeline.sharpening.tokens(captions, pipeline.sharpening.training_unknown)
        c = pipeline.model.config
        about = {"data": dataset.about(), "side": c.side, "colours": c.colours, "resize": dataset.manifest.fit, "seed": settings.seed}
        about |= {} if foreign is None else foreign.protocol
        common = pipeline, settings, metrics, processes, start_progress
        return cls(*common, dataset, main, tuple(others), selection, scorers, about | versions(pipeline))


def load_scorers(pipeline: Pipeline, settings: Settings, metrics: Mapping[str, Metric]) -> Scorers:
    """Load the networks that the arrays of the chosen metrics come from."""
    arrays = {array for metric in metrics.values() for array in metric.arrays}
    inception = InceptionExtractor.load(settings.inception, pipeline.device) if arrays & {"features", "logits", "real", "heads"} else None
    damsm = None
    if arrays & {"codes", "sentences", "heads"}:
        assert settings.damsm is not None  # the metrics name it as a need
        damsm = DAMSMScorer.load(settings.damsm, pipeline)
    return Scorers(inception, damsm)


def require_captions(metrics: Mapping[str, Metric], captions: int, wrong: int) -> None:
    """Check that there are enough captions for FID, Inception Score and R-precision.

    Args:
        metrics: the chosen metrics.
        captions: number of drawn captions.
        wrong: smallest number of wrong captions that one of them has.

    Raises:
        ValueError: there are fewer captions.
    """
    if not metrics.keys().isdisjoint({"fid", "inception-score"}) and captions < PARTS:
        raise ValueError(f"FID and Inception Score need at least {PARTS} captions, got {captions}")
    if "r-precision" in metrics and wrong < OTHERS:
        raise ValueError(f"R-precision needs {OTHERS} wrong captions beside each, got {wrong} for one of {captions} captions")


def _log_splits(settings: Settings, dataset: PreparedDataset, main: Split, left_out: int) -> None:
    """Report splits that the dataset lacks and captions that are not used."""
    missing = " and no ".join(split for split in SPLITS if not dataset.has(split))
    if settings.split == "all" and missing:
        logger.warning("%s: has no %s images; everything but the bound is measured on its %s images", dataset.folder, missing, main)
    elif settings.split is None and main != "test":
        logger.warning("%s: has no test images; measuring on its %s images", dataset.folder, main)
    if left_out:
        logger.warning("skipped %s %s captions without a known word", f"{left_out:,}", main)


def bound(inputs: CaptionInputs) -> list[Measurement]:
    """Measure the bound of each split's sample, and of sharpened images if pixels are Bernoulli distributed."""
    assert inputs.main is not None
    measurements = []
    for sample in (*inputs.others, inputs.main):
        measurements += bound_of(inputs, sample.batch, sample.captions, sample.split, inputs.about | sample.protocol)
    return measurements


def bound_of(inputs: Inputs, batch: Batch, captions: list[str], group: str, protocol: Mapping[str, Any]) -> list[Measurement]:
    """Measure the bound of captioned images.

    Args:
        inputs: the model.
        batch: images and captions.
        captions: texts of the captions, for the sharpener.
        group: of the measurements, the split.
        protocol: entries of the protocol.
    """
    model, settings, sharpening = inputs.pipeline.model, inputs.settings, inputs.pipeline.sharpening
    assert isinstance(model, LikelihoodModel)

    def measure(description: str, sharpen: Sharpen | None = None) -> list[Measurement]:
        estimates = elbo.estimate_log_likelihoods(
            model,
            batch.images,
            batch.tokens,
            batch.mask,
            batch.vectors,
            samples=settings.bound_samples,
            seed=settings.seed,
            sharpen=sharpen,
            processes=inputs.processes,
            advance=inputs.bar(description, len(batch) * settings.bound_samples),
        )
        return [each.in_group(group, **protocol) for each in elbo.elbo(estimates)]

    measurements = measure(f"bound of {group} images")
    if sharpening is not None and model.observation == BERNOULLI:
        sharpen = sharpening.conditioned_on(captions, sharpening.training_unknown)
        measurements += sharpened(measure(f"bound of sharpened {group} images", sharpen), sharpening)
    return measurements


def ssim(inputs: CaptionInputs) -> list[Measurement]:
    """Measure SSIM and PSNR of drawings, and of sharpened drawings, with the images of their captions."""
    pipeline, settings, sample = inputs.pipeline, inputs.settings, inputs.main
    assert sample is not None
    samples = similarity.SAMPLES if settings.samples is None else settings.samples
    batch, protocol = sample.batch, inputs.about | sample.protocol | inputs.precision

    def measure(description: str, sharpen: Sharpen | None = None) -> list[Measurement]:
        scores = similarity.compare_drawings(
            pipeline.model,
            batch.images,
            batch.tokens,
            batch.mask,
            batch.vectors,
            samples=samples,
            seed=settings.seed,
            batch_size=pictures_at_once(pipeline.model.config.side),
            precision=pipeline.precision,
            sharpen=sharpen,
            processes=inputs.processes,
            advance=inputs.bar(description, len(batch) * samples),
        )
        return with_protocol(similarity.ssim(*scores), protocol)

    measurements = measure("SSIM of drawings")
    if (sharpening := pipeline.sharpening) is not None:
        sharpen = sharpening.conditioned_on(sample.captions, sharpening.training_unknown)
        measurements += sharpened(measure("SSIM of sharpened drawings", sharpen), sharpening)
    return measurements
