"""The captions that a model's figures show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cap2im.data.mnist_captions import Configuration, HeldOut
from cap2im.pipeline import Pipeline

NOVEL = 8  # scenes of figure 1
EXAMPLES, ATTENDED = 8, 4  # captions of a model's own data; of these, captions whose attention is shown
COMPARED = 5  # captions of a comparison of models

DIGIT_FLIPS = (
    tuple(f"the digit {d} is at the top of the digit one ." for d in ("three", "four", "seven", "eight")),
    tuple(
        f"the digit five is {relation} the digit two ."
        for relation in ("on the left of", "on the right of", "at the top of", "at the bottom of")
    ),
    tuple(f"the digit seven is at the {corner} of the image ." for corner in ("top left", "top right", "bottom left", "bottom right")),
)


@dataclass(frozen=True)
class FigureCaptions:
    """Captions of a model's figures.

    Attributes:
        novel: scenes outside the training data (figure 1).
        flips: groups of captions that differ in a word or two (figures 3 and 4).
        attended: groups whose word attention is shown (figure 5).
        examples: captions from the model's own data; empty for models of captioned digits and of unknown data.
        unknown: captions with words outside the vocabulary, which are left out.
    """

    novel: tuple[str, ...] = ()
    flips: tuple[tuple[str, ...], ...] = ()
    attended: tuple[tuple[str, ...], ...] = ()
    examples: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def captions(self) -> tuple[str, ...]:
        """All captions but the examples, each once."""
        return tuple(dict.fromkeys([*self.novel, *(caption for group in (*self.flips, *self.attended) for caption in group)]))


PAPER = FigureCaptions(
    novel=(
        "a stop sign is flying in blue skies .",
        "a herd of elephants flying in the blue skies .",
        "a toilet seat sits open in the grass field .",
        "a person skiing on sand clad vast desert .",
    ),
    flips=(
        tuple(f"a {colour} school bus parked in a parking lot ." for colour in ("yellow", "red", "green", "blue")),
        ("the decadent chocolate desert is on the table .", "a bowl of bananas is on the table ."),
        ("a vintage photo of a cat .", "a vintage photo of a dog ."),
        ("a very large commercial plane flying in blue skies .", "a very large commercial plane flying in rainy skies ."),
        ("a herd of elephants walking across a dry grass field .", "a herd of elephants walking across a green grass field ."),
    ),
    attended=(
        ("a rider on a blue motorcycle in the desert .", "a rider on a blue motorcycle in the forest ."),
        ("a surfer , a woman , and a child walk on the beach .", "a surfer , a woman , and a child walk on the sun ."),
    ),
)
"""The paper's captions, for models of COCO."""

COLOUR_FLIPS = (
    tuple(f"a {colour} dog runs on the grass ." for colour in ("brown", "black", "white")),
    tuple(f"a {colour} car is on the road ." for colour in ("red", "blue", "yellow", "white")),
)
BACKGROUND_FLIPS = (
    tuple(f"a dog runs {place} ." for place in ("on the grass", "in the snow", "on the beach", "through the water")),
    tuple(f"a person is standing {place} ." for place in ("in the snow", "on the beach", "in a field", "on a street")),
)
OBJECT_FLIPS = (tuple(f"a {jumper} jumps into the pool ." for jumper in ("dog", "boy", "girl", "man")),)
PHOTOGRAPHS = FigureCaptions(
    novel=(
        "a skier is on the beach .",
        "a surfer rides a wave in the desert .",
        "a motorcycle drives through the ocean .",
        "a bus is parked on the beach .",
        "a horse stands on the roof .",
        "a surfer is in a green field .",
        "a bed is in the snow .",
        "a pink dog runs on blue grass .",
    ),
    flips=(*COLOUR_FLIPS, *BACKGROUND_FLIPS, *OBJECT_FLIPS),
    attended=(BACKGROUND_FLIPS[0], OBJECT_FLIPS[0]),
)
"""Captions of the same kinds in the words of Flickr8k; none of its captions describes one of the novel scenes."""


