"""Legacy weights of any known kind into a model folder: the kind is told by what the file holds, never by its name.

Nothing in a file is executed: HDF5 holds arrays alone, PyTorch files are read as tensors alone (`weights_only`), pickled dictionaries by
`cap2im.convert.pickles`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pickle import UnpicklingError  # the exception alone
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cap2im.checkpoint import whole_folder, write_model
from cap2im.convert.attngan import CAPTIONS_FILE, convert_attngan, part_of
from cap2im.convert.card import card
from cap2im.convert.pickles import read_pickle
from cap2im.convert.port import port_draw, port_names
from cap2im.convert.skipthoughts import convert_skipthoughts
from cap2im.convert.theano import (
    BATCH_RECORDS,
    MNIST_WORDS,
    Tensors,
    released_draw,
    released_names,
    released_sharpener,
    sharpener_names,
)
from cap2im.data.mnist_captions import ALIASES
from cap2im.data.published import words_by_number
from cap2im.data.vocabulary import UNKNOWN, Vocabulary
from cap2im.files import file_sha256
from cap2im.models.aligndraw import DRAW
from cap2im.models.lapgan import Sharpener

HDF5 = b"\x89HDF\r\n\x1a\n"
ZIP = b"PK\x03\x04"  # PyTorch since 1.6
OLD_PYTORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
MOST_BYTES = 2**32  # of arrays; the largest of the known files has 133 million


@dataclass(frozen=True)
class Kind:
    """One kind of legacy weights.

    Attributes:
        what: in words for people.
        names: of all its parameters.
        model: makes our model of them, given T or None.
        ignored: what else such a file may hold.
    """

    what: str
    names: frozenset[str]
    model: Callable[[Tensors, int | None], DRAW | Sharpener]
    ignored: frozenset[str] = frozenset()


def kinds() -> tuple[Kind, ...]:
    """All kinds that are read."""
    return (
        Kind("alignDRAW of the authors' program", released_names("align"), released_draw, BATCH_RECORDS),
        Kind("DRAW of the authors' program", released_names("none"), released_draw, BATCH_RECORDS),
        Kind("the authors' sharpening network", sharpener_names(), lambda tensors, _: released_sharpener(tensors)),
        Kind("alignDRAW of the PyTorch port", port_names("two windows"), partial(port_draw, "two windows")),
        Kind("alignDRAW of the PyTorch port with one window", port_names("one window"), partial(port_draw, "one window")),
    )


# what a parameter's name tells of kinds that are not read: why not
_UNREAD = {
    "clip.": "alignDRAW of the PyTorch port with CLIP's sentence vector added to what it attends to, which no model here does",
    "dec_linear.": "an early version of the PyTorch port, whose filters are exp(-((a - mu) / (2 sigma^2))^2), which no model here computes",
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
    """Writes a model folder from legacy weights.

    Args:
        path: an HDF5 file of the authors' programs, a PyTorch file, or a folder: of the skip-thought tables, or of AttnGAN's files.
        out: a new or empty folder.
        dictionary: alignDRAW's `dictionary.pkl`, which MNIST with captions does not need, or AttnGAN's `captions.pickle`.
        text_encoder: AttnGAN's `text_encoder*.pth`, for a generator or an image encoder.
        glimpses: T, which no file tells; None for that of the program's configuration.
        half: store the word vectors of skip-thoughts in half precision.

    Returns:
        the folder.

    Raises:
        ValueError: nothing known, damaged, wanting a dictionary, or `out` holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: exists already; give a new or an empty folder")
    if path.is_dir():
        if text_encoder is not None or glimpses is not None:
            raise ValueError(f"{path}: a folder's files belong together: leave out --text-encoder and --glimpses")
        if files := sorted(path.glob("*.pth")):
            _not_halved(path, half)
            return convert_attngan({file: read_tensors(file) for file in files}, _dictionary_of(path, dictionary), out)
        if dictionary is not None:
            raise ValueError(f"{path}: skip-thought tables have their dictionary.txt beside them: leave out --dictionary")
        return convert_skipthoughts(path, out, half=half)
    _not_halved(path, half)
    tensors = read_tensors(path)
    if text_encoder is not None or part_of(tensors) is not None:
        if glimpses is not None:
            raise ValueError(f"{path}: AttnGAN has no glimpses: leave out --glimpses")
        others = {} if text_encoder is None else {text_encoder: read_tensors(text_encoder)}
        return convert_attngan({path: tensors, **others}, dictionary, out)
    kind = recognise(path, tensors)
    try:
        model = kind.model(tensors, glimpses)
    except ValueError as error:
        raise ValueError(f"{path}: {kind.what}: {' '.join(str(error).split())}") from None
    origin = {"files": {path.name: file_sha256(path)}, "kind": kind.what}
    config: dict[str, Any] = {"description": f"{kind.what}, converted", "converted_from": origin}
    if isinstance(model, DRAW):
        vocabulary = _vocabulary(path, model, dictionary)
        config |= {"kind": "draw", "model": model.config.model_dump(), "vocabulary": vocabulary.model_dump()}
    else:
        if dictionary is not None or glimpses is not None:
            raise ValueError(f"{path}: {kind.what} has no words and no glimpses: leave out --dictionary and --glimpses")
        config |= {"kind": "sharpener", "model": model.config.model_dump()}
    config["parameters"] = sum(p.numel() for p in model.parameters())
    with whole_folder(out) as folder:
        write_model(folder, model.state_dict(), config, card=card(out.name, config))
    return out


