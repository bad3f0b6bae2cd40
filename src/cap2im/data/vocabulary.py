"""Words and numbers: tokenising captions, and the vocabulary that travels inside of every checkpoint."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

LONGEST_CAPTION = 200  # words; COCO's longest caption has 57

TOLD_PROBLEMS = 5  # of many captions

UNKNOWN = "UNK"  # as in the authors' dictionary; captions are lower-cased, so that none holds it
END = "<end>"  # number 0 of AttnGAN's vocabularies: padding

Tokenizer = Literal["released", "attngan", "treebank"]
Unknown = Literal["error", "skip", "mark"]


@dataclass(frozen=True)
class Tokens:
    """One caption: its words as typed (lower-cased) and their numbers."""

    words: tuple[str, ...]
    numbers: tuple[int, ...]


_MARK = re.compile(r"<[^<>]+>")  # <eos>, <end>, <no word 7>: no text says them
_WORDS = re.compile(r"\w+(?:['\u2019-]\w+)*|[^\w\s]")
_ENDING = r"'(?:s|re|ve|ll|d|m)\b"
_TREEBANK = re.compile(rf"\w+(?=n't\b)|n't\b|{_ENDING}|\w+(?:(?!{_ENDING})['\u2019-]\w+)*|``|''|\.\.\.|--|[^\w\s]", re.IGNORECASE)


def split_words(caption: str, tokens: Tokenizer = "released") -> list[str]:
    """Words of a caption, lower-cased but for "treebank".

    "released", alignDRAW's: punctuation is a word of its own, and a caption ends with a full stop. "attngan", AttnGAN's: nothing but
    runs of ASCII letters, digits and underscores. "treebank", of the released skip-thoughts: as written, with punctuation and the endings
    's, 're, 've, 'll, 'd, 'm and n't as words of their own.
    """
    if tokens == "treebank":
        return _TREEBANK.findall(caption)
    if tokens == "attngan":
        return [word for run in re.findall(r"\w+", caption.lower()) if (word := run.encode("ascii", "ignore").decode())]
    return _with_full_stop(_WORDS.findall(caption.lower()))


def _with_full_stop(words: list[str]) -> list[str]:
    return words if not words or words[-1] == "." else [*words, "."]


class Vocabulary(BaseModel):
    """The words that a model knows, in the order of their numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    words: tuple[str, ...] = Field(min_length=1)
    aliases: Mapping[str, str] = {}  # other spellings, e.g. three -> 3
    tokens: Tokenizer = "released"  # how captions are split
    unknown: str | None = None  # the word that stands for all others, where training had one

    @model_validator(mode="after")
    def _consistent(self) -> Vocabulary:
        if len(set(self.words)) != len(self.words):
            raise ValueError("a word is listed twice")
        if strays := [a for a, word in self.aliases.items() if word not in self.words]:
            raise ValueError(f"aliases of words that are not listed: {', '.join(strays)}")
        if self.unknown is not None and self.unknown not in self.words:
            raise ValueError(f"the word for unknown words, {self.unknown!r}, is not listed")
        return self

    @classmethod
    def build(
        cls, captions: Iterable[str], *, tokens: Tokenizer = "released", minimum_count: int = 1, size: int | None = None
    ) -> Vocabulary:
        """The words of captions, most frequent first, equally frequent ones by the alphabet.

        Args:
            captions: of the training images.
            tokens: how to split them; "released" adds `UNK` at the end, "attngan" begins with `<end>`.
            minimum_count: rarer words are left out.
            size: most words to keep, the added one included; None keeps all.

        Raises:
            ValueError: no word is left.
        """
        counts = Counter(word for caption in captions for word in split_words(caption, tokens))
        ranked = sorted((word for word, count in counts.items() if count >= minimum_count), key=lambda word: (-counts[word], word))
        kept = ranked if size is None else ranked[: size - 1]
        if not kept:
            raise ValueError(f"no word is left of {len(counts)} (minimum count {minimum_count}, size {size})")
        if tokens == "attngan":
            return cls(words=(END, *kept), tokens=tokens)
        return cls(words=(*kept, UNKNOWN), tokens=tokens, unknown=UNKNOWN)

    @property
    def training_unknown(self) -> Unknown:
        """What training does with unknown words: marks them where there is a word for them, else leaves them out, as AttnGAN does."""
        return "skip" if self.unknown is None else "mark"

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Word -> number, aliases included."""
        known = {word: number for number, word in enumerate(self.words)}
        return known | {alias: known[word] for alias, word in self.aliases.items()}

    def split(self, caption: str) -> list[str]:
        """The words of a caption; where a known word stands between spaces, it stays whole, as in captions that were split elsewhere.

        The words that stand for an end or for unknown words are not known here: no caption can say them.
        """
        if self.tokens != "released":
            return split_words(caption, self.tokens)
        pieces = caption.lower().split()
        return _with_full_stop([w for piece in pieces for w in ([piece] if piece in self._sayable else _WORDS.findall(piece))])

    def sayable(self, piece: str) -> bool:
        """Whether a caption can say this known word: those that stand for an end or for unknown words it cannot."""
        return piece in self._sayable

    @cached_property
    def _sayable(self) -> frozenset[str]:
        return frozenset(word for word in self.numbers if word != self.unknown and _MARK.fullmatch(word) is None)

    def numbered(self, caption: str) -> list[int]:
        """The numbers of a caption's words; unknown ones are marked where there is a word for them, else left out. Never fails."""
        numbers = self.numbers
        stand_in = None if self.unknown is None else numbers[self.unknown]
        found = (numbers.get(word, stand_in) for word in self.split(caption))
        return [number for number in found if number is not None]

    def nearest(self, word: str, count: int = 3) -> list[str]:
        """Known words that are spelled most like a word."""
        return difflib.get_close_matches(word, [*self.words, *self.aliases], n=count, cutoff=0.5)

    def encode(self, captions: Iterable[str], unknown: Unknown = "error") -> list[Tokens]:
        """Captions as words and numbers.

        Args:
            captions: any text.
            unknown: "error" refuses unknown words, "skip" leaves them out, "mark" puts the vocabulary's word for them in their place.

        Raises:
            ValueError: an empty or over-long caption, or unknown words; the problems of all captions in one message.
        """
        numbers = self.numbers
        if unknown == "mark" and self.unknown is None:
            raise ValueError("this vocabulary has no word for unknown words; they can be refused or left out")
        result, problems = [], []
        for caption in captions:
            shown = caption if len(caption) <= 60 else f"{caption[:57]}..."
            words = self.split(caption)
            strangers = [w for w in dict.fromkeys(words) if w not in numbers]
            known = tuple(w for w in words if w in numbers)
            if unknown == "mark" and self.unknown is not None:
                known = tuple(w if w in numbers else self.unknown for w in words)
            if not any(re.match(r"\w", w) for w in words):
                problems.append("a caption is empty" if not caption.strip() else f"caption {shown!r} has no words")
            elif len(words) > LONGEST_CAPTION:
                problems.append(f"caption {shown!r} has {len(words)} words; at most {LONGEST_CAPTION} are allowed")
            elif strangers and unknown == "error":
                # to look for near words takes long in a large vocabulary, and nobody reads about all of them
                told = strangers[:TOLD_PROBLEMS] if len(problems) < TOLD_PROBLEMS else []
                more = [f"and {len(strangers) - len(told)} unknown words more"] if len(strangers) > len(told) else []
                problems.append(f"caption {shown!r}: {'; '.join([*(self._stranger(w) for w in told), *more])}")
            elif not any(re.match(r"\w", w) for w in known):
                problems.append(f"caption {shown!r} has no word that the model knows")
            else:
                result.append(Tokens(known, tuple(numbers[w] for w in known)))
        if problems:
            more = [f"and {len(problems) - TOLD_PROBLEMS} captions more"] if len(problems) > TOLD_PROBLEMS else []
            raise ValueError("; ".join(problems[:TOLD_PROBLEMS] + more))
        return result

    def _stranger(self, word: str) -> str:
        near = self.nearest(word)
        some = [known for known in self.words if re.match(r"\w", known)][:5]
        hint = f"nearest known: {', '.join(near)}" if near else f"the model knows {len(self.words)} words, e.g. {', '.join(some)}"
        return f"unknown word {word!r} ({hint})"


def pad(captions: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Word numbers as one batch: tokens [B, L] with zeros at the end, and the mask [B, L] that is true for words."""
    lengths = torch.tensor([len(caption) for caption in captions])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    tokens = torch.zeros(mask.shape, dtype=torch.long)
    tokens[mask] = torch.tensor([number for caption in captions for number in caption])
    return tokens, mask
