"""Iterations of AttnGAN's training against the authors' own loop, in float64, array by array."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn

from cap2im.config import AttnGANRecipe, AttnGANTraining, PicturesData
from cap2im.convert.attngan import released_layout
from cap2im.data.vocabulary import Vocabulary
from cap2im.models.damsm import EncodedImage, damsm_losses
from cap2im.models.discriminators import generator_loss
from cap2im.models.text import EncodedText
from cap2im.training.accelerator import make_accelerator
from cap2im.training.attngan import AttnGANData, AttnGANTrainer, total
from tests.parity.attngan import (
    GAMMAS,
    VARIANTS,
    Near,
    attngan,
    golden_discriminator,
    golden_generator,
    golden_text_encoder,
    side_of,
    text_mask,
)
from tests.parity.golden import Golden, distance, groups
from tests.parity.test_discriminator import pixels

SIDES = sorted(side_of(name) for name in groups("train_step", "in/it0/") if name.startswith("real"))
ITERATIONS = sum(name.startswith("it") for name in groups("train_step", "in/"))
LAMBDA = 5  # the README's weight of the matching losses
EXACT = 1e-7  # relative 2-norm, section 6
SCALARS = (*(f"errD{k}" for k in range(len(SIDES))), "errG_without_kl", "kl", "w_loss", "s_loss")


class StandIn(nn.Module):
    """The matching model: the golden text encoder, and the image encoder of section 6."""

    def __init__(self, text: nn.Module, image: Callable[[Tensor], EncodedImage]) -> None:
        super().__init__()
        self.text, self.image = text, image


def golden_trainer(variant: str, steps: Golden) -> AttnGANTrainer:
    """The networks of the other golden files, in float64, before their first update."""
    encoder, generator = golden_text_encoder(attngan("text_encoder")), golden_generator(attngan("generator"), "g_net", variant)
    file = attngan("discriminator")
    discriminators = [golden_discriminator(file, f"d_net{side}") for side in SIDES]
    batch, gammas = len(attngan("train_step")["in/it0/cap_lens"]), GAMMAS["yml"]
    settings = AttnGANTraining(
        batch_size=batch, discriminator_width=discriminators[0].trunk[0].out_channels, matching_weight=LAMBDA, gammas=tuple(gammas)
    )
    model = generator.config.model_copy(update={"text": encoder.config})
    recipe = AttnGANRecipe(kind="attngan", description="", data=PicturesData(source="pictures"), model=model, train=settings)
    matching_model = StandIn(encoder, image_encoder(steps))
    given = AttnGANData(recipe, None, None, {}, Vocabulary(words=("a",)), damsm=matching_model)
    trainer = AttnGANTrainer(recipe, given, make_accelerator("cpu", batch))
    trainer.model.double().drawing.text.load_state_dict(encoder.state_dict())
    trainer.model.drawing.generator.load_state_dict(generator.state_dict())
    for ours, theirs in zip(trainer.model.discriminators, discriminators, strict=True):
        ours.load_state_dict(theirs.state_dict())
    trainer.state.ema.multi_avg_fn = get_ema_multi_avg_fn(settings.ema_decay)  # the authors' loop has no warm-up
    trainer.state.ema.double().module.load_state_dict(trainer.model.drawing.state_dict())
    return trainer


def image_encoder(file: Golden):
    """The stand-in of section 6."""
    places = round((file["enc/code_w"].shape[1] / file["enc/region_w"].shape[1]) ** 0.5)

    def encode(images: Tensor) -> EncodedImage:
        regions = F.conv2d(F.adaptive_avg_pool2d(images, 17), file["enc/region_w"])
        return EncodedImage(regions, F.linear(F.adaptive_avg_pool2d(images, places).flatten(1), file["enc/code_w"], file["enc/code_b"]))

    return encode


def summary(tensor: Tensor) -> Tensor:
    flat = tensor.detach().flatten().double()
    numbers = [flat.numel(), flat.sum(), flat.abs().sum(), flat.norm(), flat[0], flat[len(flat) // 2], flat[-1]]
    return torch.tensor([float(number) for number in numbers], dtype=torch.float64)


class Exact:
    """Collects relative errors, of whole arrays and of their summaries, whichever is stored."""

    def __init__(self, file: Golden) -> None:
        self.file, self.wrong, self.compared = file, {}, 0

    def __call__(self, folder: str, name: str, ours: Tensor) -> None:
        stored = {f"{folder}/{name}": ours.double(), f"{folder}@summary/{name}": summary(ours)}
        there = [key for key in stored if key in self.file]
        assert there, f"{folder}/{name}"
        for key in there:
            self.compared += 1
            theirs = self.file[key].double()
            if not distance(stored[key].detach(), theirs) <= EXACT:
                self.wrong[key] = distance(stored[key].detach(), theirs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_iterations(variant):
    file = attngan("train_step")
    exact, near = Exact(file), Near(file)
    trainer = golden_trainer(variant, file)
    gradients: list[dict[int, Tensor]] = []
    made = []
    trainer.model.drawing.generator.register_forward_hook(lambda _module, _inputs, output: made.append(output))
    trainer.state.optimizer.optimizer.register_step_pre_hook(
        lambda optimizer, *_: gradients.append(
            {id(p): p.grad.clone() for g in optimizer.param_groups for p in g["params"] if p.grad is not None}
        )
    )
    generator, discriminators = trainer.generator, trainer.discriminators
    networks = {f"netD{k}": network for k, network in enumerate(discriminators)} | {"netG": generator}
    for iteration in range(ITERATIONS):
        given, where = f"in/it{iteration}/", f"{variant}/it{iteration}"
        tokens = file[f"{given}captions"][:, : int(file[f"{given}cap_lens"].max())]
        mask = tokens != 0
        assert torch.equal(mask, file[f"{where}/mask_used"] == 0)
        losses = trainer.update_networks(
            trainer.model.drawing.text(tokens, mask),
            [file[f"{given}real{side}"] / 127.5 - 1 for side in SIDES],
            torch.cat([file[f"{given}z"], file[f"{given}eps"]], dim=1).unsqueeze(1),
            file[f"{given}class_ids"],
        )
        losses = {name: loss.detach() for name, loss in losses.items()}
        matched = {name: loss for name, loss in losses.items() if name.endswith(("of_image", "_of_words", "_of_sentence"))}
        deceptions = {name: loss for name, loss in losses.items() if name.startswith("generator")}
        found = {f"errD{k}": losses[f"discriminator_{side}"] for k, side in enumerate(SIDES)}
        found |= {"errG_without_kl": total(deceptions) + LAMBDA * total(matched), "kl": losses["kl"]}
        found |= {"w_loss": torch.stack(list(matched.values())[:2]), "s_loss": torch.stack(list(matched.values())[2:])}
        assert set(found) == set(SCALARS)
        for name, value in found.items():
            exact(where, name, value)
            rounded = file[f"float32_run/{where}/{name}"]
            assert (value - rounded).norm() <= 1e-4 * rounded.norm(), name
        near(f"{where}/fake0", made[iteration].images[0], 1e-6)
        exact(where, "mu", made[iteration].mean)
        if iteration == 0:
            for (name, network), there in zip(networks.items(), gradients, strict=True):
                assert set(there) == {id(p) for p in network.parameters()}, "one network at a time"
                for key, gradient in released_layout(network, lambda p, there=there: there.get(id(p))).items():
                    exact(f"{where}/grad/{name}", key, gradient)
    for name, network in networks.items():
        for key, value in released_layout(network).items():
            exact(f"{variant}/after/{name}", key, value)
    average = trainer.state.ema_model.generator
    for key, value in released_layout(average).items():
        if "running_" not in key and "num_batches" not in key:
            exact(f"{variant}/after/avg_param_G", key, value)
    for (name, ours), (_, theirs) in zip(average.named_buffers(), generator.named_buffers(), strict=True):
        assert torch.equal(ours, theirs), f"{name} is not averaged"
    assert not exact.wrong
    near.finish(f"{variant}/", f"float32_run/{variant}/", "in/it", "enc/")


# the README's gammas and class ids of each case
GENERATOR_LOSSES = {
    "lambda5": ("yml", "given"),
    "lambda50": ("yml", "none"),
    "lambda1_default": ("default", "own"),
    "nojcu_lambda1": ("yml", "none"),
}


@pytest.mark.parametrize("case", groups("losses", "generator_loss/"))
def test_generator_loss_and_its_gradients(case):
    file, inputs = attngan("losses"), attngan("discriminator")
    check, where = Near(file), f"generator_loss/{case}/"
    weight, (gammas, kind) = float(re.search(r"lambda(\d+)", case)[1]), GENERATOR_LOSSES[case]
    sides = [side_of(name) for name in file if name.startswith("in/fake")]
    names = ["d_net64_nojcu"] if case.startswith("nojcu") else [f"d_net{side}" for side in sorted(sides)]
    fakes = [pixels(file[f"in/fake{side_of(name)}"]).requires_grad_() for name in names]
    words, sentence = file["in/g_word_embs"].transpose(1, 2), file["in/g_sent_emb"]
    text = EncodedText(words, sentence, text_mask(file["in/g_cap_lens"]))
    image = EncodedImage(file["in/g_region_features"].requires_grad_(), file["in/g_cnn_code"].requires_grad_())
    classes = {"given": file["in/g_class_ids"], "own": torch.arange(len(sentence)), "none": None}[kind]
    discriminators = [golden_discriminator(inputs, name) for name in names]
    generator_losses = [generator_loss(network.logits(images, sentence)) for network, images in zip(discriminators, fakes, strict=True)]
    parts = damsm_losses(image, text, classes, GAMMAS[gammas])
    loss = torch.stack(generator_losses).sum() + weight * total(parts)
    check(f"{where}errG_total", loss, 1e-3)
    stored = file.under(where)
    for name, part in zip(("w_loss0", "w_loss1", "s_loss0", "s_loss1"), parts.values(), strict=True):
        if name in stored:
            check(f"{where}{name}", part, 2e-5)
    if "grad_region_features" in stored:
        loss.backward()
        check(f"{where}grad_region_features", image.regions.grad, 2e-4)
        check(f"{where}grad_cnn_code", image.code.grad, 2e-4)
    for stage, images in enumerate(fakes):
        if any(name.startswith(f"grad_fake{stage}") for name in stored):
            check.maps(f"{where}grad_fake{stage}", images.grad, whole=5e-7, sampled=2e-7, total=1e-5)
    check.finish(where, "in/g_")


def test_no_case_is_left_out():
    assert set(groups("losses", "generator_loss/")) == set(GENERATOR_LOSSES)
    assert {name.partition("/")[0] for name in attngan("train_step")} == {"in", "enc", "float32_run", *VARIANTS}
