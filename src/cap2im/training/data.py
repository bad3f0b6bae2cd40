"""What a model that draws is trained on, as its recipe says: captioned digits, or a prepared dataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from cap2im.checkpoint import read_config
from cap2im.config import CaptionsData, DigitsData, DrawingRecipe, PicturesData
from cap2im.data.batch import Batch, Batches
from cap2im.data.canvas_batches import CanvasBatches
from cap2im.data.caption_batches import CaptionBatches
from cap2im.data.captioned_images import CaptionedImages
from cap2im.data.dataset import PreparedDataset
from cap2im.data.image_batches import ImageBatches
from cap2im.data.mnist import load_digits
from cap2im.data.mnist_captions import ALIASES, WORDS, CanvasMaker, HeldOut
from cap2im.data.sentence_vectors import SentenceEncoder, load_sentence_vectors
from cap2im.data.shards import ShardBatches
from cap2im.data.splits import Split
from cap2im.data.vocabulary import LONGEST_CAPTION, Vocabulary, pad
from cap2im.files import describe
from cap2im.sentence_encoders import find_encoder, load_sentence_encoder
from cap2im.training.samples import ShownCaptions

SHOWN_DIGITS = (
    "the digit three is at the top of the digit one .",
    "the digit seven is at the bottom left of the image .",
    "the digit two is on the left of the digit eight .",
    "the digit five is on the right of the digit zero .",
    "the digit four is at the bottom of the digit six .",
    "the digit nine is at the top right of the image .",
)
SHOWN_CAPTIONS = 5  # of training and of validation images each
EXAMPLE_CAPTIONS = 10  # of validation images, that a model folder names
JUDGED_CAPTIONS = 1000  # by how many of their words are unknown


@dataclass(frozen=True)
class Material:
    """All that a training is given.

    Attributes:
        recipe: with the sizes that the data decides.
        vocabulary: of the captions.
        batches: for training.
        validation: the same images and noise every time.
        shown: captions to draw while training.
        about: what a model folder says of its data, JSON-ready.
        slow: whether batches should be made ahead.
        encoder_folder: of the sentence encoder; the finished model gets a copy.
        unknown: share of the words of validation captions that the vocabulary does not know.
    """

    recipe: DrawingRecipe
    vocabulary: Vocabulary
    batches: Batches
    validation: Batch
    shown: ShownCaptions
    about: dict[str, Any]
    slow: bool
    encoder_folder: Path | None = None
    unknown: float = 0.0


def training_material(
    recipe: DrawingRecipe, data: str | Path | None, *, stream: bool = False, processes: int = 1, vocabulary: Vocabulary | None = None
) -> Material:
    """Reads or makes what a recipe trains on.

    Args:
        recipe: of a model of captioned images.
        data: folder of MNIST's files (None for the cache or a download), or a prepared dataset.
        stream: read a prepared dataset shard by shard, wherever it lies; validation images are read at once.
        processes: that share every batch.
        vocabulary: numbers the words in place of the data's own, for a network that learned them elsewhere; of a prepared dataset, words
            that it does not know are left out.

    Raises:
        ValueError: data are missing or damaged, or do not fit the recipe.
    """
    if isinstance(recipe.data, DigitsData):
        if stream:
            raise ValueError("captioned digits are made while training, and cannot be streamed")
        return _digits(recipe, recipe.data, None if data is None else Path(data), vocabulary)
    if data is None:
        raise ValueError("this recipe trains on a prepared dataset: give its folder with --data (cap2im prepare makes one)")
    dataset = PreparedDataset.open(data)
    if vocabulary is not None:
        dataset = dataclasses.replace(dataset, vocabulary=vocabulary)
    settings, recipe = recipe.data, fitted(recipe, dataset, resizes=stream or isinstance(recipe.data, PicturesData))
    if isinstance(settings, PicturesData):
        if stream:
            raise ValueError("data.source pictures draws images from all over a dataset, and cannot be streamed")
        return _pictures(recipe, settings, dataset)
    encoder = sentence_encoder(recipe)
    if stream:
        return _streamed(recipe, settings, dataset, encoder, processes)
    return _prepared(recipe, settings, dataset, encoder)


def require_same_material(checkpoint: Path, material: Material, run: Path) -> None:
    """Raises ValueError where the run of a checkpoint was begun with another dataset or sentence encoder."""
    before = read_config(checkpoint)["data"]
    for what, name in (("dataset", "dataset"), ("encoder", "sentence encoder")):
        if _identity(before.get(what)) != _identity(material.about.get(what)):
            streamed = ", or with other shards of it: --stream and the number of processes have to stay" if what == "dataset" else ""
            raise ValueError(f"{run}: was begun with another {name} than this one{streamed}")


def _identity(about: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what tells datasets or encoders apart: their content, and not what they are called."""
    names = ("source", "title", "licence", "images", "name")
    return None if about is None else {key: value for key, value in about.items() if key not in names}


