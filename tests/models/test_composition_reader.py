"""The composition reader: sizes, names and digest."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from cap2im.models.composition_reader import CompositionReader, CompositionReaderConfig

NAMES = {"things": ("cat", "dog", "egg"), "backgrounds": ("red", "blue")}


def test_sizes():
    reader = CompositionReader(CompositionReaderConfig(**NAMES)).eval()
    things, backgrounds = reader(torch.rand(7, 3, 20, 20))
    assert things.shape == (7, 4), "three things and nothing"
    assert backgrounds.shape == (7, 2)
    things, backgrounds = CompositionReader(CompositionReaderConfig(**NAMES, window=24, channels=2)).eval()(torch.rand(2, 3, 24, 24))
    assert (things.shape, backgrounds.shape) == ((2, 4), (2, 2))
    many = CompositionReaderConfig(things=tuple(map(str, range(200))), backgrounds=tuple(map(str, range(11))))
    assert 2 * sum(p.numel() for p in CompositionReader(many).parameters()) < 2**20, "bytes in half precision; it is bundled"


@pytest.mark.parametrize("wrong", [{"window": 18}, {"window": 8}, {"channels": 0}, {"dropout": 1.0}, {"things": ("cat", "dog", "cat")}])
def test_config_refuses(wrong):
    with pytest.raises(ValidationError):
        CompositionReaderConfig(**{**NAMES, **wrong})


def test_digest_names_weights_and_names():
    torch.manual_seed(0)
    config = CompositionReaderConfig(**NAMES, channels=2)
    first, second = CompositionReader(config), CompositionReader(config)
    assert first.digest() != second.digest()
    second.load_state_dict(first.state_dict())
    assert first.digest() == second.digest()
    renamed = CompositionReader(config.model_copy(update={"things": ("cat", "dog", "eel")}))
    renamed.load_state_dict(first.state_dict())
    assert first.digest() != renamed.digest()
