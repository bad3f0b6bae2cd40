"""AttnGAN's files, written in the layout and under the names of the release, through `cap2im convert`, draw the golden pictures."""

from __future__ import annotations

import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cap2im.checkpoint import read_config, read_weights
from cap2im.convert.legacy import convert
from cap2im.models.damsm import DAMSM, DAMSMConfig
from cap2im.models.discriminators import Discriminator
from cap2im.models.text import EncodedText
from cap2im.pipeline import Pipeline
from tests.convert.legacy import run as convert_on_the_command_line
from tests.convert.legacy import write_old_pytorch
from tests.data.sources import python_2
from tests.parity.attngan import Near, attngan, text_mask
from tests.parity.golden import Golden
from tests.parity.test_image_encoder import golden_weights

FIRST_WORDS = {"<end>": 0, "bird": 4, "a": 3, "red": 5, "has": 1, "wings": 2}  # in another order than the alphabet's, as Python 2 had it


def golden_words() -> dict[str, int]:
    """As many words as the golden text encoder knows, and their numbers."""
    count = len(attngan("text_encoder").arrays["lstm/w/encoder.weight"])
    return FIRST_WORDS | {f"word{n}": n for n in range(len(FIRST_WORDS), count)}


def state(file: Golden, prefix: str) -> OrderedDict[str, Tensor]:
    """The golden weights under a prefix, by the release's names and in its types."""
    return OrderedDict((name.removeprefix(prefix), torch.from_numpy(a)) for name, a in file.arrays.items() if name.startswith(prefix))


def captions_pickle(path: Path, numbers: dict[str, int] | None = None) -> Path:
    numbers = golden_words() if numbers is None else numbers
    by_number = {number: word for word, number in numbers.items()}
    path.write_bytes(python_2([[[3, 5, 4], [4, 1, 2]], [[3, 4]], by_number, numbers]))
    return path


def release(folder: Path, generator: str = "g_net", name: str = "coco_AttnGAN2.pth", cell: str = "lstm", write=torch.save) -> Path:
    """A folder like the museum's: a generator, its text encoder, the words."""
    folder.mkdir()
    torch.save(state(attngan("generator"), f"{generator}/w/"), folder / name)
    torch.save(state(attngan("text_encoder"), f"{cell}/w/"), folder / "text_encoder100.pth")
    captions_pickle(folder / "captions.pickle")
    return folder


def golden_input(file: Golden) -> tuple[EncodedText, Tensor]:
    mask = text_mask(file["in/cap_lens"])
    noise = torch.cat([file["in/z"], file["in/eps"]], dim=1).unsqueeze(1)
    return EncodedText(file["in/word_embs"].transpose(1, 2).float(), file["in/sent_emb"].float(), mask), noise.float()


