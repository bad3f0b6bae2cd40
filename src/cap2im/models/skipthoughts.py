"""Skip-thought vectors: a sentence is encoded so that the sentences before and after it can be told from its vector.

Source: Kiros et al., Skip-Thought Vectors (arXiv:1506.06726), section 2.1; ryankiros/skip-thoughts for what the vectors are in use.
uni-skip is one GRU, bi-skip one in each direction, combine-skip both side by side (2400 + 2 x 1200 = 4800 numbers), each with its own
word vectors.

What the released program does differently from the paper, and we follow: the reset gate acts after the recurrent product, not before it.
What its training does differently, and we do not follow: its decoders start at the sentence vector; the paper's hear it at every gate.

Shapes: B sentences, L words, V vocabulary, E word features, D units, F sentence features, N words to tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from cap2im.models.recurrence import Unrolled
from cap2im.models.text import reverse_words, tanh

END = 0  # the number of the word <eos>, with which every sentence ends that a decoder tells


class SkipThoughtsConfig(BaseModel):
    """Sizes of the encoders. The defaults are the paper's combine-skip; 0 units leave an encoder out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uni: int = Field(2400, ge=0, description="units of uni-skip; 0 leaves it out")
    bi: int = Field(1200, ge=0, description="units of each direction of bi-skip; 0 leaves it out")
    embedding: int = Field(620, ge=1, description="E, width of a word vector")

    @model_validator(mode="after")
    def _something(self) -> SkipThoughtsConfig:
        if not self.uni and not self.bi:
            raise ValueError("uni and bi are both 0, so nothing is left to encode with")
        return self

    @property
    def features(self) -> int:
        """Width of a sentence vector."""
        return self.uni + 2 * self.bi


class GRU(nn.Module):
    """Gated recurrent units over word vectors, from a state of zeros; with a context at every gate it is the paper's decoder.

    Args:
        features: E of a word vector.
        units: D.
        context: F of a sentence vector, 0 for none.
    """

    def __init__(self, features: int, units: int, context: int = 0) -> None:
        super().__init__()
        self.inputs = nn.Linear(features, 3 * units)  # in blocks: reset gate, update gate, candidate
        self.recurrent = nn.Linear(units, 3 * units, bias=False)
        self.context = nn.Linear(context, 3 * units, bias=False) if context else None

    def forward(self, words: Tensor, mask: Tensor, sentence: Tensor | None = None) -> Tensor:
        """States [B, L, D] after each of the word vectors [B, L, E]; where mask [B, L] is false, the state stays as it was."""
        inputs = self.inputs(words)  # [B, L, 3D]
        if self.context is not None:
            assert sentence is not None
            inputs = inputs + self.context(sentence).unsqueeze(1)
        weight = self.recurrent.weight
        hidden = torch.zeros(len(words), weight.shape[1], dtype=weight.dtype, device=weight.device)
        recurrent = Unrolled(self.recurrent)
        states = []
        for word, there in zip(inputs.to(weight.dtype).unbind(1), mask.unsqueeze(2).unbind(1), strict=True):
            hidden = torch.where(there, gru_cell(word, recurrent(hidden), hidden), hidden)
            states.append(hidden)
        return torch.stack(states, dim=1)


def gru_cell(inputs: Tensor, recurrent: Tensor, hidden: Tensor) -> Tensor:
    """One GRU update, the reset gate acting after the recurrent product.

    Args:
        inputs: [B, 3D] linear in the inputs, in blocks: reset gate, update gate, candidate.
        recurrent: [B, 3D] linear in `hidden`, in the same blocks.
        hidden: [B, D] the state before.

    Returns:
        [B, D] the state after.
    """
    gates = (inputs[:, : -hidden.shape[1]] + recurrent[:, : -hidden.shape[1]]).sigmoid()
    reset, update = gates.chunk(2, dim=1)
    candidate = tanh(inputs[:, -hidden.shape[1] :] + reset * recurrent[:, -hidden.shape[1] :])
    return candidate + update * (hidden - candidate)


class Encoder(nn.Module):
    """uni-skip, or bi-skip where `bidirectional`: the last state of the GRU, or of both, of a sentence's word vectors."""

    def __init__(self, vocabulary_size: int, embedding: int, units: int, *, bidirectional: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary_size, embedding)
        self.forwards = GRU(embedding, units)
        self.backwards = GRU(embedding, units) if bidirectional else None
        self.features = (1 + bidirectional) * units

    def words(self, tokens: Tensor) -> Tensor:
        """Word vectors [B, L, E] of word numbers [B, L]; a table may be stored in half precision."""
        return self.table(tokens).to(self.forwards.recurrent.weight.dtype)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        """Sentence vectors [B, F] of word vectors [B, L, E]; mask [B, L] is true for words, which come first."""
        last = self.forwards(words, mask)[:, -1]
        if self.backwards is None:
            return last
        return torch.cat([last, self.backwards(reverse_words(words, mask.sum(dim=1)), mask)[:, -1]], dim=1)


