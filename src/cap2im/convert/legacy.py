"""Convert legacy weights into a model folder. The format is inferred from parameter names, not from the file's name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from cap2im.checkpoint import write_model
from cap2im.convert.attngan import CAPTIONS_FILE, convert_attngan, part_of
from cap2im.convert.card import card
from cap2im.convert.parameters import Tensors
from cap2im.convert.pickles import read_pickle
from cap2im.convert.port import port_draw, port_names
from cap2im.convert.skipthoughts import convert_skipthoughts
from cap2im.convert.theano import BATCH_RECORDS, MNIST_WORDS, released_draw, released_names, released_sharpener, sharpener_names
from cap2im.convert.weight_files import few, read_tensors
from cap2im.data.mnist_captions import ALIASES
from cap2im.data.vocabulary import UNKNOWN, Vocabulary, words_in_order
from cap2im.files import atomic_folder, check_unicode_path, check_writable_folder, file_sha256
from cap2im.models.aligndraw import DRAW
from cap2im.models.lapgan import Sharpener


@dataclass(frozen=True)
class LegacyFormat:
    """A format of legacy weights.

    Attributes:
        description: for messages and cards.
        names: names of all parameters.
        build: returns our model from the parameters and T or None.
        ignored: other names that such a file may hold.
    """

    description: str
    names: frozenset[str]
    build: Callable[[Tensors, int | None], DRAW | Sharpener]
    ignored: frozenset[str] = frozenset()


def legacy_formats() -> tuple[LegacyFormat, ...]:
    """Return all formats that can be converted, besides AttnGAN and skip-thoughts."""
    return (
        LegacyFormat("alignDRAW of the authors' program", released_names("align"), released_draw, BATCH_RECORDS),
        LegacyFormat("DRAW of the authors' program", released_names("none"), released_draw, BATCH_RECORDS),
        LegacyFormat("the authors' sharpening network", sharpener_names(), lambda tensors, _: released_sharpener(tensors)),
        LegacyFormat("alignDRAW of the PyTorch port", port_names("two windows"), partial(port_draw, "two windows")),
        LegacyFormat("alignDRAW of the PyTorch port with one window", port_names("one window"), partial(port_draw, "one window")),
    )


# prefix of a parameter name -> why such files are not supported
_UNSUPPORTED = {
    "clip.": "alignDRAW of the PyTorch port with CLIP's sentence vector added to the attention, which no model here supports",
    "dec_linear.": "an early version of the PyTorch port, whose filters are exp(-((a - mu) / (2 sigma^2))^2), which no model here supports",
}


def convert(
    path: Path,
    out: Path,
    *,
    dictionary: Path | None = None,
    text_encoder: Path | None = None,
    glimpses: int | None = None,
    half: bool = False,
) -> Path:
    """Write a model folder from legacy weights.

    Args:
        path: an HDF5 file of the authors' programs, a PyTorch file, or a folder with the skip-thought tables or AttnGAN's files.
        out: a new or empty folder.
        dictionary: alignDRAW's `dictionary.pkl`, which MNIST with captions does not need, or AttnGAN's `captions.pickle`.
        text_encoder: AttnGAN's `text_encoder*.pth`, for a generator or an image encoder.
        glimpses: T, which files do not contain; None for the value of the program's configuration.
        half: store the word vectors of skip-thoughts in half precision.

    Returns:
        The folder.

    Raises:
        ValueError: an unknown format, a damaged file, a missing dictionary, an option that does not apply, `out` is not empty or
            cannot be written, or its path is not UTF-8.
    """
    check_unicode_path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: exists already; give a new or an empty folder")
    check_writable_folder(out)
    if path.is_dir():
        if text_encoder is not None or glimpses is not None:
            raise ValueError(f"{path}: a folder's files belong together: leave out --text-encoder and --glimpses")
        if files := sorted(path.glob("*.pth")):
            _refuse_half(path, half)
            return convert_attngan({file: read_tensors(file) for file in files}, _dictionary_of(path, dictionary), out)
        if dictionary is not None:
            raise ValueError(f"{path}: skip-thought tables come with their own dictionary.txt: leave out --dictionary")
        return convert_skipthoughts(path, out, half=half)
    _refuse_half(path, half)
    tensors = read_tensors(path)
    if text_encoder is not None or part_of(tensors) is not None:
        if glimpses is not None:
            raise ValueError(f"{path}: AttnGAN has no glimpses: leave out --glimpses")
        others = {} if text_encoder is None else {text_encoder: read_tensors(text_encoder)}
        return convert_attngan({path: tensors, **others}, dictionary, out)
    source = detect_format(path, tensors)
    try:
        model = source.build(tensors, glimpses)
    except ValueError as error:
        raise ValueError(f"{path}: {source.description}: {' '.join(str(error).split())}") from None
    origin = {"files": {path.name: file_sha256(path)}, "kind": source.description}
    config: dict[str, Any] = {"description": f"{source.description}, converted", "converted_from": origin}
    if isinstance(model, DRAW):
        vocabulary = _vocabulary(path, model, dictionary)
        config |= {"kind": "draw", "model": model.config.model_dump(), "vocabulary": vocabulary.model_dump()}
    else:
        if dictionary is not None or glimpses is not None:
            raise ValueError(f"{path}: {source.description} has no words and no glimpses: leave out --dictionary and --glimpses")
        config |= {"kind": "sharpener", "model": model.config.model_dump()}
    config["parameters"] = sum(p.numel() for p in model.parameters())
    with atomic_folder(out) as folder:
        write_model(folder, model.state_dict(), config, card=card(out.name, config))
    return out


def detect_format(path: Path, tensors: Tensors) -> LegacyFormat:
    """Return the format that shares most parameter names with a file.

    Raises:
        ValueError: no format shares any, or parameters are missing or surplus.
    """
    for prefix, reason in _UNSUPPORTED.items():
        if any(name.startswith(prefix) for name in tensors):
            raise ValueError(f"{path}: {reason}")
    names = frozenset(tensors)
    formats = legacy_formats()
    best = max(formats, key=lambda each: len(names & each.names) / len(names | each.names))
    if not names & best.names:
        known = "; ".join(each.description for each in formats)
        raise ValueError(f"{path}: unknown weights with the parameters {few(names)}; known are {known}")
    differences = {"missing": best.names - names, "surplus": names - best.names - best.ignored}
    if problems := [f"{label}: {few(parameters)}" for label, parameters in differences.items() if parameters]:
        count = len(best.names)
        raise ValueError(f"{path}: damaged, or not {best.description}, which has {count} parameters; {'; '.join(problems)}")
    return best


def _refuse_half(path: Path, half: bool) -> None:
    if half:
        raise ValueError(f"{path}: only the word vectors of skip-thoughts can be stored in half precision: leave out --half")


def _dictionary_of(folder: Path, dictionary: Path | None) -> Path | None:
    """Return the file of AttnGAN's words: the option, or else the folder's."""
    own = folder / CAPTIONS_FILE
    return dictionary if dictionary is not None or not own.is_file() else own


def _vocabulary(path: Path, model: DRAW, dictionary: Path | None) -> Vocabulary:
    """Return the words of a model, and remove word vectors beyond the last word from it."""
    c = model.config
    if c.conditioning == "none":
        if dictionary is not None:
            raise ValueError(f"{path}: DRAW has no words: leave out --dictionary")
        return Vocabulary(words=(UNKNOWN,), unknown=UNKNOWN)  # the model is unconditional
    if dictionary is None:
        if c.colours != 1 or c.vocabulary_size - len(MNIST_WORDS) not in (0, 1):
            raise ValueError(f"{path}: has {c.vocabulary_size:,} word vectors without their words: give --dictionary dictionary.pkl")
        words: tuple[str, ...] = MNIST_WORDS
    else:
        numbers = read_pickle(dictionary)
        if not isinstance(numbers, dict):
            raise ValueError(f"{dictionary}: expected a dictionary of words and their numbers, got a {type(numbers).__name__}")
        words = words_in_order(numbers, dictionary)
    if (rows := c.vocabulary_size) < len(words):
        raise ValueError(f"{dictionary}: has {len(words):,} words, the weights {rows:,} word vectors: they do not belong together")
    for direction in (model.language.forwards, model.language.backwards):
        direction.words = nn.Embedding.from_pretrained(direction.words.weight.data[: len(words)].clone(), freeze=False)
    model.config = c.model_copy(update={"vocabulary_size": len(words)})
    return Vocabulary(words=words, aliases=ALIASES if words == MNIST_WORDS else {}, unknown=UNKNOWN if UNKNOWN in words else None)
