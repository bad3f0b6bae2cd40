"""Parameters of the released AttnGAN: views into our networks by their released names, and model folders built from its files.

Source: the files that its training writes: `text_encoder*.pth`, `image_encoder*.pth`, `netG*.pth` (published as `*_AttnGAN2.pth`
and `bird_AttnDCGAN2.pth`) and `netD*.pth`, one state dict each, and `captions.pickle`, the words. Sizes are inferred from shapes, the
numbers of branches and residual blocks from names.

A converted model draws a caption as the released program draws it in a batch of one (`variant="paper"`): the release mixes the masks of
a larger batch. The image encoder aligns corners when it resizes, as torch did when the weights were trained.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from torch import Tensor, nn

from cap2im.checkpoint import write_model
from cap2im.convert.card import card
from cap2im.convert.parameters import Tensors, build_model, check_axes
from cap2im.convert.pickles import read_pickle
from cap2im.data.attngan_metadata import read_attngan_captions
from cap2im.data.vocabulary import Vocabulary
from cap2im.files import atomic_folder, file_sha256
from cap2im.models.attngan import SEED_SIDE, AttnGAN, AttnGANConfig, Generator
from cap2im.models.attngan_text import TextEncoder, TextEncoderConfig
from cap2im.models.damsm import DAMSM, DAMSMConfig, InceptionEncoder
from cap2im.models.discriminators import WIDEST, Discriminator

CAPTIONS_FILE = "captions.pickle"

# our name -> released name; {0}, {1} are the numbers in our name, counted as in the release
_GENERATOR = {
    r"augmentation\.linear": "ca_net.fc",
    r"first\.linear": "h_net1.fc.0",
    r"first\.norm": "h_net1.fc.1",
    r"first\.ups\.(\d+)\.convolution": "h_net1.upsample{0}.1",
    r"first\.ups\.(\d+)\.norm": "h_net1.upsample{0}.2",
    r"stages\.(\d+)\.attention\.words": "h_net{0}.att.conv_context",
    r"stages\.(\d+)\.residuals\.(\d+)\.first": "h_net{0}.residual.{1}.block.0",
    r"stages\.(\d+)\.residuals\.(\d+)\.first_norm": "h_net{0}.residual.{1}.block.1",
    r"stages\.(\d+)\.residuals\.(\d+)\.second": "h_net{0}.residual.{1}.block.3",
    r"stages\.(\d+)\.residuals\.(\d+)\.second_norm": "h_net{0}.residual.{1}.block.4",
    r"stages\.(\d+)\.up\.convolution": "h_net{0}.upsample.1",
    r"stages\.(\d+)\.up\.norm": "h_net{0}.upsample.2",
    r"pictures\.(\d+)": "img_net{0}.img.0",
}
_FIRST_NUMBER = {"first": 1, "stages": 2, "pictures": 1}
_TRUNKS = {  # number of our layers -> released names of the blocks after the 11 layers that all trunks share
    11: (),
    17: ("img_code_s32", "img_code_s32_1"),
    23: ("img_code_s32", "img_code_s64", "img_code_s64_1", "img_code_s64_2"),
}
_SHARED_LAYERS, _BLOCK_LAYERS = 11, 3


def released_generator_name(name: str, architecture: str) -> str:
    """Return the released name of an entry of our generator's state dict."""
    path, _, entry = name.rpartition(".")
    for pattern, template in _GENERATOR.items():
        if match := re.fullmatch(pattern, path):
            first, *rest = (int(number) for number in match.groups()) if match.groups() else (0,)
            released = template.format(first + _FIRST_NUMBER.get(path.partition(".")[0], 0), *rest)
            return f"{released.replace('img_net1', 'img_net') if architecture == 'attndcgan' else released}.{entry}"
    raise AssertionError(name)


def released_discriminator_name(name: str, layers: int) -> str:
    """Return the released name of an entry of our discriminator's state dict; `layers` of its trunk are 11, 17 or 23."""
    part, _, rest = name.partition(".")
    if part != "trunk":
        return {"joint": "COND_DNET.jointConv.", "conditional": "COND_DNET.outlogits.0.", "unconditional": "UNCOND_DNET.outlogits.0."}[
            part
        ] + rest
    number, _, entry = rest.partition(".")
    if int(number) < _SHARED_LAYERS:
        return f"img_code_s16.{rest}"
    block, layer = divmod(int(number) - _SHARED_LAYERS, _BLOCK_LAYERS)
    return f"{_TRUNKS[layers][block]}.{layer}.{entry}"


