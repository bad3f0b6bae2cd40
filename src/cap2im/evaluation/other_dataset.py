"""Whether a model is measured on, or draws captions of, another dataset than the one it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from cap2im.data.dataset import PreparedDataset
from cap2im.pipeline import Pipeline


@dataclass(frozen=True)
class ForeignData:
    """A dataset that a model was not trained on.

    Attributes:
        model: its name.
        trained_on: name of the dataset it was trained on; None where its config does not say.
        dataset: name of the other dataset.
        unknown: share of the words of the captions used that the model does not know; None for a model that reads no words by number.
    """

    model: str
    trained_on: str | None
    dataset: str
    unknown: float | None

    @property
    def protocol(self) -> dict[str, Any]:
        """What a measurement records of it, JSON-ready."""
        share = {} if self.unknown is None else {"unknown_words": round(self.unknown, 4)}
        return {"foreign": {"trained_on": self.trained_on, "measured_on": self.dataset, **share}}

    @property
    def warning(self) -> str:
        """One line for people."""
        if self.trained_on is None:
            share = f"{100 * (self.unknown or 0):.1f} %"
            return f"warning: {self.model} does not say what it was trained on; it does not know {share} of the words of {self.dataset}"
        words = "" if self.unknown is None else f": it does not know {100 * self.unknown:.1f} % of the words of the captions used"
        return f"warning: {self.model} was trained on {self.trained_on}, not on {self.dataset}{words}"


def foreign_data(pipeline: Pipeline, dataset: PreparedDataset, captions: Sequence[str]) -> ForeignData | None:
    """Return what is foreign to a model in a dataset, or None where the model was trained on this very dataset.

    A model whose config does not say what it was trained on counts as trained on the dataset where it knows all words.

    Args:
        pipeline: the model.
        dataset: that it is measured on.
        captions: that are used of it.
    """
    data = pipeline.config.data
    own = data.get("dataset", {})
    if own.get("sha256") == dataset.sha256:
        return None
    unknown = None
    if pipeline.model.config.reads_words:
        words = [word for caption in captions for word in pipeline.vocabulary.split(caption)]
        unknown = sum(word not in pipeline.vocabulary.numbers for word in words) / max(1, len(words))
    if "held_out" in data:
        trained_on = "captioned digits of MNIST" if data.get("source") == "mnist" else "captioned digits of scikit-learn"
    elif own:
        trained_on = source_name(own)
    elif not unknown:
        return None
    else:
        trained_on = None
    return ForeignData(pipeline.name, trained_on, f"{PurePath(dataset.folder).name}, made of {source_name(dataset.about())}", unknown)


def source_name(about: Mapping[str, Any]) -> str:
    """Return the display name of a prepared dataset: its title, or else the last part of its source's path, with the kind.

    Args:
        about: what models and protocols say of the dataset, see `PreparedDataset.about`.
    """
    if isinstance(title := about.get("title"), str) and title:
        return title
    source = about.get("source", {})
    kind, path = source.get("kind", "unknown"), str(source.get("path", ""))
    name = path if kind == "huggingface" and "/" in path else PurePath(path).name
    return f"{name} ({kind})" if name else f"a source of kind {kind}"
