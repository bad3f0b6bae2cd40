"""Detect that a model is used with another dataset than the one it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from cap2im.data.dataset import PreparedDataset
from cap2im.evaluation.protocol import source_name
from cap2im.pipeline import Pipeline


@dataclass(frozen=True)
class OtherDataset:
    """A dataset that a model was not trained on.

    Attributes:
        model: name of the model.
        trained_on: name of the dataset that it was trained on; None if its config does not record it.
        dataset: name of the other dataset.
        unknown: share of unknown words among the words of the used captions; None for a model that reads no words.
    """

    model: str
    trained_on: str | None
    dataset: str
    unknown: float | None

    @property
    def protocol(self) -> dict[str, Any]:
        """Entry of protocols."""
        share = {} if self.unknown is None else {"unknown_words": round(self.unknown, 4)}
        return {"foreign": {"trained_on": self.trained_on, "measured_on": self.dataset, **share}}

    @property
    def warning(self) -> str:
        """One line for people."""
        if self.trained_on is None:
            share = f"{100 * (self.unknown or 0):.1f} %"
            return f"warning: {self.model} does not record its training data; {share} of the words of {self.dataset} are unknown to it"
        words = "" if self.unknown is None else f": {100 * self.unknown:.1f} % of the words of the captions are unknown to it"
        return f"warning: {self.model} was trained on {self.trained_on}, not on {self.dataset}{words}"


def other_dataset(pipeline: Pipeline, dataset: PreparedDataset, captions: Sequence[str]) -> OtherDataset | None:
    """Describe a dataset that a model was not trained on; return None if it is the model's own.

    A model whose config does not record its training data counts as trained on every dataset whose words it all knows.

    Args:
        pipeline: the model.
        dataset: that the captions are of.
        captions: captions that are used.
    """
    data = pipeline.config.data
    own = data.get("dataset", {})
    if own.get("sha256") == dataset.sha256:
        return None
    if (content := dataset.content_sha256) is not None and data.get("content_sha256") == content:
        return None  # the same images and captions, prepared from another path
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
    return OtherDataset(pipeline.name, trained_on, f"{PurePath(dataset.folder).name}, made of {source_name(dataset.about())}", unknown)


def note_on(model: str, protocol: Mapping[str, Any]) -> str | None:
    """Return a footnote on a model that was measured on another dataset than its own; None if the protocol has no such entry.

    Args:
        model: name of the model.
        protocol: of a measurement; see `OtherDataset.protocol`.
    """
    if not isinstance(other := protocol.get("foreign"), Mapping):
        return None
    share, trained, measured = other.get("unknown_words"), other.get("trained_on"), other.get("measured_on")
    words = "" if not isinstance(share, float | int) else f"; {100 * share:.1f} % of the words are unknown to it"
    if trained is None:
        return f"{model} does not record its training data, and was measured on {measured}{words}."
    return f"{model} was trained on {trained}, not on {measured}{words}."
