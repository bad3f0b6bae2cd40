"""Measure a model on the data that it was trained on, or on other data, with the protocol of each number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from cap2im._version import __version__
from cap2im.checkpoint import WEIGHTS, read_config
from cap2im.convert.inception import find_inception
from cap2im.data.cutouts import Cutouts
from cap2im.data.dataset import PreparedDataset
from cap2im.evaluation.captions import CaptionInputs
from cap2im.evaluation.compositions import CompositionInputs
from cap2im.evaluation.digits import DigitInputs
from cap2im.evaluation.evaluation import Evaluation
from cap2im.evaluation.generated import GeneratedInputs, measure_drawings
from cap2im.evaluation.inputs import StartProgress, measurements_of, no_progress, with_protocol
from cap2im.evaluation.registry import Metric, resolve
from cap2im.evaluation.retrieval import shortlist_sha256
from cap2im.evaluation.samples import measure_samples
from cap2im.evaluation.settings import Settings
from cap2im.evaluation.subject import Subject
from cap2im.files import file_sha256
from cap2im.loading import ModelConfig, find_model, load_model
from cap2im.metrics.distributed import ProcessGroup
from cap2im.metrics.measurement import Measurement
from cap2im.models.readers import Reader
from cap2im.models.scene_reader import SceneReader
from cap2im.pipeline import Pipeline


def evaluate(
    pipeline: Pipeline,
    settings: Settings = Settings(),  # noqa: B008  # frozen
    *,
    data: str | Path | None = None,
    processes: ProcessGroup = ProcessGroup(),  # noqa: B008  # frozen
    start_progress: StartProgress = no_progress,
) -> Evaluation:
    """Measure a model; if it has a sharpener, all metrics but retrieval also measure sharpened pictures.

    Args:
        pipeline: the model.
        settings: what to measure, and how.
        data: a prepared dataset, for models of captioned images; for models of captioned digits the folder of the MNIST files; for models
            of captioned scenes prepared cut-outs.
        processes: share the work.
        start_progress: starts progress bars.

    Returns:
        the measurements, in every process.

    Raises:
        ValueError: data or networks are missing, damaged or do not fit, or a metric cannot be measured of this model.
    """
    subject = Subject.of(pipeline)
    subject.check(data, settings)
    words, metrics = settings_words(pipeline, settings, data), subject.metrics(settings)
    if subject.digits is not None or subject.scenes:
        folder = None if data is None else Path(data)
        inputs_class = CompositionInputs if subject.scenes else DigitInputs
        inputs: GeneratedInputs[Any] = inputs_class.read(pipeline, folder, settings, metrics, processes, start_progress)
        measurements = measure_generated(inputs, "scenes" if subject.scenes else "digits")
    else:
        assert data is not None  # checked
        measurements = measure_captions(pipeline, data, settings, metrics, processes, start_progress) if metrics else []
    whole = (*measurements, *training_measurements(pipeline.config))
    return Evaluation(pipeline.name, pipeline.config.sha256[WEIGHTS], words, whole)


def measure_generated(inputs: GeneratedInputs[Any], kind: Literal["digits", "scenes"]) -> list[Measurement]:
    """Measure a model of captions that the package makes.

    Args:
        inputs: the model and what it is measured with.
        kind: field of `Metric` with the function for these inputs.
    """
    results = {}
    for name, metric in inputs.metrics.items():
        own: str = getattr(metric, kind)
        results[name] = measurements_of(resolve(own)(inputs)) if own else measure_drawings(inputs, metric)
    return [each for name, metric in inputs.metrics.items() for each in versioned(results[name], metric)]


def measure_captions(
    pipeline: Pipeline,
    data: str | Path,
    settings: Settings,
    metrics: Mapping[str, Metric],
    processes: ProcessGroup,
    start_progress: StartProgress,
) -> list[Measurement]:
    """Measure a model of captioned images; for the arguments see `CaptionInputs.read`."""
    inputs = CaptionInputs.read(pipeline, data, settings, metrics, processes, start_progress)
    results = {name: measurements_of(resolve(metric.captions)(inputs)) for name, metric in metrics.items() if metric.captions}
    if of_samples := {name: metric for name, metric in metrics.items() if metric.samples}:
        results |= measure_samples(inputs, of_samples)
    return [each for name, metric in metrics.items() for each in versioned(results[name], metric)]


def versioned(measurements: Iterable[Measurement], metric: Metric) -> list[Measurement]:
    """Add the version of a metric to the protocols of its measurements."""
    return with_protocol(measurements, {"version": metric.version})


def training_measurements(config: ModelConfig) -> list[Measurement]:
    """Return the duration of a training step and the number of parameters that a model's config.json records."""
    measurements = []
    if trained := config.trained:
        seconds, steps = trained["seconds"], trained["steps"]
        protocol = {"machine": trained["machine"], "batch size": trained["batch_size"]}
        step = {"name": "seconds a step", "value": seconds / steps, "n": steps, "digits": 3}
        measurements.append(Measurement(**step, protocol=protocol, higher_is_better=None))
    if parameters := config.parameters:
        measurements.append(Measurement(name="parameters", value=parameters, n=1, digits=0, higher_is_better=None))
    return measurements


def settings_words(pipeline: Pipeline, settings: Settings, data: str | Path | None) -> dict[str, str]:
    """Return everything beside the weights that decides the numbers of an evaluation.

    Args:
        pipeline: the model.
        settings: what to measure, and how.
        data: the data to measure on.

    Raises:
        ValueError: a file or folder that is named there is missing or damaged.
    """
    subject = Subject.of(pipeline)
    words: dict[str, object] = {
        "metrics": " ".join(
            name if metric.version == 1 else f"{name}@{metric.version}" for name, metric in subject.metrics(settings).items()
        ),
        "images": settings.images,
        "bound_samples": settings.bound_samples,
        "samples": settings.samples,
        "candidates": settings.candidates,
        "retrieval_samples": settings.retrieval_samples,
        "seed": settings.seed,
        "device": pipeline.device.type,
        "torch": torch.__version__,
        "cap2im": __version__,
        "precision": None if pipeline.precision == "fp32" else pipeline.precision,
        "sharpener": None if pipeline.sharpening is None else pipeline.sharpening.sha256,
        "inception": None if settings.inception is None else file_sha256(find_inception("fid", settings.inception)),
        "damsm": None if settings.damsm is None else read_config(find_model(settings.damsm)).get("sha256", {}).get(WEIGHTS),
        "reader": None if settings.reader is None else load_model(settings.reader, Reader).network.digest(),
        "scene_reader": None if settings.scene_reader is None else load_model(settings.scene_reader, SceneReader).sha256,
        "shortlist_model": None if settings.shortlist_model is None else shortlist_sha256(settings.shortlist_model),
    }
    if subject.digits is not None:
        words["split"] = settings.digits_split
    elif subject.scenes:
        words["split"] = settings.digits_split
        if data is not None:
            words["data"] = Cutouts.open(data).sha256
    elif data is not None:
        dataset = PreparedDataset.open(data)
        others, main = settings.splits(dataset)
        words |= {"data": dataset.sha256, "split": " ".join([*others, main])}
    return {key: str(value) for key, value in words.items() if value is not None}
