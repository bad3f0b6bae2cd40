"""Training data as a recipe describes it: captioned digits, captioned scenes, or a prepared dataset."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError

from cap2im.checkpoint import read_config
from cap2im.config import Augmentation, CaptionsData, DigitsData, DrawingRecipe, PicturesData, ScenesData, recipe_names
from cap2im.data.batch import pad
from cap2im.data.canvas_batches import CanvasBatches
from cap2im.data.caption_batches import CaptionBatches
from cap2im.data.captioned_images import CaptionedImages
from cap2im.data.dataset import PreparedDataset
from cap2im.data.image_batches import ImageBatches
from cap2im.data.mnist import load_digits
from cap2im.data.mnist_captions import ALIASES, WORDS, CanvasMaker, HeldOut
from cap2im.data.scene_batches import SceneBatches
from cap2im.data.sentence_vectors import SentenceEncoder, load_sentence_vectors
from cap2im.data.shard_batches import ShardBatches
from cap2im.data.splits import Split
from cap2im.data.vocabulary import LONGEST_CAPTION, Vocabulary
from cap2im.encoder_files import find_encoder
from cap2im.files import describe
from cap2im.sentence_encoders import load_sentence_encoder
from cap2im.training.example_captions import spread, typical, unknown_share
from cap2im.training.prefetch import Batches
from cap2im.training.samples import ShownCaptions
from cap2im.training.scene_data import SceneData

logger = logging.getLogger(__name__)
RecipeT = TypeVar("RecipeT", bound=Any)

SHOWN_DIGITS = (
    "the digit three is at the top of the digit one .",
    "the digit seven is at the bottom left of the image .",
    "the digit two is on the left of the digit eight .",
    "the digit five is on the right of the digit zero .",
    "the digit four is at the bottom of the digit six .",
    "the digit nine is at the top right of the image .",
)
SHOWN_CAPTIONS = 5  # of training and of validation images each
JUDGED_CAPTIONS = 1000  # of validation images, by their words


@dataclass(frozen=True)
class DataSource:
    """Where training data are.

    Attributes:
        path: folder of MNIST's files, prepared cut-outs, a prepared dataset, or other data of the recipe; None for the cache or a
            download of MNIST.
        stream: read a prepared dataset shard by shard from a folder or URL; validation images are read at once.
    """

    path: str | Path | None = None
    stream: bool = False


@dataclass(frozen=True)
class TrainingData:
    """Data of a training.

    Attributes:
        recipe: with everything that the data decides.
        batches: for training.
        validation: data to validate on, the same every time; captioned images are a `Batch`.
        about: the "data" of a model's `config.json`, JSON-ready.
        vocabulary: of the captions.
        shown: captions of the sample grids.
        slow: whether batches are worth preparing in worker processes.
        encoder_folder: of the sentence encoder; the finished model gets a copy.
        unknown_share: share of the words of validation captions that the vocabulary lacks.
        source: where the data are.
    """

    recipe: Any
    batches: Batches
    validation: Any
    about: dict[str, Any]
    vocabulary: Vocabulary | None = None
    shown: ShownCaptions | None = None
    slow: bool = False
    encoder_folder: Path | None = None
    unknown_share: float = 0.0
    source: DataSource = DataSource()


def load_training_data(recipe: DrawingRecipe, source: DataSource, processes: int = 1, vocabulary: Vocabulary | None = None) -> TrainingData:
    """Return the captioned images that a recipe trains on.

    Args:
        recipe: of a model of captioned images.
        source: of the images.
        processes: number of processes that share every batch.
        vocabulary: replaces the vocabulary of the data, for a network that learned its words elsewhere; unknown words of a prepared
            dataset are left out.

    Raises:
        ValueError: data are missing or damaged, or do not fit the recipe.
    """
    if isinstance(recipe.data, DigitsData):
        if source.stream:
            raise ValueError("--stream: captioned digits are rendered while training and cannot be streamed")
        if source.path is not None and recipe.data.source == "digits":
            raise ValueError(f"--data {source.path}: the digits of data.source digits come from scikit-learn, not from a folder")
        return _digits(recipe, recipe.data, None if source.path is None else Path(source.path), vocabulary)
    if isinstance(recipe.data, ScenesData):
        if source.stream:
            raise ValueError("--stream: captioned scenes are painted while training and cannot be streamed")
        return _scenes(recipe, recipe.data, source.path, vocabulary)
    if source.path is None:
        raise ValueError("this recipe trains on a prepared dataset: give its folder with --data (cap2im prepare makes one)")
    dataset = PreparedDataset.open(source.path)
    if vocabulary is not None:
        manifest = dataset.manifest.model_copy(update={"minimum_count": None})
        dataset = dataclasses.replace(dataset, vocabulary=vocabulary, manifest=manifest)
    settings, recipe = recipe.data, fit_to_dataset(recipe, dataset, resizes=source.stream or isinstance(recipe.data, PicturesData))
    if isinstance(settings, PicturesData):
        if source.stream:
            raise ValueError("--stream: data.source pictures reads images in random order and cannot be streamed")
        return _pictures(recipe, settings, dataset)
    encoder = sentence_encoder(recipe)
    if source.stream:
        return _streamed(recipe, settings, dataset, encoder, processes)
    return _prepared(recipe, settings, dataset, encoder)


def check_same_data(checkpoint: Path, about: Mapping[str, Any], run: Path) -> None:
    """Check that a run resumes on the data that it started with.

    Raises:
        ValueError: the dataset, the sentences, the sentence encoder or the matching model is another one.
    """
    before = read_config(checkpoint)["data"]
    names = {"dataset": "dataset", "sha256": "dataset", "encoder": "sentence encoder", "damsm": "matching model"}
    for key, name in names.items():
        if _identity(before.get(key)) != _identity(about.get(key)):
            streamed = "; a streamed run also needs the same --stream and number of processes" if key == "dataset" else ""
            raise ValueError(f"{run}: started with another {name}{streamed}")


def _identity(about: Any) -> Any:
    """Return the content of a dataset or encoder, without names and places."""
    names = ("source", "title", "licence", "images", "name")
    return {key: value for key, value in about.items() if key not in names} if isinstance(about, Mapping) else about


def sentence_encoder(recipe: DrawingRecipe) -> SentenceEncoder | None:
    """Return the sentence encoder of a recipe, or None if its model does not condition on sentence vectors.

    Raises:
        ValueError: the encoder is missing, or its vectors have another width than the recipe says.
    """
    if not isinstance(recipe.data, CaptionsData) or recipe.model.conditioning != "sentence":
        return None
    try:
        encoder = load_sentence_encoder(recipe.data.sentence_encoder)
    except ValueError as error:
        if Path(recipe.data.sentence_encoder).exists():
            raise
        folder = Path(recipe.data.sentence_encoder).name
        trains = folder if folder in recipe_names() else "skipthoughts-small"
        how = f"cap2im train {trains} --data DATA trains one, --set data.sentence_encoder=FOLDER names it"
        raise ValueError(f"{error}; {how}") from None
    if encoder.features != recipe.model.sentence_features:
        raise ValueError(
            f"{recipe.data.sentence_encoder}: its vectors have {encoder.features} features, the recipe's model.sentence_features is "
            f"{recipe.model.sentence_features}; --set model.sentence_features={encoder.features} takes them"
        )
    return encoder


def _digits(recipe: DrawingRecipe, settings: DigitsData, data: Path | None, vocabulary: Vocabulary | None) -> TrainingData:
    vocabulary = Vocabulary(words=WORDS, aliases=ALIASES) if vocabulary is None else vocabulary
    held_out = HeldOut.from_seed(settings.held_out_seed, settings.variant, settings.validation_held_out_seed)

    def canvases(split: Split) -> CanvasBatches:
        maker = CanvasMaker(load_digits(settings.source, split, data), held_out, settings.variant)
        noise_shape = recipe.model.noise_shape
        return CanvasBatches(maker, vocabulary, noise_shape, settings.samples_per_epoch, recipe.train.batch_size, recipe.train.seed)

    batches = canvases("train")
    return TrainingData(
        planned(recipe, batches),
        batches,
        canvases("validation").fixed(settings.validation_samples),
        {**settings.model_dump(), **held_out.as_json()},
        vocabulary,
        ShownCaptions(SHOWN_DIGITS, *pad([t.numbers for t in vocabulary.encode(SHOWN_DIGITS)])),
    )


def _scenes(recipe: DrawingRecipe, settings: ScenesData, path: str | Path | None, vocabulary: Vocabulary | None) -> TrainingData:
    scenes = SceneData.load(settings, path)
    vocabulary = Vocabulary(words=scenes.held_out.words_shown()) if vocabulary is None else vocabulary
    recipe = fit_vocabulary(recipe, len(vocabulary), str(path), {})
    maker, sizes = scenes.maker(recipe.model.side), recipe.train
    batches = SceneBatches(
        maker,
        vocabulary,
        recipe.model.noise_shape,
        settings.samples_per_epoch,
        sizes.batch_size,
        sizes.seed,
        one_thing_until=settings.one_thing_until,
    )
    return TrainingData(
        planned(recipe, batches),
        batches,
        batches.fixed(settings.validation_samples),
        settings.model_dump(mode="json") | scenes.about(),
        vocabulary,
        scenes.shown(maker, vocabulary),
    )


def _prepared(recipe: DrawingRecipe, settings: CaptionsData, dataset: PreparedDataset, encoder: SentenceEncoder | None) -> TrainingData:
    sizes = recipe.model

    def batches(split: Split, **how: Any) -> CaptionBatches:
        images = CaptionedImages(dataset, split)
        vectors = None if encoder is None else load_sentence_vectors(dataset, split, images.captions, encoder)
        return CaptionBatches(images, dataset.vocabulary, sizes.noise_shape, colours=sizes.colours, vectors=vectors, **how)

    if settings.augment.crop >= sizes.side:
        raise ValueError(f"data.augment.crop {settings.augment.crop} needs images of more pixels a side, {dataset.folder} has {sizes.side}")
    training = batches(
        "train",
        batch_size=recipe.train.batch_size,
        seed=recipe.train.seed,
        lengths=(settings.shortest, settings.longest),
        equal_lengths=settings.equal_lengths,
        crop=settings.augment.crop,
        flip=settings.augment.flip,
    )
    return _captioned(recipe, settings, dataset, encoder, training, batches("validation", batch_size=1))


def _pictures(recipe: DrawingRecipe, settings: PicturesData, dataset: PreparedDataset) -> TrainingData:
    sizes = recipe.model

    def batches(split: Split, batch_size: int, seed: int) -> ImageBatches:
        return ImageBatches(
            CaptionedImages(dataset, split),
            dataset.vocabulary,
            sizes.noise_shape,
            side=sizes.side,
            colours=sizes.colours,
            batch_size=batch_size,
            seed=seed,
            words=settings.words,
            enlarge=settings.enlarge,
            flip=settings.flip,
        )

    if (side := dataset.manifest.side) < sizes.side:
        how = f"cap2im prepare --side {sizes.side} keeps their detail"
        logger.warning("warning: %s: its images are %d pixels wide and are enlarged to %d; %s", dataset.folder, side, sizes.side, how)
    training = batches("train", recipe.train.batch_size, recipe.train.seed)
    return _captioned(recipe, settings, dataset, None, training, batches("validation", 1, seed=0))


def _streamed(
    recipe: DrawingRecipe, settings: CaptionsData, dataset: PreparedDataset, encoder: SentenceEncoder | None, processes: int
) -> TrainingData:
    sizes = recipe.model
    if settings.augment != Augmentation():
        raise ValueError("--stream reads images as they are: --set data.augment.crop=0 --set data.augment.flip=false")
    if settings.equal_lengths or (settings.shortest, settings.longest) != (1, LONGEST_CAPTION):
        raise ValueError(
            "--stream takes captions of every length as they come: "
            f"--set data.shortest=1 --set data.longest={LONGEST_CAPTION} --set data.equal_lengths=false"
        )

    def batches(split: Split, batch_size: int, processes: int, seed: int) -> ShardBatches:
        return ShardBatches(
            dataset,
            split,
            sizes.noise_shape,
            side=sizes.side,
            colours=sizes.colours,
            batch_size=batch_size,
            processes=processes,
            seed=seed,
            encoder=encoder,
        )

    training = batches("train", recipe.train.batch_size, processes, recipe.train.seed)
    validation = batches("validation", 1, 1, seed=0)
    return _captioned(recipe, settings, dataset, encoder, training, validation, stream=True, processes=processes)


def _captioned(
    recipe: DrawingRecipe,
    settings: CaptionsData | PicturesData,
    dataset: PreparedDataset,
    encoder: SentenceEncoder | None,
    training: CaptionBatches | ShardBatches | ImageBatches,
    validation: CaptionBatches | ShardBatches | ImageBatches,
    **streamed: Any,
) -> TrainingData:
    seen, seen_images = training.examples(SHOWN_CAPTIONS)
    unseen, unseen_images = validation.examples(SHOWN_CAPTIONS)
    captions = [*seen, *unseen]
    shown_texts = (*(f"{caption} (training)" for caption in seen), *(f"{caption} (validation)" for caption in unseen))
    shown = ShownCaptions(
        shown_texts,
        *pad([dataset.vocabulary.numbered(caption) for caption in captions]),
        None if encoder is None else encoder.encode(captions),
        torch.cat([seen_images, unseen_images]),
    )
    judged = spread(validation.captions, JUDGED_CAPTIONS)
    known: dict[str, Any] = {} if encoder is None else {"encoder": {"name": encoder.name, "sha256": encoder.sha256}}
    if (minimum_count := dataset.manifest.minimum_count) is not None:
        known["minimum_count"] = minimum_count
    if (content_sha256 := dataset.content_sha256) is not None:
        known["content_sha256"] = content_sha256
    return TrainingData(
        planned(recipe, training),
        training,
        validation.fixed(settings.validation_samples),
        {**settings.model_dump(), "dataset": dataset.about() | streamed, "shown": typical(dataset.vocabulary, judged)} | known,
        dataset.vocabulary,
        shown,
        slow=True,
        encoder_folder=find_encoder(settings.sentence_encoder) if isinstance(settings, CaptionsData) and encoder is not None else None,
        unknown_share=unknown_share(dataset.vocabulary, judged),
    )


def planned(recipe: RecipeT, batches: Batches) -> RecipeT:
    """Return a recipe whose length and cadence are chosen for the data, see `config.Training.planned`."""
    changed: RecipeT = recipe.model_copy(update={"train": recipe.train.planned(batches.steps_per_epoch)})
    return changed


def fit_to_dataset(recipe: DrawingRecipe, dataset: PreparedDataset, *, resizes: bool) -> DrawingRecipe:
    """Return the recipe with the dataset's vocabulary size and, unless the recipe says another, its side.

    Args:
        recipe: of a model of captioned images.
        dataset: to train on.
        resizes: whether images of any size will do.

    Raises:
        ValueError: the recipe insists on another vocabulary size, or on images of another size.
    """
    changes: dict[str, Any] = {}
    text = getattr(recipe.model, "text", None)
    sizes = recipe.model if text is None else text
    follows = isinstance(recipe.data, CaptionsData) and "side" in type(sizes).model_fields and "side" not in sizes.model_fields_set
    if follows and dataset.manifest.fit != "shorter":
        changes["side"] = dataset.manifest.side
    elif not resizes:
        dataset.require_size(recipe.model.side, "the recipe's model.side", "--set model.side=")
    return fit_vocabulary(recipe, len(dataset.vocabulary), str(dataset.folder), changes)


def fit_vocabulary(recipe: DrawingRecipe, words: int, where: str, changes: Mapping[str, Any]) -> DrawingRecipe:
    """Return the recipe with the vocabulary size of its data.

    Args:
        recipe: of a model of captioned images.
        words: of the vocabulary.
        where: of the data, for messages.
        changes: further sizes of the model that the data decides.

    Raises:
        ValueError: the recipe insists on another vocabulary size, or the sizes do not fit together.
    """
    text = getattr(recipe.model, "text", None)  # a model that has a text encoder of its own keeps the size in that one's configuration
    sizes, key = (recipe.model, "model") if text is None else (text, "model.text")
    if "vocabulary_size" in sizes.model_fields_set and sizes.vocabulary_size != words:
        raise ValueError(f"{where}: has {words} words, the recipe's {key}.vocabulary_size is {sizes.vocabulary_size}")
    try:
        sizes = type(sizes).model_validate(sizes.model_dump() | changes | {"vocabulary_size": words})
    except ValidationError as error:
        raise ValueError(f"{where}: {describe(error)}") from None
    model = sizes if text is None else recipe.model.model_copy(update={"text": sizes})
    return recipe.model_copy(update={"model": model})
