"""The vocabulary that travels inside of every checkpoint: captions to word numbers."""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from cap2im.data.tokenizer import Tokenizer, is_punctuation, normalise, split_known, split_words, with_full_stop

__all__ = ["LONGEST_CAPTION", "Tokenizer", "Tokens", "Unknown", "Vocabulary", "pad", "split_words"]

LONGEST_CAPTION = 200  # words; COCO's longest caption has 57

LONGEST_COMPARED = 50  # letters of an unknown word that is compared with known ones; the time to compare grows with it

TOLD_PROBLEMS = 5  # of many captions

UNKNOWN = "UNK"  # as in the authors' dictionary; captions are lower-cased, so that none holds it
END = "<end>"  # number 0 of AttnGAN's vocabularies: padding

Unknown = Literal["error", "skip", "mark"]


@dataclass(frozen=True)
class Tokens:
    """One caption: its words as typed (lower-cased) and their numbers."""

    words: tuple[str, ...]
    numbers: tuple[int, ...]


_MARK = re.compile(r"<[^<>]+>")  # <eos>, <end>, <no word 7>: no text says them


class Vocabulary(BaseModel):
    """The words that a model knows, in the order of their numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    words: tuple[str, ...] = Field(min_length=1)
    aliases: Mapping[str, str] = {}  # other spellings, e.g. three -> 3
    tokens: Tokenizer = "released"  # how captions are split
    unknown: str | None = None  # the word that stands for all others, where training had one

    @model_validator(mode="after")
    def _consistent(self) -> Vocabulary:
        known = set(self.words)
        if len(known) != len(self.words):
            raise ValueError("a word is listed twice")
        if strays := [a for a, word in self.aliases.items() if word not in known]:
            raise ValueError(f"aliases of words that are not listed: {', '.join(strays)}")
        if self.unknown is not None and self.unknown not in known:
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
        """Return the words of a caption in the spelling of this vocabulary.

        A known word between spaces stays whole, as in captions that were split elsewhere. The words that stand for an end or for unknown
        words are not known here: no caption can say them.
        """
        if self.tokens != "released":
            words = split_words(caption, self.tokens)
        else:
            known = self._written
            words = []
            for piece in normalise(caption).split():
                words += [piece] if piece in known else split_known(piece, known)
            words = with_full_stop(words)
        return [self._spellings.get(word, word) for word in words] if self._spellings else words

    @cached_property
    def _spellings(self) -> dict[str, str]:
        """Normalised word -> the word as an earlier version of this package listed it: decomposed, with a typographic apostrophe, ..."""
        spellings: dict[str, str] = {}
        for word in self.numbers:
            if not word.isascii() and self.sayable(word):
                normalised = normalise(word, lower=self.tokens != "treebank")
                if normalised not in self.numbers:
                    spellings.setdefault(normalised, word)
        return spellings

    @cached_property
    def _written(self) -> frozenset[str]:
        return self._sayable | self._spellings.keys()

    def unknown_words(self, caption: str) -> list[str]:
        """Return the words of a caption that are not listed, each once; unknown punctuation is no unknown word."""
        return [word for word in dict.fromkeys(self.split(caption)) if word not in self.numbers and not is_punctuation(word)]

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
        """Return the known words that are spelled most like a word, most similar first, then most frequent first.

        Similar words need few insertions, deletions, substitutions and swaps of neighbouring letters, at most one for two letters. Of
        equally similar words, those of the same letters come first. Nothing is similar to a word of over 50 letters.
        """
        if len(word) > LONGEST_COMPARED:
            return []
        from rapidfuzz import process  # not needed as long as all words are known
        from rapidfuzz.distance import OSA

        similar = process.extract(word, self._choices, scorer=OSA.normalized_similarity, score_cutoff=0.5, limit=None)
        letters = sorted(word)
        best = heapq.nsmallest(count, similar, key=lambda found: (-found[1], sorted(found[0]) != letters, found[2]))
        return [known for known, _, _ in best]

    @cached_property
    def _choices(self) -> list[str]:
        return [word for word in self.numbers if self.sayable(word)]

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
            unlisted = [w for w in dict.fromkeys(words) if w not in numbers and not is_punctuation(w)] if unknown == "error" else []
            known = tuple(w for w in words if w in numbers)
            if unknown == "mark" and self.unknown is not None:
                known = tuple(w if w in numbers else self.unknown for w in words)
            if not any(re.match(r"\w", w) for w in words):
                problems.append("a caption is empty" if not caption.strip() else f"caption {shown!r} has no words")
            elif len(words) > LONGEST_CAPTION:
                problems.append(f"caption {shown!r} has {len(words)} words; at most {LONGEST_CAPTION} are allowed")
            elif unlisted:
                # nobody reads about all of them
                described = unlisted[:TOLD_PROBLEMS] if len(problems) < TOLD_PROBLEMS else []
                more = [f"and {len(unlisted) - len(described)} unknown words more"] if len(unlisted) > len(described) else []
                problems.append(f"caption {shown!r}: {'; '.join([*(self._describe_unknown(w) for w in described), *more])}")
            elif not any(re.match(r"\w", w) for w in known):
                problems.append(f"caption {shown!r} has no word that the model knows")
            else:
                result.append(Tokens(known, tuple(numbers[w] for w in known)))
        if problems:
            more = [f"and {len(problems) - TOLD_PROBLEMS} captions more"] if len(problems) > TOLD_PROBLEMS else []
            raise ValueError("; ".join(problems[:TOLD_PROBLEMS] + more))
        return result

    def _describe_unknown(self, word: str) -> str:
        near = self.nearest(word)
        some = [known for known in self.words if re.match(r"\w", known)][:5]
        hint = f"nearest known: {', '.join(near)}" if near else f"the model knows {len(self.words)} words, e.g. {', '.join(some)}"
        shown = word if len(word) <= 60 else f"{word[:59]}…"
        return f"unknown word {shown!r} ({hint})"


def pad(captions: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Word numbers as one batch: tokens [B, L] with zeros at the end, and the mask [B, L] that is true for words."""
    lengths = torch.tensor([len(caption) for caption in captions])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    tokens = torch.zeros(mask.shape, dtype=torch.long)
    tokens[mask] = torch.tensor([number for caption in captions for number in caption])
    return tokens, mask
