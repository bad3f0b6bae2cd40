"""Captioned scenes: one or two things on a plain background, and sentences that say so.

Source: this project, in the manner of MNIST with captions (alignDRAW, arXiv:1511.02793, appendix A).

Everything is defined by the names of the things and a seed, so that captions and held-out scenes are known without the cut-outs.

Shapes: N scenes, V things, G backgrounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from cap2im.data.cutouts_manifest import Thing
from cap2im.data.splits import Split
from cap2im.randomness import generator

# names with the red, green and blue of their middle; a painted background is within `BACKGROUND_RANGE` of it
BACKGROUNDS = {
    "red": (204, 36, 40),
    "orange": (245, 140, 30),
    "yellow": (250, 220, 60),
    "green": (60, 160, 70),
    "blue": (45, 100, 210),
    "purple": (130, 65, 175),
    "pink": (248, 165, 200),
    "brown": (125, 80, 45),
    "grey": (140, 140, 144),
    "black": (22, 22, 24),
    "white": (242, 242, 242),
}
BACKGROUND_RANGE = 12  # levels of each colour
BACKGROUND_NAMES = tuple(BACKGROUNDS)


@dataclass(frozen=True)
class Place:
    """The part of a scene that holds a thing. All numbers are shares of the scene's side.

    Attributes:
        rows: first and last row.
        columns: first and last column.
        sizes: side of the smallest and of the largest square in which a thing is painted.
    """

    rows: tuple[float, float]
    columns: tuple[float, float]
    sizes: tuple[float, float]


_ONE, _TWO = (0.66, 0.84), (0.41, 0.48)
PLACES = {
    "middle": Place((0.05, 0.95), (0.05, 0.95), _ONE),
    "left": Place((0.18, 0.82), (0.0, 0.5), _TWO),
    "right": Place((0.18, 0.82), (0.5, 1.0), _TWO),
    "top": Place((0.0, 0.5), (0.18, 0.82), _TWO),
    "bottom": Place((0.5, 1.0), (0.18, 0.82), _TWO),
}
PLACE_NAMES = tuple(PLACES)


@dataclass(frozen=True)
class Layout:
    """Places that are filled together.

    Attributes:
        name: of the layout.
        places: of the things, in the order of `Scene.things`.
        equal: whether the same cut-out stands at all places.
    """

    name: str
    places: tuple[str, ...]
    equal: bool = False


LAYOUTS = (
    Layout("one", ("middle",)),
    Layout("beside", ("left", "right")),
    Layout("above", ("top", "bottom")),
    Layout("two equal", ("left", "right"), equal=True),
    Layout("one at the left", ("left",)),
    Layout("one at the right", ("right",)),
    Layout("one at the top", ("top",)),
    Layout("one at the bottom", ("bottom",)),
)


@dataclass(frozen=True)
class Template:
    """A sentence.

    Attributes:
        layout: index into `LAYOUTS`.
        text: with {first}, {second} (things in the order of the places, with an article), {two} (the plural) and {background}.
    """

    layout: int
    text: str

    @property
    def names_background(self) -> bool:
        """Whether the sentence names the background."""
        return "{background}" in self.text

    def caption(self, first: Thing, second: Thing, background: str) -> str:
        """Return the sentence with its words."""
        article = "an" if background[0] in "aeiou" else "a"
        return self.text.format(first=first.one, second=second.one, two=first.two, background=f"{article} {background} background")


TEMPLATES = (
    Template(0, "{first} on {background}"),
    Template(0, "{first} in front of {background}"),
    Template(0, "{background} with {first}"),
    Template(1, "{first} to the left of {second}"),
    Template(1, "{second} to the right of {first}"),
    Template(1, "{first} to the left of {second} on {background}"),
    Template(1, "{second} to the right of {first} on {background}"),
    Template(2, "{first} above {second}"),
    Template(2, "{second} below {first}"),
    Template(2, "{first} above {second} on {background}"),
    Template(2, "{second} below {first} on {background}"),
    Template(3, "two {two} on {background}"),
    Template(3, "{background} with two {two}"),
    Template(4, "{first} on the left"),
    Template(4, "{first} on the left of {background}"),
    Template(5, "{first} on the right"),
    Template(5, "{first} on the right of {background}"),
    Template(6, "{first} at the top"),
    Template(6, "{first} at the top of {background}"),
    Template(7, "{first} at the bottom"),
    Template(7, "{first} at the bottom of {background}"),
)
FIRST_OF_SIDES = 13  # the templates from this one on are of one thing at a side, see `HeldOutScenes.sides`
ONLY_TEMPLATE = 0  # the one template in which training shows the words of some things

Kind = Literal["seen", "pair", "triple", "word"]
HELD_OUT_KINDS: tuple[Kind, ...] = ("pair", "triple", "word")
HELD_OUT_SHARES: dict[Split, float] = {"test": 0.10, "validation": 0.05}  # of pairs and of triples
WORD_SHARES: dict[Split, float] = {"test": 0.05, "validation": 0.025}  # of things
_CODES: dict[Split, int] = {"train": 0, "validation": 1, "test": 2}
_SPLITS = tuple(_CODES)
NEVER = 9  # code of scenes in no split
MOST_TRIES = 50


@dataclass(frozen=True)
class Scene:
    """A scene and its sentence.

    Attributes:
        layout: index into `LAYOUTS`.
        things: indices of the things, in the order of the layout's places; two equal things are listed twice.
        background: index into `BACKGROUND_NAMES`, or -1 if the sentence names none.
        template: index into `TEMPLATES`.
        caption: the sentence.
        split: "train" if training may show it.
        kind: what is held out of it; "seen" if nothing is.
    """

    layout: int
    things: tuple[int, ...]
    background: int
    template: int
    caption: str
    split: Split
    kind: Kind

    @property
    def places(self) -> tuple[str, ...]:
        """The places of the things."""
        return LAYOUTS[self.layout].places


@dataclass(frozen=True)
class Arrangements:
    """The content of scenes, without their pictures.

    Attributes:
        templates: [N] index into `TEMPLATES`.
        things: [N, 2] in the order of the layout's places; -1 if the layout has one.
        backgrounds: [N] painted, whether named or not.
    """

    templates: Tensor
    things: Tensor
    backgrounds: Tensor

    def __getitem__(self, rows: Tensor | slice) -> Arrangements:
        """Return some of the arrangements."""
        return Arrangements(self.templates[rows], self.things[rows], self.backgrounds[rows])

    def __len__(self) -> int:
        return len(self.templates)

    @property
    def layouts(self) -> Tensor:
        """Index [N] into `LAYOUTS`."""
        return _LAYOUT_OF[self.templates]

    def classes(self) -> Tensor:
        """Return [N] int64, equal for scenes that fit each other's captions.

        These have the same layout and things, and the same background if all captions of the layout name it.
        """
        layouts, things = self.layouts, self.things + 1
        backgrounds = self.backgrounds.where(_ALWAYS_NAMED[layouts], 0)
        return ((layouts * 2**20 + things[:, 0]) * 2**20 + things[:, 1]) * len(BACKGROUNDS) + backgrounds


_LAYOUT_OF = torch.tensor([template.layout for template in TEMPLATES])
_NAMES_BACKGROUND = torch.tensor([template.names_background for template in TEMPLATES])
_ALWAYS_NAMED = torch.tensor([all(t.names_background for t in TEMPLATES if t.layout == index) for index in range(len(LAYOUTS))])
_EQUAL = torch.tensor([layout.equal for layout in LAYOUTS])
_ONE_THING = torch.tensor([len(layout.places) == 1 for layout in LAYOUTS])


@dataclass(frozen=True)
class HeldOutScenes:
    """Scenes that are hidden from training, which measure generalisation.

    Hidden are a tenth (test) and a twentieth (validation) of

    - the pairs of a thing and a background,
    - the triples of two things and their relation, which is that of the picture: "a dog to the left of a house" and "a house to the right
      of a dog" are one triple.

    The words of a few things are shown in one template only, "a dog on a red background"; all other captions with them are hidden.

    Attributes:
        nouns: V things.
        pairs: [V, G] uint8: 0 train, 1 validation, 2 test, `NEVER` for a thing that cannot be seen on a background.
        triples: [V, V, 2] uint8; left and right, top and bottom.
        words: [V] uint8.
        sides: whether there are also scenes of one thing at a side, "a dog on the left".
    """

    nouns: tuple[Thing, ...]
    pairs: Tensor
    triples: Tensor
    words: Tensor
    sides: bool = False

    @classmethod
    def from_seed(cls, seed: int, nouns: Sequence[Thing], visible: Tensor | None = None, *, sides: bool = False) -> HeldOutScenes:
        """Draw the hidden scenes.

        Args:
            seed: of the choice.
            nouns: V things.
            visible: [V, G] whether a thing can be seen on a background; None is all.
            sides: whether there are also scenes of one thing at a side. The choice does not depend on it.

        Raises:
            ValueError: fewer than two things, or one that can be seen on no background.
        """
        if len(nouns) < 2:
            raise ValueError(f"scenes need two or more things, got {len(nouns)}")
        count = len(nouns)
        visible = torch.ones(count, len(BACKGROUNDS), dtype=torch.bool) if visible is None else visible
        if hidden := [noun.name for noun, some in zip(nouns, visible.any(1).tolist(), strict=True) if not some]:
            raise ValueError(f"things that can be seen on no background: {', '.join(hidden[:5])}")
        pairs = _draw((count, len(BACKGROUNDS)), HELD_OUT_SHARES, generator("held-out pairs", seed))
        triples = _draw((count, count, 2), HELD_OUT_SHARES, generator("held-out triples", seed))
        words = torch.zeros(count, dtype=torch.uint8)
        order, start = torch.randperm(count, generator=generator("held-out words", seed)), 0
        for split, share in WORD_SHARES.items():
            end = start + max(1, round(share * count)) if count >= 10 else start
            words[order[start:end]] = _CODES[split]
            start = end
        triples[torch.arange(count), torch.arange(count)] = NEVER  # two equal things have a layout of their own
        return cls(tuple(nouns), pairs.masked_fill(~visible, NEVER), triples, words, sides)

    @classmethod
    def from_model(cls, data: Mapping[str, Any]) -> HeldOutScenes:
        """Return the held-out scenes of a model of scenes.

        Args:
            data: entry "data" of its `config.json`.

        Raises:
            ValueError: the model draws no scenes, or the entry is damaged.
        """
        things = data.get("scenes")
        if not isinstance(things, Sequence) or not things:
            raise ValueError("the model draws no captioned scenes: its config.json has no data.scenes")
        nouns = [Thing(**{key: thing.get(key, "") for key in ("name", "one", "two")}) for thing in things]
        visible = torch.tensor([[name not in thing.get("disappears_on", ()) for name in BACKGROUND_NAMES] for thing in things])
        return cls.from_seed(int(data["held_out_seed"]), nouns, visible, sides=bool(data.get("sides", False)))

    def about(self) -> list[dict[str, Any]]:
        """Return the things and the backgrounds that each cannot be seen on, for `config.json`; see `from_model`."""
        entries = []
        for noun, codes in zip(self.nouns, self.pairs.tolist(), strict=True):
            hidden = [name for name, code in zip(BACKGROUND_NAMES, codes, strict=True) if code == NEVER]
            entries.append(noun.model_dump(exclude_defaults=True) | ({"disappears_on": hidden} if hidden else {}))
        return entries

    @property
    def _templates(self) -> Tensor:
        """Indices of the templates of these scenes."""
        return torch.arange(len(TEMPLATES) if self.sides else FIRST_OF_SIDES)

    @cached_property
    def _plural(self) -> Tensor:
        return torch.tensor([bool(noun.two) for noun in self.nouns])

    def statuses(self, scenes: Arrangements) -> tuple[Tensor, Tensor]:
        """Return what is held out of scenes.

        Returns:
            codes: [N, 3] of the pair, the triple and the word: 0 train, 1 validation, 2 test; the larger of two.
            possible: [N] whether it is a scene of any split: its things can be seen, and the words of its caption are known.
        """
        layouts, (first, second) = scenes.layouts, scenes.things.unbind(1)
        one, equal = _ONE_THING[layouts], _EQUAL[layouts]
        second = second.where(~one, first)
        pair, other = self.pairs[first, scenes.backgrounds], self.pairs[second, scenes.backgrounds]
        triple = self.triples[first, second, (layouts == 2).long()].masked_fill(one | equal, 0)
        word = torch.maximum(self.words[first], self.words[second])
        rare = word > 0
        pair = torch.maximum(pair, other)
        possible = (pair != NEVER) & (triple != NEVER) & (~equal | (self._plural[first] & ~rare))
        possible &= _NAMES_BACKGROUND[scenes.templates] | (pair == 0)  # a caption without the background does not ask for the pair
        word = word.masked_fill(scenes.templates == ONLY_TEMPLATE, 0)
        return torch.stack([pair, triple, word], dim=1), possible

    def is_seen(self, scenes: Arrangements) -> Tensor:
        """Return whether training may show scenes, [N]."""
        codes, possible = self.statuses(scenes)
        return possible & (codes == 0).all(1)

    def draw(
        self, count: int, random: torch.Generator, split: Split = "train", kind: Kind = "seen", *, one_thing: bool = False
    ) -> Arrangements:
        """Draw random scenes: a template, two things and a background, each equally likely, and drawn again until the scene is wanted.

        Args:
            count: N.
            random: generator.
            split: "train" draws what training may show.
            kind: of held-out scenes, what is held out of them. Nothing else is, of any split.
            one_thing: draw only scenes of one thing.

        Raises:
            ValueError: there are no such scenes.
        """
        if (split == "train") != (kind == "seen"):
            raise ValueError(f"scenes of split {split} and kind {kind}: train has seen scenes, the others {', '.join(HELD_OUT_KINDS)}")
        parts: list[Arrangements] = []
        found = tries = 0
        while found < count:
            drawn = self._any(max(4 * (count - found), 64) if kind == "seen" else 8192, random, one_thing)
            codes, possible = self.statuses(drawn)
            target = torch.tensor([_CODES[split] if kind == each else 0 for each in HELD_OUT_KINDS], dtype=torch.uint8)
            part = drawn[(possible & (codes == target).all(1)).nonzero().flatten()[: count - found]]
            parts.append(part)
            found, tries = found + len(part), tries + 1
            if tries == MOST_TRIES and not found:
                raise ValueError(f"among {len(self.nouns)} things there is no scene of split {split} and kind {kind}")
        return Arrangements(*(torch.cat([getattr(p, key) for p in parts]) for key in ("templates", "things", "backgrounds")))

    def has(self, split: Split, kind: Kind) -> bool:
        """Return whether there are scenes of a split and kind; among few things some kinds do not exist."""
        try:
            self.draw(1, generator("any scene"), split, kind)
        except ValueError:
            return False
        return True

    def _any(self, count: int, random: torch.Generator, one_thing: bool) -> Arrangements:
        """Draw scenes, held out or not."""
        known = self._templates
        if one_thing:
            known = known[_ONE_THING[_LAYOUT_OF[known]]]
        templates = known[torch.randint(len(known), (count,), generator=random)]
        things = torch.randint(len(self.nouns), (count, 2), generator=random)
        backgrounds = torch.randint(len(BACKGROUNDS), (count,), generator=random)
        layouts = _LAYOUT_OF[templates]
        second = things[:, 1].where(~_EQUAL[layouts], things[:, 0]).masked_fill(_ONE_THING[layouts], -1)
        return Arrangements(templates, torch.stack([things[:, 0], second], dim=1), backgrounds)

    def captions(self, scenes: Arrangements) -> list[str]:
        """Return the caption of each scene."""
        rows = zip(scenes.templates.tolist(), scenes.things.tolist(), scenes.backgrounds.tolist(), strict=True)
        return [TEMPLATES[t].caption(self.nouns[a], self.nouns[b], BACKGROUND_NAMES[g]) for t, (a, b), g in rows]

    def scenes(self, drawn: Arrangements) -> list[Scene]:
        """Return arrangements one by one, as `Scene`."""
        codes, _ = self.statuses(drawn)
        kinds: list[Kind] = [next((k for k, code in zip(HELD_OUT_KINDS, row, strict=True) if code), "seen") for row in codes.tolist()]
        splits = [_SPLITS[code] for code in codes.amax(1).tolist()]
        named = drawn.backgrounds.where(_NAMES_BACKGROUND[drawn.templates], -1)
        rows = zip(
            drawn.layouts.tolist(), drawn.things.tolist(), named.tolist(), drawn.templates.tolist(), self.captions(drawn), strict=True
        )
        return [
            Scene(layout, tuple(t for t in things if t >= 0), background, template, caption, split, kind)
            for (layout, things, background, template, caption), split, kind in zip(rows, splits, kinds, strict=True)
        ]

    def words_shown(self) -> tuple[str, ...]:
        """Return the words of all captions that training may show, in a fixed order. Words are separated by spaces."""
        thing = Thing(name="{}", one="{}", two="{}")
        texts = [TEMPLATES[index].caption(thing, thing, background) for index in self._templates for background in BACKGROUND_NAMES]
        texts += [noun.one for noun in self.nouns]
        texts += [noun.two for noun, word in zip(self.nouns, self.words.tolist(), strict=True) if not word]
        return tuple(dict.fromkeys(word for word in [*" ".join(texts).split(), "."] if word != "{}"))


def _draw(shape: tuple[int, ...], shares: dict[Split, float], random: torch.Generator) -> Tensor:
    """Return a table of codes in which each split has its share, rounded."""
    table = torch.zeros(shape, dtype=torch.uint8).flatten()
    order, start = torch.randperm(len(table), generator=random), 0
    for split, share in shares.items():
        end = start + round(share * len(table))
        table[order[start:end]] = _CODES[split]
        start = end
    return table.view(shape)
