"""AttnGAN's generators against the authors' own program, array by array."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cap2im.convert.attngan import released_layout
from cap2im.models.attngan import AttentionStage, AttnGANConfig, FirstStage, Generator, WordAttention, conditioning_kl
from cap2im.models.attngan_text import TextEncoderConfig
from cap2im.models.text import EncodedText
from tests.parity.attngan import FEATURES, VOCABULARY, Near, attngan, take
from tests.parity.golden import Golden

VARIANTS = {"fixed": "paper", "released": "released"}


def tiny_config(**changes) -> AttnGANConfig:
    """The sizes of section 3."""
    text = TextEncoderConfig(vocabulary_size=VOCABULARY, word_features=12, features=FEATURES)
    return AttnGANConfig(**{"text": text, "condition": 8, "noise": 10, "width": 4, "residuals": 2, **changes})


def fill(network: Generator, weights: Golden, prefix: str) -> Generator:
    """Our generator in float64 with the golden weights, all of which it takes."""
    take(released_layout(network.double()), weights, prefix)
    return network


def buffers(network: torch.nn.Module) -> dict[str, Tensor]:
    """The batch normalisations' own, by their names in the release."""
    names = ("running_mean", "running_var", "num_batches_tracked")
    return {name: value for name, value in released_layout(network).items() if name.endswith(names)}


def inputs(file: Golden) -> tuple[EncodedText, Tensor]:
    mask = file["in/captions"][:, : int(file["in/cap_lens"].max())] != 0
    assert torch.equal(mask, file["in/mask"] == 0)
    text = EncodedText(file["in/word_embs"].transpose(1, 2), file["in/sent_emb"], mask)
    return text, torch.cat([file["in/z"], file["in/eps"]], dim=1).unsqueeze(1)


def part(file: Golden, name: str, prefix: str, config: AttnGANConfig) -> Generator:
    """A generator of which one part has the golden weights of that part alone; `prefix` is the part's in the whole."""
    generator = Generator(config).double()
    layout = released_layout(generator)
    theirs = {key.removeprefix(f"{name}/w/") for key in file if key.startswith(f"{name}/w/")}
    assert theirs == {key.removeprefix(prefix) for key in layout if key.startswith(prefix)}
    for key in theirs:
        layout[prefix + key].copy_(file[f"{name}/w/{key}"])
    return generator


def test_conditioning_augmentation():
    file = attngan("generator")
    check = Near(file)
    generator = part(file, "ca_net", "ca_net.", tiny_config())
    condition, mean, log_variance = generator.augmentation(file["in/sent_emb"], file["in/eps"])
    check("ca_net/out/c_code", condition, 2e-6)
    check("ca_net/out/mu", mean, 2e-6)
    check("ca_net/out/logvar", log_variance, 2e-6)
    check.finish("ca_net/")


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_first_stage(mode):
    file = attngan("generator")
    check = Near(file)
    generator = part(file, "init_stage_g", "h_net1.", tiny_config()).train(mode == "train")
    assert isinstance(generator.first, FirstStage)
    check(f"init_stage_g/out/{mode}/h_code", generator.first(file["in/c_code"], file["in/z"]), 5e-5)
    for name, value in buffers(generator).items():
        if mode == "train" and name.startswith("h_net1."):
            check(f"init_stage_g/out/train/state_after/{name.removeprefix('h_net1.')}", value, 5e-6)
    check.finish("init_stage_g/w/", f"init_stage_g/out/{mode}/")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_attention_stage(mode, variant):
    file = attngan("generator")
    check = Near(file)
    generator = part(file, "next_stage_g", "h_net2.", tiny_config(variant=VARIANTS[variant])).train(mode == "train")
    stage = generator.stages[0]
    assert isinstance(stage, AttentionStage)
    maps, weights = stage(file["in/h_small"], inputs(file)[0])
    check(f"next_stage_g/out/{variant}_{mode}/h_code", maps, 5e-5)
    check(f"next_stage_g/out/{variant}_{mode}/att", weights, 5e-6)
    for name, value in buffers(generator).items():
        if mode == "train" and name.startswith("h_net2."):
            check(f"next_stage_g/out/{variant}_train/state_after/{name.removeprefix('h_net2.')}", value, 1e-6)
    check.finish("next_stage_g/w/", f"next_stage_g/out/{variant}_{mode}/")


