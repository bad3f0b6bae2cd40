"""A drawing model as graphs of tensors: one that encodes a caption, and one that draws.

A recurrent model draws one glimpse a call, with its state as explicit inputs and outputs. Other models draw the whole picture.

Shapes: B batch, L words, T glimpses, Z noise, A side, C colours; see the model's file for the others.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cap2im.models.aligndraw import DRAW, GenerativeState, StepContext
from cap2im.models.attngan import AttnGAN
from cap2im.models.attngan_text import TextEncoder
from cap2im.models.interface import DrawingModel, Gaussian
from cap2im.models.text import AlignmentPass, EncodedText, reverse_words


class UnpackedTextEncoder(nn.Module):
    """AttnGAN's text encoder without packed sequences, which ONNX lacks: each direction reads all L words from the first one.

    States at padding come after those of words and are masked.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        rnn = encoder.rnn
        self.directions = nn.ModuleList()
        for suffix in ("", "_reverse"):
            one = type(rnn)(rnn.input_size, rnn.hidden_size, batch_first=True)
            one.load_state_dict({name: getattr(rnn, f"{name}{suffix}") for name in one.state_dict()})
            self.directions.append(one)

    def forward(self, tokens: Tensor, mask: Tensor) -> EncodedText:
        """Return what `TextEncoder` returns."""
        inputs, lengths = self.encoder.words(tokens.masked_fill(~mask, 0)), mask.sum(dim=1)
        forwards, _ = self.directions[0](inputs)
        backwards, _ = self.directions[1](reverse_words(inputs, lengths))
        words = torch.cat([forwards, reverse_words(backwards, lengths)], dim=2) * mask.unsqueeze(2)  # [B, L, E]
        if self.encoder.config.sentence == "mean":
            return EncodedText(words, words.sum(dim=1) / lengths.clamp_min(1).unsqueeze(1), mask)
        last = (lengths - 1).clamp_min(0)[:, None, None].expand(-1, 1, forwards.shape[2])
        ends = torch.cat([each.gather(1, last).squeeze(1) for each in (forwards, backwards)], dim=1)
        return EncodedText(words, ends * mask.any(dim=1, keepdim=True), mask)


class TextGraph(nn.Module):
    """Encodes captions: tokens and mask [B, L] to the tensors that every glimpse needs."""

    def __init__(self, model: DrawingModel) -> None:
        super().__init__()
        self.model = model
        self.unpacked = UnpackedTextEncoder(model.text) if isinstance(model, AttnGAN) else None

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors named by `names`."""
        text = self.model.encode(tokens, mask, independent=True) if self.unpacked is None else self.unpacked(tokens, mask)
        assert text is not None
        if not isinstance(self.model, DRAW):
            return text.words, text.sentence
        if self.model.config.conditioning == "align":
            return text.words, self.model.alignment.begin(text).doubled_words
        return (self.model.sentence(text.sentence),)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the outputs."""
        if not isinstance(self.model, DRAW):
            return "words", "sentence"
        return ("words", "keys") if self.model.config.conditioning == "align" else ("sentence",)


class GlimpseGraph(nn.Module):
    """Draws one glimpse of alignDRAW and its relatives."""

    def __init__(self, model: DRAW) -> None:
        super().__init__()
        self.model = model

    def forward(self, later: Tensor, noise: Tensor, canvas: Tensor, hidden: Tensor, cell: Tensor, *text: Tensor) -> tuple[Tensor, ...]:
        """Return the next canvas, hidden state and cell, the picture in 0..1, the write window's box, and word weights if it attends.

        Args:
            later: [1] 0 at the first glimpse, which starts from the learned state and a standard normal prior; 1 at later ones.
            noise: [B, Z] of this glimpse.
            canvas: [B, C, A, A] before the sigmoid.
            hidden: [B, D].
            cell: [B, D].
            text: what the text graph returns, and for a model with attention the mask [B, L].
        """
        model = self.model
        start = model.initial_generative_state(noise.shape[0])  # len() would make the size of the batch a constant
        before = (start.canvas, start.hidden, start.cell)
        state = GenerativeState(*((1 - later) * old + later * new for old, new in zip(before, (canvas, hidden, cell), strict=True)))
        prior = model.latent_prior(state.hidden)
        latent = Gaussian(later * prior.mean, later * prior.log_sigma).sample(noise)
        state, glimpse = model.generate(latent, state, self._context(text))
        weights = () if glimpse.words is None else (glimpse.words,)
        return state.canvas, state.hidden, state.cell, state.canvas.sigmoid(), model.write_boxes(glimpse.write_window), *weights

    def _context(self, text: tuple[Tensor, ...]) -> StepContext:
        """Return the context of a step, whose text was encoded before."""
        model, context = self.model, StepContext(self.model, None)
        if model.config.conditioning == "align":
            words, keys, mask = text
            encoded = EncodedText(words, words[:, 0], mask)  # the sentence is not read
            context.alignment = AlignmentPass(encoded, keys, 2 * model.alignment.score, noise=0.0)
            context.layers["alignment"] = model.alignment.state
        elif text:
            (context.sentence,) = text
        return context


class PictureGraph(nn.Module):
    """Draws the whole picture of any model."""

    def __init__(self, model: DrawingModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, noise: Tensor, *text: Tensor) -> tuple[Tensor, ...]:
        """Return the pictures [B, T, C, A, A] in 0..1 after each step, and the word weights [B, T, L] if the model has them."""
        encoded = EncodedText(*text) if text else None
        drawn = self.model.sample(encoded, noise)
        return (drawn.pictures,) if drawn.words is None else (drawn.pictures, drawn.words)
