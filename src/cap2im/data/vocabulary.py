"""Words and numbers: tokenising captions, and the vocabulary that travels inside of every checkpoint."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

LONGEST_CAPTION = 200  # words; COCO's longest caption has 57

Unknown = Literal["error", "skip"]


@dataclass(frozen=True)
class Tokens:
    """One caption: its words as typed (lower-cased) and their numbers."""

    words: tuple[str, ...]
    numbers: tuple[int, ...]


def split_words(caption: str) -> list[str]:
    """Lower-cased words as the release splits captions: punctuation is a word of its own, and a caption ends with a full stop."""
    words = re.findall(r"\w+(?:['\u2019-]\w+)*|[^\w\s]", caption.lower())
    return words if not words or words[-1] == "." else [*words, "."]


class Vocabulary(BaseModel):
    """The words that a model knows, in the order of their numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    words: tuple[str, ...] = Field(min_length=1)
    aliases: Mapping[str, str] = {}  # other spellings, e.g. three -> 3

    @model_validator(mode="after")
    def _consistent(self) -> Vocabulary:
        if len(set(self.words)) != len(self.words):
            raise ValueError("a word is listed twice")
        if strays := [a for a, word in self.aliases.items() if word not in self.words]:
            raise ValueError(f"aliases of words that are not listed: {', '.join(strays)}")
        return self

    def __len__(self) -> int:
        return len(self.words)

    @property
    def numbers(self) -> dict[str, int]:
        """Word -> number, aliases included."""
        known = {word: number for number, word in enumerate(self.words)}
        return known | {alias: known[word] for alias, word in self.aliases.items()}

    def nearest(self, word: str, count: int = 3) -> list[str]:
        """Known words that are spelled most like a word."""
        return difflib.get_close_matches(word, [*self.words, *self.aliases], n=count, cutoff=0.5)

    def encode(self, captions: Iterable[str], unknown: Unknown = "error") -> list[Tokens]:
        """Captions as words and numbers.

        Args:
            captions: any text.
            unknown: "skip" leaves unknown words out, "error" refuses them.

        Raises:
            ValueError: an empty or over-long caption, or unknown words; all problems of all captions in one message.
        """
        numbers = self.numbers
        result, problems = [], []
        for caption in captions:
            shown = caption if len(caption) <= 60 else f"{caption[:57]}..."
            words = split_words(caption)
            strangers = [w for w in dict.fromkeys(words) if w not in numbers]
            known = tuple(w for w in words if w in numbers)
            if not any(re.match(r"\w", w) for w in words):
                problems.append("a caption is empty" if not caption.strip() else f"caption {shown!r} has no words")
            elif len(words) > LONGEST_CAPTION:
                problems.append(f"caption {shown!r} has {len(words)} words; at most {LONGEST_CAPTION} are allowed")
            elif strangers and unknown == "error":
                problems.append(f"caption {shown!r}: {'; '.join(self._stranger(w) for w in strangers)}")
            elif not any(re.match(r"\w", w) for w in known):
                problems.append(f"caption {shown!r} has no word that the model knows")
            else:
                result.append(Tokens(known, tuple(numbers[w] for w in known)))
        if problems:
            raise ValueError("; ".join(problems))
        return result

    def _stranger(self, word: str) -> str:
        near = self.nearest(word)
        hint = f"nearest known: {', '.join(near)}" if near else f"the model knows {len(self.words)} words, e.g. {', '.join(self.words[:5])}"
        return f"unknown word {word!r} ({hint})"


def pad(captions: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Word numbers as one batch: tokens [B, L] with zeros at the end, and the mask [B, L] that is true for words."""
    lengths = torch.tensor([len(caption) for caption in captions])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    tokens = torch.zeros(mask.shape, dtype=torch.long)
    tokens[mask] = torch.tensor([number for caption in captions for number in caption])
    return tokens, mask
