"""Checks that come before a model is measured, or even trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cap2im.config import DigitsData, DrawingRecipe, ScenesData
from cap2im.convert.inception import find_inception
from cap2im.data.cutouts import Cutouts
from cap2im.data.dataset import PreparedDataset
from cap2im.data.manifest import MANIFEST
from cap2im.data.mnist import DigitSource
from cap2im.evaluation.captions import require_captions
from cap2im.evaluation.registry import METRICS, Metric
from cap2im.evaluation.settings import Settings
from cap2im.extras import require
from cap2im.loading import load_model
from cap2im.metrics.r_precision import require_pictures
from cap2im.metrics.scene_accuracy import readable_flips
from cap2im.metrics.shortlists import CANDIDATES, require_candidates
from cap2im.metrics.ssim import structural_similarity
from cap2im.models.composition_reader import CompositionReader
from cap2im.models.damsm import DAMSM
from cap2im.models.digit_reader import DigitReader
from cap2im.models.interface import LikelihoodModel
from cap2im.models.scene_reader import SceneReader
from cap2im.models.vgg import VGG
from cap2im.pipeline import Pipeline
from cap2im.registry import MODELS


@dataclass(frozen=True)
class Subject:
    """A model that will be measured, or the recipe of one.

    Attributes:
        name: of the model or recipe.
        config: of the network: its side, colours and conditioning.
        has_bound: whether it is a `LikelihoodModel`.
        digits: source of the digits of a model of captioned digits; None for other models.
        scenes: whether it is a model of captioned scenes; the others are of captioned images.
    """

    name: str
    config: Any
    has_bound: bool
    digits: DigitSource | None
    scenes: bool = False

    @classmethod
    def of(cls, pipeline: Pipeline) -> Subject:
        """Describe a loaded model."""
        data = pipeline.config.data
        digits = DigitsData.from_model(data).source if "held_out" in data else None
        return cls(pipeline.name, pipeline.model.config, isinstance(pipeline.model, LikelihoodModel), digits, "scenes" in data)

    @classmethod
    def of_recipe(cls, name: str, recipe: DrawingRecipe) -> Subject:
        """Describe the model that a recipe trains."""
        digits = recipe.data.source if isinstance(recipe.data, DigitsData) else None
        has_bound = issubclass(MODELS[recipe.kind].network_class, LikelihoodModel)
        return cls(name, recipe.model, has_bound, digits, isinstance(recipe.data, ScenesData))

    def allows(self, metric: Metric) -> bool:
        """Return whether the network has what a metric needs: a bound, or captions that condition it."""
        return (self.has_bound or not metric.needs_bound) and (self.config.conditioning != "none" or not metric.needs_text)

    def metrics(self, settings: Settings) -> dict[str, Metric]:
        """Return the metrics to measure: those that the settings name, or else the default ones that the model allows.

        Args:
            settings: what to measure.

        Raises:
            ValueError: a named metric cannot be measured of this model or on its kind of data.
        """
        if settings.metrics is None:
            applicable = {name: metric for name, metric in METRICS.items() if metric.default and self.allows(metric)}
            return {name: metric for name, metric in applicable.items() if self._on_its_data(metric)}
        chosen = {name: metric for name, metric in METRICS.items() if name in settings.metrics}
        for name, metric in chosen.items():
            if not self._on_its_data(metric):
                possible = ", ".join(other for other, each in METRICS.items() if self._on_its_data(each))
                kind = f"captioned {'digits' if self.digits else 'scenes' if self.scenes else 'images'}"
                raise ValueError(f"--metric {name}: {self.name} draws {kind}, for which the metrics are {possible}")
            if not self.allows(metric):
                lacks = "a likelihood" if metric.needs_bound and not self.has_bound else "captions as input"
                raise ValueError(f"--metric {name}: {self.name} does not have {lacks}")
        return chosen

    def allowed(self, settings: Settings) -> Settings:
        """Return the settings without the named metrics that the network does not allow, as for a GAN among likelihood models."""
        if settings.metrics is None:
            return settings
        return settings.only([name for name in settings.metrics if self.allows(METRICS[name])])

    def _on_its_data(self, metric: Metric) -> bool:
        if self.digits is not None:
            return metric.measures_digits
        return metric.measures_scenes if self.scenes else bool(metric.captions or metric.samples)

    def check(self, data: str | Path | None, settings: Settings) -> None:
        """Make all checks that need neither drawings nor large networks: metrics, data, splits, sizes, files and installed packages.

        Args:
            data: a prepared dataset, or the folder of the MNIST files.
            settings: what to measure, and how.

        Raises:
            ValueError: something cannot be measured.
        """
        metrics = self.metrics(settings)
        if self.digits is not None:
            self._check_digits(data, settings, self.digits)
        elif self.scenes:
            self._check_scenes(data, settings, metrics)
        else:
            self._check_captions(data, settings, metrics)

    def _check_digits(self, data: str | Path | None, settings: Settings, source: DigitSource) -> None:
        if settings.split == "all":
            raise ValueError(f"--split all: {self.name} draws captioned digits, which are measured on one split")
        if source == "digits" and data is not None:
            raise ValueError(f"--data {data}: {self.name} is measured on the digits inside scikit-learn, not on a folder; leave --data out")
        if data is not None and ("://" in str(data) or (Path(data) / MANIFEST).is_file()):
            kind = "a URL" if "://" in str(data) else "a prepared dataset"
            raise ValueError(f"--data {data}: is {kind}; {self.name} draws captioned digits, and needs the folder of the four MNIST files")

    def _check_scenes(self, data: str | Path | None, settings: Settings, metrics: Mapping[str, Metric]) -> None:
        if settings.split in ("all", "train"):
            raise ValueError(
                f"--split {settings.split}: {self.name} draws captioned scenes; choose validation or test, which have held-out ones"
            )
        if data is not None:
            Cutouts.open(data)
        elif painted := [name for name in metrics if name != "compositional-accuracy"]:
            raise ValueError(
                f"{self.name} draws captioned scenes: give prepared cut-outs with --data for {', '.join(painted)}, "
                "or measure --metric compositional-accuracy only"
            )

    def _check_captions(self, data: str | Path | None, settings: Settings, metrics: Mapping[str, Metric]) -> None:
        if data is None:
            raise ValueError(f"{self.name} draws captioned images: give a prepared dataset with --data")
        dataset = PreparedDataset.open(data)
        require("reading prepared data", "train", "datasets")
        others, main = settings.splits(dataset)
        training = any(metric.needs_train for metric in metrics.values())
        for split in (*others, main, *(("train",) if training else ())):
            dataset.shards(split)  # raises if there are none
        if self.has_bound and any(dataset.is_local(split) for split in (*others, main)):
            dataset.require_size(self.config.side, f"a drawing of {self.name}")
        if "retrieval" in metrics and settings.shortlist_model is not None and not Path(settings.shortlist_model).is_file():
            load_model(settings.shortlist_model, VGG)
            images = sum(shard.rows for shard in dataset.shards(main))
            require_candidates(CANDIDATES if settings.candidates is None else settings.candidates, images)
        if "ssim" in metrics:
            blank = torch.zeros(1, self.config.colours, self.config.side, self.config.side)
            structural_similarity(blank, blank)
        if settings.scene_reader is not None:
            readable_flips(settings.scene_reader, load_model(settings.scene_reader, SceneReader).network.config.names)
        whole = [name for name, metric in metrics.items() if metric.samples or metric.needs_images]
        for split in (main, *(("train",) if training else ())):
            if whole and not dataset.is_local(split):
                files = f"files of its {split} images are missing"
                raise ValueError(f"{dataset.folder}: is not on this machine, or {files}; {', '.join(whole)} need all of them")

    def check_scorers(self, settings: Settings) -> None:
        """Check the networks that metrics read; an evaluation loads them at its beginning, a comparison after its trainings.

        Args:
            settings: what to measure, and how.

        Raises:
            ValueError: a network is missing, cannot be downloaded or takes other pictures, or there are too few captions for it.
        """
        metrics = self.metrics(settings)
        if any("inception" in metric.reads for metric in metrics.values()):
            find_inception("fid", "" if settings.inception is None else settings.inception)
        if settings.damsm is not None:
            require_pictures(
                settings.damsm, load_model(settings.damsm, DAMSM).network.config, self.name, self.config.side, self.config.colours
            )
        if settings.reader is not None:
            load_model(settings.reader, CompositionReader if self.scenes else DigitReader)
        if self.digits is None and not self.scenes:
            require_captions(metrics, settings.images, settings.images - 1)
