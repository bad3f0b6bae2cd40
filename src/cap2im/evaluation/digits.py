"""Caption accuracy, bound, R-precision and metrics of drawings of a model of captioned digits.

Captions that training shows and those held out for the split are drawn. The bound is estimated on fresh canvases of captions that
training shows.

Shapes: N drawings, A canvas side, E features of a DAMSM.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cap2im._version import __version__
from cap2im.config import DigitsData
from cap2im.data.batch import Batch
from cap2im.data.canvas_batches import caption_tokens
from cap2im.data.mnist import Digits, load_digits
from cap2im.data.mnist_captions import CanvasMaker, Configuration, HeldOut
from cap2im.evaluation.captions import bound_of
from cap2im.evaluation.inputs import Inputs, StartProgress, measurements_of, sharpened, versions, with_protocol
from cap2im.evaluation.registry import Metric, resolve
from cap2im.evaluation.samples import Samples
from cap2im.evaluation.scorers import DAMSMScorer, to_uint8
from cap2im.evaluation.settings import Settings
from cap2im.loading import load_model
from cap2im.metrics import caption_accuracy as accuracy
from cap2im.metrics.caption_accuracy import READER, Scores, read_canvases, real_canvases, score
from cap2im.metrics.distributed import ProcessGroup
from cap2im.metrics.measurement import Measurement
from cap2im.metrics.r_precision import own_caption_first, rate
from cap2im.models.digit_reader import DigitReader
from cap2im.pipeline import Pipeline
from cap2im.randomness import generator

SAMPLES = 10  # drawings of each caption
CAPTIONS_AT_ONCE = 110

Draw = Callable[[list[str], list[int]], Tensor]
"""Draws captions with a seed each: images [N, 1, A, A] in 0..1."""


@dataclass(frozen=True)
class DrawnDigits:
    """Drawings and what networks make of them.

    Attributes:
        scores: None without a reader.
        codes: [N, E] global image features; None without a DAMSM.
        pictures: [N, 1, A, A] uint8; None if no metric reads them.
    """

    scores: Scores | None
    codes: Tensor | None
    pictures: Tensor | None


@dataclass(frozen=True)
class DigitInputs(Inputs):
    """A model of captioned digits and what it is measured with.

    Attributes:
        digits: real digits of a split.
        data: which digits and canvases the model was trained on.
        held_out: captions that training does not show.
        reader: reads the drawings' digits; None if no metric reads it.
        damsm: matches drawings with captions; None if no metric needs it.
    """

    digits: Digits
    data: DigitsData
    held_out: HeldOut
    reader: DigitReader | None
    damsm: DAMSMScorer | None

    @classmethod
    def read(
        cls,
        pipeline: Pipeline,
        data: Path | None,
        settings: Settings,
        metrics: Mapping[str, Metric],
        processes: ProcessGroup,
        start_progress: StartProgress,
    ) -> DigitInputs:
        """Read the digits and the networks of the chosen metrics.

        Args:
            pipeline: the model.
            data: folder of the MNIST files; None for the cache or a download.
            settings: what to measure, and how.
            metrics: the chosen metrics.
            processes: share the work.
            start_progress: starts progress bars.

        Raises:
            ValueError: digits or networks are missing, damaged or do not fit.
        """
        trained_on = pipeline.config.data
        recipe = DigitsData.from_model(trained_on)
        held_out = HeldOut.from_model(trained_on)
        assert held_out is not None  # a model of captioned digits
        with processes.main_process_first():
            digits = load_digits(recipe.source, settings.digits_split, data)
        reader = load_model(settings.reader or READER, DigitReader).network if any("reader" in m.reads for m in metrics.values()) else None
        damsm = None
        if any("damsm" in metric.needs for metric in metrics.values()):
            assert settings.damsm is not None  # `Settings` checks needs
            damsm = DAMSMScorer.load(settings.damsm, pipeline)
        common = pipeline, settings, metrics, processes, start_progress
        return cls(*common, digits, recipe, held_out, reader, damsm)

    @property
    def samples(self) -> int:
        """Drawings of each caption."""
        return SAMPLES if self.settings.samples is None else self.settings.samples

    @cached_property
    def captions(self) -> list[Configuration]:
        """Every caption to draw."""
        return list(self.held_out.configurations(self.settings.digits_split))

    @cached_property
    def configurations(self) -> list[Configuration]:
        """The captions of the N drawings."""
        return [c for c in self.captions for _ in range(self.samples)]

    @cached_property
    def canvases(self) -> Tensor:
        """Canvases [N, 1, A, A] in 0..1 of the captions, made of real digits."""
        return real_canvases(self.digits, self.configurations, self.settings.seed)

    @cached_property
    def classes(self) -> Tensor:
        """[N] equal for captions of the same digits at the same places, which are no wrong match for each other."""
        scenes: dict[frozenset[tuple[str, int]], int] = {}
        pictures = (frozenset(zip(c.places, c.digits, strict=True)) for c in self.configurations)
        return torch.tensor([scenes.setdefault(picture, len(scenes)) for picture in pictures])

    @cached_property
    def sentences(self) -> Tensor:
        """[N, E] sentence features of the captions, by the DAMSM."""
        assert self.damsm is not None
        captions = [c.caption for c in self.captions]
        return self.damsm.sentences(captions).repeat_interleave(self.samples, dim=0)

    @cached_property
    def drawn(self) -> DrawnDigits:
        """Drawings without a sharpener."""
        return self._draw(dataclasses.replace(self.pipeline, sharpening=None), f"drawing the {len(self.captions)} captions")

    @cached_property
    def drawn_sharpened(self) -> DrawnDigits:
        """Drawings with the sharpener."""
        return self._draw(self.pipeline, f"drawing and sharpening the {len(self.captions)} captions")

    def _draw(self, pipeline: Pipeline, description: str) -> DrawnDigits:
        codes, kept = [], []
        keeps = any("drawings" in metric.arrays for metric in self.metrics.values())

        def draw(captions: list[str], seeds: list[int]) -> Tensor:
            pictures = pipeline.images(pipeline.prompts(captions), seeds)
            if self.damsm is not None:
                codes.append(self.damsm.codes(to_uint8(pictures)))
            if keeps:
                kept.append(to_uint8(pictures).cpu())
            return pictures

        advance = self.bar(description, len(self.configurations))
        scores = score_drawings(draw, self.reader, self.configurations, seed=self.settings.seed, processes=self.processes, advance=advance)
        gather, side = self.processes.all_gather, self.pipeline.model.config.side
        return DrawnDigits(
            scores,
            None if self.damsm is None else gather(torch.cat([torch.empty(0, self.damsm.features), *codes])),
            gather(torch.cat([torch.empty(0, 1, side, side, dtype=torch.uint8), *kept])) if keeps else None,
        )

    @property
    def protocol(self) -> dict[str, Any]:
        """Entries of the protocols of drawings."""
        return {
            "captions": len(self.captions),
            "samples_per_caption": self.samples,
            "seed": self.settings.seed,
            **self.held_out.as_json(),
            **self.precision,
        }


def score_drawings(
    draw: Draw,
    reader: DigitReader | None,
    configurations: Sequence[Configuration],
    *,
    seed: int = 0,
    batch_size: int = CAPTIONS_AT_ONCE,
    processes: ProcessGroup = ProcessGroup(),  # noqa: B008  # frozen
    advance: Callable[[int], None] = lambda _: None,
) -> Scores | None:
    """Draw captions and score the drawings.

    Args:
        draw: draws captions with a seed each. Seeds differ for every drawing and every `seed`, and do not depend on `batch_size`.
        reader: reads the drawings; None draws without scoring.
        configurations: N captions.
        seed: of the drawings.
        batch_size: captions that `draw` gets at once.
        processes: share the captions.
        advance: called after each batch with its number of captions.

    Returns:
        the scores of all drawings, in every process; None without a reader.

    Raises:
        ValueError: `draw` returns another number of images, or images of another shape or range.
    """
    total, parts = len(configurations), []
    shard = processes.shard(total)
    for start in shard[::batch_size]:
        rows = range(start, min(start + batch_size, shard.stop))
        batch = configurations[rows.start : rows.stop]
        images = draw([c.caption for c in batch], [seed * total + row for row in rows])
        if len(images) != len(rows):
            raise ValueError(f"drawing {len(rows)} captions returned {len(images)} images")
        if reader is not None:
            parts.append(score(read_canvases(reader, images), images, batch))
        advance(len(rows))
    return None if reader is None else Scores.cat(parts).all_gather(processes)


def caption_accuracy(inputs: DigitInputs) -> list[Measurement]:
    """Measure caption accuracy of drawings, of sharpened drawings, and of canvases of real digits."""
    reader, configurations, digits = inputs.reader, inputs.configurations, inputs.digits
    assert reader is not None
    shard = inputs.processes.shard(len(configurations))
    canvases = inputs.canvases[shard.start : shard.stop]
    real = score(read_canvases(reader, canvases), canvases, configurations[shard.start : shard.stop]).all_gather(inputs.processes)
    protocol = inputs.protocol | {
        "reader": reader.digest(),
        "split": inputs.settings.digits_split,
        "digits": hashlib.sha256(digits.images.numpy().tobytes() + digits.labels.numpy().tobytes()).hexdigest(),
        "cap2im": __version__,
    }

    def measure(scores: Scores | None) -> list[Measurement]:
        assert scores is not None
        return with_protocol(accuracy.caption_accuracy(scores, configurations), protocol)

    measurements = measure(inputs.drawn.scores)
    if (sharpening := inputs.pipeline.sharpening) is not None:
        measurements += sharpened(measure(inputs.drawn_sharpened.scores), sharpening)
    return measurements + [each.in_group("real").model_copy(update={"detail": True}) for each in measure(real)]


def bound(inputs: DigitInputs) -> list[Measurement]:
    """Measure the bound on fresh canvases of captions that training shows."""
    settings, data, split = inputs.settings, inputs.data, inputs.settings.digits_split
    canvases = CanvasMaker(inputs.digits, inputs.held_out, data.variant).make(settings.images, generator("evaluation", settings.seed))
    batch = Batch(canvases.images.float() / 255, *caption_tokens(canvases, inputs.pipeline.vocabulary), torch.empty(0))
    protocol = {
        "data": data.source,
        "variant": data.variant,
        "split": split,
        "configurations": "seen",
        **inputs.held_out.as_json(),
        "images": settings.images,
        "seed": settings.seed,
        **versions(inputs.pipeline),
    }
    return bound_of(inputs, batch, canvases.captions(), split, protocol)


def r_precision(inputs: DigitInputs) -> list[Measurement]:
    """Measure R-precision of the drawings of caption accuracy: of all, of seen and of held-out captions."""
    damsm = inputs.damsm
    assert damsm is not None
    seen = torch.tensor([c.seen for c in inputs.configurations])
    protocol = inputs.protocol | {"damsm": damsm.sha256} | versions(inputs.pipeline)

    def measure(codes: Tensor | None) -> list[Measurement]:
        assert codes is not None
        first = own_caption_first(codes, inputs.sentences, inputs.classes, seed=inputs.settings.seed, processes=inputs.processes)
        groups = {"seen": first[seen], "held out": first[~seen]}
        rates = [rate(first), *(rate(part, group=group, detail=True) for group, part in groups.items() if len(part))]
        return with_protocol(rates, protocol)

    measurements = measure(inputs.drawn.codes)
    if (sharpening := inputs.pipeline.sharpening) is not None:
        measurements += sharpened(measure(inputs.drawn_sharpened.codes), sharpening)
    return measurements


def measure_drawings(inputs: DigitInputs, metric: Metric) -> list[Measurement]:
    """Measure a metric of `DIGIT_ARRAYS` on the drawings of caption accuracy; `images` are canvases of real digits."""
    protocol = inputs.protocol | {"split": inputs.settings.digits_split} | versions(inputs.pipeline)
    if inputs.damsm is not None:
        protocol |= {"damsm": inputs.damsm.sha256}
    fixed: dict[str, Any] = {
        "seed": inputs.settings.seed,
        "images": to_uint8(inputs.canvases),
        "classes": inputs.classes,
        "sentences": None if inputs.damsm is None else inputs.sentences,
    }

    def measure(drawn: DrawnDigits) -> list[Measurement]:
        samples = Samples(**fixed, drawings=drawn.pictures, codes=drawn.codes)
        return with_protocol(measurements_of(resolve(metric.samples)(*(getattr(samples, array) for array in metric.arrays))), protocol)

    measurements = measure(inputs.drawn)
    if (sharpening := inputs.pipeline.sharpening) is not None:
        measurements += sharpened(measure(inputs.drawn_sharpened), sharpening)
    return measurements