def sentence_encoder(recipe: DrawingRecipe) -> SentenceEncoder | None:
    """The encoder that a recipe conditions on, if it does.

    Raises:
        ValueError: it is missing, or answers vectors of another width than the recipe's.
    """
    if not isinstance(recipe.data, CaptionsData) or recipe.model.conditioning != "sentence":
        return None
    try:
        encoder = load_sentence_encoder(recipe.data.sentence_encoder)
    except ValueError as error:
        if Path(recipe.data.sentence_encoder).exists():
            raise
        how = "cap2im train skipthoughts-small --data DATA trains one, --set data.sentence_encoder=FOLDER names it"
        raise ValueError(f"{error}; {how}") from None
    if encoder.features != recipe.model.sentence_features:
        raise ValueError(
            f"{recipe.data.sentence_encoder}: its vectors have {encoder.features} features, the recipe's model.sentence_features is "
            f"{recipe.model.sentence_features}; --set model.sentence_features={encoder.features} takes them"
        )
    return encoder


def _digits(recipe: DrawingRecipe, settings: DigitsData, data: Path | None, vocabulary: Vocabulary | None) -> Material:
    vocabulary = Vocabulary(words=WORDS, aliases=ALIASES) if vocabulary is None else vocabulary
    held_out = HeldOut.from_seed(settings.held_out_seed, settings.variant)

    def canvases(split: Split) -> CanvasBatches:
        maker = CanvasMaker(load_digits(settings.source, split, data), held_out, settings.variant)
        noise_shape = recipe.model.noise_shape
        return CanvasBatches(maker, vocabulary, noise_shape, settings.samples_per_epoch, recipe.train.batch_size, recipe.train.seed)

    batches = canvases("train")
    return Material(
        planned(recipe, batches),
        vocabulary,
        batches=batches,
        validation=canvases("validation").fixed(settings.validation_samples),
        shown=ShownCaptions(SHOWN_DIGITS, *pad([t.numbers for t in vocabulary.encode(SHOWN_DIGITS)])),
        about={**settings.model_dump(), "held_out": held_out.digits},
        slow=False,
    )


def _prepared(recipe: DrawingRecipe, settings: CaptionsData, dataset: PreparedDataset, encoder: SentenceEncoder | None) -> Material:
    sizes = recipe.model

    def batches(split: Split, **how: Any) -> CaptionBatches:
        images = CaptionedImages(dataset, split)
        vectors = None if encoder is None else load_sentence_vectors(dataset, split, images.captions, encoder)
        return CaptionBatches(images, dataset.vocabulary, sizes.noise_shape, colours=sizes.colours, vectors=vectors, **how)

    training = batches(
        "train",
        batch_size=recipe.train.batch_size,
        seed=recipe.train.seed,
        lengths=(settings.shortest, settings.longest),
        equal_lengths=settings.equal_lengths,
    )
    return _captioned(recipe, settings, dataset, encoder, training, batches("validation", batch_size=1))


def _pictures(recipe: DrawingRecipe, settings: PicturesData, dataset: PreparedDataset) -> Material:
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

    training = batches("train", recipe.train.batch_size, recipe.train.seed)
    return _captioned(recipe, settings, dataset, None, training, batches("validation", 1, seed=0))


