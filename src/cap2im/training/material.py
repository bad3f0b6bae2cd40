"""What a DRAW is trained on, as its recipe says: captioned digits, or a prepared dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cap2im.config import CaptionsData, DigitsData, DRAWRecipe
from cap2im.data.batch import Batch, Batches
from cap2im.data.canvas_batches import CanvasBatches, load_digits
from cap2im.data.captions import CaptionBatches, CaptionedImages, PreparedDataset, sentence_vectors
from cap2im.data.digits import Split
from cap2im.data.mnist_captions import ALIASES, WORDS, CanvasMaker, HeldOut
from cap2im.data.vocabulary import Vocabulary, pad

SHOWN_DIGITS = (
    "the digit three is at the top of the digit one .",
    "the digit seven is at the bottom left of the image .",
    "the digit two is on the left of the digit eight .",
    "the digit five is on the right of the digit zero .",
    "the digit four is at the bottom of the digit six .",
    "the digit nine is at the top right of the image .",
)
SHOWN_CAPTIONS = 10  # of a prepared dataset


@dataclass(frozen=True)
class ShownCaptions:
    """The captions that a run draws again and again: tokens and mask [N, L], sentence vectors [N, S] or None."""

    tokens: Tensor
    mask: Tensor
    vectors: Tensor | None = None


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
        encoder_folder: of the sentence encoder, where it is one; the finished model gets a copy.
    """

    recipe: DRAWRecipe
    vocabulary: Vocabulary
    batches: Batches
    validation: Batch
    shown: ShownCaptions
    about: dict[str, Any]
    slow: bool
    encoder_folder: Path | None = None


def training_material(recipe: DRAWRecipe, data: Path | None) -> Material:
    """Reads or makes what a recipe trains on.

    Args:
        recipe: of a DRAW.
        data: folder of MNIST's files (None for the cache or a download), or a prepared dataset.

    Raises:
        ValueError: data are missing or damaged, or do not fit the recipe.
    """
    return _prepared(recipe, recipe.data, data) if isinstance(recipe.data, CaptionsData) else _digits(recipe, recipe.data, data)


def _digits(recipe: DRAWRecipe, settings: DigitsData, data: Path | None) -> Material:
    vocabulary = Vocabulary(words=WORDS, aliases=ALIASES)
    held_out = HeldOut.from_seed(settings.held_out_seed, settings.variant)

    def canvases(split: Split) -> CanvasBatches:
        maker = CanvasMaker(load_digits(settings.source, split, data), held_out, settings.variant)
        noise_shape = (recipe.model.glimpses, recipe.model.latent)
        return CanvasBatches(maker, vocabulary, noise_shape, settings.samples_per_epoch, recipe.train.batch_size, recipe.train.seed)

    return Material(
        recipe,
        vocabulary,
        batches=canvases("train"),
        validation=canvases("validation").fixed(settings.validation_samples),
        shown=ShownCaptions(*pad([t.numbers for t in vocabulary.encode(SHOWN_DIGITS)])),
        about={**settings.model_dump(), "held_out": held_out.digits},
        slow=False,
    )


def _prepared(recipe: DRAWRecipe, settings: CaptionsData, data: Path | None) -> Material:
    if data is None:
        raise ValueError("this recipe trains on a prepared dataset: give its folder with --data (cap2im prepare makes one)")
    dataset = PreparedDataset.open(data)
    recipe = fitted(recipe, dataset)
    sizes = recipe.model
    encoder, encoder_folder = None, None
    if sizes.conditioning == "sentence":
        from cap2im.sentences import find_encoder, load_sentence_encoder  # some encoders need an extra

        encoder = load_sentence_encoder(settings.sentence_encoder)
        if Path(settings.sentence_encoder).is_dir():
            encoder_folder = find_encoder(settings.sentence_encoder)
        if encoder.features != sizes.sentence_features:
            raise ValueError(
                f"{settings.sentence_encoder}: answers {encoder.features} features, the recipe's model.sentence_features is "
                f"{sizes.sentence_features}"
            )

    def batches(split: Split, **how: Any) -> tuple[CaptionedImages, CaptionBatches]:
        images = dataset.split(split)
        vectors = None if encoder is None else sentence_vectors(dataset, split, images.captions, encoder)
        noise_shape = (sizes.glimpses, sizes.latent)
        return images, CaptionBatches(images, dataset.vocabulary, noise_shape, colours=sizes.colours, vectors=vectors, **how)

    _, training = batches(
        "train",
        batch_size=recipe.train.batch_size,
        seed=recipe.train.seed,
        lengths=(settings.shortest, settings.longest),
        equal_lengths=settings.equal_lengths,
    )
    images, validation = batches("validation", batch_size=1)
    shown = spread(images.captions, SHOWN_CAPTIONS)
    words = pad([t.numbers for t in dataset.vocabulary.encode(shown, dataset.vocabulary.training_unknown)])
    return Material(
        recipe,
        dataset.vocabulary,
        batches=training,
        validation=validation.fixed(settings.validation_samples),
        shown=ShownCaptions(*words, None if encoder is None else encoder.encode(shown)),
        about={**settings.model_dump(), "dataset": {"sha256": dataset.sha256, "source": dataset.manifest.get("source")}, "shown": shown},
        slow=True,
        encoder_folder=encoder_folder,
    )


def spread(captions: Sequence[str], count: int) -> list[str]:
    """At most `count` different captions from all over a list."""
    different = list(dict.fromkeys(captions))
    return [different[i] for i in torch.linspace(0, len(different) - 1, min(count, len(different))).long().tolist()]


def fitted(recipe: DRAWRecipe, dataset: PreparedDataset) -> DRAWRecipe:
    """The recipe with the dataset's vocabulary size.

    Raises:
        ValueError: the recipe insists on another vocabulary size, or on images of another size.
    """
    words, side = len(dataset.vocabulary), dataset.manifest["side"]
    if "vocabulary_size" in recipe.model.model_fields_set and recipe.model.vocabulary_size != words:
        raise ValueError(f"{dataset.folder}: has {words} words, the recipe's model.vocabulary_size is {recipe.model.vocabulary_size}")
    if dataset.manifest["fit"] == "shorter" or side != recipe.model.side:
        kept = f"{side} x {side} pixels" if dataset.manifest["fit"] != "shorter" else f"images whose shorter side is {side} pixels"
        raise ValueError(
            f"{dataset.folder}: holds {kept}, the recipe draws {recipe.model.side} x {recipe.model.side}; "
            f"prepare with --side {recipe.model.side}, or change the recipe with --set model.side={side}"
        )
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"vocabulary_size": words})})