def test_image():
    file = attngan("generator")
    check = Near(file)
    generator = part(file, "get_image_g", "img_net1.", tiny_config())
    check("get_image_g/out/img", generator.pictures[0](file["in/h_img"]).tanh(), 5e-6)
    check.finish("get_image_g/")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_whole_generator(mode, variant):
    file = attngan("generator")
    check = Near(file)
    generator = fill(Generator(tiny_config(variant=VARIANTS[variant])), file, "g_net/w/").train(mode == "train")
    made = generator(*inputs(file))
    where = f"g_net/out/{variant}_{mode}/"
    check(f"{where}fake0", made.images[0], 2e-5)
    check(f"{where}fake1", made.images[1], 5e-5)
    check(f"{where}fake2@s3", made.images[2][..., 1::3, 1::3], 2e-4)
    check(f"{where}fake2@sum", made.images[2].sum(dim=(2, 3)), 1e-1)
    check(f"{where}att0", made.maps[0], 2e-5)
    check(f"{where}att1@s3", made.maps[1][..., 1::3, 1::3], 5e-5)
    check(f"{where}att1@sum", made.maps[1].sum(dim=(2, 3)), 5e-3)
    check(f"{where}mu", made.mean, 1e-6)
    check(f"{where}logvar", made.log_variance, 1e-6)
    if (variant, mode) == ("fixed", "eval"):
        check(f"{where}fake2", made.images[2], 5e-5)
        check(f"{where}att1", made.maps[1], 1e-5)
    if (variant, mode) == ("fixed", "train"):
        for name, value in buffers(generator).items():
            check(f"{where}state_after/{name}", value, 2e-6)
    check.finish("g_net/w/", where, "in/word_embs", "in/sent_emb", "in/mask", "in/captions", "in/cap_lens", "in/z", "in/eps")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_attndcgan(mode, variant):
    file = attngan("generator")
    check = Near(file)
    config = tiny_config(variant=VARIANTS[variant], architecture="attndcgan", residuals=0)
    generator = fill(Generator(config), file, "g_dcgan/w/").train(mode == "train")
    made = generator(*inputs(file))
    where = f"g_dcgan/out/{variant}_{mode}/"
    (image,) = made.images
    check(f"{where}fake0@s3", image[..., 1::3, 1::3], 1e-4)
    check(f"{where}fake0@sum", image.sum(dim=(2, 3)), 1e-1)
    check(f"{where}att0", made.maps[0], 2e-5)
    check(f"{where}att1@s3", made.maps[1][..., 1::3, 1::3], 5e-5)
    check(f"{where}att1@sum", made.maps[1].sum(dim=(2, 3)), 5e-3)
    check(f"{where}mu", made.mean, 1e-6)
    check(f"{where}logvar", made.log_variance, 1e-6)
    check.finish("g_dcgan/w/", where)


@pytest.mark.parametrize("branches", [1, 2])
def test_fewer_branches_are_the_first_ones(branches):
    file = attngan("generator")
    generator = Generator(tiny_config(branches=branches)).double().eval()
    for name, view in released_layout(generator).items():
        view.copy_(file[f"g_net/w/{name}"])
    made = generator(*inputs(file))
    assert len(made.images) == branches
    assert len(made.maps) == branches - 1
    for stage, images in enumerate(made.images):
        torch.testing.assert_close(images, file[f"g_net/out/fixed_eval/fake{stage}"], rtol=0, atol=5e-5)


@pytest.mark.parametrize("case", ["mask_released", "mask_fixed", "mask_equal_released", "mask_equal_fixed", "nomask_released"])
def test_word_attention_and_its_gradients(case):
    file = attngan("attention")
    check = Near(file)
    of_mask, variant = case.rsplit("_", 1)
    attention = WordAttention(FEATURES, 4, VARIANTS[variant]).double()
    attention.words.weight.data.copy_(file["in/conv_context.weight"][:, :, 0, 0])
    maps, words = file["in/input"].requires_grad_(), file["in/words"].requires_grad_()
    mask = torch.ones(3, 6, dtype=torch.bool) if of_mask == "nomask" else file[f"in/{of_mask}"] == 0
    context, weights = attention(maps, EncodedText(words.transpose(1, 2), words[:, :, 0], mask))
    where = f"global_attention/{case}/"
    check(f"{where}weightedContext", context, 1e-5)
    check(f"{where}attn", weights, 2e-6)
    ((context * file["in/cot_ctx"]).sum() + (weights * file["in/cot_attn"]).sum()).backward()
    check(f"{where}grad_input", maps.grad, 5e-5)
    check(f"{where}grad_context", words.grad, 5e-5)
    check(f"{where}grad_conv_context.weight", attention.words.weight.grad[:, :, None, None], 5e-5)
    check.finish(where)


def test_conditioning_kl():
    file = attngan("losses")
    check = Near(file)
    mean, log_variance = file["in/mu"].requires_grad_(), file["in/logvar"].requires_grad_()
    loss = conditioning_kl(mean, log_variance)
    loss.backward()
    check("kl/loss", loss, 5e-7)
    check("kl/grad_mu", mean.grad, 5e-8)
    check("kl/grad_logvar", log_variance.grad, 5e-8)
    check.finish("kl/")


def test_no_array_is_left_out():
    compared = ("in/", "ca_net/", "init_stage_g/", "next_stage_g/", "get_image_g/", "g_net/", "g_dcgan/")
    assert all(name.startswith(compared) for name in attngan("generator"))