def released_layout(network: Generator | Discriminator, of: Callable[[Tensor], Tensor | None] = lambda t: t.data) -> dict[str, Tensor]:
    """Return tensors of all parameters and buffers of a generator or discriminator, with the released names and shapes.

    Args:
        network: with the sizes of the release: a first side of 64, and discriminators of 64, 128 or 256 pixels.
        of: returns the tensor of a parameter or buffer, of the same shape: its data (the default), its gradient, ...; None leaves it out.

    Returns:
        Released name -> tensor; of the data, a view that can be written.
    """
    layout = {}
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if isinstance(network, Generator):
            released = released_generator_name(name, network.config.architecture)
        else:
            released = released_discriminator_name(name, len(network.trunk))
        if (value := of(tensor)) is not None:
            layout[released] = value[:, :, None, None] if released.endswith("conv_context.weight") else value
    return layout


def text_encoder_layout(encoder: TextEncoder) -> dict[str, Tensor]:
    """Return views into our text encoder's parameters by their released names."""
    return {name.replace("words.", "encoder."): parameter.data for name, parameter in encoder.named_parameters()}


def image_encoder_layout(encoder: nn.Module) -> dict[str, Tensor]:
    """Return views into our image encoder's (`InceptionEncoder`) parameters and buffers by their released names."""
    layout = {}
    for name, tensor in [*encoder.named_parameters(), *encoder.named_buffers()]:
        part, _, rest = name.partition(".")
        layout[{"network": "", "regions": "emb_features.", "code": "emb_cnn_code."}[part] + rest] = tensor.data
    return layout


# Networks of released parameters

Part = Literal["generator", "text encoder", "image encoder", "discriminator"]
T = TypeVar("T")

_PREFIXES: dict[Part, tuple[str, ...]] = {  # of parameters that only this part has
    "generator": ("ca_net.", "h_net", "img_net"),
    "text encoder": ("rnn.",),
    "image encoder": ("emb_features.", "emb_cnn_code."),
    "discriminator": ("img_code_s", "COND_DNET.", "UNCOND_DNET."),
}


def part_of(tensors: Tensors) -> Part | None:
    """Infer the part of AttnGAN from the names of parameters; None for other networks."""
    return next((part for part in get_args(Part) if any(name.startswith(_PREFIXES[part]) for name in tensors)), None)


def released_text_encoder(tensors: Tensors) -> TextEncoder:
    """Return the text encoder from released parameters.

    Raises:
        ValueError: parameters are missing or surplus, or their shapes do not match.
    """
    check_axes(tensors, {"encoder.weight": 2, "rnn.weight_ih_l0": 2, "rnn.weight_hh_l0": 2})
    words, width = tensors["encoder.weight"].shape
    rows, units = tensors["rnn.weight_ih_l0"].shape[0], tensors["rnn.weight_hh_l0"].shape[1]
    cell = {4 * units: "lstm", 3 * units: "gru"}.get(rows)
    if cell is None:
        raise ValueError(f"rnn.weight_ih_l0 has {rows} rows, expected {4 * units} (LSTM) or {3 * units} (GRU) for {units} units")
    sizes = {"vocabulary_size": words, "word_features": width, "features": 2 * units, "cell": cell}
    return build_model(lambda: TextEncoder(TextEncoderConfig.model_validate(sizes)), text_encoder_layout, tensors)


def released_generator(tensors: Tensors, text: TextEncoderConfig) -> Generator:
    """Return the generator from released parameters, for the words of a text encoder.

    Raises:
        ValueError: as `released_text_encoder`, or the text encoder has another width.
    """
    check_axes(tensors, {"ca_net.fc.weight": 2, "h_net1.fc.0.weight": 2})
    features, condition = tensors["ca_net.fc.weight"].shape[1], tensors["ca_net.fc.weight"].shape[0] // 4
    if features != text.features:
        raise ValueError(f"expects sentences of {features} features, got a text encoder with {text.features}: they do not belong together")
    pictures = sorted(name for name in tensors if re.fullmatch(r"img_net\d*\.img\.0\.weight", name))
    if not pictures:
        raise ValueError("missing: img_net….img.0.weight, the layers that output pictures")
    check_axes(tensors, {pictures[0]: 4})
    colours, width = tensors[pictures[0]].shape[:2]
    sizes = {
        "text": text,
        "architecture": "attndcgan" if pictures == ["img_net.img.0.weight"] else "attngan",
        "condition": condition,
        "noise": tensors["h_net1.fc.0.weight"].shape[1] - condition,
        "width": width,
        "residuals": 1 + max(_numbers(tensors, r"h_net2\.residual\.(\d+)\."), default=-1),
        "branches": max(_numbers(tensors, r"h_net(\d+)\."), default=1),
        "first_side": SEED_SIDE * 2 ** max(_numbers(tensors, r"h_net1\.upsample(\d+)\."), default=0),
        "colours": colours,
    }
    return build_model(lambda: Generator(AttnGANConfig.model_validate(sizes)), released_layout, tensors)


