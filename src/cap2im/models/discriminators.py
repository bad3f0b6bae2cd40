"""AttnGAN's discriminators, one for each image size: is an image real, and does it show the caption?

Source: AttnGAN (Xu et al., arXiv:1711.10485), section 3.1, equations 4-6. Layers and sizes follow the released program.

The losses are the released ones where they differ from the equations: the generator's has no factor of one half (eq. 4), and the
discriminator's has a third kind of pair, real images with the caption of their neighbour in the batch, and weights of 1/2 and 1/3 (eq. 5).

Not in the release: `spectral_norm=True` divides every convolution by its largest singular value (Miyato et al., arXiv:1802.05957) and
replaces batch normalisation, which would undo it, by biases; sides below 64 have shorter trunks.

Shapes: B batch, E text features, D width, F trunk channels, A side, C colours.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

FINAL_SIDE = 4  # of the trunk's map
WIDEST = 8  # the heads read at most WIDEST * D channels


class Logits(NamedTuple):
    """A discriminator's logits for a batch of images.

    Attributes:
        conditional: [B] that they are real images of their captions.
        unconditional: [B] that they are real at all; None without that head.
    """

    conditional: Tensor
    unconditional: Tensor | None


class DiscriminatorOutput(NamedTuple):
    """The logits of a discriminator's three kinds of pairs.

    Attributes:
        real: of real images and their captions.
        fake: of generated images and their captions.
        mismatched: [B - 1] conditional logits of real images with the next one's caption.
    """

    real: Logits
    fake: Logits
    mismatched: Tensor


class Discriminator(nn.Module):
    """A trunk of strided convolutions to F x 4 x 4, and a conditional and an unconditional head.

    Args:
        side: A, a power of two of at least 16.
        width: D.
        features: E.
        colours: C.
        unconditional: whether it has the unconditional head; AttnDCGAN's has not.
        spectral_norm: see the module's docstring.
    """

    def __init__(
        self, side: int, width: int, features: int, colours: int, *, unconditional: bool = True, spectral_norm: bool = False
    ) -> None:
        super().__init__()
        self.spectral_norm = spectral_norm
        halvings = int(math.log2(side // FINAL_SIDE))
        channels = [colours, *(width * 2**k for k in range(halvings))]
        layers: list[nn.Module] = []
        for k, (inputs, outputs) in enumerate(itertools.pairwise(channels)):
            layers += self._block(inputs, outputs, 4, stride=2, norm=k > 0)
        top = channels[-1]
        while top > WIDEST * width:
            layers += self._block(top, top // 2, 3)
            top //= 2
        self.trunk = nn.Sequential(*layers)
        self.joint = nn.Sequential(*self._block(top + features, top, 3))
        self.conditional = self._convolution(top, 1, FINAL_SIDE, stride=FINAL_SIDE, padding=0, bias=True)
        self.unconditional = self._convolution(top, 1, FINAL_SIDE, stride=FINAL_SIDE, padding=0, bias=True) if unconditional else None

    def _convolution(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int = 1, bias: bool = False) -> nn.Module:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=bias or self.spectral_norm)
        return spectral_norm(convolution) if self.spectral_norm else convolution

    def _block(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, norm: bool = True) -> list[nn.Module]:
        norms = [nn.BatchNorm2d(outputs)] if norm and not self.spectral_norm else []
        return [self._convolution(inputs, outputs, kernel, stride=stride), *norms, nn.LeakyReLU(0.2)]

    def conditional_logits(self, maps: Tensor, sentences: Tensor) -> Tensor:
        """Return logits [B] that images are real ones of their captions, from trunk maps [B, F, 4, 4] and sentence vectors [B, E]."""
        planes = sentences[:, :, None, None].expand(-1, -1, FINAL_SIDE, FINAL_SIDE)
        return self.conditional(self.joint(torch.cat([maps, planes], dim=1))).flatten()

    def unconditional_logits(self, maps: Tensor) -> Tensor | None:
        """Return logits [B] that images are real, from trunk maps [B, F, 4, 4]; None without that head."""
        return None if self.unconditional is None else self.unconditional(maps).flatten()

    def logits(self, images: Tensor, sentences: Tensor) -> Logits:
        """Return the logits of images [B, C, A, A] in -1..1 and sentence vectors [B, E]."""
        maps = self.trunk(images.contiguous())  # channels last would reorder the large kernels at every pass
        return Logits(self.conditional_logits(maps, sentences), self.unconditional_logits(maps))

    def forward(self, real: Tensor, fake: Tensor, sentences: Tensor) -> DiscriminatorOutput:
        """Return the logits of real and fake images [B, C, A, A] in -1..1 of the same captions [B, E], B > 1.

        Batch normalisation sees real, fake and mismatched pairs one after another, in this order, as in the released program.
        """
        with parametrize.cached():  # spectral normalisation iterates once a call
            real_maps, fake_maps = (self.trunk(images.contiguous()) for images in (real, fake))  # [B, F, 4, 4]
            of_real, of_fake = (self.conditional_logits(maps, sentences) for maps in (real_maps, fake_maps))
            mismatched = self.conditional_logits(real_maps[:-1], sentences[1:])
            return DiscriminatorOutput(
                Logits(of_real, self.unconditional_logits(real_maps)), Logits(of_fake, self.unconditional_logits(fake_maps)), mismatched
            )


# The losses, in nats, means over a batch


def bce(logits: Tensor, real: bool) -> Tensor:
    """Return the binary cross entropy of logits [B], in fp32 at least."""
    logits = logits.float() if logits.dtype == torch.bfloat16 else logits
    return F.softplus(-logits if real else logits).mean()


def discriminator_loss(output: DiscriminatorOutput) -> Tensor:
    """Return L_D of one size (equation 5, as released)."""
    real, fake, mismatched = output
    wrong = bce(fake.conditional, False), bce(mismatched, False)
    if real.unconditional is None or fake.unconditional is None:
        return bce(real.conditional, True) + (wrong[0] + wrong[1]) / 2
    right = bce(real.unconditional, True) + bce(real.conditional, True)
    return right / 2 + (bce(fake.unconditional, False) + wrong[0] + wrong[1]) / 3


def generator_loss(fake: Logits) -> Tensor:
    """Return L_G of one size (equation 4, as released), without the matching loss."""
    loss = bce(fake.conditional, True)
    return loss if fake.unconditional is None else loss + bce(fake.unconditional, True)
