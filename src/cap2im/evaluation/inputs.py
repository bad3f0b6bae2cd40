"""What the evaluations of captioned digits and of captioned images have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cap2im._version import __version__
from cap2im.evaluation.registry import Metric
from cap2im.evaluation.settings import Settings
from cap2im.metrics.distributed import ProcessGroup
from cap2im.metrics.measurement import Measurement
from cap2im.pipeline import Pipeline
from cap2im.sharpening import Sharpening

StartProgress = Callable[[str, int], Callable[[int], None]]
"""Starts a progress bar with a description and a total, and returns the function that advances it."""


def no_progress(_description: str, _total: int) -> Callable[[int], None]:
    """Start no progress bar."""
    return lambda _: None


@dataclass(frozen=True)
class Inputs:
    """A model and how it is measured.

    Attributes:
        pipeline: the model; if it has a sharpener, all metrics but retrieval also measure sharpened pictures.
        settings: what to measure, and how.
        metrics: the chosen metrics by name.
        processes: share the work.
        start_progress: starts progress bars, whose total is this process's share.
    """

    pipeline: Pipeline
    settings: Settings
    metrics: Mapping[str, Metric]
    processes: ProcessGroup
    start_progress: StartProgress

    def bar(self, description: str, total: int) -> Callable[[int], None]:
        """Start a progress bar of this process's share of a total."""
        return self.start_progress(description, -(-total // self.processes.world_size))

    @property
    def precision(self) -> dict[str, str]:
        """Entry of the protocols of drawings; bounds are always estimated in fp32."""
        return {} if self.pipeline.precision == "fp32" else {"precision": self.pipeline.precision}


def versions(pipeline: Pipeline) -> dict[str, str]:
    """Return the entries of every protocol: device and versions."""
    return {"device": pipeline.device.type, "torch": torch.__version__, "cap2im": __version__}


def sharpened(measurements: Iterable[Measurement], sharpening: Sharpening) -> list[Measurement]:
    """Mark measurements as those of sharpened pictures."""
    sharpener = {"name": sharpening.name, "sha256": sharpening.sha256}
    return [each.in_group("sharpened", sharpener=sharpener) for each in measurements]


def measurements_of(result: Measurement | Iterable[Measurement]) -> list[Measurement]:
    """Return the result of a metric as a list."""
    return [result] if isinstance(result, Measurement) else list(result)


def with_protocol(measurements: Iterable[Measurement], protocol: Mapping[str, Any]) -> list[Measurement]:
    """Add entries to the protocols of measurements."""
    return [each.in_group("", **protocol) for each in measurements]