def released_image_encoder(tensors: Tensors, text: TextEncoderConfig) -> tuple[InceptionEncoder, DAMSMConfig]:
    """Return the image encoder from released parameters, and the configuration of DAMSM with a text encoder.

    Raises:
        ValueError: as `released_text_encoder`, or the text encoder has another width.
    """
    check_axes(tensors, {"emb_features.weight": 4, "emb_cnn_code.weight": 2})
    if (features := len(tensors["emb_features.weight"])) != text.features:
        raise ValueError(f"has {features} features, got a text encoder with {text.features}: they do not belong together")
    config = DAMSMConfig(text=text, image_encoder="inception", corners=True)
    return build_model(lambda: InceptionEncoder(config), image_encoder_layout, tensors), config


def released_discriminator(tensors: Tensors) -> tuple[Discriminator, dict[str, Any]]:
    """Return the discriminator from released parameters, and the arguments of our class.

    Raises:
        ValueError: as `released_text_encoder`.
    """
    check_axes(tensors, {"img_code_s16.0.weight": 4, "COND_DNET.jointConv.0.weight": 4})
    width, colours = tensors["img_code_s16.0.weight"].shape[:2]
    deep = [side for side, prefix in ((256, "img_code_s64."), (128, "img_code_s32.")) if any(name.startswith(prefix) for name in tensors)]
    sizes: dict[str, Any] = {
        "side": deep[0] if deep else 64,
        "width": width,
        "features": tensors["COND_DNET.jointConv.0.weight"].shape[1] - WIDEST * width,
        "colours": colours,
        "unconditional": any(name.startswith("UNCOND_DNET.") for name in tensors),
    }
    if sizes["features"] < 1:
        raise ValueError(f"COND_DNET.jointConv.0.weight has {WIDEST * width + sizes['features']} input channels, fewer than the trunk's")
    return build_model(lambda: Discriminator(**sizes), released_layout, tensors), sizes


def _numbers(tensors: Tensors, pattern: str) -> list[int]:
    return [int(match[1]) for name in tensors if (match := re.match(pattern, name))]


# Model folders


@dataclass(frozen=True)
class ConvertedModel:
    """A model built from legacy files, for `write`."""

    kind: str
    description: str
    network: nn.Module
    sizes: Mapping[str, Any]
    files: tuple[Path, ...]
    vocabulary: Vocabulary | None = None

    def write(self, folder: Path, name: str) -> None:
        """Write a model folder, whose card has the given name."""
        config: dict[str, Any] = {
            "kind": self.kind,
            "description": f"{self.description}, converted",
            "model": dict(self.sizes),
            **({} if self.vocabulary is None else {"vocabulary": self.vocabulary.model_dump()}),
            "converted_from": {"files": {file.name: file_sha256(file) for file in self.files}, "kind": self.description},
            "parameters": sum(p.numel() for p in self.network.parameters()),
        }
        write_model(folder, self.network.state_dict(), config, card=card(name, config))


