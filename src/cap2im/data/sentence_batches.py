"""Batches of sentence triples for skip-thoughts: a sentence and its two neighbours.

Source: Kiros et al., Skip-Thought Vectors (arXiv:1506.06726), section 2.1.

Shapes: B batch, L words, W words of all sentences, S sentences, G groups, M triples.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cap2im.data.batch import ALL
from cap2im.data.vocabulary import Vocabulary
from cap2im.randomness import generator

END_OF_SENTENCE = "<eos>"  # number 0, as in the released dictionary; no sentence holds it, because its brackets are words of their own
POOLED_BATCHES = 50  # triples of so many batches are sorted by length together


def sentence_vocabulary(sentences: Iterable[str], size: int) -> Vocabulary:
    """Return the most frequent words of sentences, after `<eos>` and before `UNK`: `size` words in all."""
    words = Vocabulary.build(sentences, size=size - 1)
    return Vocabulary(words=(END_OF_SENTENCE, *words.words), tokens=words.tokens, unknown=words.unknown)


@dataclass(frozen=True)
class SentenceGroups:
    """Sentences as word numbers, in groups of neighbours.

    Attributes:
        numbers: [W] int32, the words of all sentences, concatenated.
        starts: [S + 1] start of each sentence in `numbers`, and end of the last one.
        groups: [G + 1] the first sentence of each group, and the number of sentences.
        ordered: neighbours are the sentences before and after, rather than any two others of the group.
    """

    numbers: Tensor
    starts: Tensor
    groups: Tensor
    ordered: bool

    @classmethod
    def of(cls, groups: Iterable[list[str]], vocabulary: Vocabulary, *, longest: int, ordered: bool) -> SentenceGroups:
        """Number the words of sentences, of at most `longest` words; unknown words become the vocabulary's `UNK`."""
        assert vocabulary.unknown is not None
        numbers, starts, firsts = array("i"), array("q", [0]), array("q", [0])  # lists would take many times the memory
        for group in groups:
            for sentence in group:
                numbers.extend(vocabulary.numbered(sentence)[:longest])
                starts.append(len(numbers))
            firsts.append(len(starts) - 1)
        words, sentences, paragraphs = (torch.from_numpy(np.array(values)) for values in (numbers, starts, firsts))
        return cls(words, sentences, paragraphs, ordered)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def sha256(self) -> str:
        """Checksum of the sentences and their groups."""
        digest = hashlib.sha256()
        for tensor in (self.numbers, self.starts, self.groups):
            digest.update(tensor.numpy().data)
        return digest.hexdigest()

    def triples(self, *key: int | str) -> Tensor:
        """Return sentence numbers [M, 3]: the one before, the sentence, the one after.

        Sentences at the ends of ordered groups, and single sentences of other groups, are left out.

        Args:
            key: seed of the choice of neighbours among the captions of an image.
        """
        sizes = self.groups.diff()
        group = torch.arange(len(sizes)).repeat_interleave(sizes)  # [S]
        first, size = self.groups[group], sizes[group]  # [S]
        place = torch.arange(len(self))
        if self.ordered:
            inside = place[(place > first) & (place < first + size - 1)]
            return torch.stack([inside - 1, inside, inside + 1], dim=1)
        shuffled = (group + torch.rand(len(self), generator=generator("neighbours", *key), dtype=torch.float64)).argsort()
        around = torch.stack([first + (place - first + turn) % size for turn in (-1, 0, 1)], dim=1)
        return shuffled[around[size > 1]]

    def batch(self, triples: Tensor) -> TripleBatch:
        """Return the words of triples [B, 3]."""
        starts, lengths = self.starts[triples.T], self.starts.diff()[triples.T]  # [3, B]
        place = torch.arange(int(lengths.max()))
        mask = place < lengths.unsqueeze(2)  # [3, B, L]
        return TripleBatch(self.numbers[(starts.unsqueeze(2) + place) * mask].long() * mask, mask)


@dataclass(frozen=True)
class TripleBatch:
    """Words of the sentences before, the sentences, and those after.

    Attributes:
        tokens: [3, B, L] word numbers.
        mask: [3, B, L] true for words.
    """

    tokens: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return self.tokens.shape[1]

    def __getitem__(self, rows: slice) -> TripleBatch:
        """Return some triples of the batch."""
        return TripleBatch(self.tokens[:, rows], self.mask[:, rows])

    def to(self, device: torch.device) -> TripleBatch:
        """Return the batch on a device."""
        return TripleBatch(self.tokens.to(device), self.mask.to(device))


class TripleBatches:
    """Batches of triples of nearly one length; every batch is a function of the seed and the step.

    Args:
        sentences: source of the triples.
        batch_size: over all processes.
        seed: of the order and of the neighbours of captions.

    Raises:
        ValueError: fewer triples than a batch has.
    """

    def __init__(self, sentences: SentenceGroups, batch_size: int, seed: int) -> None:
        self.sentences, self.batch_size, self.seed = sentences, batch_size, seed
        self.triples = len(sentences.triples(seed, 0))
        self.steps_per_epoch = self.triples // batch_size
        if not self.steps_per_epoch:
            raise ValueError(f"{self.triples} of {len(sentences)} sentences have neighbours, and a batch needs {batch_size}")
        self._epoch: tuple[int, Tensor] | None = None

    def at(self, step: int, rows: slice = ALL) -> TripleBatch:
        """Return the batch for update `step` + 1, or some rows of it."""
        number, index = divmod(step, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != number:
            self._epoch = (number, self._order(number))
        return self.sentences.batch(self._epoch[1][index])[rows]

    def _order(self, epoch: int) -> Tensor:
        """Return the triples [steps, B, 3] of an epoch."""
        triples = self.sentences.triples(self.seed, epoch)
        order = generator("triples", self.seed, epoch)
        chosen = triples[torch.randperm(len(triples), generator=order)[: self.steps_per_epoch * self.batch_size]]
        longest = self.sentences.starts.diff()[chosen].amax(dim=1)
        pool = torch.arange(len(chosen)) // (POOLED_BATCHES * self.batch_size)
        chosen = chosen[(pool * (int(longest.max()) + 1) + longest).argsort(stable=True)]
        return chosen.view(-1, self.batch_size, 3)[torch.randperm(self.steps_per_epoch, generator=order)]


def spread_triples(sentences: SentenceGroups, count: int, batch_size: int) -> list[TripleBatch]:
    """Return at most `count` triples, evenly spaced, sorted by length, in batches: the same at every call."""
    triples = sentences.triples("validation")
    chosen = triples[torch.linspace(0, len(triples) - 1, min(count, len(triples))).long()]
    chosen = chosen[sentences.starts.diff()[chosen].amax(dim=1).argsort(stable=True)]
    return [sentences.batch(part) for part in chosen.split(batch_size) if len(part)]
