"""Drawings of captions that the package makes, of digits or of scenes, and metrics of them.

Shapes: N drawings, C colours, A side, E features of a DAMSM.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from cap2im.data.splits import Split
from cap2im.evaluation.inputs import Inputs, measurements_of, sharpened, versions, with_protocol
from cap2im.evaluation.registry import Metric, resolve
from cap2im.evaluation.samples import Samples
from cap2im.evaluation.scorers import DAMSMScorer, to_uint8
from cap2im.evaluation.settings import Settings
from cap2im.metrics.criteria import Criteria
from cap2im.metrics.distributed import ProcessGroup
from cap2im.metrics.measurement import Measurement
from cap2im.metrics.r_precision import own_caption_first, rate
from cap2im.pipeline import Pipeline

CAPTIONS_AT_ONCE = 110
ScoresT = TypeVar("ScoresT", bound=Criteria)

Draw = Callable[[list[str], list[int]], Tensor]
"""Draws captions with a seed each: images [n, C, A, A] in 0..1."""

Score = Callable[[Tensor, range], ScoresT]
"""Scores images [n, C, A, A] in 0..1 of some rows of the captions."""


@dataclass(frozen=True)
class Drawn(Generic[ScoresT]):
    """Drawings and what networks make of them.

    Attributes:
        scores: None without a reader.
        codes: [N, E] global image features; None without a DAMSM.
        pictures: [N, C, A, A] uint8; None if no metric reads them.
    """

    scores: ScoresT | None
    codes: Tensor | None
    pictures: Tensor | None


@dataclass(frozen=True)
class GeneratedInputs(Inputs, Generic[ScoresT]):
    """A model of captions that the package makes, and what it is measured with.

    Attributes:
        damsm: matches drawings with captions; None if no metric needs it.
    """

    damsm: DAMSMScorer | None

    @property
    @abstractmethod
    def texts(self) -> list[str]:
        """The captions of the N drawings."""

    @property
    @abstractmethod
    def seen(self) -> Tensor:
        """[N] whether training shows the caption."""

    @property
    @abstractmethod
    def classes(self) -> Tensor:
        """[N] equal for captions of one picture, which are no wrong match for each other."""

    @property
    @abstractmethod
    def real_images(self) -> Tensor:
        """Images [N, C, A, A] in 0..1 of the captions, made of real digits or cut-outs."""

    @property
    @abstractmethod
    def scorer(self) -> Score[ScoresT] | None:
        """Scores pictures by a reader; None if no metric reads them."""

    @property
    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """Entries of the protocols of drawings."""

    @property
    def split(self) -> Split:
        """The split whose captions are held out."""
        return self.settings.digits_split

    @cached_property
    def sentences(self) -> Tensor:
        """[N, E] sentence features of the captions, by the DAMSM."""
        assert self.damsm is not None
        rows = {text: row for row, text in enumerate(dict.fromkeys(self.texts))}
        return self.damsm.sentences(list(rows))[torch.tensor([rows[text] for text in self.texts])]

    @cached_property
    def drawn(self) -> Drawn[ScoresT]:
        """Drawings without a sharpener."""
        return self._draw(dataclasses.replace(self.pipeline, sharpening=None), "drawing")

    @cached_property
    def drawn_sharpened(self) -> Drawn[ScoresT]:
        """Drawings with the sharpener."""
        return self._draw(self.pipeline, "drawing and sharpening")

    def _draw(self, pipeline: Pipeline, description: str) -> Drawn[ScoresT]:
        codes, kept = [], []
        keeps = any("drawings" in metric.arrays for metric in self.metrics.values())

        def draw(captions: list[str], seeds: list[int]) -> Tensor:
            pictures = pipeline.images(pipeline.prompts(captions), seeds)
            if self.damsm is not None:
                codes.append(self.damsm.codes(to_uint8(pictures)))
            if keeps:
                kept.append(to_uint8(pictures).cpu())
            return pictures

        advance = self.bar(f"{description} {len(dict.fromkeys(self.texts))} captions", len(self.texts))
        scores = score_drawings(draw, self.scorer, self.texts, seed=self.settings.seed, processes=self.processes, advance=advance)
        gather, c = self.processes.all_gather, self.pipeline.model.config
        return Drawn(
            scores,
            None if self.damsm is None else gather(torch.cat([torch.empty(0, self.damsm.features), *codes])),
            gather(torch.cat([torch.empty(0, c.colours, c.side, c.side, dtype=torch.uint8), *kept])) if keeps else None,
        )

    def score_real(self, images: Tensor) -> ScoresT:
        """Score images [N, C, A, A] of the captions, in every process."""
        assert self.scorer is not None
        shard = self.processes.shard(len(images))
        return self.scorer(images[shard.start : shard.stop], shard).all_gather(self.processes)

    def of_drawings(self, measure: Callable[[Drawn[ScoresT]], list[Measurement]]) -> list[Measurement]:
        """Return what a function measures of the drawings and, if there is a sharpener, of sharpened drawings."""
        measurements = measure(self.drawn)
        if (sharpening := self.pipeline.sharpening) is not None:
            measurements += sharpened(measure(self.drawn_sharpened), sharpening)
        return measurements


def load_damsm(settings: Settings, metrics: Iterable[Metric], pipeline: Pipeline) -> DAMSMScorer | None:
    """Load the DAMSM of the settings if a metric needs it.

    Raises:
        ValueError: it is missing, damaged or takes other pictures than the model draws.
    """
    if not any("damsm" in metric.needs for metric in metrics):
        return None
    assert settings.damsm is not None  # `Settings` checks needs
    return DAMSMScorer.load(settings.damsm, pipeline)


def score_drawings(
    draw: Draw,
    score: Score[ScoresT] | None,
    captions: Sequence[str],
    *,
    seed: int = 0,
    batch_size: int = CAPTIONS_AT_ONCE,
    processes: ProcessGroup = ProcessGroup(),  # noqa: B008  # frozen
    advance: Callable[[int], None] = lambda _: None,
) -> ScoresT | None:
    """Draw captions and score the drawings.

    Args:
        draw: draws captions with a seed each. Seeds differ for every drawing and every `seed`, and do not depend on `batch_size`.
        score: scores the drawings; None draws without scoring.
        captions: N captions.
        seed: of the drawings.
        batch_size: captions that `draw` gets at once.
        processes: share the captions.
        advance: called after each batch with its number of captions.

    Returns:
        the scores of all drawings, in every process; None without `score`.

    Raises:
        ValueError: `draw` returns another number of images, or images of another shape or range.
    """
    total, parts = len(captions), []
    shard = processes.shard(total)
    for start in shard[::batch_size]:
        rows = range(start, min(start + batch_size, shard.stop))
        images = draw(list(captions[rows.start : rows.stop]), [seed * total + row for row in rows])
        if len(images) != len(rows):
            raise ValueError(f"drawing {len(rows)} captions returned {len(images)} images")
        if score is not None:
            parts.append(score(images, rows))
        advance(len(rows))
    return None if score is None else parts[0].cat(parts).all_gather(processes)


def as_real(measurements: Iterable[Measurement], group: str = "real") -> list[Measurement]:
    """Mark measurements as those of real images, which comparisons of models leave out."""
    return [each.in_group(group).model_copy(update={"detail": True}) for each in measurements]


def r_precision(inputs: GeneratedInputs[Any]) -> list[Measurement]:
    """Measure R-precision of the drawings: of all, of seen and of held-out captions."""
    damsm = inputs.damsm
    assert damsm is not None
    protocol = inputs.protocol | {"damsm": damsm.sha256} | versions(inputs.pipeline)

    def measure(drawn: Drawn[Any]) -> list[Measurement]:
        assert drawn.codes is not None
        first = own_caption_first(drawn.codes, inputs.sentences, inputs.classes, seed=inputs.settings.seed, processes=inputs.processes)
        groups = {"seen": first[inputs.seen], "held out": first[~inputs.seen]}
        rates = [rate(first), *(rate(part, group=group, detail=True) for group, part in groups.items() if len(part))]
        return with_protocol(rates, protocol)

    return inputs.of_drawings(measure)


def measure_drawings(inputs: GeneratedInputs[Any], metric: Metric) -> list[Measurement]:
    """Measure a metric of `GENERATED_ARRAYS` on the drawings; `images` are made of real digits or cut-outs."""
    protocol = inputs.protocol | {"split": inputs.split} | versions(inputs.pipeline)
    if inputs.damsm is not None:
        protocol |= {"damsm": inputs.damsm.sha256}
    fixed: dict[str, Any] = {
        "seed": inputs.settings.seed,
        "images": to_uint8(inputs.real_images),
        "classes": inputs.classes,
        "sentences": None if inputs.damsm is None else inputs.sentences,
    }

    def measure(drawn: Drawn[Any]) -> list[Measurement]:
        samples = Samples(**fixed, drawings=drawn.pictures, codes=drawn.codes)
        return with_protocol(measurements_of(resolve(metric.samples)(*(getattr(samples, array) for array in metric.arrays))), protocol)

    return inputs.of_drawings(measure)