class SkipThoughts(nn.Module):
    """uni-skip, bi-skip or combine-skip: word numbers to sentence vectors."""

    def __init__(self, config: SkipThoughtsConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.config = config
        self.encoders = nn.ModuleDict()
        if config.uni:
            self.encoders["uni"] = Encoder(vocabulary_size, config.embedding, config.uni, bidirectional=False)
        if config.bi:
            self.encoders["bi"] = Encoder(vocabulary_size, config.embedding, config.bi, bidirectional=True)

    def encoders_by_name(self) -> dict[str, Encoder]:
        """The encoders that there are: "uni", "bi"."""
        return {name: cast(Encoder, encoder) for name, encoder in self.encoders.items()}

    def forward(self, tokens: Tensor, mask: Tensor, *, normalise: bool = True) -> Tensor:
        """Sentence vectors [B, F] of word numbers [B, L].

        Args:
            tokens: [B, L] word numbers; anything where mask is false.
            mask: [B, L] true for words, which come first.
            normalise: give the vector of each encoder length 1, as the release does unless told otherwise.
        """
        tokens = tokens.masked_fill(~mask, END)
        vectors = [encoder(encoder.words(tokens), mask) for encoder in self.encoders_by_name().values()]
        return torch.cat([v / v.norm(dim=1, keepdim=True) if normalise else v for v in vectors], dim=1)


class Decoders(nn.Module):
    """The two GRUs that tell the sentences before and after from a sentence vector, word by word; they share the output vocabulary."""

    def __init__(self, vocabulary_size: int, embedding: int, features: int) -> None:
        super().__init__()
        self.before = GRU(embedding, features, context=features)
        self.after = GRU(embedding, features, context=features)
        self.output = nn.Linear(features, vocabulary_size, bias=False)

    def forward(self, vectors: Tensor, words: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """-log P of both neighbours [B], in nats.

        Args:
            vectors: [B, F] of the sentences between them.
            words: [2, B, L, E] word vectors of the sentences before and after.
            tokens: [2, B, L] their word numbers, and mask [2, B, L].
        """
        tokens = F.pad(tokens.masked_fill(~mask, END), (0, 1), value=END)  # [2, B, L + 1]
        mask = F.pad(mask, (1, 0), value=True)  # [2, B, L + 1]: the end of the sentence is told as well
        words = F.pad(words, (0, 0, 1, 0))  # [2, B, L + 1, E]: zeros, and then each word to tell the next one
        states = torch.stack([self.before(words[0], mask[0], vectors), self.after(words[1], mask[1], vectors)])
        logits = self.output(states[mask])  # [N, V]
        nats = F.cross_entropy(logits.float() if logits.dtype != torch.float64 else logits, tokens[mask], reduction="none")
        sentence = mask.nonzero()[:, 1]  # [N]
        return torch.zeros(len(vectors), dtype=nats.dtype, device=nats.device).index_add(0, sentence, nats)


class SkipThoughtsObjective(nn.Module):
    """What skip-thoughts learn from: both neighbours of a sentence, from its vector (section 2.1). Each encoder learns by itself."""

    def __init__(self, config: SkipThoughtsConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.skipthoughts = SkipThoughts(config, vocabulary_size)
        self.decoders = nn.ModuleDict(
            {name: Decoders(vocabulary_size, config.embedding, e.features) for name, e in self.skipthoughts.encoders_by_name().items()}
        )
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Orthogonal recurrent matrices, biases of 0, all else uniform in -0.1..0.1 (section 3)."""
        for name, parameter in self.named_parameters():
            if name.endswith("recurrent.weight"):
                for block in parameter.chunk(3):
                    nn.init.orthogonal_(block)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.uniform_(-0.1, 0.1)

    def parameter_groups(self) -> Iterator[list[nn.Parameter]]:
        """The parameters of each encoder with those of its decoders."""
        for name, encoder in self.skipthoughts.encoders_by_name().items():
            yield [*encoder.parameters(), *self.decoders[name].parameters()]

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """-log P of both neighbours of each sentence, by each encoder: [B, encoders], in nats.

        Args:
            tokens: [3, B, L] word numbers of the sentences before, the sentences, and those after; anything where mask is false.
            mask: [3, B, L] true for words, which come first.
        """
        tokens = tokens.masked_fill(~mask, END)
        nats = []
        for name, encoder in self.skipthoughts.encoders_by_name().items():
            words = torch.stack([encoder.words(part) for part in tokens])  # [3, B, L, E]
            vectors = encoder(words[1], mask[1])
            nats.append(self.decoders[name](vectors, words[0::2], tokens[0::2], mask[0::2]))
        return torch.stack(nats, dim=1)
