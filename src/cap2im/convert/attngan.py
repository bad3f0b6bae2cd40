"""The parameters of the released AttnGAN, by their names there: as views of our networks' parameters, and model folders made of its files.

Source: the files that its training writes: `text_encoder*.pth`, `image_encoder*.pth`, `netG*.pth` (published as `*_AttnGAN2.pth`
and `bird_AttnDCGAN2.pth`) and `netD*.pth`, one state dict each, and `captions.pickle`, the words. Shapes tell sizes, names tell how
many branches and residual blocks there are.

What is converted draws a caption as the released program draws it alone (`variant="paper"`): in a batch, that one mixes their masks.
The image encoder aligns corners when it resizes, as the torch of its time did.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from cap2im.checkpoint import write_model
from cap2im.convert.card import card
from cap2im.convert.pickles import read_pickle
from cap2im.convert.theano import Tensors, check_axes, check_shapes, fill
from cap2im.data.attngan_metadata import read_attngan_captions
from cap2im.data.vocabulary import Vocabulary
from cap2im.files import atomic_folder, file_sha256
from cap2im.models.attngan import SEED_SIDE, AttnGAN, AttnGANConfig, Generator
from cap2im.models.attngan_text import TextEncoder, TextEncoderConfig
from cap2im.models.damsm import DAMSM, DAMSMConfig, InceptionEncoder
from cap2im.models.discriminators import WIDEST, Discriminator

CAPTIONS_FILE = "captions.pickle"

# ours -> theirs; {0}, {1} are the numbers in our name, counted as they count
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
_TRUNKS = {  # their names of what follows the 11 layers that all trunks share, by the number of our layers
    11: (),
    17: ("img_code_s32", "img_code_s32_1"),
    23: ("img_code_s32", "img_code_s64", "img_code_s64_1", "img_code_s64_2"),
}
_SHARED_LAYERS, _BLOCK_LAYERS = 11, 3


def released_generator_name(name: str, architecture: str) -> str:
    """The release's name of an entry of our generator's state dict."""
    path, _, entry = name.rpartition(".")
    for pattern, theirs in _GENERATOR.items():
        if found := re.fullmatch(pattern, path):
            first, *rest = (int(number) for number in found.groups()) if found.groups() else (0,)
            told = theirs.format(first + _FIRST_NUMBER.get(path.partition(".")[0], 0), *rest)
            return f"{told.replace('img_net1', 'img_net') if architecture == 'attndcgan' else told}.{entry}"
    raise AssertionError(name)


def released_discriminator_name(name: str, layers: int) -> str:
    """The release's name of an entry of our discriminator's state dict, whose trunk has so many layers: 11, 17 or 23."""
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
    """Something of every parameter and buffer of a generator or discriminator, as the release names and shapes it.

    Args:
        network: with the sizes of the release: a first side of 64, and discriminators of 64, 128 or 256 pixels.
        of: what is wanted of a parameter or buffer, of its shape; the values themselves, views that can be written, if not said. Left out
            where it answers None.
    """
    layout = {}
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if isinstance(network, Generator):
            theirs = released_generator_name(name, network.config.architecture)
        else:
            theirs = released_discriminator_name(name, len(network.trunk))
        if (value := of(tensor)) is not None:
            layout[theirs] = value[:, :, None, None] if theirs.endswith("conv_context.weight") else value
    return layout


def text_encoder_layout(encoder: TextEncoder) -> dict[str, Tensor]:
    """Each parameter of the release's text encoder as a view into ours."""
    return {name.replace("words.", "encoder."): parameter.data for name, parameter in encoder.named_parameters()}


def image_encoder_layout(encoder: nn.Module) -> dict[str, Tensor]:
    """Each parameter and buffer of the release's image encoder as a view into ours (`InceptionEncoder`)."""
    layout = {}
    for name, tensor in [*encoder.named_parameters(), *encoder.named_buffers()]:
        part, _, rest = name.partition(".")
        layout[{"network": "", "regions": "emb_features.", "code": "emb_cnn_code."}[part] + rest] = tensor.data
    return layout


# Networks of released parameters

