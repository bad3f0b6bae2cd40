"""Two iterations of AttnGAN's training against the authors' own loop, in float64, array by array."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn

from cap2im.config import AttnGANRecipe, AttnGANTraining, PicturesData
from cap2im.convert.attngan import released_layout
from cap2im.data.vocabulary import Vocabulary
from cap2im.models.damsm import EncodedImage, Gammas, damsm_losses
from cap2im.models.discriminators import generator_loss
from cap2im.models.text import EncodedText
from cap2im.training.attngan import AttnGANTrainee, sum_of
from cap2im.training.run import make_accelerator
from tests.parity.attngan import Near, attngan, golden_text_encoder, text_mask
from tests.parity.golden import Golden, distance
from tests.parity.test_discriminator import golden_discriminator, pixels
from tests.parity.test_generator import VARIANTS, fill, tiny_config

SIDES = (64, 128, 256)
EXACT = 1e-7  # relative 2-norm, section 6
SCALARS = ("errD0", "errD1", "errD2", "errG_without_kl", "kl", "w_loss", "s_loss")


def golden_trainee(variant: str) -> AttnGANTrainee:
    """The networks of the other golden files, in float64, before their first update."""
    settings = AttnGANTraining(batch_size=3, discriminator_width=4, matching_weight=5, gammas=(4, 5, 10))
    model, data = tiny_config(variant=VARIANTS[variant]), PicturesData(source="pictures")
    recipe = AttnGANRecipe(kind="attngan", description="", data=data, model=model, train=settings)
    encoder = golden_text_encoder(attngan("text_encoder"))
    trainee = AttnGANTrainee(recipe, encoder.state_dict(), Vocabulary(words=("a",)), {}, "")
    trainee.model.double().drawing.text.load_state_dict(encoder.state_dict())
    fill(trainee.learned.generator, attngan("generator"), "g_net/w/")
    for side, network in zip(SIDES, trainee.model.discriminators, strict=True):
        network.load_state_dict(golden_discriminator(attngan("discriminator"), f"d_net{side}").state_dict())
    trainee.average.multi_avg_fn = get_ema_multi_avg_fn(settings.ema_decay)  # the authors' loop has no warm-up
    trainee.average.double().module.load_state_dict(trainee.learned.state_dict())
    return trainee


def image_encoder(file: Golden):
    """The stand-in of section 6."""

    def encode(images: Tensor) -> EncodedImage:
        regions = F.conv2d(F.adaptive_avg_pool2d(images, 17), file["enc/region_w"])
        return EncodedImage(regions, F.linear(F.adaptive_avg_pool2d(images, 4).flatten(1), file["enc/code_w"], file["enc/code_b"]))

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
def test_two_iterations(variant):
    file = attngan("train_step")
    exact, near = Exact(file), Near(file)
    trainee, accelerator = golden_trainee(variant), make_accelerator("cpu", 3)
    encode_image = image_encoder(file)
    gradients: list[dict[int, Tensor]] = []
    made = []
    trainee.learned.generator.register_forward_hook(lambda _module, _inputs, output: made.append(output))
    trainee.optimizer.register_step_pre_hook(
        lambda optimizer, *_: gradients.append(
            {id(p): p.grad.clone() for g in optimizer.param_groups for p in g["params"] if p.grad is not None}
        )
    )
    generator, discriminators = trainee.prepare(accelerator)
    networks = {"netD0": discriminators[0], "netD1": discriminators[1], "netD2": discriminators[2], "netG": generator}
    for iteration in (0, 1):
        given, where = f"in/it{iteration}/", f"{variant}/it{iteration}"
        tokens = file[f"{given}captions"][:, : int(file[f"{given}cap_lens"].max())]
        mask = tokens != 0
        assert torch.equal(mask, file[f"{where}/mask_used"] == 0)
        losses = trainee.update(
            generator,
            discriminators,
            [file[f"{given}real{side}"] / 127.5 - 1 for side in SIDES],
            trainee.learned.text(tokens, mask),
            torch.cat([file[f"{given}z"], file[f"{given}eps"]], dim=1).unsqueeze(1),
            file[f"{given}class_ids"],
            encode_image,
            accelerator,
        )
        matched = {name: loss for name, loss in losses.items() if name.endswith(("of_image", "_of_words", "_of_sentence"))}
        deceptions = {name: loss for name, loss in losses.items() if name.startswith("generator")}
        found = {f"errD{k}": losses[f"discriminator_{side}"] for k, side in enumerate(SIDES)}
        found |= {"errG_without_kl": sum_of(deceptions) + 5 * sum_of(matched), "kl": losses["kl"]}
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
    average = trainee.published.generator
    for key, value in released_layout(average).items():
        if "running_" not in key and "num_batches" not in key:
            exact(f"{variant}/after/avg_param_G", key, value)
    for (name, ours), (_, theirs) in zip(average.named_buffers(), generator.named_buffers(), strict=True):
        assert torch.equal(ours, theirs), f"{name} is not averaged"
    assert not exact.wrong
    near.finish(f"{variant}/", f"float32_run/{variant}/", "in/it", "enc/")


# weight of the matching loss, gammas, class ids; the last has one discriminator without an unconditional head
GENERATOR_LOSSES = {
    "lambda5": (5, (4, 5, 10), "given"),
    "lambda50": (50, (4, 5, 10), "none"),
    "lambda1_default": (1, (5, 5, 10), "own"),
    "nojcu_lambda1": (1, (4, 5, 10), "none"),
}


@pytest.mark.parametrize("case", GENERATOR_LOSSES)
def test_generator_loss_and_its_gradients(case):
    file, inputs = attngan("losses"), attngan("discriminator")
    check, where = Near(file), f"generator_loss/{case}/"
    weight, gammas, kind = GENERATOR_LOSSES[case]
    names = ["d_net64_nojcu"] if case.startswith("nojcu") else [f"d_net{side}" for side in SIDES]
    drawn = [pixels(file[f"in/fake{side}"]).requires_grad_() for side in SIDES[: len(names)]]
    words, sentence = file["in/g_word_embs"].transpose(1, 2), file["in/g_sent_emb"]
    text = EncodedText(words, sentence, text_mask(file["in/g_cap_lens"]))
    image = EncodedImage(file["in/g_region_features"].requires_grad_(), file["in/g_cnn_code"].requires_grad_())
    classes = {"given": file["in/g_class_ids"], "own": torch.arange(3), "none": None}[kind]
    judges = [golden_discriminator(inputs, name) for name in names]
    deceptions = [generator_loss(judge.logits(images, sentence)) for judge, images in zip(judges, drawn, strict=True)]
    parts = damsm_losses(image, text, classes, Gammas(*gammas))
    loss = torch.stack(deceptions).sum() + weight * sum_of(parts)
    check(f"{where}errG_total", loss, 1e-3)
    if case != "nojcu_lambda1":
        for name, part in zip(("w_loss0", "w_loss1", "s_loss0", "s_loss1"), parts.values(), strict=True):
            check(f"{where}{name}", part, 2e-5)
        loss.backward()
        check(f"{where}grad_region_features", image.regions.grad, 2e-4)
        check(f"{where}grad_cnn_code", image.code.grad, 2e-4)
    if case == "lambda5":
        check(f"{where}grad_fake0", drawn[0].grad, 5e-7)
        for stage in (1, 2):
            check(f"{where}grad_fake{stage}@s3", drawn[stage].grad[..., 1::3, 1::3], 2e-7)
            check(f"{where}grad_fake{stage}@sum", drawn[stage].grad.sum(dim=(2, 3)), 1e-5)
    check.finish(where, "in/g_")
