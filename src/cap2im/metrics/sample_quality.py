"""One drawing of each of many captions, and what networks say of them: FID, Inception Score, R-precision, neural distance.

The protocol: captions spread evenly over a split (all of them, if so many are asked for), one drawing of each, from noise of its own,
rounded to 8 bits. FID compares the drawings with all images of the split: of each the central square, resized to the drawings' side. These
are looked at once: their statistics are kept beside the dataset, under a checksum of all that decides them. R-precision chooses wrong
captions among those that were drawn. The layers of the neural distance are trained on `HEADS_PAIRS` captions of the training split with
their images, spread evenly; beside it stands that of the drawings with other captions, their neighbours'.

Shapes: N captions, C colours, A side, F features, K classes, E features of a matching model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cap2im.convert.inception import load_inception
from cap2im.data.captioned_images import CaptionedImages, NumberedCaptions
from cap2im.data.dataset import PreparedDataset
from cap2im.data.splits import Split
from cap2im.data.vocabulary import Vocabulary, pad
from cap2im.files import sha256
from cap2im.loading import load_model
from cap2im.metrics import fid
from cap2im.metrics.distributed import ProcessGroup
from cap2im.metrics.elbo import Sharpen
from cap2im.metrics.fid import (
    RESIZE,
    SPLITS,
    NeuralDistance,
    Statistics,
    eight_bits,
    fit_heads,
    frechet_distance,
    inception_score,
    kept_statistics,
    look,
    neural_distance,
)
from cap2im.metrics.r_precision import METRIC_VERSION as R_PRECISION_VERSION
from cap2im.metrics.r_precision import OTHERS, fewest_wrong, r_precision, require_sight
from cap2im.models.damsm import DAMSM
from cap2im.models.inception import CLASSES, FEATURES, Inception
from cap2im.pipeline import Pipeline
from cap2im.randomness import generator, item_noise

CAPTIONS_AT_ONCE = 500
HEADS_PAIRS = 5_000  # at most
STATISTICS = "image-statistics"  # folder beside a dataset's shards

Bar = Callable[[str, int], Callable[[int], None]]
"""Starts a progress bar of a name and a total; answers what advances it."""


# What is drawn


@dataclass(frozen=True)
class Captions:
    """Captions of a split: all of its images, the captions' rows [N] in it, the numbers of their words, and how many hold no known word."""

    whole: CaptionedImages
    split: Split
    rows: Tensor
    numbers: list[list[int]]
    left_out: int = 0

    @classmethod
    def spread(cls, dataset: PreparedDataset, split: Split, count: int, *vocabularies: Vocabulary) -> Captions:
        """At most `count` of those that have a word of each vocabulary, spread evenly over the split; the first one numbers their words.

        Raises:
            ValueError: the split is not on this machine, or there is no such caption.
        """
        if not dataset.is_local(split):
            raise ValueError(f"{dataset.folder}: is not on this machine, and FID and R-precision need all of its {split} images")
        whole = CaptionedImages(dataset, split)
        words, *others = (NumberedCaptions(whole.captions, vocabulary) for vocabulary in vocabularies)
        known = torch.from_numpy(np.flatnonzero(np.all([each.lengths > 0 for each in (words, *others)], axis=0)))
        if not len(known):
            raise ValueError(f"{whole.name}: none of its captions has a word that is known")
        rows = known[torch.linspace(0, len(known) - 1, min(count, len(known))).long()]
        return cls(whole, split, rows, [words[row] for row in rows.tolist()], len(whole.captions) - len(known))

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def texts(self) -> list[str]:
        return [self.whole.captions[row] for row in self.rows.tolist()]

    @cached_property
    def images(self) -> Tensor:
        """[N] the row of each caption's image."""
        return torch.from_numpy(self.whole.image_of)[self.rows]

    @cached_property
    def classes(self) -> Tensor:
        """[N] equal for captions that are no wrong match for each other's images."""
        return self.whole.matches[self.images]

    @cached_property
    def sha256(self) -> str:
        """Which captions of which images these are."""
        pairs = zip(self.images.tolist(), self.texts, strict=True)
        return sha256("\n".join(f"{image} {caption}" for image, caption in pairs).encode())


@torch.inference_mode()
def draw(pipeline: Pipeline, captions: Captions, rows: range, seed: int, sharpen: Sharpen | None = None) -> Tensor:
    """Drawings [N, C, A, A] in 0..1 of the captions of some rows; a caption's noise is its own, by its row."""
    model = pipeline.model
    tokens, mask = pad([captions.numbers[row] for row in rows])
    vectors = None if pipeline.encoder is None else pipeline.encoder.encode(captions.texts[rows.start : rows.stop]).to(model.device)
    text = model.encode(tokens.to(model.device), mask.to(model.device), vectors, independent=True)
    pictures = pipeline.sample_images(text, item_noise("drawings", seed, rows, 0, model.noise_shape).to(model.device))
    return pictures if sharpen is None else sharpen(pictures, torch.tensor(rows))


# Who looks


