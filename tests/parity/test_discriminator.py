"""AttnGAN's discriminators and their losses against the authors' own program, array by array."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cap2im.convert.attngan import released_layout
from cap2im.models.discriminators import DiscriminatorOutput, Logits, discriminator_loss, generator_loss
from tests.parity.attngan import Near, attngan, buffers, golden_discriminator, side_of
from tests.parity.golden import groups

NAMES = [name for name in groups("discriminator") if name != "in"]


def pixels(images: Tensor) -> Tensor:
    """Stored pixels as networks get them: the release computed them in float32."""
    return (images.float() / 127.5 - 1).double()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_trunk_and_heads(name, mode):
    file = attngan("discriminator")
    check = Near(file)
    network = golden_discriminator(file, name).train(mode == "train")
    where = f"{name}/out/{mode}/"
    maps = network.trunk(pixels(file[f"in/img{side_of(name)}"]))
    check(f"{where}features", maps, 5e-5)
    check(f"{where}cond", network.conditional_logits(maps, file["in/sent_emb"]).sigmoid(), 5e-6)
    if network.unconditional is None:
        check(f"{where}cond_no_code", network.conditional(maps).flatten().sigmoid(), 2e-6)
    else:
        check(f"{where}uncond", network.unconditional(maps).flatten().sigmoid(), 5e-6)
        if mode == "train":
            for key, value in buffers(network).items():
                check(f"{where}state_after/{key}", value, 2e-6)
    check.finish(f"{name}/w/", where)


def test_no_array_is_left_out():
    modes = {(name, mode) for name in NAMES for mode in ("eval", "train")}
    assert modes == {tuple(key.split("/")[::2][:2]) for key in attngan("discriminator") if "/out/" in key}
    assert {f"{name}_{mode}" for name, mode in modes} == set(groups("losses", "discriminator_loss/"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_discriminator_loss_and_its_gradients(name, mode):
    file, inputs = attngan("losses"), attngan("discriminator")
    check = Near(file)
    network = golden_discriminator(inputs, name).train(mode == "train")
    real, fake = pixels(inputs[f"in/img{side_of(name)}"]), pixels(file[f"in/fake{side_of(name)}"])
    loss = discriminator_loss(network(real, fake, inputs["in/sent_emb"]))
    where = f"discriminator_loss/{name}_{mode}/"
    check(f"{where}errD", loss, 5e-6)
    if mode == "train":
        loss.backward()
        for key, value in buffers(network).items():
            check(f"{where}state_after/{key}", value, 5e-6)
        gradients = released_layout(network, lambda t: t.grad)
        stored = file.under(f"{where}grad/")
        assert stored.keys() <= gradients.keys()
        largest = max(gradient.numel() for gradient in stored.values())  # of the largest network, large gradients are not stored
        assert all(name in stored for name, gradient in gradients.items() if gradient.numel() <= largest)
        for key in stored:
            check(f"{where}grad/{key}", gradients[key], 2e-5)
    check.finish(where)


def test_losses_of_known_logits():
    far = torch.full((4,), 30.0)
    certain, fooled = Logits(far, far), Logits(-far, -far)
    zero = torch.zeros(4)
    unsure = Logits(zero, zero)
    assert generator_loss(certain).item() == pytest.approx(0, abs=1e-12)
    assert generator_loss(unsure).item() == pytest.approx(2 * torch.tensor(2.0).log().item())
    assert generator_loss(Logits(zero, None)).item() == pytest.approx(torch.tensor(2.0).log().item())
    assert discriminator_loss(DiscriminatorOutput(certain, fooled, -far[1:])).item() == pytest.approx(0, abs=1e-12)
    assert discriminator_loss(DiscriminatorOutput(unsure, unsure, zero[1:])).item() == pytest.approx(2 * torch.tensor(2.0).log().item())
    assert discriminator_loss(DiscriminatorOutput(certain, certain, -far[1:])).item() == pytest.approx(20)
