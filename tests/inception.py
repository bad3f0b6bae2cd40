"""Weights of the Inception network of FID that are not the published ones, which tests do not have."""

from __future__ import annotations

from pathlib import Path

import torch

from cap2im.models.inception import Inception


def write_inception(path: Path) -> Path:
    """Writes random weights in the layout of pytorch-fid's file, under which pictures look different."""
    torch.manual_seed(0)
    network = Inception("fid")
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(".conv.weight"):
                torch.nn.init.kaiming_normal_(parameter)
            elif name == "fc.weight":
                parameter.normal_(0, 0.5)  # so that pictures have classes of their own
            elif name == "fc.bias":
                parameter.normal_()
    torch.save(network.state_dict(), path)
    return path