@dataclass(frozen=True)
class Eye:
    """The network of FID and Inception Score, and the SHA-256 of its weights' file."""

    network: Inception
    sha256: str

    @classmethod
    def load(cls, path: str | None, device: torch.device) -> Eye:
        """Of a file of weights, or None for the published ones; errors are those of `load_inception`."""
        network, digest = load_inception("fid", "" if path is None else path)
        return cls(network.to(device).to(memory_format=torch.channels_last), digest)  # type: ignore[call-overload]


@dataclass(frozen=True)
class Matcher:
    """A matching model with its vocabulary, and the SHA-256 of its weights."""

    model: DAMSM
    vocabulary: Vocabulary
    sha256: str

    @classmethod
    def load(cls, name: str, pipeline: Pipeline) -> Matcher:
        """For the drawings of a model; errors are those of `load_model` and `require_sight`."""
        loaded = load_model(name, DAMSM)
        assert loaded.vocabulary is not None
        c = pipeline.model.config
        require_sight(name, loaded.network.config, pipeline.name, c.side, c.colours)
        return cls(loaded.network.to(pipeline.device), loaded.vocabulary, loaded.sha256)

    @property
    def protocol(self) -> dict[str, Any]:
        """What has to be equal for two R-precisions to be compared, beside what was drawn."""
        return {"version": R_PRECISION_VERSION, "damsm": self.sha256, "wrong_captions": OTHERS}

    @torch.inference_mode()
    def codes(self, pictures: Tensor) -> Tensor:
        """[N, E] of pictures [N, C, A, A] uint8, on the CPU."""
        device = next(self.model.parameters()).device
        return self.model.image(pictures.to(device).float().div(127.5).sub(1)).code.cpu()

    @torch.inference_mode()
    def sentences(self, captions: Sequence[str]) -> Tensor:
        """[N, E] of captions, on the CPU; words that it does not know are left out, and it knows one of each caption."""
        device, found = next(self.model.parameters()).device, []
        for start in range(0, len(captions), CAPTIONS_AT_ONCE):
            tokens, mask = pad([self.vocabulary.numbered(caption) for caption in captions[start : start + CAPTIONS_AT_ONCE]])
            found.append(self.model.text(tokens.to(device), mask.to(device)).sentence.cpu())
        return torch.cat(found)


@dataclass(frozen=True)
class Judges:
    """Who looks at drawings: `eye` for FID and Inception Score, `matcher` for R-precision, both for the neural distance, where wanted."""

    eye: Eye | None
    matcher: Matcher | None
    neural: bool = False

    def require(self, captions: int, classes: Tensor) -> None:
        """Raises ValueError where so many captions, of classes [N], are too few."""
        if self.eye is not None and captions < SPLITS:
            raise ValueError(f"{captions} captions: FID and Inception Score need drawings of {SPLITS} at least")
        if self.matcher is not None and (wrong := fewest_wrong(captions, classes)) < OTHERS:
            raise ValueError(f"{captions} captions, of which one has {wrong} wrong ones beside it: R-precision needs {OTHERS}")


class Looks(NamedTuple):
    """What they say of pictures: features [N, F], logits [N, K] and codes [N, E]; None without those who would say it."""

    features: Tensor | None
    logits: Tensor | None
    codes: Tensor | None


def look_at(
    judges: Judges, pictures: Callable[[range], Tensor], count: int, at_once: int, processes: ProcessGroup, advance: Callable[[int], None]
) -> Looks:
    """What is said of `count` pictures, of which `pictures` answers some rows [N, C, A, A] uint8, `at_once` at most."""
    eye, matcher = judges.eye, judges.matcher
    features, logits, codes = [torch.empty(0, FEATURES)], [torch.empty(0, CLASSES["fid"])], []
    if matcher is not None:
        codes.append(torch.empty(0, matcher.model.config.text.features))
    for rows in _batches(processes.shard(count), at_once):
        some = pictures(rows)
        if eye is not None:
            seen = look(eye.network, some)
            features.append(seen.features)
            logits.append(seen.logits)
        if matcher is not None:
            codes.append(matcher.codes(some))
        advance(len(rows))
    parts = (features, logits, codes) if eye is not None else (None, None, codes)
    return Looks(*(processes.all_gather(torch.cat(part)) if part else None for part in parts))


def _batches(run: range, at_once: int) -> Iterator[range]:
    for start in run[::at_once]:
        yield range(start, min(start + at_once, run.stop))


# What is measured


