"""Inception-v3: the published layouts of weights, both kinds of pools, and stopping on the way."""

from __future__ import annotations

import pytest
import torch

from cap2im.models.inception import Inception, resize

SHAPES = {"first_pool": (64, 73, 73), "second_pool": (192, 35, 35), "regions": (768, 17, 17), "pooled": (2048,), "logits": (1000,)}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Inception().eval().requires_grad_(False)


def test_layout_of_the_published_weights():
    """Counts and names are facts of the two published files."""
    imagenet, fid = Inception("imagenet").state_dict(), Inception("fid").state_dict()
    assert imagenet.keys() == fid.keys()
    parameters = sum(p.numel() for p in Inception().parameters())
    assert parameters == 27_161_264 - 3_326_696  # torchvision's, less its second classifier
    assert imagenet["fc.weight"].shape == (1000, 2048)
    assert fid["fc.weight"].shape == (1008, 2048)
    assert imagenet["Mixed_7c.branch3x3dbl_3b.conv.weight"].shape == (384, 384, 3, 1)
    assert "AuxLogits.fc.weight" not in imagenet


def test_depth_limits_and_omissions(model):
    images = torch.randn(1, 3, 299, 299, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    calls = []
    handles = [layer.register_forward_hook(lambda layer, *_: calls.append(layer)) for layer in (model.Mixed_6a, model.Mixed_7a, model.fc)]
    whole = model(images)
    assert {name: tuple(value.shape[1:]) for name, value in whole._asdict().items()} == SHAPES
    assert len(calls) == 3
    calls.clear()
    early = model(images, until="second_pool")
    assert not calls
    assert torch.equal(early.second_pool, whole.second_pool)
    assert early.regions is early.pooled is early.logits is None
    assert torch.equal(model(images, until="regions").regions, whole.regions)
    assert calls == [model.Mixed_6a]
    for handle in handles:
        handle.remove()


def test_pools_at_the_border():
    """Of a constant image the mean that counts the padding is lower at the border; the other is the constant everywhere."""
    blocks = {variant: Inception(variant).eval().Mixed_5b for variant in ("imagenet", "fid")}
    constant = torch.ones(1, 192, 5, 5)
    seen = {}
    for variant, block in blocks.items():
        block.branch_pool.register_forward_pre_hook(lambda _, inputs, variant=variant: seen.update({variant: inputs[0][0, 0]}))
        with torch.no_grad():
            block(constant)
    assert torch.equal(seen["fid"], torch.ones(5, 5))
    assert seen["imagenet"][0].tolist() == pytest.approx([4 / 9, 6 / 9, 6 / 9, 6 / 9, 4 / 9])
    assert seen["imagenet"][2, 2] == pytest.approx(1)


def test_the_last_block_of_fid_takes_the_highest():
    blocks = {variant: Inception(variant).eval().Mixed_7c for variant in ("imagenet", "fid")}
    spot = torch.zeros(1, 2048, 8, 8)
    spot[..., 4, 4] = 1
    sums = {}
    for variant, block in blocks.items():
        block.branch_pool.register_forward_pre_hook(lambda _, inputs, variant=variant: sums.update({variant: inputs[0][0, 0].sum()}))
        with torch.no_grad():
            block(spot)
    assert sums["fid"] == 9
    assert sums["imagenet"] == pytest.approx(1)


def test_resizing_with_and_without_aligned_corners():
    ramp = torch.arange(3.0).expand(1, 1, 3, 3)
    aligned = resize(ramp, corners=True)[0, 0, 0]
    assert torch.allclose(aligned, torch.linspace(0, 2, 299), atol=1e-6)
    assert resize(ramp)[0, 0, 0, :49].eq(0).all()  # half a pixel at each end is flat
    same = torch.rand(1, 3, 299, 299)
    assert torch.equal(resize(same), same)
