"""A plain alignDRAW, equation by equation in ordinary operators, as a baseline for speed.py.

It uses the parameters of the package's model and computes the same bounds, which speed.py checks.

Shapes: B batch, L words, T glimpses, D features, Z latent, P patch side, A canvas side, C colours.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cap2im.data.batch import Batch
from cap2im.models.aligndraw import DRAW
from cap2im.models.text import DirectionalLSTM, reverse_words


def lstm(preactivation: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return hidden state and cell [B, D] of the gates' inputs [B, 4D]."""
    input_gate, forget_gate, candidate, output_gate = preactivation.chunk(4, dim=1)
    cell = forget_gate.sigmoid() * cell + input_gate.sigmoid() * candidate.tanh()
    return output_gate.sigmoid() * cell.tanh(), cell


def filters(window: Tensor, patch: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return F_x and F_y [B, 1, P, A] and gamma [B, 1, 1, 1] of raw window parameters [B, 5] (DRAW eq. 19-26)."""
    x, y, log_stride, log_variance, log_gamma = window.unbind(1)
    offsets = torch.arange(patch, device=window.device) - patch / 2 + 0.5
    pixels = torch.arange(side, device=window.device) + 1.0
    stride = log_stride.exp() * (side - 1) / (patch - 1)

    def along(centre: Tensor) -> Tensor:
        means = (centre * (side + 1) / 2)[:, None] + stride[:, None] * offsets  # [B, P]
        weights = torch.exp(-((pixels - means[:, :, None]) ** 2) / (2 * log_variance.exp()[:, None, None]))  # [B, P, A]
        return (weights / (weights.sum(dim=2, keepdim=True) + 1e-4)).unsqueeze(1)

    return along(x + 1), along(y + 1), log_gamma.exp()[:, None, None, None]


def language(model: DRAW, tokens: Tensor, mask: Tensor) -> Tensor:
    """Return h_lang [B, L, D] (section 3.1)."""
    lengths = mask.sum(dim=1)

    def states(direction: DirectionalLSTM, words: Tensor) -> Tensor:
        hidden, cell = (
            model.language.start.expand(len(words), -1),
            words.new_zeros(len(words), model.config.language_units, dtype=torch.float32),
        )
        hiddens = []
        for word in direction.words(words).unbind(1):
            hidden, cell = lstm(word + direction.recurrent(hidden), cell)
            hiddens.append(hidden)
        return torch.stack(hiddens, dim=1)

    tokens = tokens.masked_fill(~mask, 0)
    backwards = reverse_words(states(model.language.backwards, reverse_words(tokens, lengths)), lengths)
    return torch.cat([states(model.language.forwards, tokens), backwards], dim=2)


def align(model: DRAW, words: Tensor, mask: Tensor, hidden: Tensor) -> Tensor:
    """Return s_t [B, D] (eq. 5-7)."""
    a = model.alignment
    scores = torch.tanh(a.word(words) + a.state(hidden).unsqueeze(1)) @ a.score  # [B, L]
    weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=1)
    return (weights.unsqueeze(2) * words).sum(dim=1)


def latent_prior(model: DRAW, hidden: Tensor, first: bool) -> tuple[Tensor, Tensor]:
    """Return mean and log sigma [B, Z] of the prior (eq. 1)."""
    mean, log_sigma = model.prior(hidden).tanh().chunk(2, dim=1)
    return (torch.zeros_like(mean), torch.zeros_like(mean)) if first else (mean, log_sigma)


def generate(model: DRAW, z: Tensor, sentence: Tensor, canvas: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the next canvas, hidden state and cell (eq. 3-4, 8)."""
    c = model.config
    hidden, cell = lstm(model.generative(torch.cat([z, sentence, hidden], dim=1)), cell)
    columns, rows, gamma = filters(model.write_window(hidden), c.write_patch, c.side)
    patch = model.patch(hidden).view(-1, c.colours, c.write_patch, c.write_patch)
    return canvas + rows.mT @ patch @ columns / gamma, hidden, cell


def start(model: DRAW, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return canvas, hidden state and cell before the first glimpse."""
    return (
        model.start_canvas.expand(batch, -1, -1, -1),
        model.start_generative.expand(batch, -1),
        model.start_generative.new_zeros(batch, model.config.generative_units),
    )


def bound(model: DRAW, batch: Batch) -> Tensor:
    """Return the lower bound [B] in nats of each image (eq. 10-15)."""
    c, images = model.config, batch.images
    words = language(model, batch.tokens, batch.mask)
    canvas, hidden, cell = start(model, len(images))
    inferred, memory = model.start_inference.expand(len(images), -1), images.new_zeros(len(images), c.inference_units)
    kl = images.new_zeros(len(images))
    for t, noise in enumerate(batch.noise.unbind(1)):
        columns, rows, gamma = filters(model.read_window(hidden), c.read_patch, c.side)
        error = images - canvas.sigmoid()
        read = [(gamma * (rows @ each @ columns.mT)).flatten(1) for each in (images, error)]
        inferred, memory = lstm(model.inference(torch.cat([*read, hidden, inferred], dim=1)), memory)
        mean, log_variance = model.posterior(inferred).chunk(2, dim=1)
        prior_mean, prior_log_sigma = latent_prior(model, hidden, t == 0)
        ratio = ((mean - prior_mean) ** 2 + log_variance.exp()) / (2 * prior_log_sigma).exp()
        kl = kl + 0.5 * (ratio - 1 - log_variance + 2 * prior_log_sigma).sum(dim=1)
        sentence = align(model, words, batch.mask, hidden)
        canvas, hidden, cell = generate(model, mean + (0.5 * log_variance).exp() * noise, sentence, canvas, hidden, cell)
    return -F.binary_cross_entropy_with_logits(canvas, images, reduction="none").flatten(1).sum(dim=1) - kl


def draw(model: DRAW, batch: Batch) -> Tensor:
    """Sample images [B, C, A, A] from the prior (section 3.4)."""
    words = language(model, batch.tokens, batch.mask)
    canvas, hidden, cell = start(model, len(batch.noise))
    for t, noise in enumerate(batch.noise.unbind(1)):
        mean, log_sigma = latent_prior(model, hidden, t == 0)
        sentence = align(model, words, batch.mask, hidden)
        canvas, hidden, cell = generate(model, mean + log_sigma.exp() * noise, sentence, canvas, hidden, cell)
    return canvas.sigmoid()
