"""The bidirectional language model and the alignment of words with drawing steps.

Source: alignDRAW (arXiv:1511.02793), section 3.1 and equations 5-7.

What the released program does differently: its backward LSTM reads the *batch* backwards instead of the words, and is not flipped
back, so that the second half of a caption's states comes from another caption of the batch, read forwards. Its sampling
programs repeat one caption, where this amounts to a second forward LSTM. `variant="released"` does both. `variant="port"` does what a
PyTorch port does: the backward LSTM reads the words backwards, but its states stay in the order of reading.

Shapes: B batch, L words, D features, K align features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cap2im.models.filterbank import Variant
from cap2im.models.recurrence import Unrolled


@dataclass(frozen=True)
class EncodedText:
    """What every text encoder answers.

    Attributes:
        words: [B, L, D] one vector a word.
        sentence: [B, D] one vector a caption.
        mask: [B, L] true where there is a word, false where there is padding.
        context: [B, L, D] what an alignment chooses words by, where that is not `words` themselves.
    """

    words: Tensor
    sentence: Tensor
    mask: Tensor
    context: Tensor | None = None

    def __getitem__(self, rows: Tensor | slice) -> EncodedText:
        """The captions of some rows [N], which may repeat."""
        context = None if self.context is None else self.context[rows]
        return EncodedText(self.words[rows], self.sentence[rows], self.mask[rows], context)


def sentences_as_text(vectors: Tensor) -> EncodedText:
    """Ready sentence vectors [B, D], as a text of one word."""
    return EncodedText(vectors.unsqueeze(1), vectors, torch.ones(len(vectors), 1, dtype=torch.bool, device=vectors.device))


class _Tanh(torch.autograd.Function):
    """tanh(x) = 2 sigmoid(2x) - 1: on x86, torch's sigmoid is several times faster than its tanh, which the LSTMs call often."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        outputs = (2 * inputs).sigmoid_().mul_(2).sub_(1)
        ctx.save_for_backward(outputs)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (outputs,) = ctx.saved_tensors
        return torch.ops.aten.tanh_backward(gradient, outputs)


def tanh(inputs: Tensor) -> Tensor:
    """The hyperbolic tangent, of any shape."""
    return _Tanh.apply(inputs)