Part = Literal["generator", "text encoder", "image encoder", "discriminator"]
Network = TypeVar("Network", bound=nn.Module)
Made = TypeVar("Made")

_MARKS: dict[Part, tuple[str, ...]] = {  # how the names of a part's own parameters begin
    "generator": ("ca_net.", "h_net", "img_net"),
    "text encoder": ("rnn.",),
    "image encoder": ("emb_features.", "emb_cnn_code."),
    "discriminator": ("img_code_s", "COND_DNET.", "UNCOND_DNET."),
}
_COUNTERS = "num_batches_tracked"  # which files of torch before 0.4.1 lack


def part_of(tensors: Tensors) -> Part | None:
    """Which part of AttnGAN a file's parameters are of; None for no part of it."""
    return next((part for part in get_args(Part) if any(name.startswith(_MARKS[part]) for name in tensors)), None)


def released_text_encoder(tensors: Tensors) -> TextEncoder:
    """The text encoder of released parameters.

    Raises:
        ValueError: parameters are missing, too many, or of shapes that do not belong together.
    """
    _require(tensors, {"encoder.weight": 2, "rnn.weight_ih_l0": 2, "rnn.weight_hh_l0": 2})
    words, width = tensors["encoder.weight"].shape
    rows, units = tensors["rnn.weight_ih_l0"].shape[0], tensors["rnn.weight_hh_l0"].shape[1]
    cell = {4 * units: "lstm", 3 * units: "gru"}.get(rows)
    if cell is None:
        raise ValueError(f"rnn.weight_ih_l0 has {rows} rows, and an LSTM of {units} units has {4 * units}, a GRU {3 * units}")
    sizes = {"vocabulary_size": words, "word_features": width, "features": 2 * units, "cell": cell}
    return _filled(lambda: TextEncoder(TextEncoderConfig.model_validate(sizes)), text_encoder_layout, tensors)


def released_generator(tensors: Tensors, text: TextEncoderConfig) -> Generator:
    """The generator of released parameters, for the words of a text encoder.

    Raises:
        ValueError: as `released_text_encoder`, or it was trained with a text encoder of another width.
    """
    _require(tensors, {"ca_net.fc.weight": 2, "h_net1.fc.0.weight": 2})
    features, condition = tensors["ca_net.fc.weight"].shape[1], tensors["ca_net.fc.weight"].shape[0] // 4
    if features != text.features:
        both = f"{features} features of a sentence, and the text encoder answers {text.features}"
        raise ValueError(f"hears {both}: they do not belong together")
    pictures = sorted(name for name in tensors if re.fullmatch(r"img_net\d*\.img\.0\.weight", name))
    if not pictures:
        raise ValueError("missing: img_net….img.0.weight, the layers that make pictures")
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
    return _filled(lambda: Generator(AttnGANConfig.model_validate(sizes)), released_layout, tensors)


def released_image_encoder(tensors: Tensors, text: TextEncoderConfig) -> tuple[InceptionEncoder, DAMSMConfig]:
    """The image encoder of released parameters, for a text encoder, and the sizes of the matching model that both are.

    Raises:
        ValueError: as `released_text_encoder`, or it was trained with a text encoder of another width.
    """
    _require(tensors, {"emb_features.weight": 4, "emb_cnn_code.weight": 2})
    if (features := len(tensors["emb_features.weight"])) != text.features:
        raise ValueError(f"answers {features} features, and the text encoder {text.features}: they do not belong together")
    config = DAMSMConfig(text=text, image_encoder="inception", corners=True)
    return _filled(lambda: InceptionEncoder(config), image_encoder_layout, tensors), config


def released_discriminator(tensors: Tensors) -> tuple[Discriminator, dict[str, Any]]:
    """The discriminator of released parameters, and its sizes by the names of our arguments.

    Raises:
        ValueError: as `released_text_encoder`.
    """
    _require(tensors, {"img_code_s16.0.weight": 4, "COND_DNET.jointConv.0.weight": 4})
    width, colours = tensors["img_code_s16.0.weight"].shape[:2]
    deep = [side for side, mark in ((256, "img_code_s64."), (128, "img_code_s32.")) if any(name.startswith(mark) for name in tensors)]
    sizes: dict[str, Any] = {
        "side": deep[0] if deep else 64,
        "width": width,
        "features": tensors["COND_DNET.jointConv.0.weight"].shape[1] - WIDEST * width,
        "colours": colours,
        "unconditional": any(name.startswith("UNCOND_DNET.") for name in tensors),
    }
    if sizes["features"] < 1:
        raise ValueError(f"COND_DNET.jointConv.0.weight reads {WIDEST * width + sizes['features']} channels, fewer than the trunk has")
    return _filled(lambda: Discriminator(**sizes), released_layout, tensors), sizes