def figure_captions(pipeline: Pipeline, groups: Sequence[Sequence[str]] = ()) -> FigureCaptions:
    """Choose the captions of a model's figures.

    These are the user's groups if there are any, or captions of digits for a model of captioned digits. For other models they are those of
    `PAPER` or `PHOTOGRAPHS`, whichever has the larger share of captions in the model's vocabulary, and captions of the model's own data.

    Raises:
        ValueError: a user's caption has an unknown word.
    """
    if groups:
        pipeline.prompts([caption for group in groups for caption in group])
        user = tuple(tuple(group) for group in groups)
        return FigureCaptions((), user, user)
    if held_out := model_held_out(pipeline):
        hidden = [c.caption for c in held_out.configurations("test") if not c.seen]
        return FigureCaptions(tuple(_spread(hidden, NOVEL)), DIGIT_FLIPS, DIGIT_FLIPS[:2])

    # the vocabulary of a model that reads no words still describes its training data
    shares = {each: np.mean([not pipeline.vocabulary.unknown_words(caption) for caption in each.captions]) for each in (PAPER, PHOTOGRAPHS)}
    chosen = max(shares, key=lambda each: shares[each])
    known = _known(pipeline, chosen) if shares[chosen] else FigureCaptions()
    examples = tuple(pipeline.examples[:EXAMPLES])
    attended = known.attended or known.flips[:1] or ((examples[:ATTENDED],) if examples else ())
    unknown = tuple(caption for caption in chosen.captions if not _is_known(pipeline, caption))
    return FigureCaptions(known.novel, known.flips, attended, examples, unknown)


def shared_captions(pipelines: Sequence[Pipeline]) -> list[str]:
    """Choose a few captions without unknown words for any model.

    Raises:
        ValueError: the models share no caption of their figures.
    """
    captions: list[str] = []
    for chosen in map(figure_captions, pipelines):
        captions += [*(group[0] for group in chosen.flips), *chosen.novel, *(caption for group in chosen.flips for caption in group[1:])]
        captions += chosen.examples
    known = [caption for caption in dict.fromkeys(captions) if all(_is_known(pipeline, caption) for pipeline in pipelines)]
    if not known:
        raise ValueError(
            f"{', '.join(pipeline.name for pipeline in pipelines)}: no example caption consists of words of all their vocabularies"
        )
    return known[:COMPARED]


def model_held_out(pipeline: Pipeline) -> HeldOut | None:
    """Return the configurations held out from a model of captioned digits; None for other models."""
    return HeldOut.from_model(pipeline.config.data)


def configurations_of_layouts(held_out: HeldOut, seen: bool) -> list[Configuration]:
    """Choose four configurations of different layouts, seen in training or held out; fewer if a layout has none."""
    layouts = (0, 2, 3, 7) if seen else (0, 1, 2, 5)
    chosen = []
    for layout in layouts:
        candidates = [c for c in held_out.configurations("test") if c.layout == layout and c.seen == seen]
        chosen += candidates[len(candidates) // 3 :][:1]
    return chosen


def _is_known(pipeline: Pipeline, caption: str) -> bool:
    try:
        pipeline.prompts([caption])
    except ValueError:
        return False
    return True


def _known(pipeline: Pipeline, captions: FigureCaptions) -> FigureCaptions:
    """Return the captions without unknown words, and of the groups those of which two or more are left."""
    known = {caption for caption in captions.captions if _is_known(pipeline, caption)}

    def groups(groups: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
        left = (tuple(caption for caption in group if caption in known) for group in groups)
        return tuple(group for group in left if len(group) > 1)

    return FigureCaptions(
        tuple(caption for caption in captions.novel if caption in known), groups(captions.flips), groups(captions.attended)
    )


def _spread(captions: Sequence[str], count: int) -> list[str]:
    """Choose at most `count` captions, evenly spread over a list."""
    return [captions[i] for i in np.linspace(0, len(captions) - 1, min(count, len(captions))).astype(int)]