def lstm_cell(preactivation: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """One LSTM update with forget gates and without peepholes (Gers et al., 2000).

    Args:
        preactivation: [B, 4D] the sum of all linear inputs, in blocks: input gate, forget gate, candidate, output gate.
        cell: [B, D] the state before.

    Returns:
        hidden [B, D] and cell [B, D] after the update.
    """
    write, keep, candidate, show = preactivation.chunk(4, dim=1)
    cell = keep.sigmoid() * cell + write.sigmoid() * tanh(candidate)
    return show.sigmoid() * tanh(cell), cell


def reverse_words(sequence: Tensor, lengths: Tensor) -> Tensor:
    """Each row's first `lengths` entries [B, L, ...] in reverse order; padding stays where it is."""
    position = torch.arange(sequence.shape[1], device=sequence.device)
    reverse = lengths[:, None] - 1 - position  # [B, L]
    index = torch.where(reverse >= 0, reverse, position)
    return sequence.gather(1, index.view(*index.shape, *[1] * (sequence.dim() - 2)).expand_as(sequence))


class DirectionalLSTM(nn.Module):
    """An LSTM over word numbers, read in the order given; its input weights are rows, one a word."""

    def __init__(self, vocabulary_size: int, units: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary_size, 4 * units)  # W_y of the release
        self.recurrent = nn.Linear(units, 4 * units)

    def forward(self, tokens: Tensor, start: Tensor, forget: Tensor | None = None, window: int = 0) -> Tensor:
        """States [B, L, D] of tokens [B, L], from the state start [B, D] and an empty cell on, and anew where forget [B, L] is true.

        With a window, a word's state is that of a reader who began `window` words ago, the word itself counted.
        """
        inputs = self.words(tokens)  # [B, L, 4D]
        if window:
            return self._windowed(inputs, start, window)
        hidden, cell = start, torch.zeros_like(start)
        recurrent = Unrolled(self.recurrent)
        states = []
        for position, word in enumerate(inputs.unbind(1)):
            if forget is not None:
                anew = forget[:, position, None]
                hidden, cell = torch.where(anew, start, hidden), cell.masked_fill(anew, 0.0)
            hidden, cell = lstm_cell(word + recurrent(hidden), cell)
            states.append(hidden)
        return torch.stack(states, dim=1)

    def _windowed(self, inputs: Tensor, start: Tensor, window: int) -> Tensor:
        """All words at once: as many readers as words, which end at theirs."""
        batch, length, _ = inputs.shape
        hidden = start.unsqueeze(1).expand(-1, length, -1).flatten(0, 1)  # [B * L, D]
        cell = torch.zeros_like(hidden)
        recurrent = Unrolled(self.recurrent)
        position = torch.arange(length, device=inputs.device)
        for before in range(min(window, length) - 1, -1, -1):
            there = (position >= before).repeat(batch).unsqueeze(1)  # the first words have fewer before them
            word = inputs.roll(before, dims=1).flatten(0, 1)  # [B * L, 4D]
            read, kept = lstm_cell(word + recurrent(hidden), cell)
            hidden, cell = torch.where(there, read, hidden), torch.where(there, kept, cell)
        return hidden.unflatten(0, (batch, length))


class BidirectionalLanguageModel(nn.Module):
    """h_lang of section 3.1: for each word the states of a forward and of a backward LSTM side by side.

    Args:
        vocabulary_size: number of words, padding and unknown word included where the vocabulary has them.
        units: D/2, units of one direction.
        variant: "released" reads the batch backwards, "port" leaves the backward states in their order; see the module's docstring.
        dropout: share of a word's features that training hides.
        forgetting: chance at each word that a direction forgets, in training, all that it has read. What is said of a word is then
            learned of the word and its neighbours, not of whole sentences, and carries over to sentences never seen.
        window: how many words a direction has read when it says its state of one, that word itself counted; 0 for the whole caption, as in
            the paper. With 1, what a drawing reads of a word is that word alone, and its caption decides when it is read: `context`.
    """

    def __init__(
        self,
        vocabulary_size: int,
        units: int,
        variant: Variant = "paper",
        dropout: float = 0.0,
        forgetting: float = 0.0,
        window: int = 0,
    ) -> None:
        super().__init__()
        self.forgetting, self.window = forgetting, window
        self.dropout = nn.Dropout(dropout)
        self.variant = variant
        self.forwards = DirectionalLSTM(vocabulary_size, units)
        self.backwards = DirectionalLSTM(vocabulary_size, units)
        self.start = nn.Parameter(torch.zeros(1, units))  # h0_lang, shared by both directions as released

    def forward(self, tokens: Tensor, mask: Tensor, *, independent: bool = False) -> EncodedText:
        """Encodes captions.

        Args:
            tokens: [B, L] word numbers; anything where mask is false.
            mask: [B, L] true for words; a caption's words come first.
            independent: for variant "released" only: encode each caption as if it filled the batch, as the release's sampling does.
        """
        lengths = mask.sum(dim=1)
        tokens = tokens.masked_fill(~mask, 0)
        context = self.dropout(self._states(tokens, lengths, independent, window=0))
        words = self.dropout(self._states(tokens, lengths, independent, self.window)) if self.window else context  # [B, L, D]
        sentence = (context * mask.unsqueeze(2)).sum(dim=1) / lengths.unsqueeze(1)  # [B, D]
        return EncodedText(words, sentence, mask, context if self.window else None)

    def _states(self, tokens: Tensor, lengths: Tensor, independent: bool, window: int) -> Tensor:
        """[B, L, D] of tokens [B, L], of whole captions or of windows."""
        start = self.start.expand(tokens.shape[0], -1)
        ahead = self.forwards(tokens, start, self._forget(tokens), window)
        if self.variant == "released":
            back = self.backwards(tokens if independent else tokens.flip(0), start, self._forget(tokens), window)
        else:
            back = self.backwards(reverse_words(tokens, lengths), start, self._forget(tokens), window)
            if self.variant != "port":
                back = reverse_words(back, lengths)
        return torch.cat([ahead, back], dim=2)

    def _forget(self, tokens: Tensor) -> Tensor | None:
        if not (self.training and self.forgetting):
            return None
        return torch.rand(tokens.shape, device=tokens.device) < self.forgetting


class Alignment(nn.Module):
    """Which words the next glimpse draws: equations 5-7.

    Args:
        word_features: D, width of a word's vector.
        state_features: width of the generative LSTM.
        features: K, the paper's l.
        noise: scale of the Gumbel noise that training adds to the words' scores. A glimpse then reads a word drawn by chance, unless
            one stands out; so one does, and a drawing goes from word to word.
    """

    def __init__(self, word_features: int, state_features: int, features: int, noise: float = 0.0) -> None:
        super().__init__()
        self.noise = noise
        self.word = nn.Linear(word_features, features)  # U and b
        self.state = nn.Linear(state_features, features, bias=False)  # W
        self.score = nn.Parameter(torch.zeros(features))  # v

    def begin(self, text: EncodedText, unrolled: Callable[[nn.Linear], Callable[[Tensor], Tensor]] = Unrolled) -> AlignmentPass:
        """What stays the same in all steps of one pass over a drawing."""
        context = text.words if text.context is None else text.context
        doubled_words = 2 * self.word(context).to(context.dtype)
        return AlignmentPass(text, doubled_words, unrolled(self.state), 2 * self.score, self.noise if self.training else 0.0)


@dataclass(frozen=True)
class AlignmentPass:
    """The alignment of one batch of captions, ready to be asked at every step."""

    text: EncodedText
    doubled_words: Tensor  # [B, L, K] 2 (U h_lang + b)
    state: Callable[[Tensor], Tensor]  # W
    doubled_score: Tensor  # [K] 2 v
    noise: float

    def __call__(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The sentence vector s_t [B, D] and the weight of each word [B, L] for the state h_gen of the step before.

        v . tanh(x) = 2v . sigmoid(2x) - sum(v), and the softmax over words does not see what is added to all of them: the sigmoid gives
        the same weights as equation 7, and is many times faster than tanh on a CPU.
        """
        features = (self.doubled_words + 2 * self.state(hidden).unsqueeze(1)).sigmoid_()  # [B, L, K]
        scores = features @ self.doubled_score  # [B, L]
        if self.noise:
            scores = scores - self.noise * torch.empty_like(scores).exponential_().log()  # minus the log of an exponential is Gumbel
        weights = scores.masked_fill(~self.text.mask, float("-inf")).softmax(dim=1)
        return torch.bmm(weights.unsqueeze(1), self.text.words).squeeze(1), weights