def measure_drawings(
    pipeline: Pipeline,
    dataset: PreparedDataset,
    captions: Captions,
    judges: Judges,
    *,
    seed: int,
    protocol: Mapping[str, Any],
    processes: ProcessGroup,
    bar: Bar,
) -> dict[str, Any]:
    """All that the judges tell of a model's drawings, and the same of sharpened ones where there is a sharpener; JSON-ready.

    Args:
        pipeline: the model.
        dataset: that the captions are of.
        captions: what to draw.
        judges: who looks.
        seed: of all that is random.
        protocol: what has to be equal for two numbers to be compared, but for what is added here.
        processes: among processes.
        bar: starts a progress bar.
    """
    real = None if judges.eye is None else real_statistics(pipeline, dataset, captions, judges.eye, processes, bar)
    sentences = None if judges.matcher is None else judges.matcher.sentences(captions.texts)
    heads = train_heads(pipeline, dataset, judges, seed, processes, bar) if judges.neural else None

    def judged(what: str, sharpen: Sharpen | None = None) -> dict[str, dict[str, Any]]:
        def drawn(rows: range) -> Tensor:
            return eight_bits(draw(pipeline, captions, rows, seed, sharpen))

        looks = look_at(judges, drawn, len(captions), pipeline.batch_size, processes, bar(what, len(captions)))
        found: dict[str, dict[str, Any]] = {}
        if looks.features is not None and looks.logits is not None and real is not None:
            order = torch.randperm(len(captions), generator=generator("inception score", seed))
            mean, deviation = inception_score(looks.logits[order])
            found["fid"] = {"distance": frechet_distance(Statistics.of(looks.features), real)}
            found["inception_score"] = {"mean": mean, "deviation": deviation}
        if looks.codes is not None and sentences is not None:
            advance = bar("choosing captions of the drawings", len(captions))
            found["r_precision"] = r_precision(looks.codes, sentences, captions.classes, seed=seed, processes=processes, advance=advance)
            if heads is not None and looks.features is not None:
                own, others = (neural_distance(heads, looks.features, of) for of in (sentences, sentences.roll(1, 0)))
                found["neural_distance"] = {**own, "other_captions": others}
        return found

    result = _abouts(judges, protocol, 0 if real is None else real.count)
    for name, numbers in judged("drawing, and looking at the drawings").items():
        result[name] |= {"drawings": len(captions)} | numbers
    if (sharpening := pipeline.sharpening) is not None:
        sharpen = sharpening.conditioned_on(captions.texts, sharpening.training_unknown)
        for name, numbers in judged("the same of sharpened drawings", sharpen).items():
            result[name]["sharpened"] = numbers | {"sharpener": {"name": sharpening.name, "sha256": sharpening.sha256}}
    return result


def _abouts(judges: Judges, protocol: Mapping[str, Any], real_images: int) -> dict[str, dict[str, Any]]:
    """What each of the measures is, with its protocol."""
    seen = {"version": fid.METRIC_VERSION, "pictures": RESIZE} | ({} if judges.eye is None else {"inception": judges.eye.sha256})
    abouts: dict[str, dict[str, Any]] = {}
    if judges.eye is not None:
        of_fid = {**protocol, **seen, "features": FEATURES, "real_images": real_images}
        abouts["fid"] = {"metric": "Fréchet Inception Distance", "protocol": of_fid}
        abouts["inception_score"] = {"metric": "Inception Score", "protocol": {**protocol, **seen, "parts": SPLITS}}
    if judges.matcher is not None:
        abouts["r_precision"] = {"metric": "R-precision", "protocol": {**protocol, **judges.matcher.protocol}}
        if judges.neural:
            layers = {"damsm": judges.matcher.sha256, "layers": fid.HEADS._asdict(), "most_pairs": HEADS_PAIRS}
            abouts["neural_distance"] = {"metric": "neural distance (cosine)", "protocol": {**protocol, **seen, **layers}}
    return abouts


def real_statistics(
    pipeline: Pipeline, dataset: PreparedDataset, captions: Captions, eye: Eye, processes: ProcessGroup, bar: Bar
) -> Statistics:
    """Of all images of the captions' split, seen as the model's drawings are."""
    c, whole = pipeline.model.config, captions.whole

    def measure() -> Statistics:
        advance, found = bar(f"looking at the {captions.split} images", len(whole)), Statistics.of(torch.empty(0, FEATURES))
        for rows in _batches(processes.shard(len(whole)), pipeline.batch_size):
            found += Statistics.of(look(eye.network, whole.pixels(rows, c.colours, c.side)).features)
            advance(len(rows))
        return found.all_gather(processes)

    about = {"dataset": dataset.sha256, "split": captions.split, "side": c.side, "colours": c.colours, "inception": eye.sha256}
    return kept_statistics(Path(dataset.folder) / STATISTICS, about | {"version": fid.METRIC_VERSION}, measure, processes)


def train_heads(
    pipeline: Pipeline, dataset: PreparedDataset, judges: Judges, seed: int, processes: ProcessGroup, bar: Bar
) -> NeuralDistance:
    """The layers of the neural distance, of captions and images of the training split."""
    assert judges.matcher is not None
    captions, c = Captions.spread(dataset, "train", HEADS_PAIRS, judges.matcher.vocabulary), pipeline.model.config
    images, which = captions.images.unique(return_inverse=True)

    def pictures(rows: range) -> Tensor:
        return captions.whole.pixels(images[rows.start : rows.stop].tolist(), c.colours, c.side)

    bar_of_images = bar("looking at training images", len(images))
    looks = look_at(Judges(judges.eye, None), pictures, len(images), pipeline.batch_size, processes, bar_of_images)
    assert looks.features is not None
    return fit_heads(looks.features[which], judges.matcher.sentences(captions.texts), seed=seed)
