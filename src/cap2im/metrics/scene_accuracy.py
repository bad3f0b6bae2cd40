"""Scene accuracy: whether a drawing of a photograph-like scene shows the visual word by which its caption differs from others.

No number of this kind has been published for any model, so this is the complete definition.

A small network, the scene reader (`cap2im.models.scene_reader`), learns from real training photographs which of its visual words (snow,
grass, red, ...) their captions hold. It reads a picture without its caption. Its evidence for a word is by how much the picture raises the
log odds of the word above those among all training images, so that frequent words have no advantage.

Captions come in groups (`FLIPS`), whose captions differ in one of a few words: "a dog runs on the grass / in the snow / on the beach /
through the water". A picture is right if, among the words of its group, the evidence is highest for the word of its caption (a forced
choice; guessing is right for one word of as many). Three kinds of pictures are read, each in every group:

- flips: drawings of the templates of `FLIPS`, several of each; the captions of a template are drawn from the same seeds;
- captions: a drawing of one caption of each image of a split whose captions hold exactly one of the group's words;
- images: these images themselves, for comparison; a flip has one clear background, a photograph several.

Each word of a group weighs the same, however many pictures it has, so that chance is one in the number of words everywhere. The 95 %
interval is Wilson's, for the number of pictures that would give the same standard error if each word had equally many. For flips it covers
the randomness of the drawings, not the choice of the templates; for captions and images, also the choice of the images. It does not cover
another training run of the model or of the reader.

The reader finds scenery and colours, not beauty: a picture that has only the right colours at the right places can be right. It is only
fair to models that were not optimised against it, so a model must not be trained or selected on it.

Shapes: N pictures or images, M captions, W words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cap2im.data.tokenizer import split_words
from cap2im.metrics.intervals import wilson
from cap2im.metrics.measurement import Measurement


@dataclass(frozen=True)
class Flips:
    """Captions that differ in one word.

    Attributes:
        name: of what differs.
        phrases: word -> phrase that replaces {} in the templates.
        templates: captions with {}.
    """

    name: str
    phrases: dict[str, str]
    templates: tuple[str, ...]

    def captions(self, word: str) -> list[str]:
        """Return the captions of a word, in the order of the templates."""
        return [template.format(self.phrases[word]) for template in self.templates]


FLIPS = (
    Flips(
        "background",
        {"grass": "on the grass", "snow": "in the snow", "beach": "on the beach", "water": "through the water"},
        (
            "a dog runs {} .",
            "a brown dog is running {} .",
            "a white dog jumps {} .",
            "two dogs play {} .",
            "a man walks {} .",
            "two children play {} .",
            "a boy in a red shirt runs {} .",
            "a group of people walk {} .",
        ),
    ),
    Flips(
        "colour",
        {colour: colour for colour in ("red", "blue", "green", "pink")},
        (
            "a man in a {} shirt is standing .",
            "a woman in a {} shirt is smiling .",
            "a boy in a {} shirt is playing .",
            "a little girl in a {} dress .",
            "a child wearing a {} jacket .",
            "a person wearing a {} coat .",
            "a man wearing a {} hat .",
            "a child is playing with a {} ball .",
        ),
    ),
)


def readable_flips(reader: str, known: Sequence[str]) -> list[tuple[Flips, tuple[str, ...]]]:
    """Return the groups of which a reader knows at least two words, with these words.

    Args:
        reader: name of the reader, for messages.
        known: the reader's words.

    Raises:
        ValueError: there is none.
    """
    words = [(flips, tuple(word for word in flips.phrases if word in known)) for flips in FLIPS]
    if readable := [(flips, chosen) for flips, chosen in words if len(chosen) > 1]:
        return readable
    needed = "; ".join(f"{flips.name}: {', '.join(flips.phrases)}" for flips in FLIPS)
    raise ValueError(f"--scene-reader {reader}: reads {', '.join(known)}; at least two words of a group are needed ({needed})")


def held_words(captions: Sequence[str], image_of: Iterable[int], images: int, words: Sequence[Sequence[str]]) -> Tensor:
    """Return which words [N, W] the captions of each image hold: true if one of them holds a form of the word.

    Args:
        captions: M captions.
        image_of: M rows of their images.
        images: N.
        words: W words, each with all of its forms.
    """
    word_of = {form: index for index, forms in enumerate(words) for form in forms}
    held = np.zeros((images, len(words)), dtype=bool)
    for caption, image in zip(captions, image_of, strict=True):
        held[image, [word_of[form] for form in split_words(caption, "attngan") if form in word_of]] = True
    return torch.from_numpy(held)


def average_precision(scores: Tensor, labels: Tensor) -> Tensor:
    """Return for each word the mean of the precisions at the images that hold it, in the order of the scores: [W].

    Args:
        scores: [N, W], higher for images that hold the word.
        labels: [N, W] bool; each word is held by an image.
    """
    hits = labels.gather(0, scores.argsort(dim=0, descending=True, stable=True)).double()
    precisions = hits.cumsum(dim=0) / torch.arange(1, len(hits) + 1)[:, None]
    return (precisions * hits).sum(dim=0) / hits.sum(dim=0)


def balanced_accuracy(predicted: Tensor, labels: Tensor) -> Tensor:
    """Return for each word the mean of the shares of images with and without it that are classified correctly: [W].

    Args:
        predicted: [N, W] bool.
        labels: [N, W] bool; each word is held by an image, and not by another.
    """
    with_word = (predicted & labels).sum(dim=0).double() / labels.sum(dim=0)
    without = (~predicted & ~labels).sum(dim=0).double() / (~labels).sum(dim=0)
    return (with_word + without) / 2


def scene_accuracy(evidence: Tensor, targets: Tensor, flips: Flips, words: Sequence[str], group: str) -> list[Measurement]:
    """Return the share of pictures with the highest evidence for their word, each word weighing the same, and the share of each word.

    Args:
        evidence: [N, W] for the words.
        targets: [N] the word of each picture's caption.
        flips: group of captions, which the measurements are named after.
        words: W words of the group.
        group: kind of the pictures.

    Raises:
        ValueError: a word has no picture.
    """
    counts = targets.bincount(minlength=len(words)).double()
    if not counts.all():
        raise ValueError(f"{flips.name} accuracy, {group}: no picture for {words[int(counts.argmin())]!r}")
    right = targets[evidence.argmax(dim=1) == targets].bincount(minlength=len(words)).double()
    rates, equal = right / counts, len(words) ** 2 / (1 / counts).sum().item()  # N if each word has as many pictures

    def measurement(rate: float, n: int, interval: tuple[float, float], group: str, *, detail: bool) -> Measurement:
        about = {"unit": "proportion", "chance": 1 / len(words), "detail": detail}
        return Measurement(name=f"{flips.name} accuracy", value=rate, n=n, interval=interval, group=group, **about)

    rate = rates.mean().item()
    whole = measurement(rate, len(targets), wilson(rate * equal, equal), group, detail=False)
    parts = zip(words, right.tolist(), counts.int().tolist(), strict=True)
    return [whole, *(measurement(hits / n, n, wilson(hits, n), f"{group}, {word}", detail=True) for word, hits, n in parts)]
