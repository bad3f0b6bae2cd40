"""What to measure, and how."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Literal

from cap2im.data.dataset import PreparedDataset
from cap2im.data.splits import SPLITS, Split
from cap2im.evaluation.registry import METRICS, require_known


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure, and how; the defaults are those of the command line.

    Attributes:
        metrics: names in `METRICS`; None for the default ones.
        split: images, or digits, to measure on. "all" estimates the bound on each split that the dataset has, and everything else on the
            last of them. None is "test", or "validation" if the dataset has no test images.
        images: largest number of captions with their images, spread evenly over the split; for captioned digits, canvases for the bound;
            for captioned scenes, seen captions, half as many held-out captions of each kind, and scenes for the bound.
        bound_samples: L of equation 15.
        samples: drawings of each caption for caption accuracy, compositional accuracy, R-precision of both, SSIM and flips of scene
            accuracy; None for 10, 1, 10 or 1, 50 and 20.
        shortlist_model: a VGG-like network (see `find_model` for names) or a pickle of shortlists, for retrieval.
        candidates: K images of a shortlist of the network; None for 100.
        retrieval_samples: L of the bounds that retrieval compares.
        inception: file of the Inception weights of FID, Inception Score and neural distance; None for the published ones.
        damsm: DAMSM for R-precision and neural distance; see `find_model` for names.
        reader: digit reader for caption accuracy, or composition reader for compositional accuracy; None for the bundled one.
        scene_reader: scene reader for scene accuracy; see `find_model` for names.
        seed: of every random number.
    """

    metrics: tuple[str, ...] | None = None
    split: Split | Literal["all"] | None = None
    images: int = 1000
    bound_samples: int = 16
    samples: int | None = None
    shortlist_model: str | None = None
    candidates: int | None = None
    retrieval_samples: int = 1
    inception: str | None = None
    damsm: str | None = None
    reader: str | None = None
    scene_reader: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the metrics and their options against each other.

        Raises:
            ValueError: a metric is unknown or lacks an option, an option is given that no metric reads, or a number is below 1.
        """
        for field in ("images", "bound_samples", "samples", "candidates", "retrieval_samples"):
            if (number := getattr(self, field)) is not None and number < 1:
                raise ValueError(f"{option(field)} {number}: must be at least 1")
        require_known(self.metrics or ())
        names = [name for name, metric in METRICS.items() if metric.default] if self.metrics is None else self.metrics
        for name in names:
            for need in METRICS[name].needs:
                if getattr(self, need) is None:
                    raise ValueError(f"--metric {name} needs {option(need)}")
        for field, readers in readers_of_fields().items():
            if (value := getattr(self, field)) is not None and not set(readers) & set(names):
                raise ValueError(f"{option(field)} {value}: no chosen metric reads it; add --metric {' or --metric '.join(readers)}")

    def only(self, metrics: Collection[str]) -> Settings:
        """Return the settings for some metrics, without the options that only other metrics read."""
        unread: dict[str, Any] = {field: None for field, readers in readers_of_fields().items() if not set(readers) & set(metrics)}
        return replace(self, metrics=tuple(metrics), **unread)

    def splits(self, dataset: PreparedDataset) -> tuple[list[Split], Split]:
        """Return the splits on which only the bound is estimated, and the split on which everything is measured.

        Args:
            dataset: the dataset to measure on.

        Raises:
            ValueError: the dataset lacks the split.
        """
        existing: list[Split] = [split for split in SPLITS if dataset.has(split)]
        if self.split == "all" and existing:
            return existing[:-1], existing[-1]
        by_default: Split = "validation" if "test" not in existing and "validation" in existing else "test"
        main = by_default if self.split is None or self.split == "all" else self.split
        dataset.shards(main)  # raises if there are none
        return [], main

    @property
    def digits_split(self) -> Split:
        """The split of the digits that captioned digits are made of, and of the held-out captions of digits and of scenes."""
        return "test" if self.split is None or self.split == "all" else self.split


def readers_of_fields() -> dict[str, list[str]]:
    """Return the metrics that read each field of `Settings` which only some metrics read."""
    readers: dict[str, list[str]] = {}
    for name, metric in METRICS.items():
        for field in (*metric.needs, *metric.reads):
            readers.setdefault(field, []).append(name)
    return readers


def option(field: str) -> str:
    """Return the command-line option of a field of `Settings`."""
    return "--" + field.replace("_", "-")