@torch.no_grad()
def test_converted_release_draws_the_golden_pictures(tmp_path, run):
    folder = release(tmp_path / "museum")
    status, out, _ = run("convert", str(folder), "--out", str(tmp_path / "model"))
    assert (status, out) == (0, f"AttnGAN of the authors' program, 64, 128, 256 pixels, converted: written to {tmp_path / 'model'}\n")
    pipeline = Pipeline.load(str(tmp_path / "model"))
    c = pipeline.model.config
    assert (c.branches, c.residuals, c.width, c.noise, c.condition, c.side, c.colours) == (3, 2, 4, 10, 8, 256, 3)
    assert (c.variant, c.architecture, c.text.cell, c.text.features, c.text.word_features) == ("paper", "attngan", "lstm", 16, 12)
    assert pipeline.vocabulary.words[:6] == ("<end>", "has", "wings", "a", "bird", "red")

    file = attngan("generator")
    near = Near(file)
    made = pipeline.model.generate(*golden_input(file))
    near("g_net/out/fixed_eval/fake0", made.images[0].double(), 2e-5)
    near("g_net/out/fixed_eval/fake1", made.images[1].double(), 5e-5)
    near("g_net/out/fixed_eval/fake2", made.images[2].double(), 5e-5)
    near("g_net/out/fixed_eval/att1", made.maps[1].double(), 1e-5)
    file = attngan("text_encoder")
    near_text = Near(file)
    mask = text_mask(file["in/cap_lens"])
    text = pipeline.model.encode(file["in/captions"][:, : mask.shape[1]], mask)
    near_text("lstm/out/words_emb", text.words.transpose(1, 2).double(), 1e-6)
    near_text("lstm/out/sent_emb", text.sentence.double(), 1e-6)
    assert not near.wrong
    assert not near_text.wrong

    card = (tmp_path / "model" / "README.md").read_text("utf-8")
    for told in (
        "`coco_AttnGAN2.pth`, SHA-256 ",
        "`text_encoder100.pth`, SHA-256 ",
        "`captions.pickle`, SHA-256 ",
        "64, 128, 256",
        "| words | 30",
    ):
        assert told in card, told
    status, out, _ = run("draw", "A red bird has wings!", "--model", str(tmp_path / "model"), "--samples", "1", "--json")
    assert status == 0
    files = json.loads(out)[0]["files"]
    assert all(Path(file).is_file() for file in files)
    for caption, unknown, problem in (
        ("a green bird", "error", "unknown word 'green'"),
        ("green plane", "skip", "caption 'green plane' has no known word"),
    ):
        status, _, err = run("draw", caption, "--model", str(tmp_path / "model"), "--unknown", unknown)
        assert status == 2
        assert len(err.splitlines()) == 1
        assert problem in err


@torch.no_grad()
def test_files_one_by_one_are_the_same_model_as_a_folder_of_them(tmp_path):
    """Also as torch 0.3 wrote them under Python 2; before 0.4.1 without the counters of batch normalisation."""
    folder = release(tmp_path / "museum")
    convert(folder, tmp_path / "whole")
    old = tmp_path / "old"
    old.mkdir()
    for file in folder.glob("*.pth"):
        tensors = torch.load(file, weights_only=True)
        write_old_pytorch(old / file.name, {name: t for name, t in tensors.items() if not name.endswith("num_batches_tracked")})
    arguments = ("--text-encoder", old / "text_encoder100.pth", "--dictionary", folder / "captions.pickle", "--out", tmp_path / "parts")
    convert_on_the_command_line("convert", old / "coco_AttnGAN2.pth", *arguments)
    whole, parts = (Pipeline.load(str(tmp_path / name)) for name in ("whole", "parts"))
    assert whole.model.config == parts.model.config
    images, expected = (each.images(each.prompts(["a red bird", "wings"]), [0, 1]) for each in (parts, whole))
    assert torch.equal(images, expected)


@torch.no_grad()
def test_attndcgan_with_a_gru(tmp_path):
    convert(release(tmp_path / "birds", "g_dcgan", "bird_AttnDCGAN2.pth", "gru"), tmp_path / "model")
    pipeline = Pipeline.load(str(tmp_path / "model"))
    c = pipeline.model.config
    assert (c.architecture, c.branches, c.residuals, c.text.cell) == ("attndcgan", 3, 0, "gru")
    file = attngan("generator")
    near = Near(file)
    (image,) = pipeline.model.generate(*golden_input(file)).images
    near("g_dcgan/out/fixed_eval/fake0@s3", image[..., 1::3, 1::3].double(), 1e-4)
    assert not near.wrong
    assert read_config(tmp_path / "model")["description"] == "AttnDCGAN of the authors' program, 256 pixels, converted"


@pytest.mark.parametrize("branches", [1, 2])
def test_fewer_branches_are_recognised(tmp_path, branches):
    folder = release(tmp_path / "museum")
    tensors = torch.load(folder / "coco_AttnGAN2.pth", weights_only=True)
    kept = tuple(f"{part}{n}." for n in range(1, branches + 1) for part in ("h_net", "img_net"))
    torch.save({name: t for name, t in tensors.items() if name.startswith(("ca_net.", *kept))}, folder / "coco_AttnGAN2.pth")
    convert(folder, tmp_path / "model")
    config = Pipeline.load(str(tmp_path / "model")).model.config
    assert (config.branches, config.side, config.residuals) == (branches, 64 * branches, 2 if branches > 1 else 0)