def _streamed(
    recipe: DrawingRecipe, settings: CaptionsData, dataset: PreparedDataset, encoder: SentenceEncoder | None, processes: int
) -> Material:
    sizes = recipe.model
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
) -> Material:
    seen, seen_images = training.examples(SHOWN_CAPTIONS)
    unseen, unseen_images = validation.examples(SHOWN_CAPTIONS)
    captions = [*seen, *unseen]
    told = (*(f"{caption} (training)" for caption in seen), *(f"{caption} (validation)" for caption in unseen))
    shown = ShownCaptions(
        told,
        *pad([dataset.vocabulary.numbered(caption) for caption in captions]),
        None if encoder is None else encoder.encode(captions),
        torch.cat([seen_images, unseen_images]),
    )
    examples = spread([caption for caption in validation.captions if dataset.vocabulary.numbered(caption)], EXAMPLE_CAPTIONS)
    known = {} if encoder is None else {"encoder": {"name": encoder.name, "sha256": encoder.sha256}}
    return Material(
        planned(recipe, training),
        dataset.vocabulary,
        batches=training,
        validation=validation.fixed(settings.validation_samples),
        shown=shown,
        about={**settings.model_dump(), "dataset": dataset.about() | streamed, "shown": examples} | known,
        slow=True,
        encoder_folder=find_encoder(settings.sentence_encoder) if isinstance(settings, CaptionsData) and encoder is not None else None,
        unknown=unknown_share(dataset.vocabulary, spread(validation.captions, JUDGED_CAPTIONS)),
    )


def planned(recipe: DrawingRecipe, batches: Batches) -> DrawingRecipe:
    """Return a recipe whose length and cadence are chosen for the data, see `Training.planned`."""
    return recipe.model_copy(update={"train": recipe.train.planned(batches.steps_per_epoch)})


def unknown_share(vocabulary: Vocabulary, captions: Sequence[str]) -> float:
    """The share of the words of captions that a vocabulary does not know."""
    words = [word for caption in captions for word in vocabulary.split(caption)]
    return sum(word not in vocabulary.numbers for word in words) / max(1, len(words))


def spread(captions: Sequence[str], count: int) -> list[str]:
    """At most `count` different captions from all over a list."""
    different = list(dict.fromkeys(captions))
    return [different[i] for i in torch.linspace(0, len(different) - 1, min(count, len(different))).long().tolist()]


def fitted(recipe: DrawingRecipe, dataset: PreparedDataset, *, resizes: bool) -> DrawingRecipe:
    """Return the recipe with the dataset's vocabulary size and, unless the recipe says another, its side.

    Args:
        recipe: of a model of captioned images.
        dataset: to train on.
        resizes: whether images of any size will do.

    Raises:
        ValueError: the recipe insists on another vocabulary size, or on images of another size.
    """
    words = len(dataset.vocabulary)
    text = getattr(recipe.model, "text", None)  # a model that has a text encoder of its own keeps the size in that one's configuration
    sizes, key = (recipe.model, "model") if text is None else (text, "model.text")
    if "vocabulary_size" in sizes.model_fields_set and sizes.vocabulary_size != words:
        raise ValueError(f"{dataset.folder}: has {words} words, the recipe's {key}.vocabulary_size is {sizes.vocabulary_size}")
    changes = {"vocabulary_size": words}
    follows = isinstance(recipe.data, CaptionsData) and "side" in type(sizes).model_fields and "side" not in sizes.model_fields_set
    if follows and dataset.manifest.fit != "shorter":
        changes["side"] = dataset.manifest.side
    elif not resizes:
        dataset.require_size(recipe.model.side, "the recipe's model.side", "--set model.side=")
    try:
        sizes = type(sizes).model_validate(sizes.model_dump() | changes)
    except ValidationError as error:
        raise ValueError(f"{dataset.folder}: {describe(error)}") from None
    model = sizes if text is None else recipe.model.model_copy(update={"text": sizes})
    return recipe.model_copy(update={"model": model})
