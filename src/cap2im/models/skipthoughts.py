"""Skip-thought vectors: sentence vectors from which the sentences before and after can be predicted.

Source: Kiros et al., Skip-Thought Vectors (arXiv:1506.06726), section 2.1; ryankiros/skip-thoughts for the normalisation of the vectors.
uni-skip is one GRU, bi-skip one in each direction, combine-skip both side by side (2400 + 2 x 1200 = 4800 numbers), each with its own
word embeddings.

What the released program does differently from the paper: its reset gate acts after the recurrent product, not before it, as here; its
decoders start at the sentence vector, where the paper's, as here, take it as input to every gate.

Shapes: B sentences, L words, V vocabulary, E embedding width, D units, F sentence features, N predicted words.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from cap2im.models.text import reverse_words

END = 0  # the number of <eos>, the last word that decoders predict of each sentence


class SkipThoughtsConfig(BaseModel):
    """The sizes of the encoders. The defaults are the paper's combine-skip."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uni: int = Field(2400, ge=0, description="units of uni-skip; 0 leaves it out")
    bi: int = Field(1200, ge=0, description="units of each direction of bi-skip; 0 leaves it out")
    embedding: int = Field(620, ge=1, description="E, width of a word embedding")

    @model_validator(mode="after")
    def _something(self) -> SkipThoughtsConfig:
        if not self.uni and not self.bi:
            raise ValueError("uni and bi are both 0; at least one must be positive")
        return self

    @property
    def features(self) -> int:
        """Width of a sentence vector."""
        return self.uni + 2 * self.bi


class GRU(nn.Module):
    """Gated recurrent units over word embeddings, from a state of zeros. With a sentence vector at every gate it is the paper's decoder.

    Args:
        features: E.
        units: D.
        context: F of the sentence vector; 0 for none.
    """

    def __init__(self, features: int, units: int, context: int = 0) -> None:
        super().__init__()
        self.inputs = nn.Linear(features, 3 * units)  # in blocks: reset gate, update gate, candidate
        self.recurrent = nn.Linear(units, 3 * units, bias=False)
        self.context = nn.Linear(context, 3 * units, bias=False) if context else None

    def forward(self, words: Tensor, mask: Tensor, sentence: Tensor | None = None) -> Tensor:
        """Return the states [B, L, D] after each word.

        Args:
            words: [B, L, E] word embeddings.
            mask: [B, L] true for words; at padding, the state does not change.
            sentence: [B, F] sentence vectors, for a GRU with a context.
        """
        inputs = self.inputs(words)  # [B, L, 3D]
        if self.context is not None:
            assert sentence is not None
            inputs = inputs + self.context(sentence).unsqueeze(1)
        weight = self.recurrent.weight
        hidden = torch.zeros(len(words), weight.shape[1], dtype=weight.dtype, device=weight.device)
        states = []
        for word, is_word in zip(inputs.to(weight.dtype).unbind(1), mask.unsqueeze(2).unbind(1), strict=True):
            hidden = torch.where(is_word, gru_cell(word, self.recurrent(hidden), hidden), hidden)
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
    candidate = (inputs[:, -hidden.shape[1] :] + reset * recurrent[:, -hidden.shape[1] :]).tanh()
    return candidate + update * (hidden - candidate)


class Encoder(nn.Module):
    """uni-skip, or bi-skip if `bidirectional`: the last state of a sentence's GRU, or of both."""

    def __init__(self, vocabulary_size: int, embedding: int, units: int, *, bidirectional: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary_size, embedding)
        self.forwards = GRU(embedding, units)
        self.backwards = GRU(embedding, units) if bidirectional else None
        self.features = (1 + bidirectional) * units

    def words(self, tokens: Tensor) -> Tensor:
        """Return embeddings [B, L, E] of word numbers [B, L], in the type of the GRUs; a table may be stored in half precision."""
        return self.table(tokens).to(self.forwards.recurrent.weight.dtype)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        """Return sentence vectors [B, F] of word embeddings [B, L, E]; mask [B, L] is true for words, which come first."""
        last = self.forwards(words, mask)[:, -1]
        if self.backwards is None:
            return last
        return torch.cat([last, self.backwards(reverse_words(words, mask.sum(dim=1)), mask)[:, -1]], dim=1)