@pytest.mark.parametrize("name", ["d_net64", "d_net128", "d_net256", "d_net64_nojcu"])
@torch.no_grad()
def test_discriminators(tmp_path, name):
    file = attngan("discriminator")
    torch.save(state(file, f"{name}/w/"), tmp_path / "netD0.pth")
    convert(tmp_path / "netD0.pth", tmp_path / "model")
    config = read_config(tmp_path / "model")
    side = config["model"]["side"]
    assert (config["kind"], side) == ("discriminator", int(name.removesuffix("_nojcu").removeprefix("d_net")))
    model = Discriminator(**config["model"])
    model.load_state_dict(read_weights(tmp_path / "model", config))
    near = Near(file)
    verdict = model.eval().logits(file[f"in/img{side}"].float() / 127.5 - 1, file["in/sent_emb"].float())
    near(f"{name}/out/eval/cond", verdict.conditional.sigmoid().double(), 5e-6)
    if verdict.unconditional is not None:
        near(f"{name}/out/eval/uncond", verdict.unconditional.sigmoid().double(), 5e-6)
    assert not near.wrong
    with pytest.raises(ValueError, match="is a model of kind 'discriminator'; expected draw"):
        Pipeline.load(str(tmp_path / "model"))


@pytest.fixture(scope="module")
def image_encoder() -> OrderedDict[str, Tensor]:
    """The golden image encoder's weights, which are a recipe."""
    file = attngan("image_encoder")
    return OrderedDict(golden_weights(file))


@torch.no_grad()
def test_an_image_encoder_becomes_a_matching_model(tmp_path, image_encoder):
    folder, encoder = release(tmp_path / "museum"), tmp_path / "image_encoder100.pth"
    torch.save(image_encoder, encoder)
    both = {"text_encoder": folder / "text_encoder100.pth", "dictionary": folder / "captions.pickle"}
    convert(encoder, tmp_path / "damsm", **both)
    config = read_config(tmp_path / "damsm")
    assert (config["kind"], config["model"]["corners"], config["model"]["text"]["features"]) == ("damsm", True, 16)
    model = DAMSM(DAMSMConfig.model_validate(config["model"]))
    model.load_state_dict(read_weights(tmp_path / "damsm", config))
    file = attngan("image_encoder")
    near = Near(file)
    found = model.eval().image(file["in/img_u8"].float() / 127.5 - 1)
    near("out/align_corners_True/eval/features", found.regions.double(), 5e-5)
    near("out/align_corners_True/eval/cnn_code", found.code.double(), 2e-5)
    file = attngan("text_encoder")
    mask = text_mask(file["in/cap_lens"])
    near_text = Near(file)
    near_text("lstm/out/sent_emb", model.text(file["in/captions"][:, : mask.shape[1]], mask).sentence.double(), 1e-6)
    assert not near.wrong
    assert not near_text.wrong

    encoder.rename(folder / encoder.name)  # in a folder with a generator it lies beside that one's model
    convert(folder, tmp_path / "model")
    assert Pipeline.load(str(tmp_path / "model")).vocabulary.words[3] == "a"
    assert read_config(tmp_path / "model" / "damsm")["sha256"]["model.safetensors"] == config["sha256"]["model.safetensors"]


