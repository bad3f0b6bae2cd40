"""Compositional accuracy and bound of a model of captioned scenes.

Drawn are captions that training shows, and half as many of each kind of held-out captions of the split. The bound is estimated on fresh
scenes that training shows.

Shapes: N drawings, A side.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cap2im._version import __version__
from cap2im.data.batch import Batch
from cap2im.data.cutouts import Cutouts
from cap2im.data.scene_batches import scene_tokens
from cap2im.data.scene_maker import SceneMaker
from cap2im.data.scenes import HELD_OUT_KINDS, Arrangements, HeldOutScenes, Kind, Scene
from cap2im.data.splits import Split
from cap2im.evaluation.captions import bound_of
from cap2im.evaluation.generated import Drawn, GeneratedInputs, Score, as_real, load_damsm
from cap2im.evaluation.inputs import StartProgress, versions, with_protocol
from cap2im.evaluation.registry import Metric
from cap2im.evaluation.settings import Settings
from cap2im.files import sha256
from cap2im.loading import load_model
from cap2im.metrics import compositional_accuracy as accuracy
from cap2im.metrics.compositional_accuracy import READER, Scores, Targets, read_pictures, score, targets_of
from cap2im.metrics.distributed import ProcessGroup
from cap2im.metrics.measurement import Measurement
from cap2im.models.composition_reader import CompositionReader
from cap2im.pipeline import Pipeline
from cap2im.randomness import generator

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompositionInputs(GeneratedInputs[Scores]):
    """A model of captioned scenes and what it is measured with.

    Attributes:
        cutouts: of the model's things, in all styles; None if real scenes are left out.
        reading_style: style that the model's training does not show; empty for none.
        held_out: scenes that training does not show.
        reader: reads the drawings; None if no metric reads it.
    """

    cutouts: Cutouts | None
    reading_style: str
    held_out: HeldOutScenes
    reader: CompositionReader | None

    @classmethod
    def read(
        cls,
        pipeline: Pipeline,
        data: Path | None,
        settings: Settings,
        metrics: Mapping[str, Metric],
        processes: ProcessGroup,
        start_progress: StartProgress,
    ) -> CompositionInputs:
        """Read the cut-outs and the networks of the chosen metrics.

        Args:
            pipeline: the model.
            data: folder of prepared cut-outs; None measures drawings only.
            settings: what to measure, and how.
            metrics: the chosen metrics.
            processes: share the work.
            start_progress: starts progress bars.

        Raises:
            ValueError: cut-outs or networks are missing, damaged or do not fit.
        """
        held_out = replace(HeldOutScenes.from_model(pipeline.config.data), sides=False)  # the same captions for all models
        cutouts = None if data is None else cutouts_of(held_out, data)
        reader = None
        if any("reader" in metric.reads for metric in metrics.values()):
            reader = load_model(settings.reader or READER, CompositionReader).network
        damsm = load_damsm(settings, metrics.values(), pipeline)
        style = pipeline.config.data.get("reading_style", "")
        return cls(pipeline, settings, metrics, processes, start_progress, damsm, cutouts, style, held_out, reader)

    @cached_property
    def arrangements(self) -> Arrangements:
        """The scenes of the N drawings."""
        count, samples = self.settings.images, self.settings.samples or 1
        chosen: list[tuple[Split, Kind, int]] = [("train", "seen", count), *((self.split, kind, -(-count // 2)) for kind in HELD_OUT_KINDS)]
        parts = []
        for split, kind, number in chosen:
            if self.held_out.has(split, kind):
                random = generator("compositional accuracy", self.settings.seed, kind)
                parts.append(self.held_out.draw(number, random, split, kind))
            elif self.processes.is_main_process:
                logger.warning("compositional accuracy, held-out %ss: not measured, the model's few things leave none", kind)
        columns = ("templates", "things", "backgrounds")
        whole = Arrangements(*(torch.cat([getattr(part, column) for part in parts]) for column in columns))
        return whole[torch.arange(len(whole)).repeat_interleave(samples)]

    @cached_property
    def scenes(self) -> list[Scene]:
        """The captions of the N drawings, with their content."""
        return self.held_out.scenes(self.arrangements)

    @property
    def texts(self) -> list[str]:
        """The captions of the N drawings."""
        return [scene.caption for scene in self.scenes]

    @property
    def seen(self) -> Tensor:
        """[N] whether training shows the caption."""
        return torch.tensor([scene.kind == "seen" for scene in self.scenes])

    @property
    def classes(self) -> Tensor:
        """[N] equal for captions that fit each other's pictures."""
        return self.arrangements.classes()

    @cached_property
    def trained_styles(self) -> list[str]:
        """Styles of drawing of the cut-outs, without the reading style."""
        assert self.cutouts is not None
        return [style for style in self.cutouts.styles if style != self.reading_style]

    def paint(self, styles: list[str]) -> Tensor:
        """Return scenes [N, 3, A, A] in 0..1 of the captions, painted from cut-outs in some styles."""
        assert self.cutouts is not None
        maker = SceneMaker(self.cutouts, self.held_out, self.pipeline.model.config.side)
        return maker.render(self.arrangements, generator("real scenes", self.settings.seed), styles).images.float() / 255

    @cached_property
    def real_images(self) -> Tensor:
        """Scenes [N, 3, A, A] in 0..1 of the captions, in the styles that the model was trained on."""
        return self.paint(self.trained_styles)

    @cached_property
    def targets(self) -> Targets:
        """The content of the captions, as classes of the reader."""
        assert self.reader is not None
        return targets_of(self.scenes, [noun.name for noun in self.held_out.nouns], self.reader.config)

    @property
    def scorer(self) -> Score[Scores] | None:
        """Scores pictures by the reader; None without a reader."""
        return None if self.reader is None else picture_scorer(self.reader, self.targets)

    @property
    def protocol(self) -> dict[str, Any]:
        """Entries of the protocols of drawings."""
        return {
            "captions": sha256("\n".join(self.texts).encode()),
            "drawings": len(self.texts),
            "samples_per_caption": self.settings.samples or 1,
            "split": self.split,
            "seed": self.settings.seed,
            **self.precision,
        }