class SkipThoughts(nn.Module):
    """uni-skip, bi-skip or combine-skip: from word numbers to sentence vectors."""

    def __init__(self, config: SkipThoughtsConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.config = config
        self.encoders = nn.ModuleDict()
        if config.uni:
            self.encoders["uni"] = Encoder(vocabulary_size, config.embedding, config.uni, bidirectional=False)
        if config.bi:
            self.encoders["bi"] = Encoder(vocabulary_size, config.embedding, config.bi, bidirectional=True)

    def encoders_by_name(self) -> dict[str, Encoder]:
        """Return the encoders by name, "uni" and "bi"."""
        return {name: cast(Encoder, encoder) for name, encoder in self.encoders.items()}

    def forward(self, tokens: Tensor, mask: Tensor, *, normalise: bool = True) -> Tensor:
        """Return sentence vectors [B, F] of word numbers [B, L].

        Args:
            tokens: [B, L] word numbers; ignored where mask is false.
            mask: [B, L] true for words, which come first.
            normalise: scale the vector of each encoder to length 1, the release's default.
        """
        tokens = tokens.masked_fill(~mask, END)
        vectors = [encoder(encoder.words(tokens), mask) for encoder in self.encoders_by_name().values()]
        return torch.cat([v / v.norm(dim=1, keepdim=True) if normalise else v for v in vectors], dim=1)


class Decoders(nn.Module):
    """The two GRUs that predict the sentences before and after, word by word; they share the output layer."""

    def __init__(self, vocabulary_size: int, embedding: int, features: int) -> None:
        super().__init__()
        self.before = GRU(embedding, features, context=features)
        self.after = GRU(embedding, features, context=features)
        self.output = nn.Linear(features, vocabulary_size, bias=False)

    def forward(self, vectors: Tensor, words: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return -log P of both neighbours [B], in nats.

        Args:
            vectors: [B, F] of the sentences between them.
            words: [2, B, L, E] word embeddings of the sentences before and after.
            tokens: [2, B, L] their word numbers.
            mask: [2, B, L] true for words.
        """
        tokens = F.pad(tokens.masked_fill(~mask, END), (0, 1), value=END)  # [2, B, L + 1]
        mask = F.pad(mask, (1, 0), value=True)  # [2, B, L + 1]: the end is predicted as well
        words = F.pad(words, (0, 0, 1, 0))  # [2, B, L + 1, E]: zeros predict the first word
        states = torch.stack([self.before(words[0], mask[0], vectors), self.after(words[1], mask[1], vectors)])
        logits = self.output(states[mask])  # [N, V]
        nats = F.cross_entropy(logits.float() if logits.dtype != torch.float64 else logits, tokens[mask], reduction="none")
        sentence = mask.nonzero()[:, 1]  # [N]
        return torch.zeros(len(vectors), dtype=nats.dtype, device=nats.device).index_add(0, sentence, nats)


class SkipThoughtsObjective(nn.Module):
    """The training objective: both neighbours of a sentence, from its vector (section 2.1). Each encoder is trained separately."""

    def __init__(self, config: SkipThoughtsConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.skipthoughts = SkipThoughts(config, vocabulary_size)
        self.decoders = nn.ModuleDict(
            {name: Decoders(vocabulary_size, config.embedding, e.features) for name, e in self.skipthoughts.encoders_by_name().items()}
        )
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Set orthogonal recurrent matrices, biases of 0, and other weights uniform in -0.1..0.1 (section 3)."""
        for name, parameter in self.named_parameters():
            if name.endswith("recurrent.weight"):
                for block in parameter.chunk(3):
                    nn.init.orthogonal_(block)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.uniform_(-0.1, 0.1)

    def parameter_groups(self) -> Iterator[list[nn.Parameter]]:
        """Yield the parameters of each encoder with those of its decoders."""
        for name, encoder in self.skipthoughts.encoders_by_name().items():
            yield [*encoder.parameters(), *self.decoders[name].parameters()]

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return -log P of both neighbours of each sentence by each encoder, [B, encoders], in nats.

        Args:
            tokens: [3, B, L] word numbers of the sentences before, the sentences, and those after; ignored where mask is false.
            mask: [3, B, L] true for words, which come first.
        """
        tokens = tokens.masked_fill(~mask, END)
        nats = []
        for name, encoder in self.skipthoughts.encoders_by_name().items():
            words = torch.stack([encoder.words(part) for part in tokens])  # [3, B, L, E]
            vectors = encoder(words[1], mask[1])
            nats.append(self.decoders[name](vectors, words[0::2], tokens[0::2], mask[0::2]))
        return torch.stack(nats, dim=1)
