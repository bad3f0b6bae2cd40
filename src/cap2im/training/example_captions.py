"""Choose the example captions that a model folder names."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cap2im.data.vocabulary import Vocabulary

EXAMPLE_CAPTIONS = 10  # of validation images, that a model folder names
EXAMPLE_LENGTHS = range(6, 11)  # words, with the full stop


def unknown_share(vocabulary: Vocabulary, captions: Sequence[str]) -> float:
    """Return the share of the words of captions that a vocabulary lacks."""
    words = [word for caption in captions for word in vocabulary.split(caption)]
    return sum(word not in vocabulary.numbers for word in words) / max(1, len(words))


def typical(vocabulary: Vocabulary, captions: Sequence[str], count: int = EXAMPLE_CAPTIONS) -> list[str]:
    """Choose example captions: of frequent words, of usual length, and different from each other.

    Args:
        vocabulary: most frequent word first.
        captions: to choose from. Those with unknown words are chosen only if all have some.
        count: most captions.

    Returns:
        different captions. Each has another rarest word, as long as there are such captions.
    """

    def rank(caption: str) -> tuple[bool, int]:
        words = vocabulary.split(caption)
        return len(words) not in EXAMPLE_LENGTHS, max(vocabulary.numbers.get(word, -1) for word in words)

    known = [caption for caption in captions if vocabulary.numbered(caption) and not vocabulary.unknown_words(caption)]
    ranks = {caption: rank(caption) for caption in known or captions if vocabulary.numbered(caption)}
    ranked = sorted(ranks, key=ranks.__getitem__)
    first: dict[int, str] = {}  # rarest word -> caption
    for caption in ranked:
        first.setdefault(ranks[caption][1], caption)
    return list(dict.fromkeys([*first.values(), *ranked]))[:count]


def spread(captions: Sequence[str], count: int) -> list[str]:
    """Return at most `count` different captions, evenly spaced over a list."""
    different = list(dict.fromkeys(captions))
    return [different[i] for i in torch.linspace(0, len(different) - 1, min(count, len(different))).long().tolist()]
