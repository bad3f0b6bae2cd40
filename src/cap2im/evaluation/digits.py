"""Caption accuracy and bound of a model of captioned digits.

Captions that training shows and those held out for the split are drawn. The bound is estimated on fresh canvases of captions that
training shows.

Shapes: N drawings, A canvas side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
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
from cap2im.evaluation.generated import Drawn, GeneratedInputs, Score, as_real, load_damsm
from cap2im.evaluation.inputs import StartProgress, versions, with_protocol
from cap2im.evaluation.registry import Metric
from cap2im.evaluation.settings import Settings
from cap2im.loading import load_model
from cap2im.metrics import caption_accuracy as accuracy
from cap2im.metrics.caption_accuracy import READER, Scores, read_canvases, real_canvases, score
from cap2im.metrics.distributed import ProcessGroup
from cap2im.metrics.measurement import Measurement
from cap2im.models.digit_reader import DigitReader
from cap2im.pipeline import Pipeline
from cap2im.randomness import generator

SAMPLES = 10  # drawings of each caption


@dataclass(frozen=True)
class DigitInputs(GeneratedInputs[Scores]):
    """A model of captioned digits and what it is measured with.

    Attributes:
        digits: real digits of a split.
        data: which digits and canvases the model was trained on.
        held_out: captions that training does not show.
        reader: reads the drawings' digits; None if no metric reads it.
    """

    digits: Digits
    data: DigitsData
    held_out: HeldOut
    reader: DigitReader | None

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
        damsm = load_damsm(settings, metrics.values(), pipeline)
        return cls(pipeline, settings, metrics, processes, start_progress, damsm, digits, recipe, held_out, reader)

    @property
    def samples(self) -> int:
        """Drawings of each caption."""
        return SAMPLES if self.settings.samples is None else self.settings.samples

    @cached_property
    def captions(self) -> list[Configuration]:
        """Every caption to draw."""
        return list(self.held_out.configurations(self.split))

    @cached_property
    def configurations(self) -> list[Configuration]:
        """The captions of the N drawings."""
        return [c for c in self.captions for _ in range(self.samples)]

    @property
    def texts(self) -> list[str]:
        """The captions of the N drawings."""
        return [c.caption for c in self.configurations]

    @property
    def seen(self) -> Tensor:
        """[N] whether training shows the caption."""
        return torch.tensor([c.seen for c in self.configurations])

    @cached_property
    def real_images(self) -> Tensor:
        """Canvases [N, 1, A, A] in 0..1 of the captions, made of real digits."""
        return real_canvases(self.digits, self.configurations, self.settings.seed)

    @cached_property
    def classes(self) -> Tensor:
        """[N] equal for captions of the same digits at the same places, which are no wrong match for each other."""
        scenes: dict[frozenset[tuple[str, int]], int] = {}
        pictures = (frozenset(zip(c.places, c.digits, strict=True)) for c in self.configurations)
        return torch.tensor([scenes.setdefault(picture, len(scenes)) for picture in pictures])

    @property
    def scorer(self) -> Score[Scores] | None:
        """Scores pictures by the reader; None without a reader."""
        return None if self.reader is None else canvas_scorer(self.reader, self.configurations)

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


def canvas_scorer(reader: DigitReader, configurations: list[Configuration]) -> Score[Scores]:
    """Return a function that scores canvases of some of the configurations."""
    return lambda images, rows: score(read_canvases(reader, images), images, configurations[rows.start : rows.stop])


def caption_accuracy(inputs: DigitInputs) -> list[Measurement]:
    """Measure caption accuracy of drawings, of sharpened drawings, and of canvases of real digits."""
    digits = inputs.digits
    assert inputs.reader is not None
    protocol = inputs.protocol | {
        "reader": inputs.reader.digest(),
        "split": inputs.split,
        "digits": hashlib.sha256(digits.images.numpy().tobytes() + digits.labels.numpy().tobytes()).hexdigest(),
        "cap2im": __version__,
    }

    def measure(scores: Scores) -> list[Measurement]:
        return with_protocol(accuracy.caption_accuracy(scores, inputs.configurations), protocol)

    def of_drawings(drawn: Drawn[Scores]) -> list[Measurement]:
        assert drawn.scores is not None
        return measure(drawn.scores)

    return inputs.of_drawings(of_drawings) + as_real(measure(inputs.score_real(inputs.real_images)))


def bound(inputs: DigitInputs) -> list[Measurement]:
    """Measure the bound on fresh canvases of captions that training shows."""
    settings, data, split = inputs.settings, inputs.data, inputs.split
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
