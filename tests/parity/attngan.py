"""The golden vectors of the authors' AttnGAN: their captions and names as ours, and comparisons by the README's absolute tolerances."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from cap2im.convert.attngan import released_discriminator, released_generator, released_layout, released_text_encoder, text_encoder_layout
from cap2im.models.attngan import Generator
from cap2im.models.attngan_text import TextEncoder, TextEncoderConfig
from cap2im.models.damsm import Gammas
from cap2im.models.discriminators import Discriminator
from tests.parity.golden import Golden, golden

VARIANTS = {"fixed": "paper", "released": "released"}
GAMMAS = {"default": Gammas(5, 5, 10), "yml": Gammas(4, 5, 10)}  # the README's two sets, by their names


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

    def maps(self, key: str, ours: Tensor, *, whole: float, sampled: float, total: float) -> None:
        """Compare maps [..., H, W] in every form in which they are stored: whole, "@s3" every third pixel from 1 on, "@sum" over pixels."""
        forms = {name.removeprefix(key): name for name in self.file if re.fullmatch(re.escape(key) + r"(@s\d+|@sum)?", name)}
        assert forms, f"{key} is not stored in any form"
        for form, name in forms.items():
            if form == "":
                self(name, ours, whole)
            elif form == "@sum":
                self(name, ours.sum(dim=(-2, -1)), total)
            else:
                step = int(form.removeprefix("@s"))
                self(name, ours[..., 1::step, 1::step], sampled)

    def finish(self, *prefixes: str) -> None:
        """Nothing was off, and every golden array under the prefixes was looked at."""
        assert not self.wrong
        expected = {name for name in self.file if name.startswith(prefixes)}
        assert expected, "no golden array to compare with"
        assert expected <= self.file.seen, sorted(expected - self.file.seen)


def golden_text_encoder(file: Golden, cell: str = "lstm") -> TextEncoder:
    """Our text encoder in float64 with the weights of text_encoder.npz; without dropout."""
    released = released_text_encoder(file.under(f"{cell}/w/"))
    encoder = TextEncoder(released.config.model_copy(update={"dropout": 0.0})).double()
    encoder.load_state_dict(released.state_dict())
    return encoder


def golden_generator(file: Golden, name: str, variant: str = "fixed") -> Generator:
    """Our generator in float64 with the golden weights of a whole one: "g_net" or "g_dcgan"."""
    weights = file.under(f"{name}/w/")
    text = TextEncoderConfig(features=weights["ca_net.fc.weight"].shape[1])
    released = released_generator(weights, text)
    generator = Generator(released.config.model_copy(update={"variant": VARIANTS[variant]})).double()
    generator.load_state_dict(released.state_dict())
    return generator


def golden_discriminator(file: Golden, name: str) -> Discriminator:
    """Our discriminator in float64 with the golden weights."""
    return released_discriminator(file.under(f"{name}/w/"))[0].double()


def side_of(name: str) -> int:
    """Pixels a side that a name ends with, or has before "_nojcu": "d_net64", "in/it0/real128"."""
    return int(re.search(r"(\d+)(_nojcu)?$", name)[1])


def buffers(network: Generator | Discriminator) -> dict[str, Tensor]:
    """The batch normalisations' own, by their names in the release."""
    names = ("running_mean", "running_var", "num_batches_tracked")
    return {name: value for name, value in released_layout(network).items() if name.endswith(names)}


def text_gradients(encoder: TextEncoder) -> dict[str, Tensor]:
    """The gradients of a text encoder by their names in the release."""
    return {name: parameter.grad for name, parameter in zip(text_encoder_layout(encoder), encoder.parameters(), strict=True)}
