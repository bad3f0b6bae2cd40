"""The golden vectors of the authors' AttnGAN: their captions and names as ours, and comparisons by the README's absolute tolerances."""

from __future__ import annotations

import torch
from torch import Tensor

from cap2im.convert.attngan import text_encoder_layout
from cap2im.models.attngan_text import TextEncoder, TextEncoderConfig
from tests.parity.golden import Golden, golden

FEATURES, WORD_FEATURES, VOCABULARY = 16, 12, 30  # section 3


def attngan(name: str) -> Golden:
    """A golden file; its numbers as float64, in which ours are computed."""
    return golden(name, "attngan")


def text_mask(lengths: Tensor, longest: int | None = None) -> Tensor:
    """[B, L] true for words."""
    return torch.arange(int(lengths.max()) if longest is None else longest) < lengths[:, None]


class Near:
    """Collects absolute errors over the README's tolerances, so that a failure shows all of them."""

    def __init__(self, file: Golden) -> None:
        self.file, self.wrong = file, {}

    def __call__(self, key: str, ours: Tensor, tolerance: float) -> None:
        theirs = self.file[key]
        ours = ours.detach()
        assert ours.shape == theirs.shape, (key, ours.shape, theirs.shape)
        error = float((ours - theirs).abs().max())
        if not error <= tolerance:
            self.wrong[key] = error

    def finish(self, *prefixes: str) -> None:
        """Nothing was off, and every golden array under the prefixes was looked at."""
        assert not self.wrong
        expected = {name for name in self.file if name.startswith(prefixes)}
        assert expected, "no golden array to compare with"
        assert expected <= self.file.seen, sorted(expected - self.file.seen)


def take(layout: dict[str, Tensor], file: Golden, prefix: str) -> None:
    """Fills a network, by views of its parameters, with the golden weights under a prefix, all of which it takes."""
    assert {f"{prefix}{name}" for name in layout} == {name for name in file if name.startswith(prefix)}
    for name, view in layout.items():
        view.copy_(file[f"{prefix}{name}"])


def golden_text_encoder(file: Golden, cell: str = "lstm") -> TextEncoder:
    """Our text encoder in float64 with the weights of text_encoder.npz; without dropout."""
    config = TextEncoderConfig(vocabulary_size=VOCABULARY, word_features=WORD_FEATURES, features=FEATURES, cell=cell, dropout=0)
    encoder = TextEncoder(config).double()
    take(text_encoder_layout(encoder), file, f"{cell}/w/")
    return encoder
