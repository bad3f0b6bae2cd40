"""Read pickles of plain data without executing anything.

A pickle is a program that may call any function by name. `read_pickle` runs it with `pickle.Unpickler` and an allow-list of the few names
that plain data needs; each stands for a builder of this module and is never imported. That covers the authors' `dictionary.pkl` and
`*-cap2im.pkl` and AttnGAN's `captions.pickle`, `filenames.pickle` and `class_info.pickle`, written by Python 2.

Source: numpy's `__reduce__` for the states of arrays.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cap2im.convert.pickle_limits import MOST_BYTES, RefusedError, check_pickle
from cap2im.files import brief, read_bytes, shortened

_ARRAY_KINDS = re.compile(r"[|<>=]?[biufcSU][1-9]\d*")  # numbers and text; no Python objects, no records
_MOST_AXES = 32
_LONGEST_KEY = 100  # parts of a tuple


def read_pickle(path: Path) -> Any:
    """Read a pickle of plain data; nothing in it is executed.

    Args:
        path: written by Python 2 or 3, in any protocol.

    Returns:
        Lists, dictionaries (ordered ones as plain ones), tuples, sets, text, numbers and numpy arrays. The `str` of Python 2 and the
        `bytes` of Python 3 become text: UTF-8, or else Latin-1.

    Raises:
        ValueError: the pickle asks for anything else (the message names it), exceeds a limit, or is damaged.
    """
    data = read_bytes(path, MOST_BYTES)
    try:
        check_pickle(io.BytesIO(data))
        return _as_data(_Unpickler(io.BytesIO(data), encoding="bytes").load(), {}, {})
    except RefusedError as error:
        raise ValueError(f"{path}: refused: {error}; only plain data is read from pickles, and nothing was executed") from None
    except RecursionError:
        raise ValueError(f"{path}: refused: nested too deeply") from None
    except (pickle.UnpicklingError, EOFError, LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: damaged, or not a pickle of plain data ({shortened(str(error) or type(error).__name__, 200)})") from None


@dataclass(eq=False, slots=True)
class _Builder:
    """The replacement of a function or class that a pickle may name."""

    name: str
    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise RefusedError(f"it sets the attributes of {self.name}")


@dataclass(slots=True)
class _Type:
    """A numpy dtype under construction."""

    dtype: np.dtype[Any]

    def __setstate__(self, state: Any) -> None:
        _version, order, *fields = state[:5]
        if any(field is not None for field in fields):
            raise RefusedError("it asks for a numpy array of records")
        if (sign := _text(order)) in ("<", ">"):
            self.dtype = self.dtype.newbyteorder("<" if sign == "<" else ">")


@dataclass(slots=True)
class _Array:
    """A numpy array under construction."""

    value: np.ndarray[Any, Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _version, shape, kind, fortran, data = state
        self.value = _array(data, kind, shape, "F" if fortran else "C")


class _Unpickler(pickle.Unpickler):
    """Python's unpickler, restricted to the builders."""

    def find_class(self, module: str, name: str) -> _Builder:
        if (builder := _BUILDERS.get(f"{module}.{name}")) is None:
            raise RefusedError(f"it asks for {shortened(f'{module}.{name}', 100)}")
        return builder

    def persistent_load(self, persistent_id: Any) -> Any:
        raise RefusedError(f"it asks for a persistent object, {brief(persistent_id)}")


def _dict(pairs: Any = ()) -> dict[Any, Any]:
    return {_key(key): value for key, value in pairs}


def _set(items: Any = ()) -> set[Any]:
    return {_key(item) for item in items}


def _frozenset(items: Any = ()) -> frozenset[Any]:
    return frozenset(_set(items))


def _key(value: Any) -> Any:
    """Return a key that is hashed quickly: text, a number, or a short tuple of these."""
    plain = bytes | str | int | float | None
    if isinstance(value, plain) or (isinstance(value, tuple) and len(value) <= _LONGEST_KEY and all(isinstance(v, plain) for v in value)):
        return value
    raise RefusedError(f"it has {_described(value)} for a key")


