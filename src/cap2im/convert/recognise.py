"""Legacy weights of any known kind into a model folder: the kind is told by what the file holds, never by its name.

Nothing in a file is executed: HDF5 holds arrays alone, PyTorch files are read as tensors alone (`weights_only`), pickled dictionaries by
`cap2im.convert.pickles`. What a file says of its sizes is compared with the file's own size before a network is made.
"""

from __future__ import annotations

import io
import itertools
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pickle import UnpicklingError  # the exception alone
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cap2im.arrays import open_hdf5
from cap2im.checkpoint import write_model
from cap2im.convert.attngan import CAPTIONS_FILE, convert_attngan, part_of
from cap2im.convert.card import card
from cap2im.convert.pickle_limits import MOST_BYTES, RefusedError, check_pickle
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
from cap2im.data.vocabulary import UNKNOWN, Vocabulary, words_in_order
from cap2im.files import atomic_folder, brief, check_regular_file, check_unicode_path, file_sha256, shortened
from cap2im.models.aligndraw import DRAW
from cap2im.models.lapgan import Sharpener

HDF5 = b"\x89HDF\r\n\x1a\n"
ZIP = b"PK\x03\x04"  # PyTorch since 1.6
OLD_PYTORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
OLD_PICKLES = 5  # at the start of such a file: magic number, version, machine, content, keys of what follows
MOST_SHARING = 8  # bytes of float32 weights for each byte of a PyTorch file; half precision has two, tied weights more
DEEPEST_NETWORK = 3  # keys that lead to a network in a checkpoint
NETWORK_KEYS = ("netG", "generator", "model", "state_dict", "weights")  # which network of several is read
WRAPPERS = {"module", "_orig_mod", "model", "netG", "generator"}  # first parts of names that wrappers add to all of them
PLAIN_TYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}


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
        ValueError: nothing known, damaged, wanting a dictionary, `out` holds something, or its path is not UTF-8.
    """
    check_unicode_path(out)
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
    with atomic_folder(out) as folder:
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
    """Read the named tensors of an HDF5 or a PyTorch file, on the CPU.

    Args:
        path: of the file. Of a whole PyTorch checkpoint its generator or its model is read; see `_network_of`.

    Returns:
        float32 of HDF5; of PyTorch what the file holds, mapped from it where its format allows that.

    Raises:
        ValueError: no regular file, neither format, damaged, it wants something executed, it says that it holds more than its size allows,
            or it holds several networks.
    """
    check_regular_file(path)
    with path.open("rb") as file:
        start = file.read(len(OLD_PYTORCH))
    if start.startswith(HDF5):
        return _read_hdf5(path)
    if start.startswith((ZIP, OLD_PYTORCH)):
        return _read_pytorch(path, zipped=start.startswith(ZIP))
    raise ValueError(f"{path}: neither an HDF5 nor a PyTorch file (it begins with {start[:8]!r})")


def _read_hdf5(path: Path) -> dict[str, Tensor]:
    datasets = open_hdf5(path)
    try:
        return {name: torch.from_numpy(np.array(dataset, dtype=np.float32)) for name, dataset in datasets.items()}
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged, or no weights: {shortened(' '.join(str(error).split()), 300)}") from None
    finally:
        for dataset in datasets.values():
            dataset.file.close()
            break


def _read_pytorch(path: Path, *, zipped: bool) -> dict[str, Tensor]:
    try:
        _scan_pytorch(path, zipped)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, that a kind of tensors is on its way out
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except (UnpicklingError, RefusedError) as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        what = (
            f"it asks for {asked[1]}"
            if asked
            else str(error)
            if isinstance(error, RefusedError)
            else "it holds more than tensors, or is damaged"
        )
        end = "PyTorch files are read as tensors alone, and nothing of it was executed"
        raise ValueError(f"{path}: refused: {shortened(what, 200)}; {end}") from None
    except Exception as error:  # whatever a damaged file makes torch raise
        raise ValueError(f"{path}: damaged, or not of PyTorch: {shortened(' '.join(str(error).split()), 200)}") from None
    tensors = _network_of(path, content)
    for name, tensor in tensors.items():
        _check_plain(path, name, tensor)
    total, most = sum(4 * tensor.numel() for tensor in tensors.values()), MOST_SHARING * path.stat().st_size
    if total > most:
        raise ValueError(f"{path}: says that it has {total:,} bytes of weights; at most {most:,} are read from a file of its size")
    return tensors


def _scan_pytorch(path: Path, zipped: bool) -> None:
    """Bound what the pickles of a PyTorch file can build; see `check_pickle` for errors."""
    if not zipped:
        with path.open("rb") as file:
            for _ in range(OLD_PICKLES):
                check_pickle(file, _refuse_growth)
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len({member.filename.lower() for member in members}) < len(members):
            raise ValueError("two members of its archive have one name")
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED or member.file_size > path.stat().st_size:
                raise ValueError(f"{member.filename} is compressed, which PyTorch's files are not")
            if member.filename.lower().endswith(".pkl"):
                if member.file_size > MOST_BYTES:
                    raise ValueError(f"{member.filename} has {member.file_size:,} bytes; at most {MOST_BYTES:,} are read")
                check_pickle(io.BytesIO(archive.read(member)), _refuse_growth)


def _refuse_growth(name: str) -> None:
    """Refuse what torch would call and what makes much of a number, or takes time that grows with the square of a text."""
    if name == "_codecs.encode" or name.rpartition(".")[2] == "bytearray":
        raise RefusedError(f"it asks for {shortened(name)}")


def _network_of(path: Path, content: Any) -> dict[str, Tensor]:
    """Return the state dict in a PyTorch file, without the prefixes that wrappers add to names.

    A whole checkpoint holds other things beside. Its only network is read, or else that of the first of `NETWORK_KEYS` that it has.

    Raises:
        ValueError: there is none, or several; the message names them.
    """
    found = dict(_state_dicts(content, (), []))
    if not found:
        held = _few(map(brief, itertools.islice(content, 1000))) if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise ValueError(f"{path}: no state dict in it: it holds {held}")
    for key in NETWORK_KEYS if len(found) > 1 else ():
        if chosen := {place: state for place, state in found.items() if key in place}:
            found = chosen
            break
    if len(found) > 1:
        places = _few(".".join(place) for place in found)
        raise ValueError(f"{path}: holds several networks: {places}; save the one to convert in a file by itself")
    ((_, tensors),) = found.items()
    while tensors and len(wrappers := {name.partition(".")[0] for name in tensors}) == 1 and wrappers <= WRAPPERS:
        tensors = {name.partition(".")[2]: tensor for name, tensor in tensors.items()}
    return tensors


def _state_dicts(content: Any, place: tuple[str, ...], seen: list[Any]) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Yield the state dicts in a checkpoint with the keys that lead there; those of optimizers are left out."""
    if len(place) > DEEPEST_NETWORK or any(content is each for each in seen) or len(seen) > 1000:
        return
    if isinstance(content, Mapping):
        seen.append(content)
        if content and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
            yield place, dict(content)
        elif "param_groups" not in content:
            for key, value in content.items():
                yield from _state_dicts(value, (*place, key if isinstance(key, str) else brief(key)), seen)
    elif isinstance(content, list | tuple):
        seen.append(content)
        for number, value in enumerate(content):
            yield from _state_dicts(value, (*place, str(number)), seen)


