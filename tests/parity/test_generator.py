"""AttnGAN's generators against the authors' own program, array by array."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cap2im.convert.attngan import released_layout
from cap2im.models.attngan import AttentionStage, FirstStage, Generator, GeneratorOutput, WordAttention, conditioning_kl
from cap2im.models.text import EncodedText
from tests.parity.attngan import VARIANTS, Near, attngan, buffers, golden_generator
from tests.parity.golden import Golden, groups

IMAGES, MAPS = (2e-5, 5e-5), (2e-5, 1e-5)  # the README's tolerances of whole images and word weights, by stage; the last for all later ones


def inputs(file: Golden) -> tuple[EncodedText, Tensor]:
    mask = file["in/captions"][:, : int(file["in/cap_lens"].max())] != 0
    assert torch.equal(mask, file["in/mask"] == 0)
    text = EncodedText(file["in/word_embs"].transpose(1, 2), file["in/sent_emb"], mask)
    return text, torch.cat([file["in/z"], file["in/eps"]], dim=1).unsqueeze(1)


def part(file: Golden, name: str, prefix: str, variant: str = "fixed") -> Generator:
    """A generator of which one part has the golden weights of that part alone; `prefix` is the part's in the whole."""
    generator = Generator(golden_generator(file, "g_net", variant).config).double()
    layout, weights = released_layout(generator), file.under(f"{name}/w/")
    assert weights.keys() == {key.removeprefix(prefix) for key in layout if key.startswith(prefix)}
    for key, weight in weights.items():
        layout[prefix + key].copy_(weight)
    return generator


def check_output(check: Near, where: str, output: GeneratorOutput, sampled: float = 2e-4) -> None:
    """Compare images, word weights and the conditioning augmentation."""
    for number, images in enumerate(output.images):
        check.maps(f"{where}fake{number}", images, whole=IMAGES[min(number, 1)], sampled=sampled, total=1e-1)
    for number, weights in enumerate(output.maps):
        check.maps(f"{where}att{number}", weights, whole=MAPS[min(number, 1)], sampled=5e-5, total=5e-3)
    check(f"{where}mu", output.mean, 1e-6)
    check(f"{where}logvar", output.log_variance, 1e-6)


def test_conditioning_augmentation():
    file = attngan("generator")
    check = Near(file)
    generator = part(file, "ca_net", "ca_net.")
    condition, mean, log_variance = generator.augmentation(file["in/sent_emb"], file["in/eps"])
    check("ca_net/out/c_code", condition, 2e-6)
    check("ca_net/out/mu", mean, 2e-6)
    check("ca_net/out/logvar", log_variance, 2e-6)
    check.finish("ca_net/")


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_first_stage(mode):
    file = attngan("generator")
    check = Near(file)
    generator = part(file, "init_stage_g", "h_net1.").train(mode == "train")
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
    generator = part(file, "next_stage_g", "h_net2.", variant).train(mode == "train")
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
    generator = part(file, "get_image_g", "img_net1.")
    check("get_image_g/out/img", generator.pictures[0](file["in/h_img"]).tanh(), 5e-6)
    check.finish("get_image_g/")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_whole_generator(mode, variant):
    file = attngan("generator")
    check = Near(file)
    generator = golden_generator(file, "g_net", variant).train(mode == "train")
    where = f"g_net/out/{variant}_{mode}/"
    check_output(check, where, generator(*inputs(file)))
    if any(name.startswith(f"{where}state_after/") for name in file):
        for name, value in buffers(generator).items():
            check(f"{where}state_after/{name}", value, 2e-6)
    check.finish("g_net/w/", where, "in/word_embs", "in/sent_emb", "in/mask", "in/captions", "in/cap_lens", "in/z", "in/eps")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_attndcgan(mode, variant):
    file = attngan("generator")
    check = Near(file)
    generator = golden_generator(file, "g_dcgan", variant).train(mode == "train")
    where = f"g_dcgan/out/{variant}_{mode}/"
    output = generator(*inputs(file))
    assert len(output.images) == 1
    check_output(check, where, output, sampled=1e-4)
    check.finish("g_dcgan/w/", where)


def test_fewer_branches_are_the_first_ones():
    file = attngan("generator")
    whole = golden_generator(file, "g_net").config
    for branches in range(1, whole.branches):
        generator = Generator(whole.model_copy(update={"branches": branches})).double().eval()
        for name, view in released_layout(generator).items():
            view.copy_(file[f"g_net/w/{name}"])
        output, check = generator(*inputs(file)), Near(file)
        assert len(output.images) == branches
        assert len(output.maps) == branches - 1
        for stage, images in enumerate(output.images):
            check.maps(f"g_net/out/fixed_eval/fake{stage}", images, whole=5e-5, sampled=5e-5, total=1e-1)
        assert not check.wrong


@pytest.mark.parametrize("case", groups("attention", "global_attention/"))
def test_word_attention_and_its_gradients(case):
    file = attngan("attention")
    check = Near(file)
    mask_name, variant = case.rsplit("_", 1)
    weight = file["in/conv_context.weight"][:, :, 0, 0]
    attention = WordAttention(weight.shape[1], weight.shape[0], VARIANTS[variant]).double()
    attention.words.weight.data.copy_(weight)
    maps, words = file["in/input"].requires_grad_(), file["in/words"].requires_grad_()
    mask = torch.ones_like(words[:, 0], dtype=torch.bool) if mask_name == "nomask" else file[f"in/{mask_name}"] == 0
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
    cases = {f"{variant}_{mode}" for variant in VARIANTS for mode in ("eval", "train")}
    assert all(set(groups("generator", f"{name}/out/")) == cases for name in ("next_stage_g", "g_net", "g_dcgan"))
