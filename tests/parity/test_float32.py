"""In float32, as people run it, the models stay as near to the authors' numbers as the authors' own float32 programs do."""

from __future__ import annotations

import pytest
import torch

from tests.parity.golden import file_names, golden, golden_model, pixels, variants

NAMES = [name for letter in "ABC" for name in file_names(f"{letter}_*")]


@pytest.mark.parametrize(("name", "variant"), [(name, variant) for name in NAMES for variant in variants(name)])
def test_canvas_and_cost(name, variant):
    file = golden(name)
    model = golden_model(file, variant).float()
    side, colours = model.config.side, model.config.colours
    images = file["in/x"].float().view(-1, colours, side, side)
    tokens = file["in/y"]
    text = model.encode(tokens, torch.ones_like(tokens, dtype=torch.bool))
    bound = model.bound(images, text, file["in/eps"].float().transpose(0, 1))
    for ours, key in ((-bound.value.mean(), "log_likelihood"), (bound.kl.sum(1).mean(), "kl_final")):
        assert ours.dtype == torch.float32
        assert ours.item() == pytest.approx(file[f"{variant}/out/{key}"].item(), rel=2e-6 if key == "log_likelihood" else 2e-5)
    canvas = pixels(model.sample(text, file["in/eps_gener"].float().transpose(0, 1)).canvases[:, -1]).double()
    theirs = file[f"{variant}/gen/c_ts_gener"][-1]
    assert ((canvas - theirs).norm() / theirs.norm()).item() < 2e-5
