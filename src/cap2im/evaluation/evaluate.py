"""All numbers of a model on what it was trained on, with the protocol that each was measured by."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from cap2im._version import __version__
from cap2im.checkpoint import WEIGHTS, read_config
from cap2im.config import DigitsData, DrawingRecipe
from cap2im.convert.inception import find_inception
from cap2im.data.batch import Batch
from cap2im.data.canvas_batches import caption_tokens
from cap2im.data.caption_batches import CaptionBatches
from cap2im.data.captioned_images import CaptionedImages
from cap2im.data.dataset import PreparedDataset
from cap2im.data.manifest import MANIFEST
from cap2im.data.mnist import DigitSource, load_digits
from cap2im.data.mnist_captions import CanvasMaker, HeldOut
from cap2im.data.sentence_vectors import load_sentence_vectors
from cap2im.data.shard_batches import ShardBatches
from cap2im.data.splits import SPLITS, Split
from cap2im.data.vocabulary import pad
from cap2im.evaluation.other_dataset import ForeignData, foreign_data
from cap2im.extras import require
from cap2im.files import file_sha256, sha256
from cap2im.loading import find_model, load_model
from cap2im.metrics import elbo, fid, r_precision, retrieval, ssim
from cap2im.metrics.caption_accuracy import READER, caption_accuracy
from cap2im.metrics.distributed import ProcessGroup
from cap2im.metrics.elbo import BERNOULLI, Likelihood, Sharpen, lower_bound
from cap2im.metrics.fid import eight_bits
from cap2im.metrics.r_precision import own_caption_first, require_sight
from cap2im.metrics.sample_quality import Captions, Eye, Judges, Matcher, measure_drawings
from cap2im.models.damsm import DAMSM
from cap2im.models.digit_reader import DigitReader
from cap2im.models.interface import DrawingModel, LikelihoodModel
from cap2im.models.vgg import VGG
from cap2im.pipeline import Pipeline
from cap2im.randomness import generator
from cap2im.registry import MODELS
from cap2im.sharpening import Sharpening

logger = logging.getLogger(__name__)

CAPTION_SAMPLES = 10  # drawings of each of the 440 captions of digits
CANDIDATES = 100  # images of a shortlist that the network makes


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What to measure, and how; the defaults are those of the command line.

    Attributes:
        split: whose images, or digits, to measure on. "all" estimates the bound on each split that the dataset has, and the rest on the
            last of them. None is "test", or else "validation" of a dataset that has no test images.
        images: captions, with their images, spread evenly over the split; at most. Of captioned digits, canvases for the bound.
        bound_samples: L of equation 15.
        samples: drawings of each caption, for caption accuracy and similarity; None for 10 and 50.
        shortlist: a VGG-like network (see `find_model` for names) or a pickle of shortlists; None measures no retrieval.
        candidates: K images of a shortlist that the network makes; None for 100.
        retrieval_samples: L of the bounds that retrieval compares.
        similarity: whether to draw captions and compare with their images.
        fid: whether to draw captions once each, for FID and Inception Score.
        inception: file of the weights of these two; None for the published ones.
        damsm: a matching model, for R-precision; see `find_model` for names. None measures none.
        neural_distance: whether to measure it, too; it wants `fid` and `damsm`.
        seed: of everything random.
    """

    split: Split | Literal["all"] | None = None
    images: int = 1000
    bound_samples: int = 16
    samples: int | None = None
    shortlist: str | None = None
    candidates: int | None = None
    retrieval_samples: int = 1
    similarity: bool = False
    fid: bool = False
    inception: str | None = None
    damsm: str | None = None
    neural_distance: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError where one thing that is asked for wants another."""
        if self.candidates is not None and self.shortlist is None:
            raise ValueError(f"--candidates {self.candidates}: without --shortlist there are none to rank")
        if self.inception is not None and not self.fid:
            raise ValueError(f"--inception {self.inception}: without --fid nothing is looked at")
        if self.neural_distance and (not self.fid or self.damsm is None):
            raise ValueError("--neural-distance wants features of pictures and of captions: give --fid and --damsm, too")

    def splits(self, dataset: PreparedDataset) -> tuple[list[Split], Split]:
        """Return the splits of which only the bound is estimated, and the one of which everything is measured.

        Raises:
            ValueError: the dataset lacks the split.
        """
        existing: list[Split] = [split for split in SPLITS if dataset.has(split)]
        if self.split == "all" and existing:
            return existing[:-1], existing[-1]
        by_default: Split = "validation" if "test" not in existing and "validation" in existing else "test"
        main = by_default if self.split is None or self.split == "all" else self.split
        dataset.shards(main)  # raises where there are none
        return [], main

    @property
    def judges_drawings(self) -> bool:
        """Whether networks look at drawings."""
        return self.fid or self.damsm is not None


class _Bars:
    """Progress bars with the time left, of the first process alone; an item is one process's share."""

    def __init__(self, processes: ProcessGroup) -> None:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn()
        self.progress, self.processes = Progress(*columns, disable=not processes.is_main_process), processes

    def start(self, what: str, total: int) -> Callable[[int], None]:
        """A new bar; answers what advances it."""
        task = self.progress.add_task(what, total=-(-total // self.processes.world_size))
        return lambda count: self.progress.advance(task, count)


def evaluate(pipeline: Pipeline, *, data: str | Path | None, processes: ProcessGroup = ProcessGroup(), **wanted: Any) -> dict[str, Any]:  # noqa: B008
    """What can be measured of a model: `evaluate_digits` if it was trained on captioned digits, else `evaluate_captions`; JSON-ready.

    Args:
        pipeline: the model; where it has a sharpener, all but retrieval is measured of sharpened pictures, too.
        data: a prepared dataset, or the folder of MNIST's files.
        processes: among processes; all answer the same.
        wanted: attributes of `Measures`.

    Raises:
        ValueError: data are missing, damaged or of another size, or something cannot be measured of this model.
    """
    measures = Measures(**wanted)
    Subject.of(pipeline).check(data, measures)
    if "held_out" in pipeline.config.data:
        return evaluate_digits(pipeline, None if data is None else Path(data), measures, processes)
    assert data is not None
    return evaluate_captions(pipeline, data, measures, processes)


@dataclass(frozen=True)
class Subject:
    """What can be checked of a measurement before a model is measured, or even trained.

    Attributes:
        name: of the model or recipe.
        config: of the network: its side, colours and conditioning.
        has_bound: whether it is a `LikelihoodModel`.
        digits: where the digits of a model of captioned digits are from; None for models of captioned images.
    """

    name: str
    config: Any
    has_bound: bool
    digits: DigitSource | None

    @classmethod
    def of(cls, pipeline: Pipeline) -> Subject:
        """Describe a loaded model."""
        data = pipeline.config.data
        digits = DigitsData.from_model(data).source if "held_out" in data else None
        return cls(pipeline.name, pipeline.model.config, isinstance(pipeline.model, LikelihoodModel), digits)

    @classmethod
    def of_recipe(cls, name: str, recipe: DrawingRecipe) -> Subject:
        """Describe the model that a recipe will make."""
        digits = recipe.data.source if isinstance(recipe.data, DigitsData) else None
        return cls(name, recipe.model, issubclass(MODELS[recipe.kind].network_class, LikelihoodModel), digits)

    @property
    def ranks_images(self) -> bool:
        """Whether the model can rank images by captions: it has a bound, and is conditioned on captions."""
        return self.has_bound and self.config.conditioning != "none"

    def check(self, data: str | Path | None, measures: Measures) -> None:
        """Make every check that needs no drawing and no trained weights: data, splits, sizes, files, and what has to be installed.

        Raises:
            ValueError: something cannot be measured.
        """
        if self.digits is None:
            self._check_captions(data, measures)
        else:
            self._check_digits(data, measures, self.digits)

    def _check_digits(self, data: str | Path | None, measures: Measures, source: DigitSource) -> None:
        if measures.shortlist is not None or measures.similarity or measures.fid or measures.split == "all":
            raise ValueError(
                f"{self.name} draws captioned digits, of which caption accuracy and the bound of one split are measured; retrieval, "
                "similarity and FID are for prepared datasets"
            )
        if source == "digits" and data is not None:
            raise ValueError(f"--data {data}: {self.name} is measured on the digits inside scikit-learn, not on a folder; leave --data out")
        if data is not None and ("://" in str(data) or (Path(data) / MANIFEST).is_file()):
            kind = "a URL" if "://" in str(data) else "a prepared dataset"
            raise ValueError(f"--data {data}: is {kind}; {self.name} draws captioned digits, and needs the folder of the four MNIST files")

    def _check_captions(self, data: str | Path | None, measures: Measures) -> None:
        if data is None:
            raise ValueError(f"{self.name} draws more than captioned digits: give a prepared dataset with --data")
        dataset = PreparedDataset.open(data)
        require("reading prepared data", "train", "datasets")
        others, main = measures.splits(dataset)
        training = measures.shortlist is not None or measures.neural_distance
        for split in (*others, main, *(("train",) if training else ())):
            dataset.shards(split)  # raises where there are none
        if self.has_bound:
            stored = [split for split in (*others, main) if dataset.is_local(split)]
            if stored:
                dataset.require_size(self.config.side, f"a drawing of {self.name}")
        if measures.shortlist is not None:
            if not self.ranks_images:
                raise ValueError(f"{self.name} cannot rank images by captions: it has no bound, or hears no captions")
            if not Path(measures.shortlist).is_file():
                load_model(measures.shortlist, VGG)
                images = sum(shard.rows for shard in dataset.shards(main))
                retrieval.require_candidates(CANDIDATES if measures.candidates is None else measures.candidates, images)
        if measures.similarity:
            blank = torch.zeros(1, self.config.colours, self.config.side, self.config.side)
            ssim.structural_similarity(blank, blank)
        for split in (main, *(("train",) if training else ())):
            if (measures.judges_drawings or measures.shortlist is not None) and not dataset.is_local(split):
                raise ValueError(
                    f"{dataset.folder}: is not on this machine, or files of its {split} images are missing; retrieval, FID and R-precision "
                    "need all of them"
                )

    def check_judges(self, measures: Measures) -> None:
        """Check the networks that look at drawings; an evaluation loads them at its beginning, a comparison after its trainings.

        Raises:
            ValueError: a network is missing, cannot be downloaded or sees other pictures, or there are too few captions for it.
        """
        if measures.fid:
            find_inception("fid", "" if measures.inception is None else measures.inception)
        if measures.damsm is not None:
            require_sight(
                measures.damsm, load_model(measures.damsm, DAMSM).network.config, self.name, self.config.side, self.config.colours
            )
        least = max(fid.SPLITS if measures.fid else 0, r_precision.OTHERS + 1 if measures.damsm is not None else 0)
        if self.digits is None and measures.images < least:
            raise ValueError(f"--images {measures.images}: FID needs {fid.SPLITS} captions at least, R-precision {r_precision.OTHERS + 1}")


def shortlist_sha256(name: str) -> str:
    """Of the file, or of the network's weights, that make the shortlists of a name; errors are those of `find_model`."""
    return file_sha256(path) if (path := Path(name)).is_file() else str(read_config(find_model(name)).get("sha256", {}).get(WEIGHTS))


def ranks_images(model: DrawingModel) -> bool:
    """Whether a model can rank images by captions: it has a bound, and hears captions."""
    return isinstance(model, LikelihoodModel) and model.config.conditioning != "none"


@dataclass(frozen=True)
class _Captioned:
    """Captions of a split with their images: rows of both in it, and the whole split where it is on this machine.

    `left_out` captions of the split hold no word that the model knows, and are not used.
    """

    split: Split
    batch: Batch
    captions: list[str]
    rows: Tensor
    image_of: Tensor
    whole: CaptionedImages | None
    left_out: int = 0

    @property
    def sha256(self) -> str:
        """Which captions of which images these are: a streamed split has its first ones, and a model's vocabulary decides, too."""
        pairs = zip(self.image_of.tolist(), self.captions, strict=True)
        return sha256("\n".join(f"{image} {caption}" for image, caption in pairs).encode())


@dataclass(frozen=True)
class _Shortlists:
    """Rows [N, K] of the images that each caption ranks, all images [M, C, A, A] uint8, and what made the shortlists."""

    rows: Tensor
    pixels: Tensor
    source: dict[str, str]


def _captioned(pipeline: Pipeline, dataset: PreparedDataset, split: Split, count: int, processes: ProcessGroup) -> _Captioned:
    """At most `count` captions of a split, spread evenly over it.

    A bound is of images as they are stored, of the model's size; drawings alone are compared with the middle squares of images of any.
    """
    c, noise_shape = pipeline.model.config, pipeline.model.noise_shape
    if dataset.is_local(split):
        stored = isinstance(pipeline.model, LikelihoodModel)
        if stored:
            dataset.require_size(c.side, f"a drawing of {pipeline.name}")
        whole = CaptionedImages(dataset, split)
        with processes.main_process_first():
            vectors = None if pipeline.encoder is None else load_sentence_vectors(dataset, split, whole.captions, pipeline.encoder)
        how: dict[str, Any] = {"colours": c.colours, "vectors": vectors, "side": None if stored else c.side}
        batches = CaptionBatches(whole, pipeline.vocabulary, noise_shape, batch_size=1, **how)
        rows = batches.spread(count)
        captions, image_of = [whole.captions[row] for row in rows.tolist()], torch.from_numpy(whole.image_of)[rows]
        return _Captioned(split, batches.fixed(count), captions, rows, image_of, whole, batches.left_out)
    dataset = dataclasses.replace(dataset, vocabulary=pipeline.vocabulary)
    streamed = ShardBatches(dataset, split, noise_shape, side=c.side, colours=c.colours, batch_size=1, encoder=pipeline.encoder)
    batch = streamed.fixed(count)
    rows = torch.arange(len(batch))
    return _Captioned(split, batch, streamed.fixed_captions(count), rows, rows, None)


def evaluate_captions(pipeline: Pipeline, data: str | Path, measures: Measures, processes: ProcessGroup) -> dict[str, Any]:
    """Bound, retrieval, similarity, and what networks say of drawings, on captioned images of a prepared dataset; JSON-ready.

    Args:
        pipeline: a model of captioned images.
        data: the prepared dataset; another one than the model's is allowed, and told in the protocol.
        measures: what to measure.
        processes: among processes.

    Raises:
        ValueError: there is no such dataset or split, its images are of another size than the model's, or what is asked for cannot be
            measured of this model.
    """
    model, dataset = pipeline.model, PreparedDataset.open(data)
    if not isinstance(model, LikelihoodModel) and not measures.similarity and not measures.judges_drawings:
        return _result(pipeline)
    others, main = measures.splits(dataset)
    c, beside_images = model.config, isinstance(model, LikelihoodModel) or measures.similarity
    about = {"data": dataset.about(), "side": c.side, "colours": c.colours, "resize": dataset.manifest.fit, "seed": measures.seed}
    about |= _versions(pipeline)
    bars, result = _Bars(processes), _result(pipeline)
    with bars.progress:  # what can be refused is refused before the bounds, which take long
        if measures.judges_drawings:
            judges = _judges(pipeline, measures)
            known = (pipeline.vocabulary, *([] if judges.matcher is None else [judges.matcher.vocabulary]))
            captions = Captions.spread(dataset, main, measures.images, *known)
            judges.require(len(captions), captions.classes)
        measured = {main: _captioned(pipeline, dataset, main, measures.images, processes)} if beside_images else {}
        used = measured[main].captions if beside_images else captions.texts
        left_out = measured[main].left_out if beside_images else captions.left_out
        foreign = foreign_data(pipeline, dataset, used)
        if processes.is_main_process:
            _announce(measures, dataset, others, main, foreign, left_out)
        about |= {} if foreign is None else foreign.protocol
        if pipeline.sharpening is not None:
            for split in others:
                measured[split] = _captioned(pipeline, dataset, split, measures.images, processes)
            for each in [*(there.captions for there in measured.values()), *([captions.texts] if measures.judges_drawings else [])]:
                pipeline.sharpening.tokens(each, pipeline.sharpening.training_unknown)
        if beside_images:
            result |= _beside_images(pipeline, dataset, others, measured[main], measures, processes, bars, about)
        if measures.judges_drawings:
            told, seed = {**about, "split": main, "captions": captions.sha256, "drawings": len(captions)}, measures.seed
            told |= _precision(pipeline)
            result |= measure_drawings(pipeline, dataset, captions, judges, seed=seed, protocol=told, processes=processes, bar=bars.start)
    return result


def _announce(
    measures: Measures, dataset: PreparedDataset, others: Sequence[Split], main: Split, foreign: ForeignData | None, left_out: int
) -> None:
    """Say on standard error what is measured otherwise than one may expect."""
    if foreign is not None:
        logger.warning(foreign.warning)
    lacking = " and no ".join(split for split in SPLITS if split not in (*others, main))
    if measures.split == "all" and lacking:
        bounds = f"bounds of {', '.join([*others, main])}; " if others else ""
        logger.warning(f"{dataset.folder}: has no {lacking} images; {bounds}everything else is measured on its {main} images")
    elif measures.split is None and main != "test":
        logger.warning(f"{dataset.folder}: has no test images; measuring on its {main} images")
    if left_out:
        logger.warning(f"left out: {left_out:,} {main} captions that hold no known word")


def _judges(pipeline: Pipeline, measures: Measures) -> Judges:
    matcher = None if measures.damsm is None else Matcher.load(measures.damsm, pipeline)
    return Judges(Eye.load(measures.inception, pipeline.device) if measures.fid else None, matcher, measures.neural_distance)


def _beside_images(
    pipeline: Pipeline,
    dataset: PreparedDataset,
    others: Sequence[Split],
    there: _Captioned,
    measures: Measures,
    processes: ProcessGroup,
    bars: _Bars,
    about: dict[str, Any],
) -> dict[str, Any]:
    """What is measured of captions with their own images: the bounds of all splits; retrieval and similarity of the main one."""
    model, main = pipeline.model, there.split
    result: dict[str, Any] = {}
    shortlists = None if measures.shortlist is None else _shortlists(measures, dataset, there, model.config.colours, processes, bars)
    for split in (*others, main):
        now = there if split == main else _captioned(pipeline, dataset, split, measures.images, processes)
        protocol = {**about, "split": split, "images": len(now.batch), "captions": now.sha256}
        if isinstance(model, LikelihoodModel):
            found = _bounds(model, pipeline.sharpening, now.batch, now.captions, measures, processes, bars, protocol)
            result.setdefault("other_splits", {})[split] = found
    if isinstance(model, LikelihoodModel):
        result["likelihood"] = result["other_splits"].pop(main)
        if not others:
            del result["other_splits"]
        if shortlists is not None:
            result["retrieval"] = _retrieval(pipeline, model, dataset, there, shortlists, measures, processes, bars, protocol)
    if measures.similarity:
        result["similarity"] = _similarity(pipeline, there, measures, processes, bars, protocol)
    return result


def _bounds(
    model: LikelihoodModel,
    sharpening: Sharpening | None,
    batch: Batch,
    captions: Sequence[str],
    measures: Measures,
    processes: ProcessGroup,
    bars: _Bars,
    protocol: dict[str, Any],
) -> dict[str, Any]:
    """The bound of captioned images, and of the sharpened ones where that is wanted."""

    def bound(what: str, sharpen: Sharpen | None = None) -> Likelihood:
        return lower_bound(
            model,
            batch.images,
            batch.tokens,
            batch.mask,
            batch.vectors,
            samples=measures.bound_samples,
            seed=measures.seed,
            sharpen=sharpen,
            processes=processes,
            advance=bars.start(what, len(batch) * measures.bound_samples),
        )

    told = protocol | {"version": elbo.METRIC_VERSION, "observation": model.observation, "samples": measures.bound_samples}
    found = _likelihood(told, bound(f"estimating the {protocol['split']} bound"))
    if sharpening is not None and model.observation == BERNOULLI:  # sharpened pixels are means of Bernoulli distributions alone
        sharpened = bound(
            f"the same of sharpened {protocol['split']} images", sharpening.conditioned_on(captions, sharpening.training_unknown)
        )
        found["sharpened"] = sharpened.to_dict() | _sharpener(sharpening)
    return found


def _retrieval(
    pipeline: Pipeline,
    model: LikelihoodModel,
    dataset: PreparedDataset,
    there: _Captioned,
    shortlists: _Shortlists,
    measures: Measures,
    processes: ProcessGroup,
    bars: _Bars,
    protocol: dict[str, Any],
) -> dict[str, Any]:
    """Retrieval of each caption's image from its shortlist."""
    mean, captions = _mean_sentence(pipeline, model, dataset, processes, bars)
    pairs = (shortlists.rows.numel() + len(shortlists.rows.unique())) * measures.retrieval_samples
    scores = retrieval.likelihood_ratios(
        model,
        shortlists.pixels,
        there.batch.tokens,
        there.batch.mask,
        there.batch.vectors,
        mean,
        shortlists.rows,
        samples=measures.retrieval_samples,
        seed=measures.seed,
        processes=processes,
        advance=bars.start("ranking the images of shortlists", pairs),
    )
    own = (shortlists.rows == there.image_of[:, None]).int().argmax(dim=1)
    told = {"version": retrieval.METRIC_VERSION, "shortlist": shortlists.source, "candidates": shortlists.rows.shape[1]}
    told |= {"training_captions": captions, "samples": measures.retrieval_samples}
    return {
        "metric": "image retrieval by bound(x | caption) - bound(x | mean caption)",
        "protocol": protocol | told,
        **retrieval.summary(scores, own, measures.seed),
    }


def _shortlists(
    measures: Measures, dataset: PreparedDataset, there: _Captioned, colours: int, processes: ProcessGroup, bars: _Bars
) -> _Shortlists:
    """The shortlists of captions, out of a file or made by a network."""
    name, candidates = measures.shortlist, measures.candidates
    assert name is not None
    if there.whole is None:
        raise ValueError(f"{dataset.folder}: is not on this machine, and retrieval needs all of its {there.split} images at once")
    if (path := Path(name)).is_file():
        if candidates is not None:
            raise ValueError(f"--candidates {candidates}: the shortlists of {name} have a length of their own")
        rows = retrieval.read_shortlists(path, there.rows, there.image_of, len(there.whole), len(there.whole.captions))
        return _Shortlists(rows, there.whole.all_pixels(colours), {"file": path.name, "sha256": file_sha256(path)})
    size = CANDIDATES if candidates is None else candidates
    extractor = load_model(name, VGG)
    vgg: VGG = extractor.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    retrieval.require_candidates(size, len(there.whole))
    pixels = there.whole.all_pixels(colours)
    features = retrieval.image_features(vgg, pixels, processes, bars.start("making shortlists", len(pixels)))
    source = {"extractor": extractor.name, "sha256": extractor.sha256}
    return _Shortlists(retrieval.nearest_shortlists(features, there.image_of, size), pixels, source)


def _mean_sentence(
    pipeline: Pipeline, model: LikelihoodModel, dataset: PreparedDataset, processes: ProcessGroup, bars: _Bars
) -> tuple[Tensor, int]:
    """The mean sentence representation [D] of the training captions, and how many they are."""
    training = CaptionedImages(dataset, "train")
    if pipeline.encoder is not None:
        with processes.main_process_first():
            vectors = load_sentence_vectors(dataset, "train", training.captions, pipeline.encoder)
        sums = sum(torch.from_numpy(vectors[i : i + 1000].astype("float64")).sum(dim=0) for i in range(0, len(vectors), 1000))
        return torch.as_tensor(sums) / len(vectors), len(vectors)
    numbers = sorted(filter(None, map(pipeline.vocabulary.numbered, training.captions)), key=len)  # those of no known word do not count
    steps = range(0, len(numbers), retrieval.CAPTIONS_AT_ONCE)
    batches = [pad(numbers[start : start + retrieval.CAPTIONS_AT_ONCE]) for start in steps]
    advance = bars.start("reading the training captions", len(numbers))
    return retrieval.mean_sentence(model, batches, processes, advance), len(numbers)


def _similarity(
    pipeline: Pipeline, there: _Captioned, measures: Measures, processes: ProcessGroup, bars: _Bars, protocol: dict[str, Any]
) -> dict[str, Any]:
    """Similarity of drawings with the images of their captions, and of sharpened ones where that is wanted."""
    samples = ssim.SAMPLES if measures.samples is None else measures.samples
    batch = there.batch

    def measured(what: str, sharpen: Sharpen | None = None) -> dict[str, Any]:
        return ssim.similarity(
            pipeline.model,
            batch.images,
            batch.tokens,
            batch.mask,
            batch.vectors,
            samples=samples,
            seed=measures.seed,
            precision=pipeline.precision,
            sharpen=sharpen,
            processes=processes,
            advance=bars.start(what, len(batch) * samples),
        )

    told = {"version": ssim.METRIC_VERSION, "samples": samples, "window": ssim.WINDOW, "data_range": 1.0}
    found = {"metric": "similarity of drawings with the images of their captions", "protocol": protocol | told | _precision(pipeline)}
    found |= measured("drawing and comparing")
    if (sharpening := pipeline.sharpening) is not None:
        sharpen = sharpening.conditioned_on(there.captions, sharpening.training_unknown)
        found["sharpened"] = measured("the same of sharpened drawings", sharpen) | _sharpener(sharpening)
    return found


def _versions(pipeline: Pipeline) -> dict[str, str]:
    return {"device": pipeline.device.type, "torch": torch.__version__, "cap2im": __version__}


def _precision(pipeline: Pipeline) -> dict[str, str]:
    """Of drawings; bounds are estimated in fp32 alone."""
    return {} if pipeline.precision == "fp32" else {"precision": pipeline.precision}


def _sharpener(sharpening: Sharpening) -> dict[str, Any]:
    return {"sharpener": {"name": sharpening.name, "sha256": sharpening.sha256}}


def _likelihood(protocol: dict[str, Any], found: Likelihood) -> dict[str, Any]:
    return {"metric": "variational lower bound, nats an image", "protocol": protocol, **found.to_dict()}


def _result(pipeline: Pipeline, **metrics: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = pipeline.config.model_dump(include={"parameters", "trained"}, exclude_none=True)
    return {"model": pipeline.name, "weights_sha256": pipeline.config.sha256[WEIGHTS], **told, **metrics}


def evaluate_digits(pipeline: Pipeline, data: Path | None, measures: Measures, processes: ProcessGroup) -> dict[str, Any]:
    """Caption accuracy and R-precision over all 440 captions, and the bound, if any, on fresh canvases of seen configurations; JSON-ready.

    Args:
        pipeline: a model of captioned digits.
        data: folder of MNIST's files, for models trained on MNIST; None for the cache or a download.
        measures: what to measure; of the split are the digits that the canvases are made of.
        processes: among processes.

    Raises:
        ValueError: the digits are missing or damaged.
    """
    samples = CAPTION_SAMPLES if measures.samples is None else measures.samples
    trained_on, seed = pipeline.config.data, measures.seed
    split: Split = "test" if measures.split is None or measures.split == "all" else measures.split
    held_out = HeldOut(tuple(tuple(hidden) for hidden in trained_on["held_out"]))
    recipe = DigitsData.from_model(trained_on)
    with processes.main_process_first():
        digits = load_digits(recipe.source, split, data)
    reader = load_model(READER, DigitReader).network
    matcher = None if measures.damsm is None else Matcher.load(measures.damsm, pipeline)
    model, bars = pipeline.model, _Bars(processes)
    if processes.is_main_process:
        estimates = f", {measures.images * measures.bound_samples:,} posterior samples" if isinstance(model, LikelihoodModel) else ""
        twice = "" if pipeline.sharpening is None else ", and the same sharpened"
        work = f"{440 * samples:,} drawings{estimates}{twice}"
        logger.info(f"measuring {pipeline.name}: {work}; a minute or a few")  # the bar shows on terminals alone
    with bars.progress:

        def measured(drawer: Pipeline, what: str) -> tuple[dict[str, Any], Tensor]:
            advance, done_before = bars.start(what, 440 * samples), [0]
            codes = [torch.empty(0, 0 if matcher is None else matcher.model.config.text.features)]

            def progress(done: int, _: int) -> None:
                advance(done - done_before.pop())
                done_before.append(done)

            def drawn(captions: list[str], seeds: list[int]) -> Tensor:
                pictures = drawer.images(drawer.prompts(captions), seeds)
                if matcher is not None:
                    codes.append(matcher.codes(eight_bits(pictures)))
                return pictures

            how: dict[str, Any] = {"digits": digits, "split": split, "samples": samples, "seed": seed}
            accuracy = caption_accuracy(drawn, reader, held_out, **how, processes=processes, progress=progress)
            return accuracy, processes.all_gather(torch.cat(codes))

        accuracy, codes = measured(dataclasses.replace(pipeline, sharpening=None), "drawing the 440 captions")
        accuracy["protocol"] |= _precision(pipeline)
        result = _result(pipeline, caption_accuracy=accuracy)
        if matcher is not None:
            result["r_precision"] = _r_precision_of_digits(pipeline, matcher, held_out, codes, measures, processes)
        if pipeline.sharpening is not None:
            sharpened, codes = measured(pipeline, "the same, sharpened")
            sharpener = _sharpener(pipeline.sharpening)
            accuracy["sharpened"] = {"drawings": sharpened["drawings"]} | sharpener
            if matcher is not None:
                found = _r_precision_of_digits(pipeline, matcher, held_out, codes, measures, processes)
                result["r_precision"]["sharpened"] = found | sharpener
        if not isinstance(model, LikelihoodModel):
            return result
        canvases = CanvasMaker(digits, held_out, recipe.variant).make(measures.images, generator("evaluation", seed))
        batch = Batch(canvases.images.float() / 255, *caption_tokens(canvases, pipeline.vocabulary), torch.empty(0))
        protocol = {
            "data": recipe.source,
            "variant": recipe.variant,
            "split": split,
            "configurations": "seen",
            "held_out": [list(hidden) for hidden in held_out.digits],
            "images": measures.images,
            "seed": seed,
            **_versions(pipeline),
        }
        found = _bounds(model, pipeline.sharpening, batch, canvases.captions(), measures, processes, bars, protocol)
    return result | {"likelihood": found}


def _r_precision_of_digits(
    pipeline: Pipeline, matcher: Matcher, held_out: HeldOut, codes: Tensor, measures: Measures, processes: ProcessGroup
) -> dict[str, Any]:
    """R-precision of drawings [N, E] of all 440 captions, whose seeds are those of caption accuracy; seen and held-out ones apart, too.

    Captions that ask for the same digits at the same places are no wrong match for each other.
    """
    configurations = list(held_out.configurations())
    samples = len(codes) // len(configurations)
    scenes: dict[frozenset[tuple[str, int]], int] = {}
    classes = [scenes.setdefault(frozenset(zip(c.places, c.digits, strict=True)), len(scenes)) for c in configurations]
    sentences = matcher.sentences([c.caption for c in configurations])
    repeated = (each.repeat_interleave(samples, dim=0) for each in (sentences, torch.tensor(classes)))
    first = own_caption_first(codes, *repeated, seed=measures.seed, processes=processes)
    seen = torch.tensor([c.seen for c in configurations]).repeat_interleave(samples)
    protocol = {
        "captions": len(configurations),
        "held_out": [list(hidden) for hidden in held_out.digits],
        "samples_per_caption": samples,
        "seed": measures.seed,
        **matcher.protocol,
        **_versions(pipeline),
        **_precision(pipeline),
    }
    groups = {"seen": r_precision.rate(first[seen]), "held_out": r_precision.rate(first[~seen])}
    about = {"metric": "R-precision", "protocol": protocol, "drawings": len(codes), "chance": 1 / (r_precision.OTHERS + 1)}
    return about | r_precision.rate(first) | groups