def recognise(path: Path, tensors: Tensors) -> Kind:
    """The kind of weights that has most of a file's names.

    Raises:
        ValueError: none has any, or parameters are missing or too many; the message names the first few.
    """
    for marker, reason in _UNREAD.items():
        if any(name.startswith(marker) for name in tensors):
            raise ValueError(f"{path}: {reason}")
    found = frozenset(tensors)
    known = kinds()
    kind = max(known, key=lambda k: len(found & k.names) / len(found | k.names))
    if not found & kind.names:
        raise ValueError(f"{path}: no weights that are known here: it holds {_few(found)}; known are {'; '.join(k.what for k in known)}")
    problems = [
        f"{label}: {_few(names)}"
        for label, names in (("missing", kind.names - found), ("surplus", found - kind.names - kind.ignored))
        if names
    ]
    if problems:
        raise ValueError(f"{path}: damaged, or no {kind.what}, which has {len(kind.names)} parameters; {'; '.join(problems)}")
    return kind


def _not_halved(path: Path, half: bool) -> None:
    if half:
        raise ValueError(f"{path}: only the word vectors of skip-thoughts are stored in half precision: leave out --half")


# Files


def _dictionary_of(folder: Path, dictionary: Path | None) -> Path | None:
    """AttnGAN's words: the file that is given, or else the folder's."""
    own = folder / CAPTIONS_FILE
    return dictionary if dictionary is not None or not own.is_file() else own


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of an HDF5 or a PyTorch file, as float32 on the CPU.

    Raises:
        ValueError: it is neither, damaged, or wants something executed.
    """
    with path.open("rb") as file:
        start = file.read(len(OLD_PYTORCH))
    if start.startswith(HDF5):
        return _read_hdf5(path)
    if start.startswith((ZIP, OLD_PYTORCH)):
        return _read_pytorch(path)
    raise ValueError(f"{path}: neither an HDF5 nor a PyTorch file (it begins with {start[:8]!r})")


def _read_hdf5(path: Path) -> dict[str, Tensor]:
    try:
        import h5py
    except ImportError:
        raise ValueError("HDF5 files need h5py; in the checkout: pip install -c constraints.txt '.[legacy]'") from None
    try:
        with h5py.File(path, "r") as file:
            tensors = {}
            for name in file:
                item = file.get(name) if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
                if not isinstance(item, h5py.Dataset) or item.external or item.is_virtual or item.dtype.kind not in "fiu":
                    raise ValueError(f"{name} is no array of numbers")
                if item.nbytes > MOST_BYTES:
                    raise ValueError(f"{name} says that it has {item.nbytes:,} bytes")
                tensors[name] = torch.from_numpy(np.array(item, dtype=np.float32))
            return tensors
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: damaged, or no weights: {' '.join(str(error).split())}") from None


def _read_pytorch(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it asks for {asked[1]}" if asked else "it holds more than tensors, or is damaged"
        raise ValueError(f"{path}: refused: {what}; PyTorch files are read as tensors alone, and nothing of it was executed") from None
    except Exception as error:  # whatever a damaged file makes torch raise
        raise ValueError(f"{path}: damaged, or not of PyTorch: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: no state dict in it: it holds a {type(content).__name__}")
    for state in (content, *(content.get(key) for key in ("model", "state_dict", "weights"))):
        if isinstance(state, Mapping) and state and all(isinstance(value, Tensor) for value in state.values()):
            return {str(name).removeprefix("module."): _plain(path, str(name), tensor) for name, tensor in state.items()}
    raise ValueError(f"{path}: no state dict in it: it holds {_few(map(str, content))}")


def _plain(path: Path, name: str, tensor: Tensor) -> Tensor:
    """As float32."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_nested or tensor.device.type != "cpu":
        raise ValueError(f"{path}: {name} is no array of numbers but sparse, quantised, nested, complex or without content")
    if (size := tensor.numel() * tensor.element_size()) > MOST_BYTES:  # strides of 0 need no room in the file
        raise ValueError(f"{path}: {name} says that it has {size:,} bytes")
    return tensor.detach().float()


# Words


def _vocabulary(path: Path, model: DRAW, dictionary: Path | None) -> Vocabulary:
    """The words of a model; vectors beyond the last word are taken out of it, for no caption can reach them."""
    c = model.config
    if c.conditioning == "none":
        if dictionary is not None:
            raise ValueError(f"{path}: DRAW has no words: leave out --dictionary")
        return Vocabulary(words=(UNKNOWN,), unknown=UNKNOWN)  # it hears nothing of a caption, which may hold any words
    if dictionary is None:
        if c.colours != 1 or c.vocabulary_size - len(MNIST_WORDS) not in (0, 1):
            raise ValueError(f"{path}: has vectors of {c.vocabulary_size:,} words and does not say which: give --dictionary dictionary.pkl")
        words: tuple[str, ...] = MNIST_WORDS
    else:
        numbers = read_pickle(dictionary)
        if not isinstance(numbers, dict):
            raise ValueError(f"{dictionary}: holds a {type(numbers).__name__}; a dictionary of words and their numbers is needed")
        words = words_by_number(numbers, dictionary)
    if (rows := c.vocabulary_size) < len(words):
        raise ValueError(f"{dictionary}: has {len(words):,} words, and the weights have vectors of {rows:,}: it does not belong to them")
    for direction in (model.language.forwards, model.language.backwards):
        direction.words = nn.Embedding.from_pretrained(direction.words.weight.data[: len(words)].clone(), freeze=False)
    model.config = c.model_copy(update={"vocabulary_size": len(words)})
    return Vocabulary(words=words, aliases=ALIASES if words == MNIST_WORDS else {}, unknown=UNKNOWN if UNKNOWN in words else None)


# Small things


def _few(names: Any) -> str:
    listed = sorted(names)
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4:,} more" if len(listed) > 4 else "") if listed else "nothing"
