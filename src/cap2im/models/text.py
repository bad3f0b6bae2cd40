"""The bidirectional language model, and the alignment of words with glimpses.

Source: alignDRAW (arXiv:1511.02793), section 3.1 and equations 5-7.

What the released program does differently: its backward LSTM reads the *batch* backwards instead of the words, and its states are not
flipped back. The second half of a caption's states then comes from another caption of the batch, read forwards. Its sampling programs
repeat one caption, so that both halves are forward LSTMs of it. `variant="released"` does both. `variant="port"` follows a PyTorch port:
the backward LSTM reads the words backwards, and its states stay in reading order.

Shapes: B batch, L words, D features, K align features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cap2im.models.filterbank import Variant


@dataclass(frozen=True)
class EncodedText:
    """Encoded captions, as every text encoder returns them.

    Attributes:
        words: [B, L, D] one vector a word.
        sentence: [B, D] one vector a caption.
        mask: [B, L] true for words, false for padding.
        context: [B, L, D] the vectors by which an alignment scores words; None if they are `words`.
    """

    words: Tensor
    sentence: Tensor
    mask: Tensor
    context: Tensor | None = None

    def __getitem__(self, rows: Tensor | slice) -> EncodedText:
        """Return the captions of rows [N], which may repeat."""
        context = None if self.context is None else self.context[rows]
        return EncodedText(self.words[rows], self.sentence[rows], self.mask[rows], context)


def sentences_as_text(vectors: Tensor) -> EncodedText:
    """Return sentence vectors [B, D] as texts of one word."""
    return EncodedText(vectors.unsqueeze(1), vectors, torch.ones_like(vectors[:, :1], dtype=torch.bool))


def lstm_cell(preactivation: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """One LSTM update with forget gates and without peepholes (Gers et al., 2000).

    Args:
        preactivation: [B, 4D] the sum of all linear inputs, in blocks: input gate, forget gate, candidate, output gate.
        cell: [B, D] the state before.

    Returns:
        hidden [B, D] and cell [B, D] after the update.
    """
    input_gate, forget_gate, candidate, output_gate = preactivation.chunk(4, dim=1)
    cell = forget_gate.sigmoid() * cell + input_gate.sigmoid() * candidate.tanh()
    return output_gate.sigmoid() * cell.tanh(), cell


def reverse_words(sequence: Tensor, lengths: Tensor) -> Tensor:
    """Reverse each row's first `lengths` entries [B, L, ...]; padding stays in its place."""
    position = torch.arange(sequence.shape[1], device=sequence.device)
    reverse = lengths[:, None] - 1 - position  # [B, L]
    index = torch.where(reverse >= 0, reverse, position)
    return sequence.gather(1, index.view(*index.shape, *[1] * (sequence.dim() - 2)).expand_as(sequence))


class DirectionalLSTM(nn.Module):
    """An LSTM over word numbers, in the order given. Its input weights are an embedding, one row a word."""

    def __init__(self, vocabulary_size: int, units: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary_size, 4 * units)  # W_y of the release
        self.recurrent = nn.Linear(units, 4 * units)

    def forward(self, tokens: Tensor, start: Tensor, forget: Tensor | None = None, window: int = 0) -> Tensor:
        """Return the states [B, L, D] after each word.

        Args:
            tokens: [B, L] word numbers.
            start: [B, D] the initial hidden state; the initial cell is zero.
            forget: [B, L] true where the LSTM restarts from the initial state before the word.
            window: number of words that each state depends on, the word itself included; 0 for all before it.
        """
        inputs = self.words(tokens)  # [B, L, 4D]
        if window:
            return self._windowed(inputs, start, window)
        hidden, cell = start, torch.zeros_like(start)
        states = []
        for position, word in enumerate(inputs.unbind(1)):
            if forget is not None:
                restart = forget[:, position, None]
                hidden, cell = torch.where(restart, start, hidden), cell.masked_fill(restart, 0.0)
            hidden, cell = lstm_cell(word + self.recurrent(hidden), cell)
            states.append(hidden)
        return torch.stack(states, dim=1)

    def _windowed(self, inputs: Tensor, start: Tensor, window: int) -> Tensor:
        """Run one LSTM for each word over the window that ends there, all at once."""
        batch, length, _ = inputs.shape
        hidden = start.unsqueeze(1).expand(-1, length, -1).flatten(0, 1)  # [B * L, D]
        cell = torch.zeros_like(hidden)
        position = torch.arange(length, device=inputs.device)
        for before in range(min(window, length) - 1, -1, -1):
            exists = (position >= before).repeat(batch).unsqueeze(1)  # the first words have fewer before them
            word = inputs.roll(before, dims=1).flatten(0, 1)  # [B * L, 4D]
            next_hidden, next_cell = lstm_cell(word + self.recurrent(hidden), cell)
            hidden, cell = torch.where(exists, next_hidden, hidden), torch.where(exists, next_cell, cell)
        return hidden.unflatten(0, (batch, length))