def _require(tensors: Tensors, axes: Mapping[str, int]) -> None:
    """Raises ValueError where a parameter that sizes are read from is missing, or has another number of axes."""
    if missing := sorted(set(axes) - set(tensors)):
        raise ValueError(f"missing: {', '.join(missing)}")
    check_axes(tensors, axes)


def _numbers(tensors: Tensors, pattern: str) -> list[int]:
    return [int(found[1]) for name in tensors if (found := re.match(pattern, name))]


def _filled(make: Callable[[], Network], layout: Callable[[Network], Mapping[str, Tensor]], tensors: Tensors) -> Network:
    """A network with released parameters, whose names and shapes are compared before it takes any memory."""
    try:
        with torch.device("meta"):
            wanted = layout(make())
    except ValidationError as error:
        raise ValueError("; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])) from None
    except RuntimeError as error:
        raise ValueError(f"sizes that no machine can hold: {' '.join(str(error).split())[:200]}") from None
    counters = {name for name in wanted if name.endswith(_COUNTERS)}
    problems = [
        f"{label}: {', '.join(sorted(names)[:4])}" + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        for label, names in (("missing", set(wanted) - counters - set(tensors)), ("surplus", set(tensors) - set(wanted)))
        if names
    ]
    if problems:
        raise ValueError("; ".join(problems))
    check_shapes({name: tuple(view.shape) for name, view in wanted.items() if name in tensors}, tensors)
    network = make()
    fill({name: view for name, view in layout(network).items() if name in tensors}, tensors)
    return network


# Model folders


@dataclass(frozen=True)
class _Converted:
    """A model that files became: what its folder will hold, and the files."""

    kind: str
    what: str
    network: nn.Module
    sizes: Mapping[str, Any]
    files: tuple[Path, ...]
    vocabulary: Vocabulary | None = None

    def write(self, folder: Path, name: str) -> None:
        config: dict[str, Any] = {
            "kind": self.kind,
            "description": f"{self.what}, converted",
            "model": dict(self.sizes),
            **({} if self.vocabulary is None else {"vocabulary": self.vocabulary.model_dump()}),
            "converted_from": {"files": {file.name: file_sha256(file) for file in self.files}, "kind": self.what},
            "parameters": sum(p.numel() for p in self.network.parameters()),
        }
        write_model(folder, self.network.state_dict(), config, card=card(name, config))


def convert_attngan(files: Mapping[Path, Tensors], dictionary: Path | None, out: Path) -> Path:
    """Writes a model folder from files of the release.

    A generator becomes a model that draws, or else an image encoder one that matches, with the text encoder and its words; a discriminator
    by itself stays one. Beside a generator, the matching model has the folder `damsm` in that folder, and discriminators have
    `discriminator-64` and so on.

    Args:
        files: what was read of each.
        dictionary: `captions.pickle`.
        out: a new or empty folder.

    Returns:
        the folder.

    Raises:
        ValueError: a part is missing, there twice or damaged, or parts do not belong together.
    """
    parts: dict[Part, list[Path]] = {part: [] for part in get_args(Part)}
    for file, tensors in files.items():
        if (part := part_of(tensors)) is None:
            raise ValueError(f"{file}: no part of AttnGAN: it holds {', '.join(sorted(tensors)[:4])}")
        parts[part].append(file)
    for part, found in parts.items():
        if part != "discriminator" and len(found) > 1:
            raise ValueError(f"{' and '.join(map(str, found))}: both are of a {part}, and one is needed")
    made = {}  # by folder
    if readers := [*parts["generator"], *parts["image encoder"]]:
        if not parts["text encoder"] or dictionary is None:
            needed = "its --text-encoder text_encoder….pth and its words, --dictionary captions.pickle, or a folder that holds all of them"
            raise ValueError(f"{readers[0]}: belongs to a text encoder: give {needed}")
        (text_file,) = parts["text encoder"]
        encoder = _network(text_file, "AttnGAN's text encoder", lambda: released_text_encoder(files[text_file]))
        vocabulary = _vocabulary(dictionary, text_file, encoder.config)
        read = (text_file, dictionary)
        for file in parts["generator"]:
            made["attngan"] = _attngan(file, files[file], encoder, vocabulary, read)
        for file in parts["image encoder"]:
            made["damsm"] = _damsm(file, files[file], encoder, vocabulary, read)
    elif parts["text encoder"]:
        alone = "draws nothing alone: give it as --text-encoder of a generator or an image encoder"
        raise ValueError(f"{parts['text encoder'][0]}: a text encoder {alone}")
    elif dictionary is not None:
        raise ValueError(f"{parts['discriminator'][0]}: a discriminator reads no words: leave out --dictionary")
    for file in parts["discriminator"]:
        model = _discriminator(file, files[file])
        if made.setdefault(f"discriminator-{model.sizes['side']}", model) is not model:
            raise ValueError(f"{file}: a second discriminator of {model.sizes['side']} pixels")
    (_, main), *others = made.items()
    if others and main.kind == "discriminator":
        raise ValueError(f"{', '.join(map(str, files))}: several discriminators without a generator: convert each by itself")
    with atomic_folder(out) as folder:
        main.write(folder, out.name)
        for name, model in others:
            (folder / name).mkdir()
            model.write(folder / name, name)
    return out


def _attngan(file: Path, tensors: Tensors, encoder: TextEncoder, vocabulary: Vocabulary, read: tuple[Path, Path]) -> _Converted:
    generator = _network(file, "AttnGAN's generator", lambda: released_generator(tensors, encoder.config))
    c = generator.config
    model = AttnGAN(c)
    model.generator, model.text = generator, encoder
    name = {"attngan": "AttnGAN", "attndcgan": "AttnDCGAN"}[c.architecture]
    sides = ", ".join(str(c.stage_sides[stage]) for stage in c.shown_stages)
    return _Converted("attngan", f"{name} of the authors' program, {sides} pixels", model, c.model_dump(), (file, *read), vocabulary)


def _damsm(file: Path, tensors: Tensors, encoder: TextEncoder, vocabulary: Vocabulary, read: tuple[Path, Path]) -> _Converted:
    image, config = _network(file, "AttnGAN's image encoder", lambda: released_image_encoder(tensors, encoder.config))
    model = DAMSM(config.model_copy(update={"image_encoder": "small"}))  # to be replaced, and a small one is made in no time
    model.config, model.text, model.image = config, encoder, image
    return _Converted("damsm", "AttnGAN's matching model of the authors' program", model, config.model_dump(), (file, *read), vocabulary)


def _discriminator(file: Path, tensors: Tensors) -> _Converted:
    network, sizes = _network(file, "AttnGAN's discriminator", lambda: released_discriminator(tensors))
    what = f"AttnGAN's discriminator of the authors' program, {sizes['side']} pixels"
    return _Converted("discriminator", what, network, sizes, (file,))


def _vocabulary(dictionary: Path, text_file: Path, sizes: TextEncoderConfig) -> Vocabulary:
    """The words of a text encoder, by their numbers."""
    _, _, words = read_attngan_captions(dictionary, read_pickle)
    if len(words) != sizes.vocabulary_size:
        vectors = f"{text_file.name} has vectors of {sizes.vocabulary_size:,}"
        raise ValueError(f"{dictionary}: has {len(words):,} words, and {vectors}: they do not belong together")
    return Vocabulary(words=words, tokens="attngan")


def _network(file: Path, what: str, make: Callable[[], Made]) -> Made:
    """What `make` makes of a file, which its errors name."""
    try:
        return make()
    except ValueError as error:
        raise ValueError(f"{file}: {what}: {' '.join(str(error).split())}") from None