def convert_attngan(files: Mapping[Path, Tensors], dictionary: Path | None, out: Path) -> Path:
    """Write a model folder from files of the release.

    A generator and its text encoder become AttnGAN, an image encoder and its text encoder DAMSM; a discriminator is converted on its own.
    In the folder of a generator, DAMSM is written to `damsm`, and discriminators to `discriminator-64`, ...

    Args:
        files: the parameters of each file.
        dictionary: `captions.pickle`.
        out: a new or empty folder.

    Returns:
        The folder.

    Raises:
        ValueError: a part is missing, duplicate or damaged, or parts do not belong together.
    """
    parts: dict[Part, list[Path]] = {part: [] for part in get_args(Part)}
    for file, tensors in files.items():
        if (part := part_of(tensors)) is None:
            raise ValueError(f"{file}: not a part of AttnGAN; its parameters are {', '.join(sorted(tensors)[:4])}")
        parts[part].append(file)
    for part, paths in parts.items():
        if part != "discriminator" and len(paths) > 1:
            raise ValueError(f"{' and '.join(map(str, paths))}: expected one {part}, got {len(paths)}")
    models = {}  # by folder
    if with_text := [*parts["generator"], *parts["image encoder"]]:
        if not parts["text encoder"] or dictionary is None:
            options = "--text-encoder text_encoder….pth and --dictionary captions.pickle, or a folder with all of them"
            raise ValueError(f"{with_text[0]}: needs its text encoder and words: give {options}")
        (text_file,) = parts["text encoder"]
        encoder = _network(text_file, "AttnGAN's text encoder", lambda: released_text_encoder(files[text_file]))
        vocabulary = _vocabulary(dictionary, text_file, encoder.config)
        read = (text_file, dictionary)
        for file in parts["generator"]:
            models["attngan"] = _attngan(file, files[file], encoder, vocabulary, read)
        for file in parts["image encoder"]:
            models["damsm"] = _damsm(file, files[file], encoder, vocabulary, read)
    elif parts["text encoder"]:
        raise ValueError(f"{parts['text encoder'][0]}: a text encoder cannot draw; give it as --text-encoder of another file")
    elif dictionary is not None:
        raise ValueError(f"{parts['discriminator'][0]}: a discriminator has no words: leave out --dictionary")
    for file in parts["discriminator"]:
        model = _discriminator(file, files[file])
        if models.setdefault(f"discriminator-{model.sizes['side']}", model) is not model:
            raise ValueError(f"{file}: a second discriminator of {model.sizes['side']} pixels")
    (_, main), *others = models.items()
    if others and main.kind == "discriminator":
        raise ValueError(f"{', '.join(map(str, files))}: several discriminators without a generator: convert each on its own")
    with atomic_folder(out) as folder:
        main.write(folder, out.name)
        for name, model in others:
            (folder / name).mkdir()
            model.write(folder / name, name)
    return out


def _attngan(file: Path, tensors: Tensors, encoder: TextEncoder, vocabulary: Vocabulary, read: tuple[Path, Path]) -> ConvertedModel:
    generator = _network(file, "AttnGAN's generator", lambda: released_generator(tensors, encoder.config))
    c = generator.config
    model = AttnGAN(c)
    model.generator, model.text = generator, encoder
    name = {"attngan": "AttnGAN", "attndcgan": "AttnDCGAN"}[c.architecture]
    sides = ", ".join(str(c.stage_sides[stage]) for stage in c.shown_stages)
    return ConvertedModel("attngan", f"{name} of the authors' program, {sides} pixels", model, c.model_dump(), (file, *read), vocabulary)


def _damsm(file: Path, tensors: Tensors, encoder: TextEncoder, vocabulary: Vocabulary, read: tuple[Path, Path]) -> ConvertedModel:
    image, config = _network(file, "AttnGAN's image encoder", lambda: released_image_encoder(tensors, encoder.config))
    model = DAMSM(config.model_copy(update={"image_encoder": "small"}))  # replaced below; a small one is built quickly
    model.config, model.text, model.image = config, encoder, image
    description = "AttnGAN's matching model of the authors' program"
    return ConvertedModel("damsm", description, model, config.model_dump(), (file, *read), vocabulary)


def _discriminator(file: Path, tensors: Tensors) -> ConvertedModel:
    network, sizes = _network(file, "AttnGAN's discriminator", lambda: released_discriminator(tensors))
    description = f"AttnGAN's discriminator of the authors' program, {sizes['side']} pixels"
    return ConvertedModel("discriminator", description, network, sizes, (file,))


def _vocabulary(dictionary: Path, text_file: Path, sizes: TextEncoderConfig) -> Vocabulary:
    """Return the words of a text encoder in the order of their numbers."""
    _, _, words = read_attngan_captions(dictionary, read_pickle)
    if len(words) != sizes.vocabulary_size:
        raise ValueError(f"{dictionary}: has {len(words):,} words, {text_file.name} {sizes.vocabulary_size:,}: they do not belong together")
    return Vocabulary(words=words, tokens="attngan")


def _network(file: Path, description: str, make: Callable[[], T]) -> T:
    """Call `make` and name the file in its errors."""
    try:
        return make()
    except ValueError as error:
        raise ValueError(f"{file}: {description}: {' '.join(str(error).split())}") from None