def cutouts_of(held_out: HeldOutScenes, folder: Path) -> Cutouts:
    """Return the cut-outs of the things of scenes.

    Raises:
        ValueError: the folder is not prepared, is damaged or lacks a thing.
    """
    cutouts = Cutouts.open(folder).choose([noun.name for noun in held_out.nouns])
    if differing := [ours.name for ours, theirs in zip(held_out.nouns, cutouts.nouns, strict=True) if ours != theirs]:
        raise ValueError(f"{folder}: captions name {differing[0]!r} in other words than those of the model")
    return cutouts


def picture_scorer(reader: CompositionReader, targets: Targets) -> Score[Scores]:
    """Return a function that scores pictures of some of the captions."""
    return lambda images, rows: score(read_pictures(reader, images.cpu()), targets[slice(rows.start, rows.stop)])


def compositional_accuracy(inputs: CompositionInputs) -> list[Measurement]:
    """Measure compositional accuracy of drawings, of sharpened drawings, and of real scenes if there are cut-outs."""
    assert inputs.reader is not None
    protocol = inputs.protocol | {"reader": inputs.reader.digest(), "cap2im": __version__}

    def measure(scores: Scores) -> list[Measurement]:
        return with_protocol(accuracy.compositional_accuracy(scores, inputs.scenes), protocol)

    def of_drawings(drawn: Drawn[Scores]) -> list[Measurement]:
        assert drawn.scores is not None
        return measure(drawn.scores)

    measurements = inputs.of_drawings(of_drawings)
    if inputs.cutouts is None:
        if inputs.processes.is_main_process:
            logger.warning("compositional accuracy, real scenes: not measured; --data CUTOUTS measures them, too")
        return measurements
    protocol["cutouts"] = inputs.cutouts.sha256
    measurements += as_real(measure(inputs.score_real(inputs.real_images)))
    if inputs.reading_style in inputs.cutouts.styles:
        in_style = inputs.score_real(inputs.paint([inputs.reading_style]))
        measurements += as_real(measure(in_style), f"real, {inputs.reading_style}")
    return measurements


def bound(inputs: CompositionInputs) -> list[Measurement]:
    """Measure the bound on fresh scenes that training shows, in the styles that it shows."""
    settings, cutouts = inputs.settings, inputs.cutouts
    assert cutouts is not None  # checked before
    random = generator("evaluation", settings.seed)
    maker = SceneMaker(cutouts, inputs.held_out, inputs.pipeline.model.config.side)
    scenes = maker.render(inputs.held_out.draw(settings.images, random), random, inputs.trained_styles)
    batch = Batch(scenes.images.float() / 255, *scene_tokens(scenes.captions, inputs.pipeline.vocabulary), torch.empty(0))
    protocol = {
        "cutouts": cutouts.sha256,
        "captions": sha256("\n".join(scenes.captions).encode()),
        "images": settings.images,
        "seed": settings.seed,
        **versions(inputs.pipeline),
    }
    return bound_of(inputs, batch, scenes.captions, "seen", protocol)
