"""AttnGAN's discriminators, one for each size: is a picture real, and is it one of this caption?

Source: AttnGAN (Xu et al., arXiv:1711.10485), section 3.1, equations 4-6. Layers and their sizes are those of the released program.

Where the released losses differ from the equations, these are the released ones: no factor of one half for the generator (eq. 4), and for
the discriminator (eq. 5) a third kind of pair, real pictures with the caption of their neighbour in the batch, and weights of 1/2 and 1/3.

What is ours: `spectral_norm=True` divides every convolution by its largest singular value (Miyato et al., arXiv:1802.05957), and has
biases in place of batch normalisation, which would undo it; and sides below 64, whose trunks are shorter.

Shapes: B batch, E text features, D width, F trunk channels, A side, C colours.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

FINAL_SIDE = 4  # of the trunk's map
WIDEST = 8  # the heads read at most so many times D channels
MANY_WEIGHTS = 2**16  # for each place of a batch's result: a processor then takes longer to sort them than to multiply with them


class Logits(NamedTuple):
    """What a discriminator says of pictures: logits [B] that they are real ones of their captions, and that they are real at all.

    `unconditional` is None of a discriminator without that head.
    """

    conditional: Tensor
    unconditional: Tensor | None


class DiscriminatorOutput(NamedTuple):
    """What a discriminator learns from: `mismatched` are the logits [B - 1] of real pictures with the next one's caption."""

    real: Logits
    fake: Logits
    mismatched: Tensor


class Convolution(nn.Conv2d):
    """A square convolution that is one matrix product where its weights by far outnumber what they are multiplied with.

    (A processor's convolutions bring their weights into an order of their own, at each pass and back; of the last layers at 256 pixels,
    with small batches, that takes two thirds of the time.)
    """

    def forward(self, images: Tensor) -> Tensor:
        """[B, F', A', A'] of [B, F, A, A]."""
        kernel, stride, padding = self.kernel_size[0], self.stride[0], int(self.padding[0])
        side = (images.shape[-1] + 2 * padding - kernel) // stride + 1
        places = len(images) * side**2
        if images.device.type != "cpu" or self.weight.numel() <= MANY_WEIGHTS * places:
            return super().forward(images)
        patches = F.unfold(images, kernel, padding=padding, stride=stride).transpose(1, 2).flatten(0, 1)  # [B A' A', F k k]
        fake = F.linear(patches, self.weight.flatten(1), self.bias)
        return fake.view(len(images), side, side, -1).permute(0, 3, 1, 2).contiguous()


class Discriminator(nn.Module):
    """A trunk of strided convolutions to F x 4 x 4, and its heads.

    Args:
        side: A, a power of two of at least 16.
        width: D.
        features: E.
        colours: C.
        unconditional: whether it also says if a picture is real whatever its caption; AttnDCGAN's does not.
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
        convolution = Convolution(inputs, outputs, kernel, stride, padding, bias=bias or self.spectral_norm)
        return spectral_norm(convolution) if self.spectral_norm else convolution

    def _block(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, norm: bool = True) -> list[nn.Module]:
        norms = [nn.BatchNorm2d(outputs)] if norm and not self.spectral_norm else []
        return [self._convolution(inputs, outputs, kernel, stride=stride), *norms, nn.LeakyReLU(0.2)]

    def read(self, maps: Tensor, sentences: Tensor, sizes: Sequence[int] = ()) -> Tensor:
        """[B] logits that pictures are real ones of their captions, of the trunk's maps [B, F, 4, 4] and sentence vectors [B, E].

        `sizes`, where they are given, are those of batches one behind the other, which batch normalisation sees apart.
        """
        planes = sentences[:, :, None, None].expand(-1, -1, FINAL_SIDE, FINAL_SIDE)
        joined = _through(self.joint, torch.cat([maps, planes], dim=1), sizes or [len(maps)])
        return self.conditional(joined).flatten()

    def logits(self, images: Tensor, sentences: Tensor) -> Logits:
        """What it says of pictures [B, C, A, A] in -1..1 and sentence vectors [B, E]."""
        maps = self.trunk(images.contiguous())  # its large weights would be turned around for channels last, at every pass
        return Logits(self.read(maps, sentences), None if self.unconditional is None else self.unconditional(maps).flatten())

    def forward(self, real: Tensor, fake: Tensor, sentences: Tensor) -> DiscriminatorOutput:
        """What it says of real and fake pictures [B, C, A, A] in -1..1 of the same captions [B, E], B > 1.

        Batch normalisation sees real, fake and mismatched ones apart, in this order, as in the released program. All else sees them at
        once: the weights of the last layers are far more than what they are multiplied with, and are read and learn once.
        """
        count = len(real)
        maps = _through(self.trunk, torch.cat([real, fake]).contiguous(), [count, count])  # [2B, F, 4, 4]
        candidates = torch.cat([maps, maps[: count - 1]])
        captions = torch.cat([sentences, sentences, sentences[1:]])
        real_logits, drawn_logits, mismatched = self.read(candidates, captions, [count, count, count - 1]).split([count, count, count - 1])
        alone = (None, None) if self.unconditional is None else self.unconditional(maps).flatten().split(count)
        return DiscriminatorOutput(Logits(real_logits, alone[0]), Logits(drawn_logits, alone[1]), mismatched)


def _through(layers: nn.Module, batches: Tensor, sizes: Sequence[int]) -> Tensor:
    """Batches of some sizes, one behind the other, through layers of which batch normalisation sees each batch apart."""
    for layer in layers.children():
        apart = len(sizes) > 1 and isinstance(layer, nn.BatchNorm2d)
        batches = torch.cat([layer(batch) for batch in batches.split(list(sizes))]) if apart else layer(batches)
    return batches


# The losses, in nats, means over a batch


def bce(logits: Tensor, real: bool) -> Tensor:
    """Cross entropy of logits with what they should say; half precision is too coarse for its mean."""
    logits = logits.float() if logits.dtype == torch.bfloat16 else logits
    return F.softplus(-logits if real else logits).mean()


def discriminator_loss(output: DiscriminatorOutput) -> Tensor:
    """L_D of one size (equation 5, as released)."""
    real, fake, mismatched = output
    wrong = bce(fake.conditional, False), bce(mismatched, False)
    if real.unconditional is None or fake.unconditional is None:
        return bce(real.conditional, True) + (wrong[0] + wrong[1]) / 2
    right = bce(real.unconditional, True) + bce(real.conditional, True)
    return right / 2 + (bce(fake.unconditional, False) + wrong[0] + wrong[1]) / 3


def generator_loss(fake: Logits) -> Tensor:
    """L_G of one size (equation 4, as released), without the matching loss."""
    loss = bce(fake.conditional, True)
    return loss if fake.unconditional is None else loss + bce(fake.unconditional, True)