def _encode(text: Any = "", encoding: Any = "latin1") -> bytes:
    """Return the bytes that protocol 2 of Python 3 writes as text."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", b"latin1", b"latin-1"):
        raise RefusedError(f"it asks for _codecs.encode to {brief(encoding)}")
    return text.encode("latin-1")


def _ndarray(*_: Any) -> Any:
    raise RefusedError("it calls numpy.ndarray")


def _dtype(kind: Any, *_flags: Any) -> _Type:
    if not _ARRAY_KINDS.fullmatch(_text(kind)):
        raise RefusedError(f"it asks for a numpy array of {brief(_text(kind))}; arrays of numbers and of text are read")
    return _Type(np.dtype(_text(kind)))


def _reconstruct(kind: Any, *_rest: Any) -> _Array:
    if kind is not _BUILDERS["numpy.ndarray"]:
        raise RefusedError(f"it asks for an array of the class {_described(kind)}")
    return _Array()


def _array(data: Any, kind: Any, shape: Any, order: Any) -> np.ndarray[Any, Any]:
    if not isinstance(kind, _Type) or not isinstance(data, bytes | bytearray | str):
        raise RefusedError(f"it asks for an array of {_described(data)}")
    raw = data.encode("latin-1") if isinstance(data, str) else bytes(data)
    dtype, sides = kind.dtype, [int(side) for side in shape[:_MOST_AXES]]
    if len(shape) > _MOST_AXES or min(sides, default=0) < 0 or math.prod(sides) * dtype.itemsize != len(raw):
        raise ValueError(f"{len(raw)} bytes for an array of shape {brief(shape)} and type {dtype}")
    array = np.ndarray(sides, dtype, raw, order="F" if _text(order) == "F" else "C")
    return array.astype(dtype.newbyteorder("="))  # a copy, in this machine's byte order


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _dict,
    **{f"{module}.set": _set for module in ("__builtin__", "builtins")},
    **{f"{module}.frozenset": _frozenset for module in ("__builtin__", "builtins")},
    "_codecs.encode": _encode,
    "numpy.dtype": _dtype,
    "numpy.ndarray": _ndarray,  # only an argument of _reconstruct
}
for _module in ("numpy.core", "numpy._core"):
    _FUNCTIONS[f"{_module}.multiarray._reconstruct"] = _reconstruct
    _FUNCTIONS[f"{_module}.multiarray.scalar"] = lambda kind, data: _array(data, kind, (), "C").item()
    _FUNCTIONS[f"{_module}.numeric._frombuffer"] = lambda *arguments: _Array(_array(*arguments))
_BUILDERS = {name: _Builder(name, function) for name, function in _FUNCTIONS.items()}


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return _decode(value)
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {_described(value)}")
    return value


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _described(value: Any) -> str:
    return value.name if isinstance(value, _Builder) else f"a {type(value).__name__.lstrip('_').lower()}"


def _as_data(value: Any, done: dict[int, tuple[Any, Any]], texts: dict[bytes, str]) -> Any:
    """Replace bytes by text and `_Array` by its array; lists, dictionaries and sets are changed in place.

    Args:
        value: an unpickled object.
        done: id -> result and original of objects that are replaced or being replaced, so that shared objects stay shared. Keeping the
            original keeps its id unique.
        texts: bytes -> text.

    Returns:
        The value, or its replacement.

    Raises:
        RefusedError: the value is not plain data.
    """
    if value is None or isinstance(value, str | int | float | complex):
        return value
    if isinstance(value, bytes | bytearray):
        data = bytes(value)
        return texts[data] if data in texts else texts.setdefault(data, _decode(data))
    if (key := id(value)) in done:
        return done[key][0]
    if isinstance(value, _Array) and value.value is not None:
        return value.value
    done[key] = (value, value)
    if isinstance(value, list):
        value[:] = [_as_data(item, done, texts) for item in value]
    elif isinstance(value, dict):
        pairs = [(_as_data(name, done, texts), _as_data(item, done, texts)) for name, item in value.items()]
        value.clear()
        value.update(pairs)
    elif isinstance(value, set):
        items = [_as_data(item, done, texts) for item in value]
        value.clear()
        value.update(items)
    elif isinstance(value, tuple | frozenset):
        done[key] = (type(value)(_as_data(item, done, texts) for item in value), value)
    else:
        raise RefusedError(f"it holds {_described(value)}")
    return done[key][0]
