"""The vocabulary of a model: words of captions to numbers."""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cap2im.data.tokenizer import Tokenizer, is_punctuation, normalise, split_known, split_words, with_full_stop
from cap2im.files import brief

LONGEST_CAPTION = 200  # words; COCO's longest caption has 57
LONGEST_COMPARED = 50  # letters of an unknown word that is compared with known ones
SHORT_WORD = 3  # letters; most short words are similar to each other
LISTED_PROBLEMS = 5  # captions with problems that a message lists

UNKNOWN = "UNK"  # as in the authors' dictionary; captions are lower-cased, so none holds it
END = "<end>"  # number 0 of AttnGAN's vocabularies: padding

Unknown = Literal["error", "skip", "mark"]


@dataclass(frozen=True)
class Tokens:
    """A caption as words and their numbers."""

    words: tuple[str, ...]
    numbers: tuple[int, ...]


_MARK = re.compile(r"<[^<>]+>")  # <eos>, <end>, <no word 7>: no text holds them


class Vocabulary(BaseModel):
    """Words in the order of their numbers.

    Attributes:
        words: all words.
        aliases: other spellings of words, as three -> 3.
        tokens: how captions are split into words.
        unknown: the word that stands for unknown words, if training had one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    words: tuple[str, ...] = Field(min_length=1)
    aliases: Mapping[str, str] = {}
    tokens: Tokenizer = "released"
    unknown: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Vocabulary:
        known = set(self.words)
        if len(known) != len(self.words):
            raise ValueError("a word is listed twice")
        if unlisted := [alias for alias, word in self.aliases.items() if word not in known]:
            raise ValueError(f"aliases of words that are not listed: {', '.join(unlisted)}")
        if self.unknown is not None and self.unknown not in known:
            raise ValueError(f"the word for unknown words, {self.unknown!r}, is not listed")
        return self

    @classmethod
    def build(
        cls, captions: Iterable[str], *, tokens: Tokenizer = "released", minimum_count: int = 1, size: int | None = None
    ) -> Vocabulary:
        """Collect the words of captions, most frequent first, equally frequent ones in alphabetical order.

        Args:
            captions: of the training images.
            tokens: how to split them; "released" appends `UNK`, "attngan" prepends `<end>`.
            minimum_count: rarer words are left out.
            size: most words, including the added one; None keeps all.

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
        """Treatment of unknown words in training: "mark" if there is a word for them, else "skip", as in AttnGAN."""
        return "skip" if self.unknown is None else "mark"

    def __len__(self) -> int:
        """Return the number of words."""
        return len(self.words)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Word -> number, with aliases."""
        known = {word: number for number, word in enumerate(self.words)}
        return known | {alias: known[word] for alias, word in self.aliases.items()}

    def split(self, caption: str) -> list[str]:
        """Return the words of a caption in the spelling of this vocabulary.

        Known words between spaces stay whole, as in captions that were split elsewhere. Special words (`UNK`, `<end>`) are split like text.
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
        """Normalised word -> spelling in vocabularies of earlier versions: decomposed, with a typographic apostrophe, ..."""
        spellings: dict[str, str] = {}
        for word in self.numbers:
            if not word.isascii() and self.is_plain(word):
                normalised = normalise(word, lower=self.tokens != "treebank")
                if normalised not in self.numbers:
                    spellings.setdefault(normalised, word)
        return spellings

    @cached_property
    def _written(self) -> frozenset[str]:
        return self._plain | self._spellings.keys()

    def unknown_words(self, caption: str) -> list[str]:
        """Return the unknown words of a caption, each once; unknown punctuation does not count."""
        return [word for word in dict.fromkeys(self.split(caption)) if word not in self.numbers and not is_punctuation(word)]

    def is_plain(self, word: str) -> bool:
        """Return whether a word is listed and not special: `UNK`, `<end>` and the like are special."""
        return word in self._plain

    @property
    def word_count(self) -> int:
        """Number of words that captions can hold: marks such as UNK and aliases do not count."""
        return sum(word in self._plain for word in self.words)

    @cached_property
    def _plain(self) -> frozenset[str]:
        return frozenset(word for word in self.numbers if word != self.unknown and _MARK.fullmatch(word) is None)

    def numbered(self, caption: str) -> list[int]:
        """Return the numbers of a caption's words; unknown words become `UNK` if the vocabulary has it, else they are left out."""
        numbers = self.numbers
        stand_in = None if self.unknown is None else numbers[self.unknown]
        return [number for word in self.split(caption) if (number := numbers.get(word, stand_in)) is not None]

    def nearest(self, word: str, count: int = 3) -> list[str]:
        """Return the known words with the most similar spelling, most similar first, then most frequent first.

        Similarity is the normalised OSA distance: insertions, deletions, substitutions and swaps of neighbouring letters. Of equally
        similar words, those of the same letters come first. Words of 3 letters are similar only to words of
        the same letters or the same first letter, shorter ones only to words of the same letters; words of over 50 letters have no similar
        words.
        """
        if len(word) > LONGEST_COMPARED:
            return []
        from rapidfuzz import process  # needed only for unknown words
        from rapidfuzz.distance import OSA

        similar = process.extract(word, self._choices, scorer=OSA.normalized_similarity, score_cutoff=0.5, limit=None)
        letters = sorted(word)
        if len(word) <= SHORT_WORD:
            similar = [match for match in similar if sorted(match[0]) == letters or (len(word) == SHORT_WORD and match[0][0] == word[0])]
        best = heapq.nsmallest(count, similar, key=lambda match: (-match[1], sorted(match[0]) != letters, match[2]))
        return [known for known, _, _ in best]

    @cached_property
    def _choices(self) -> list[str]:
        return [word for word in self.numbers if self.is_plain(word)]

    def encode(self, captions: Iterable[str], unknown: Unknown = "error") -> list[Tokens]:
        """Split captions into words and number them.

        Args:
            captions: any text.
            unknown: "error" refuses unknown words, "skip" leaves them out, "mark" replaces them by `UNK`.

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
                described = unlisted[:LISTED_PROBLEMS] if len(problems) < LISTED_PROBLEMS else []
                more = [f"and {len(unlisted) - len(described)} unknown words more"] if len(unlisted) > len(described) else []
                problems.append(f"caption {shown!r}: {'; '.join([*(self._describe_unknown(w) for w in described), *more])}")
            elif not any(re.match(r"\w", w) for w in known):
                problems.append(f"caption {shown!r} has no known word")
            else:
                result.append(Tokens(known, tuple(numbers[w] for w in known)))
        if problems:
            more = [f"and {len(problems) - LISTED_PROBLEMS} captions more"] if len(problems) > LISTED_PROBLEMS else []
            raise ValueError("; ".join(problems[:LISTED_PROBLEMS] + more))
        return result

    def _describe_unknown(self, word: str) -> str:
        near = self.nearest(word)
        shown = word if len(word) <= 60 else f"{word[:59]}…"
        return f"unknown word {shown!r}" + (f" (nearest known: {', '.join(near)})" if near else "")


def words_in_order(numbers: Mapping[Any, Any], where: Path) -> tuple[str, ...]:
    """Return the words of a dictionary word -> number in the order of their numbers.

    A number without a word gets a special word that no caption holds.

    Args:
        numbers: word -> number.
        where: file of the dictionary, named in messages.

    Raises:
        ValueError: not words and numbers, or two words share a number.
    """
    words: dict[int, str] = {}
    for word, number in numbers.items():
        if not isinstance(word, str) or not isinstance(number, Integral) or int(number) < 0:
            raise ValueError(f"{where}: words with their numbers were expected, and {brief(word)}: {brief(number)} was found")
        if words.setdefault(int(number), word) != word:
            raise ValueError(f"{where}: the words {brief(words[int(number)])} and {brief(word)} have one number, {brief(number)}")
    if not words or max(words) >= 2 * len(words) + 1000:
        raise ValueError(f"{where}: {len(words)} words with numbers up to {max(words, default=0)} are no vocabulary")
    return tuple(words.get(number, f"<no word {number}>") for number in range(max(words) + 1))
