"""Every kind of model that draws: what it says of a drawing beforehand is so."""

from __future__ import annotations

import pytest
import torch

from cap2im.registry import MODELS
from tests.models import test_attngan, test_lapgan, test_vae

SIZES = {  # small ones of kinds whose default is large
    "draw": [{"side": 8, "glimpses": 3, "vocabulary_size": 30, "generative_units": 6, "latent": 2, "language_units": 3}],
    "vae": [test_vae.TINY],
    "lapgan": [test_lapgan.TINY],
    "attngan": [test_attngan.TINY, {**test_attngan.TINY, "architecture": "attndcgan"}],
}


@pytest.mark.parametrize(
    ("name", "sizes"), [(kind, sizes) for kind, spec in MODELS.items() if spec.draws for sizes in SIZES.get(kind, [{}])]
)
def test_a_drawing_has_the_declared_number_of_canvases(name, sizes):
    spec = MODELS[name]
    model = spec.network_class(spec.config_class.model_validate(sizes)).eval().requires_grad_(False)
    tokens = torch.ones(1, 3, dtype=torch.long)
    vectors = torch.ones(1, model.config.sentence_features) if model.config.conditioning == "sentence" else None
    sequence = model.sample(model.encode(tokens, tokens > 0, vectors), torch.zeros(1, *model.noise_shape))
    assert model.glimpses == sequence.canvases.shape[1]


@pytest.mark.parametrize("kind", MODELS)
def test_every_part_is_importable(kind):
    spec = MODELS[kind]
    assert spec.recipe_class.model_fields["model"].annotation is spec.config_class
    assert callable(spec.trainer_class)
    assert callable(spec.write_card)
    assert issubclass(spec.network_class, torch.nn.Module)