class BidirectionalLanguageModel(nn.Module):
    """h_lang of section 3.1: for each word the states of a forward and of a backward LSTM side by side.

    Args:
        vocabulary_size: number of words, padding and unknown word included where the vocabulary has them.
        units: D/2, units of one direction.
        variant: "released" or "port", see the module's docstring.
        dropout: share of a word's features that training sets to zero.
        forgetting: probability at each word that a direction restarts, in training. States then depend on a word and its neighbours,
            not on the whole sentence, and generalise to unseen sentences.
        window: words that a direction reads for the state of one, the word itself included; 0 for the whole caption, as in the paper.
            With a window, alignments still score words by states of the whole caption (`EncodedText.context`).
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
        """Encode captions.

        Args:
            tokens: [B, L] word numbers; ignored where mask is false.
            mask: [B, L] true for words; a caption's words come first.
            independent: for variant "released", encode each caption as if it filled the batch, as the release's sampling does. The other
                variants always encode captions independently.
        """
        lengths = mask.sum(dim=1)
        tokens = tokens.masked_fill(~mask, 0)
        context = self.dropout(self._states(tokens, lengths, independent, window=0))
        words = self.dropout(self._states(tokens, lengths, independent, self.window)) if self.window else context  # [B, L, D]
        sentence = (context * mask.unsqueeze(2)).sum(dim=1) / lengths.unsqueeze(1)  # [B, D]
        return EncodedText(words, sentence, mask, context if self.window else None)

    def _states(self, tokens: Tensor, lengths: Tensor, independent: bool, window: int) -> Tensor:
        """Return the states [B, L, D] of both directions."""
        start = self.start.expand(tokens.shape[0], -1)
        forwards = self.forwards(tokens, start, self._forget(tokens), window)
        if self.variant == "released":
            backwards = self.backwards(tokens if independent else tokens.flip(0), start, self._forget(tokens), window)
        else:
            backwards = self.backwards(reverse_words(tokens, lengths), start, self._forget(tokens), window)
            if self.variant != "port":
                backwards = reverse_words(backwards, lengths)
        return torch.cat([forwards, backwards], dim=2)

    def _forget(self, tokens: Tensor) -> Tensor | None:
        if not (self.training and self.forgetting):
            return None
        return torch.rand(tokens.shape, device=tokens.device) < self.forgetting


class Alignment(nn.Module):
    """Attention over words for the next glimpse: equations 5-7.

    Args:
        word_features: D, width of a word's vector.
        state_features: width of the generative LSTM.
        features: K, the paper's l.
        noise: scale of the Gumbel noise that training adds to the words' scores, which sharpens the attention.
    """

    def __init__(self, word_features: int, state_features: int, features: int, noise: float = 0.0) -> None:
        super().__init__()
        self.noise = noise
        self.word = nn.Linear(word_features, features)  # U and b
        self.state = nn.Linear(state_features, features, bias=False)  # W
        self.score = nn.Parameter(torch.zeros(features))  # v

    def begin(self, text: EncodedText) -> AlignmentPass:
        """Compute what all steps of one pass share."""
        context = text.words if text.context is None else text.context
        doubled_words = 2 * self.word(context).to(context.dtype)
        return AlignmentPass(text, doubled_words, 2 * self.score, self.noise if self.training else 0.0)


@dataclass(frozen=True)
class AlignmentPass:
    """The alignment of one batch of captions, to be called at every step."""

    text: EncodedText
    doubled_words: Tensor  # [B, L, K] 2 (U h_lang + b)
    doubled_score: Tensor  # [K] 2 v
    noise: float

    def __call__(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sentence vector s_t [B, D] and the word weights [B, L] for W h_gen [B, K] of the step before.

        v . tanh(x) = 2v . sigmoid(2x) - sum(v), and the softmax over words cancels the constant. The sigmoid therefore gives the weights of
        equation 7; on a CPU it is many times faster than tanh.
        """
        features = (self.doubled_words + 2 * state.unsqueeze(1)).sigmoid_()  # [B, L, K]
        scores = features @ self.doubled_score  # [B, L]
        if self.noise:
            scores = scores - self.noise * torch.empty_like(scores).exponential_().log()  # minus the log of an exponential is Gumbel
        weights = scores.masked_fill(~self.text.mask, float("-inf")).softmax(dim=1)
        return torch.bmm(weights.unsqueeze(1), self.text.words).squeeze(1), weights
