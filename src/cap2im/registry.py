"""The models that draw, by the `kind` that recipes and model folders name."""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import BaseModel

from cap2im.models.aligndraw import DRAW, DRAWConfig
from cap2im.models.attngan import AttnGAN, AttnGANConfig
from cap2im.models.interface import DrawingModel
from cap2im.models.lapgan import LAPGAN, LAPGANConfig
from cap2im.models.vae import VAE, VAEConfig


class DrawingKind(NamedTuple):
    """The configuration and the network of a kind."""

    config: type[BaseModel]
    model: type[DrawingModel]

    def make(self, config: Any) -> DrawingModel:
        """A new network of a configuration."""
        return self.model(config)


DRAWING_KINDS = {
    "draw": DrawingKind(DRAWConfig, DRAW),
    "vae": DrawingKind(VAEConfig, VAE),
    "lapgan": DrawingKind(LAPGANConfig, LAPGAN),
    "attngan": DrawingKind(AttnGANConfig, AttnGAN),
}
