"""Scene accuracy of a model of captioned images: drawings of flips and of a split's captions, and the images of these captions.

Shapes: N pictures, W words of a reader, C colours, A side.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cap2im.evaluation.captions import CaptionInputs
from cap2im.evaluation.inputs import sharpened, with_protocol
from cap2im.evaluation.scorers import batches, to_uint8
from cap2im.evaluation.selection import checksum
from cap2im.files import sha256, shortened
from cap2im.loading import LoadedModel, load_model
from cap2im.metrics import scene_accuracy as metric
from cap2im.metrics.measurement import Measurement
from cap2im.metrics.scene_accuracy import Flips, held_words, readable_flips
from cap2im.models.scene_reader import SceneReader
from cap2im.pipeline import Pipeline, Prompt

logger = logging.getLogger(__name__)

SAMPLES = 20  # drawings of each caption of a flip


@dataclass(frozen=True)
class Captions:
    """Captions to draw, each once.

    Attributes:
        texts: N captions.
        targets: [N] their words, as rows of the group's words.
        seeds: N seeds.
        protocol: entries of protocols.
    """

    texts: list[str]
    targets: Tensor
    seeds: list[int]
    protocol: dict[str, Any]


@dataclass(frozen=True)
class Group:
    """A group of captions that a reader can read, and the images of a split that hold one of its words.

    Attributes:
        inputs: the model and the data.
        reader: the reader.
        flips: the group.
        words: those that the reader knows.
    """

    inputs: CaptionInputs
    reader: LoadedModel[SceneReader]
    flips: Flips
    words: tuple[str, ...]

    @property
    def columns(self) -> list[int]:
        """The group's words among those of the reader."""
        return [self.reader.network.config.names.index(word) for word in self.words]

    @property
    def plain(self) -> Pipeline:
        """The model without its sharpener, whose vocabulary decides which captions are drawn."""
        return dataclasses.replace(self.inputs.pipeline, sharpening=None)

    @property
    def samples(self) -> int:
        """Drawings of each caption of a flip."""
        samples = self.inputs.settings.samples
        return SAMPLES if samples is None else samples

    @cached_property
    def rows(self) -> tuple[Tensor, Tensor]:
        """Rows [N] of images whose captions hold exactly one of the words, and the words [N]; at most `--images`, of each word alike."""
        sample, config = self.inputs.main, self.reader.network.config
        assert sample is not None
        assert sample.whole is not None  # checked before
        whole = sample.whole
        held = held_words(whole.captions, whole.image_of, len(whole), config.words)
        chosen = held[:, self.columns]
        usable = chosen.sum(dim=1) == 1
        rows, targets = [], []
        for word in range(len(self.words)):
            candidates = (usable & chosen[:, word]).nonzero().flatten()
            count = min(len(candidates), max(1, self.inputs.settings.images // len(self.words)))
            rows.append(candidates[torch.linspace(0, len(candidates) - 1, count).long()])
            targets.append(torch.full((count,), word))
        return torch.cat(rows), torch.cat(targets)

    def flip_captions(self) -> Captions:
        """Return the captions of the templates, `samples` times; picture k of every caption is drawn from one seed."""
        pairs = [(caption, word) for word, name in enumerate(self.words) for caption in self.flips.captions(name)]
        kept = [(caption, word) for caption, word in pairs if self._is_known(caption)]
        protocol = {
            "captions": sha256("\n".join(caption for caption, _ in kept).encode()),
            "samples_per_caption": self.samples,
            "left_out": len(pairs) - len(kept),
        }
        self._warn([caption for caption, _ in pairs], len(pairs) - len(kept), "captions of flips are left out")
        repeated = [pair for pair in kept for _ in range(self.samples)]
        first = self.inputs.settings.seed * self.samples
        seeds = [first + sample for _ in kept for sample in range(self.samples)]
        return Captions([caption for caption, _ in repeated], torch.tensor([word for _, word in repeated]), seeds, protocol)

    def split_captions(self) -> Captions:
        """Return of each image the first caption that holds its word and no unknown one, if there is one."""
        assert self.inputs.main is not None
        split, whole = self.inputs.main.split, self.inputs.main.whole
        assert whole is not None
        chosen: list[tuple[int, str, int]] = []
        unread: list[str] = []
        for row, word in zip(*(each.tolist() for each in self.rows), strict=True):
            captions = [whole.captions[index] for index in np.flatnonzero(whole.image_of == row)]
            holds = held_words(captions, range(len(captions)), len(captions), [self.reader.network.config.words[self.columns[word]]])
            captions = [caption for caption, (held,) in zip(captions, holds.tolist(), strict=True) if held]
            if (caption := next(filter(self._is_known, captions), None)) is not None:
                chosen.append((row, caption, word))
            else:
                unread += captions
        images, texts, targets = (list(each) for each in zip(*chosen, strict=True)) if chosen else ([], [], [])
        left_out = len(self.rows[0]) - len(chosen)
        self._warn(unread, left_out, f"{split} images are left out, because each caption that holds the word has an unknown one")
        protocol = {"split": split, "captions": checksum(torch.tensor(images), texts), "left_out": left_out}
        first = self.inputs.settings.seed * len(chosen)
        return Captions(texts, torch.tensor(targets), [first + place for place in range(len(chosen))], protocol)

    def _is_known(self, caption: str) -> bool:
        return not self.plain.unknown_words(caption)

    def _warn(self, captions: Sequence[str], left_out: int, what: str) -> None:
        """Log captions or images that are left out, with the unknown words of captions."""
        if left_out and self.inputs.processes.is_main_process:
            unknown = dict.fromkeys(word for caption in captions for word in self.plain.unknown_words(caption))
            logger.warning("%s accuracy: %s %s: %s", self.flips.name, left_out, what, shortened(", ".join(unknown), 200))

    def evidence(self, pictures: Callable[[range], Tensor], count: int, description: str, size: int) -> Tensor:
        """Return the reader's evidence [N, W] for the words of the group.

        Args:
            pictures: returns the pictures [n, C, A, A] uint8 of some rows.
            count: N.
            description: of the progress bar.
            size: pictures at a time.
        """
        network, device, processes = self.reader.network, self.inputs.pipeline.device, self.inputs.processes
        parts, advance = [torch.empty(0, len(self.words))], self.inputs.bar(description, count)  # a process may have no row
        for rows in batches(processes.shard(count), size):
            parts.append(network.evidence(pictures(rows).to(device).float() / 255)[:, self.columns].cpu())
            advance(len(rows))
        return processes.all_gather(torch.cat(parts))

    def measure_drawings(self, captions: Captions, kind: str) -> list[Measurement]:
        """Measure drawings, and sharpened drawings if there is a sharpener."""
        inputs, sharpening = self.inputs, self.inputs.pipeline.sharpening
        protocol = self.protocol | captions.protocol | {"drawings": len(captions.texts)} | inputs.precision
        if missing := [name for word, name in enumerate(self.words) if word not in captions.targets.tolist()]:
            if inputs.processes.is_main_process:
                logger.warning("%s accuracy, %s: not measured, no caption for %s", self.flips.name, kind, ", ".join(missing))
            return []

        prompts = self.plain.prompts(captions.texts)

        def measure(pipeline: Pipeline, prompts: list[Prompt], description: str) -> list[Measurement]:
            def pictures(rows: range) -> Tensor:
                return to_uint8(pipeline.images(prompts[rows.start : rows.stop], captions.seeds[rows.start : rows.stop]))

            evidence = self.evidence(pictures, len(prompts), f"{description} {self.flips.name} {kind}", pipeline.batch_size)
            return with_protocol(metric.scene_accuracy(evidence, captions.targets, self.flips, self.words, kind), protocol)

        measurements = measure(self.plain, prompts, "drawing")
        if sharpening is not None:
            if (tokens := sharpening.tokens(captions.texts, sharpening.training_unknown)) is not None:
                prompts = [dataclasses.replace(each, sharpener_tokens=own) for each, own in zip(prompts, tokens, strict=True)]
            measurements += sharpened(measure(inputs.pipeline, prompts, "drawing and sharpening"), sharpening)
        return measurements

    def measure_images(self) -> list[Measurement]:
        """Measure the images themselves, in the drawings' size."""
        inputs, (rows, targets), c = self.inputs, self.rows, self.inputs.pipeline.model.config
        assert inputs.main is not None
        whole = inputs.main.whole
        assert whole is not None
        if missing := [name for word, name in enumerate(self.words) if word not in targets.tolist()]:
            if inputs.processes.is_main_process:
                logger.warning("%s accuracy, images: not measured, no image for %s", self.flips.name, ", ".join(missing))
            return []

        def pictures(part: range) -> Tensor:
            return whole.pixels(rows[part.start : part.stop].tolist(), c.colours, c.side)

        evidence = self.evidence(pictures, len(rows), f"reading {self.flips.name} images", inputs.pipeline.batch_size)
        protocol = self.protocol | {"split": inputs.main.split, "images": len(rows)}
        return with_protocol(metric.scene_accuracy(evidence, targets, self.flips, self.words, "images"), protocol)

    @property
    def protocol(self) -> dict[str, Any]:
        """Entries of all protocols."""
        return self.inputs.about | {"scene_reader": self.reader.sha256, "words": " ".join(self.words)}


def scene_accuracy(inputs: CaptionInputs) -> list[Measurement]:
    """Measure scene accuracy of drawings of flips and of a split's captions, and of images, for each group that the reader reads."""
    name = inputs.settings.scene_reader
    assert name is not None  # the metric names it as a need
    reader = load_model(name, SceneReader, device=str(inputs.pipeline.device))
    measurements: list[Measurement] = []
    for flips, words in readable_flips(name, reader.network.config.names):
        group = Group(inputs, reader, flips, words)
        measurements += group.measure_drawings(group.flip_captions(), "flips")
        measurements += group.measure_drawings(group.split_captions(), "captions")
        measurements += group.measure_images()
    if not measurements:
        raise ValueError(
            f"--metric scene-accuracy: {inputs.pipeline.name} and the captions of {inputs.dataset.folder} lack the words of all flips"
        )
    return measurements
