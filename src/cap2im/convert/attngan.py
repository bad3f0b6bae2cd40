"""The parameter names of the released AttnGAN, and ours.

Source: the files that its training writes (netG, netD, `*_AttnGAN2.pth`): one state dict each.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import Tensor

from cap2im.models.attngan import Generator
from cap2im.models.discriminators import Discriminator

# ours -> theirs; {0}, {1} are the numbers in our name, counted as they count
_GENERATOR = {
    r"augmentation\.linear": "ca_net.fc",
    r"first\.linear": "h_net1.fc.0",
    r"first\.norm": "h_net1.fc.1",
    r"first\.ups\.(\d+)\.convolution": "h_net1.upsample{0}.1",
    r"first\.ups\.(\d+)\.norm": "h_net1.upsample{0}.2",
    r"stages\.(\d+)\.attention\.words": "h_net{0}.att.conv_context",
    r"stages\.(\d+)\.residuals\.(\d+)\.first": "h_net{0}.residual.{1}.block.0",
    r"stages\.(\d+)\.residuals\.(\d+)\.first_norm": "h_net{0}.residual.{1}.block.1",
    r"stages\.(\d+)\.residuals\.(\d+)\.second": "h_net{0}.residual.{1}.block.3",
    r"stages\.(\d+)\.residuals\.(\d+)\.second_norm": "h_net{0}.residual.{1}.block.4",
    r"stages\.(\d+)\.up\.convolution": "h_net{0}.upsample.1",
    r"stages\.(\d+)\.up\.norm": "h_net{0}.upsample.2",
    r"pictures\.(\d+)": "img_net{0}.img.0",
}
_FIRST_NUMBER = {"first": 1, "stages": 2, "pictures": 1}
_TRUNKS = {  # their names of what follows the 11 layers that all trunks share, by the number of our layers
    11: (),
    17: ("img_code_s32", "img_code_s32_1"),
    23: ("img_code_s32", "img_code_s64", "img_code_s64_1", "img_code_s64_2"),
}
_SHARED_LAYERS, _BLOCK_LAYERS = 11, 3


def released_generator_name(name: str, architecture: str) -> str:
    """The release's name of an entry of our generator's state dict."""
    path, _, entry = name.rpartition(".")
    for pattern, theirs in _GENERATOR.items():
        if found := re.fullmatch(pattern, path):
            first, *rest = (int(number) for number in found.groups()) if found.groups() else (0,)
            told = theirs.format(first + _FIRST_NUMBER.get(path.partition(".")[0], 0), *rest)
            return f"{told.replace('img_net1', 'img_net') if architecture == 'attndcgan' else told}.{entry}"
    raise AssertionError(name)


def released_discriminator_name(name: str, layers: int) -> str:
    """The release's name of an entry of our discriminator's state dict, whose trunk has so many layers: 11, 17 or 23."""
    part, _, rest = name.partition(".")
    if part != "trunk":
        return {"joint": "COND_DNET.jointConv.", "conditional": "COND_DNET.outlogits.0.", "unconditional": "UNCOND_DNET.outlogits.0."}[
            part
        ] + rest
    number, _, entry = rest.partition(".")
    if int(number) < _SHARED_LAYERS:
        return f"img_code_s16.{rest}"
    block, layer = divmod(int(number) - _SHARED_LAYERS, _BLOCK_LAYERS)
    return f"{_TRUNKS[layers][block]}.{layer}.{entry}"


def released_layout(network: Generator | Discriminator, of: Callable[[Tensor], Tensor | None] = lambda t: t.data) -> dict[str, Tensor]:
    """Something of every parameter and buffer of a generator or discriminator, as the release names and shapes it.

    Args:
        network: with the sizes of the release: a first side of 64, and discriminators of 64, 128 or 256 pixels.
        of: what is wanted of a parameter or buffer, of its shape; the values themselves, views that can be written, if not said. Left out
            where it answers None.
    """
    layout = {}
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if isinstance(network, Generator):
            theirs = released_generator_name(name, network.config.architecture)
        else:
            theirs = released_discriminator_name(name, len(network.trunk))
        if (value := of(tensor)) is not None:
            layout[theirs] = value[:, :, None, None] if theirs.endswith("conv_context.weight") else value
    return layout