def _check_plain(path: Path, name: str, tensor: Tensor) -> None:
    """Raise ValueError for a tensor that is no dense array of numbers, or says that it is larger than what is stored of it."""
    shown = shortened(name)
    plain = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_nested and tensor.device.type == "cpu"
    if not plain or tensor.dtype not in PLAIN_TYPES:
        raise ValueError(f"{path}: {shown} is no array of numbers but sparse, quantised, nested, complex or without content")
    if (size := tensor.numel() * tensor.element_size()) > (stored := tensor.untyped_storage().nbytes()):  # strides of 0
        raise ValueError(f"{path}: {shown} says that it has {size:,} bytes, and {stored:,} are stored")


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
        words = words_in_order(numbers, dictionary)
    if (rows := c.vocabulary_size) < len(words):
        raise ValueError(f"{dictionary}: has {len(words):,} words, and the weights have vectors of {rows:,}: it does not belong to them")
    for direction in (model.language.forwards, model.language.backwards):
        direction.words = nn.Embedding.from_pretrained(direction.words.weight.data[: len(words)].clone(), freeze=False)
    model.config = c.model_copy(update={"vocabulary_size": len(words)})
    return Vocabulary(words=words, aliases=ALIASES if words == MNIST_WORDS else {}, unknown=UNKNOWN if UNKNOWN in words else None)


# Small things


def _few(names: Any) -> str:
    listed = sorted(shortened(name) for name in names)
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4:,} more" if len(listed) > 4 else "") if listed else "nothing"