def test_image_encoders_that_do_not_fit(tmp_path, image_encoder):
    folder, damaged = release(tmp_path / "museum"), tmp_path / "image_encoder100.pth"
    for weights, problem in (
        (
            image_encoder | {"emb_features.weight": torch.zeros(20, 768, 1, 1)},
            "has 20 features, got a text encoder with 16: they do not ",
        ),
        (image_encoder | {"emb_cnn_code.bias": torch.zeros(3)}, r"emb_cnn_code.bias has shape \[3\], the others imply \[16\]"),
        ({name: t for name, t in image_encoder.items() if name.startswith("emb")}, "missing: Conv2d_1a_3x3.bn.bias, .* and 466 more"),
        (image_encoder | {"Mixed_8a.conv.weight": torch.zeros(3)}, "surplus: Mixed_8a.conv.weight"),
    ):
        torch.save(weights, damaged)
        with pytest.raises(ValueError, match=problem) as error:
            convert(damaged, tmp_path / "model", text_encoder=folder / "text_encoder100.pth", dictionary=folder / "captions.pickle")
        assert str(error.value).startswith(str(damaged))
        assert "\n" not in str(error.value)


def test_discriminators_lie_beside_their_generator(tmp_path):
    folder = release(tmp_path / "run", name="netG_epoch_600.pth")
    for n, name in enumerate(("d_net64", "d_net128", "d_net256")):
        torch.save(state(attngan("discriminator"), f"{name}/w/"), folder / f"netD{n}.pth")
    convert(folder, tmp_path / "model")
    assert Pipeline.load(str(tmp_path / "model")).model.config.branches == 3
    for side in (64, 128, 256):
        assert read_config(tmp_path / "model" / f"discriminator-{side}")["model"]["side"] == side


# What is refused


def without(tensors: dict[str, Tensor], *beginnings: str) -> dict[str, Tensor]:
    return {name: t for name, t in tensors.items() if not name.startswith(beginnings)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: without(t, "img_net2."), r"AttnGAN2\.pth: AttnGAN's generator: missing: img_net2\.img\.0\.weight$"),
        (lambda t: without(t, "h_net2."), r"missing: h_net2\.att\.conv_context\.weight, .* and \d+ more; surplus: h_net3\.residual\.0"),
        (lambda t: without(t, "h_net3."), r"AttnGAN's generator: surplus: img_net3\.img\.0\.weight$"),
        (lambda t: without(t, "img_net"), r"missing: img_net….img.0.weight, the layers that output pictures"),
        (lambda t: without(t, "ca_net."), r"AttnGAN's generator: missing: ca_net\.fc\.weight$"),
        (lambda t: t | {"h_net9.upsample.1.weight": torch.zeros(1)}, "branches: Input should be less than or equal to 4"),
        (lambda t: t | {"extra": torch.zeros(1)}, "surplus: extra$"),
        (lambda t: t | {"h_net1.fc.1.bias": torch.zeros(3)}, r"h_net1\.fc\.1\.bias has shape \[3\], the others imply \[2048\]"),
        (lambda t: t | {"h_net1.fc.1.bias": torch.full((2048,), torch.nan)}, r"h_net1\.fc\.1\.bias is not finite"),
        (
            lambda t: t | {"ca_net.fc.weight": torch.zeros(32, 20)},
            "expects sentences of 20 features, got a text encoder with 16: they",
        ),
        (lambda t: t | {"ca_net.fc.weight": torch.zeros(32)}, r"ca_net\.fc\.weight has shape \[32\], expected 2 axes"),
    ],
)
def test_damaged_generators_are_reported_in_one_line(tmp_path, change, message):
    folder = release(tmp_path / "museum")
    file = folder / "coco_AttnGAN2.pth"
    torch.save(change(torch.load(file, weights_only=True)), file)
    with pytest.raises(ValueError, match=message) as error:
        convert(folder, tmp_path / "model")
    assert str(error.value).startswith(str(file))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t | {"rnn.weight_ih_l1": torch.zeros(1)}, r"AttnGAN's text encoder: surplus: rnn\.weight_ih_l1$"),
        (lambda t: t | {"rnn.weight_ih_l0": torch.zeros(40, 12)}, r"has 40 rows, expected 32 \(LSTM\) or 24 \(GRU\) for 8 units"),
        (lambda t: without(t, "encoder."), r"missing: encoder\.weight$"),
        (
            lambda t: t | {"encoder.weight": torch.zeros(31, 12)},
            r"captions\.pickle: has 30 words, text_encoder100\.pth 31: ",
        ),
    ],
)
def test_text_encoders_that_do_not_fit(tmp_path, change, message):
    folder = release(tmp_path / "museum")
    file = folder / "text_encoder100.pth"
    torch.save(change(torch.load(file, weights_only=True)), file)
    with pytest.raises(ValueError, match=message) as error:
        convert(folder, tmp_path / "model")
    assert "\n" not in str(error.value)


def test_parts_that_are_missing_or_too_many(tmp_path, run):
    folder = release(tmp_path / "museum")
    generator, text, words = folder / "coco_AttnGAN2.pth", folder / "text_encoder100.pth", folder / "captions.pickle"
    torch.save(state(attngan("discriminator"), "d_net64/w/"), tmp_path / "netD0.pth")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    whole = generator.read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "list.pickle").write_bytes(python_2([1, 2]))
    both = ("--text-encoder", text, "--dictionary", words)
    for arguments, problem in (
        ((generator,), f"{generator}: needs its text encoder and words: give --text-encoder text_encoder….pth and --dictionary"),
        ((generator, "--text-encoder", text), "needs its text encoder and words: give --text-encoder"),
        ((generator, "--dictionary", words), "needs its text encoder and words: give --text-encoder"),
        ((generator, "--text-encoder", generator, "--dictionary", words), "needs its text encoder and words"),
        ((text, "--dictionary", words), "a text encoder cannot draw; give it as --text-encoder of another file"),
        ((tmp_path / "netD0.pth", "--dictionary", words), "a discriminator has no words: leave out --dictionary"),
        (
            (tmp_path / "other.pth", "--text-encoder", text),
            f"{tmp_path / 'other.pth'}: not a part of AttnGAN; its parameters are conv1.weight",
        ),
        ((tmp_path / "half.pth", *both), f"{tmp_path / 'half.pth'}: damaged, or not of PyTorch"),
        ((generator, "--text-encoder", tmp_path / "half.pth", "--dictionary", words), f"{tmp_path / 'half.pth'}: damaged"),
        ((generator, "--text-encoder", text, "--dictionary", tmp_path / "list.pickle"), "list.pickle: [train captions, test captions, "),
        ((generator, *both, "--glimpses", "3"), "AttnGAN has no glimpses: leave out --glimpses"),
        ((generator, *both, "--half"), "leave out --half"),
        ((folder, "--half"), "leave out --half"),
        ((folder, "--text-encoder", text), "a folder's files belong together: leave out --text-encoder"),
    ):
        status, _, err = run("convert", *map(str, arguments), "--out", str(tmp_path / "model"))
        assert (status, len(err.splitlines())) == (2, 1), (arguments, err)
        assert problem in err
    torch.save(torch.load(generator, weights_only=True), folder / "bird_AttnGAN2.pth")
    with pytest.raises(ValueError, match=r"bird_AttnGAN2\.pth and .*coco_AttnGAN2\.pth: expected one generator, got 2"):
        convert(folder, tmp_path / "model")


class Attack:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_nothing_in_the_files_is_executed(tmp_path):
    folder = release(tmp_path / "museum")
    marker = tmp_path / "ran"
    (folder / "captions.pickle").write_bytes(pickle.dumps([[], [], {}, Attack(f"touch {marker}")], 2))
    with pytest.raises(ValueError, match=r"captions\.pickle: refused: it asks for posix\.system"):
        convert(folder, tmp_path / "model")
    captions_pickle(folder / "captions.pickle")
    torch.save({"rnn.weight_ih_l0": Attack(f"touch {marker}")}, folder / "text_encoder100.pth")
    with pytest.raises(ValueError, match=r"text_encoder100\.pth: refused: it asks for posix\.system"):
        convert(folder, tmp_path / "model")
    assert not marker.exists()
