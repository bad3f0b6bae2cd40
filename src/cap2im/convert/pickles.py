"""Pickles of plain data, read without executing anything.

A pickle is a program for a small stack machine, and the usual machine calls whatever function the program names. The one here
has no call: it knows lists, dictionaries, tuples, sets, words, numbers and numpy arrays of numbers or words, and refuses a program
that names anything else. That is all that the authors' `dictionary.pkl` and `*-cap2im.pkl` and AttnGAN's `captions.pickle`,
`filenames.pickle` and `class_info.pickle` hold, which Python 2 wrote.

Source: the operations as the standard library's `pickletools` documents them, protocols 0 to 5; the states of arrays as numpy's
`__reduce__` writes them.
"""

from __future__ import annotations

import codecs
import math
import pickletools
import re
import struct
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MOST_BYTES = 2**28  # a byte of pickle can become sixty of memory; the largest of the authors' files has some 30 million
MOST_GROWTH = 64  # of what is built by name: bytes of memory for each byte of pickle, or else one part is built from again and again

# operations that push what follows them in the file, by their code
_NUMBERS = {ord(code): struct.Struct(layout) for code, layout in {"K": "<B", "M": "<H", "J": "<i", "G": ">d"}.items()}
_TEXT = {0x58: struct.Struct("<I"), 0x8C: struct.Struct("<B"), 0x8D: struct.Struct("<Q")}
_BYTES = {
    code: struct.Struct(layout)
    for code, layout in {0x55: "<B", 0x54: "<i", 0x43: "<B", 0x42: "<I", 0x8E: "<Q", 0x96: "<Q"}.items()  # 0x55, 0x54: Python 2's text
}
_BIG_NUMBERS = {0x8A: struct.Struct("<B"), 0x8B: struct.Struct("<i")}
_MEMO_PUT = {ord("q"): struct.Struct("<B"), ord("r"): struct.Struct("<I")}
_MEMO_GET = {ord("h"): struct.Struct("<B"), ord("j"): struct.Struct("<I")}
_CONSTANTS = {ord("N"): None, 0x88: True, 0x89: False}
_EMPTY: dict[int, Callable[[], Any]] = {ord("]"): list, ord("}"): dict, ord(")"): tuple, 0x8F: set}
_TUPLES = {0x85: 1, 0x86: 2, 0x87: 3}

_NUMPY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMPY_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
_ARRAY_KINDS = re.compile(r"[|<>=]?[biufcSU][1-9]\d*")  # numbers and words; no Python objects, no records


class _RefusedError(ValueError):
    """The pickle asks for more than data."""


@dataclass(frozen=True)
class _Name:
    """A name that a pickle may say: it stands for one of the builders below and is never looked up."""

    full: str


@dataclass
class _Type:
    """A numpy dtype in the making."""

    dtype: np.dtype[Any]

    def set_state(self, state: Any) -> None:
        _version, order, *fields = state[:5]
        if any(field is not None for field in fields):
            raise _RefusedError("it asks for a numpy array of records")
        if (sign := _word(order)) in ("<", ">"):
            self.dtype = self.dtype.newbyteorder("<" if sign == "<" else ">")


@dataclass
class _Array:
    """A numpy array in the making."""

    value: np.ndarray[Any, Any] | None = None

    def set_state(self, state: Any) -> None:
        _version, shape, kind, fortran, data = state
        self.value = _array(data, kind, shape, "F" if fortran else "C")


def read_pickle(path: Path) -> Any:
    """What a pickle of plain data holds; nothing in it is executed.

    Args:
        path: written by Python 2 or 3, in any protocol.

    Returns:
        lists, dictionaries (ordered ones too), tuples, sets, text, numbers and numpy arrays. The `str` of Python 2 and the `bytes`
        of Python 3 become text: UTF-8, or else Latin-1.

    Raises:
        ValueError: it asks for anything else, by name of what it asked for; it is damaged, too large, or no pickle.
    """
    if (size := path.stat().st_size) > MOST_BYTES:
        raise ValueError(f"{path}: {size:,} bytes; pickles of up to {MOST_BYTES:,} are read")
    machine = _Machine(path.read_bytes())
    try:
        return _finished(machine.run(), {})
    except _RefusedError as refusal:
        raise ValueError(f"{path}: refused: {refusal}; only plain data is read from pickles, and nothing of it was executed") from None
    except RecursionError:
        raise ValueError(f"{path}: refused: nested too deeply") from None
    except (IndexError, KeyError, TypeError, AttributeError, ValueError, OverflowError, struct.error) as error:
        what = str(error) or type(error).__name__
        raise ValueError(f"{path}: damaged, or no pickle (byte {machine.position:,} of {size:,}: {what})") from None


class _Machine:
    """The stack machine; `run` answers the object that the program leaves."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks that marks have put aside
        self.memo: dict[int, Any] = {}
        self.room = MOST_GROWTH * len(data) + 2**16

    def run(self) -> Any:
        data = self.data
        while True:
            if self.position >= len(data):
                raise ValueError("it ends too early")
            code = data[self.position]
            self.position += 1
            if code == ord("."):
                return self.stack.pop()
            self.step(code)

    def step(self, code: int) -> None:
        """Executes one operation."""
        stack = self.stack
        if code in _NUMBERS:
            stack.append(self.number(_NUMBERS[code]))
        elif code in _MEMO_PUT:
            self.memo[self.number(_MEMO_PUT[code])] = stack[-1]
        elif code in _MEMO_GET:
            stack.append(self.memo[self.number(_MEMO_GET[code])])
        elif code == 0x94:  # MEMOIZE
            self.memo[len(self.memo)] = stack[-1]
        elif code in _TEXT:
            stack.append(self.take(self.number(_TEXT[code])).decode("utf-8", "surrogatepass"))
        elif code in _BYTES:
            stack.append(self.take(self.number(_BYTES[code])))
        elif code in _BIG_NUMBERS:
            stack.append(int.from_bytes(self.take(self.number(_BIG_NUMBERS[code])), "little", signed=True))
        elif code in _CONSTANTS:
            stack.append(_CONSTANTS[code])
        elif code in _EMPTY:
            stack.append(_EMPTY[code]())
        elif code in _TUPLES:
            stack[-_TUPLES[code] :] = [tuple(self.last(_TUPLES[code]))]
        else:
            self.rarer_step(chr(code))

    def rarer_step(self, code: str) -> None:
        match code:
            case "(":  # MARK
                self.below.append(self.stack)
                self.stack = []
            case "e":  # APPENDS
                items = self.marked()
                self.top(list).extend(items)
            case "a":  # APPEND
                item = self.stack.pop()
                self.top(list).append(item)
            case "u":  # SETITEMS
                items = self.marked()
                self.top(dict).update(_pairs(items))
            case "s":  # SETITEM
                items = self.last(2)
                del self.stack[-2:]
                self.top(dict).update(_pairs(items))
            case "\x90":  # ADDITEMS
                items = self.marked()
                self.top(set).update(map(_key, items))
            case "t":
                items = self.marked()
                self.stack.append(tuple(items))
            case "l":
                items = self.marked()
                self.stack.append(items)
            case "d":
                items = self.marked()
                self.stack.append(_pairs(items))
            case "\x91":
                items = self.marked()
                self.stack.append(frozenset(map(_key, items)))
            case "I":  # INT, and protocol 0's booleans
                line = self.line()
                self.stack.append({b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line))
            case "L":
                self.stack.append(int(self.line().removesuffix(b"L")))
            case "F":
                self.stack.append(float(self.line()))
            case "S":  # STRING: Python 2's text as its source code
                self.stack.append(_unquoted(self.line()))
            case "V":
                self.stack.append(self.line().decode("raw-unicode-escape"))
            case "p":
                self.memo[int(self.line())] = self.stack[-1]
            case "g":
                self.stack.append(self.memo[int(self.line())])
            case "0":
                if self.stack:
                    self.stack.pop()
                else:
                    self.marked()
            case "1":
                self.marked()
            case "2":
                self.stack.append(self.stack[-1])
            case "\x80":  # PROTO
                if (protocol := self.take(1)[0]) > 5:
                    raise ValueError(f"protocol {protocol}; 0 to 5 are known")
            case "\x95":  # FRAME
                self.take(8)
            case "c":  # GLOBAL
                self.stack.append(_allowed(self.line().decode(), self.line().decode()))
            case "\x93":  # STACK_GLOBAL
                module, name = self.last(2)
                self.stack[-2:] = [_allowed(_word(module), _word(name))]
            case "i":  # INST names a class and makes an instance of it
                raise _RefusedError(f"it asks for {self.line().decode()}.{self.line().decode()}")
            case "R":  # REDUCE
                name, arguments = self.last(2)
                self.stack[-2:] = [self.counted(_build(name, arguments))]
            case "b":  # BUILD
                state = self.stack.pop()
                target = self.stack[-1]
                if not isinstance(target, (_Type, _Array)):
                    raise _RefusedError(f"it sets the attributes of {_described(target)}")
                target.set_state(state)
                self.counted(target)
            case _:
                known = next((op.name for op in pickletools.opcodes if op.code == code), None)
                if known is None:
                    raise ValueError(f"no operation has the code {ord(code)}")
                raise _RefusedError(f"it uses the operation {known}{' on ' + _described(self.stack[-1]) if self.stack else ''}")

    def counted(self, built: Any) -> Any:
        """What was built, where there was room for it."""
        array = built.value if isinstance(built, _Array) else None
        self.room -= sys.getsizeof(built) if array is None else array.nbytes
        if self.room < 0:
            raise _RefusedError("it builds far more than it holds")
        return built

    def take(self, count: int) -> bytes:
        if count < 0 or self.position + count > len(self.data):
            raise ValueError("it ends too early")
        self.position += count
        return self.data[self.position - count : self.position]

    def number(self, layout: struct.Struct) -> Any:
        return layout.unpack(self.take(layout.size))[0]

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.position)
        return self.take(len(self.data) if end < 0 else end + 1 - self.position)[:-1]

    def last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError("the stack is empty")
        return self.stack[-count:]

    def marked(self) -> list[Any]:
        """What was pushed since the last mark, which goes."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise TypeError(f"{_described(self.stack[-1])} where a {kind.__name__} is needed")
        return self.stack[-1]


# What a pickle may name


def _ordered(pairs: Iterable[Any] = ()) -> dict[Any, Any]:
    return {_key(key): value for key, value in pairs}


def _set(items: Iterable[Any] = ()) -> set[Any]:
    return {_key(item) for item in items}


def _frozen(items: Iterable[Any] = ()) -> frozenset[Any]:
    return frozenset(_set(items))


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    """How protocol 2 of Python 3 writes bytes."""
    if not isinstance(text, str) or _word(encoding) not in ("latin1", "latin-1"):
        raise _RefusedError(f"it asks for _codecs.encode to {_described(encoding)}")
    return text.encode("latin-1")


def _type(kind: Any, *_flags: Any) -> _Type:
    if not _ARRAY_KINDS.fullmatch(_word(kind)):
        raise _RefusedError(f"it asks for a numpy array of {_word(kind)!r}; those of numbers and of words are read")
    return _Type(np.dtype(_word(kind)))


def _empty_array(kind: Any, *_rest: Any) -> _Array:
    if kind != _Name("numpy.ndarray"):
        raise _RefusedError(f"it asks for an array of the class {_described(kind)}")
    return _Array()


def _array(data: Any, kind: Any, shape: Any, order: Any) -> np.ndarray[Any, Any]:
    if not isinstance(kind, _Type) or not isinstance(data, (bytes, str)):
        raise _RefusedError(f"it asks for an array of {_described(data)}")
    raw = data.encode("latin-1") if isinstance(data, str) else data
    dtype, sides = kind.dtype, [int(side) for side in shape]
    if min(sides, default=0) < 0 or math.prod(sides) * dtype.itemsize != len(raw):
        raise ValueError(f"{len(raw)} bytes for an array of shape {sides} and type {dtype}")
    array = np.ndarray(sides, dtype, raw, order="F" if _word(order) == "F" else "C")
    return array.astype(dtype.newbyteorder("="))  # its own memory, in this machine's order of bytes


def _array_in_place(data: Any, kind: Any, shape: Any, order: Any) -> _Array:
    return _Array(_array(data, kind, shape, order))


def _scalar(kind: Any, data: Any) -> Any:
    return _array(data, kind, (), "C").item()


_BUILDERS: dict[str, Callable[..., Any] | None] = {
    "collections.OrderedDict": _ordered,
    "__builtin__.set": _set,
    "builtins.set": _set,
    "__builtin__.frozenset": _frozen,
    "builtins.frozenset": _frozen,
    "_codecs.encode": _encoded,
    "numpy.dtype": _type,
    "numpy.ndarray": None,  # only said to _reconstruct
    **{f"{module}._reconstruct": _empty_array for module in _NUMPY_MODULES},
    **{f"{module}.scalar": _scalar for module in _NUMPY_MODULES},
    **{f"{module}._frombuffer": _array_in_place for module in _NUMPY_NUMERIC},
}


def _allowed(module: str, name: str) -> _Name:
    if (full := f"{module}.{name}") not in _BUILDERS:
        raise _RefusedError(f"it asks for {full}")
    return _Name(full)


def _build(name: Any, arguments: Any) -> Any:
    builder = _BUILDERS.get(name.full) if isinstance(name, _Name) else None
    if builder is None or not isinstance(arguments, tuple):
        raise _RefusedError(f"it calls {_described(name)}")
    return builder(*arguments)


# Values


def _word(value: Any) -> str:
    if isinstance(value, bytes):
        return _decoded(value)
    if not isinstance(value, str):
        raise TypeError(f"{_described(value)} where a word is needed")
    return value


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _unquoted(line: bytes) -> bytes:
    if len(line) < 2 or line[0] != line[-1] or line[:1] not in (b"'", b'"'):
        raise ValueError("text without quotes")
    return codecs.escape_decode(line[1:-1])[0]


def _key(value: Any) -> Any:
    """A value that may be a key or a member of a set: a word, a number, or a tuple of these."""
    plain = (bytes, str, int, float, type(None))
    if isinstance(value, plain) or (isinstance(value, tuple) and all(isinstance(item, plain) for item in value)):
        return value
    raise _RefusedError(f"it has {_described(value)} for a key")


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return {_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def _described(value: Any) -> str:
    return value.full if isinstance(value, _Name) else f"a {type(value).__name__.lstrip('_').lower()}"


def _finished(value: Any, done: dict[int, Any]) -> Any:
    """The value with text for bytes and arrays for arrays in the making; lists, dictionaries and sets are changed in place.

    Args:
        value: of the machine.
        done: by identity, what is finished or being finished, so that shared objects stay shared and cost one visit.
    """
    if value is None or isinstance(value, (str, int, float)):
        return value
    if id(value) in done:
        return done[id(value)][0]
    if isinstance(value, _Array) and value.value is not None:
        return value.value
    if isinstance(value, (_Name, _Type, _Array)):
        raise _RefusedError(f"it holds {_described(value)}")
    done[id(value)] = (value, value)  # the second keeps the first alive, and with it its identity
    if isinstance(value, bytes):
        done[id(value)] = (_decoded(value), value)
    elif isinstance(value, list):
        value[:] = [_finished(item, done) for item in value]
    elif isinstance(value, dict):
        items = [(_finished(key, done), _finished(item, done)) for key, item in value.items()]
        value.clear()
        value.update(items)
    elif isinstance(value, set):
        items = [_finished(item, done) for item in value]
        value.clear()
        value.update(items)
    else:
        done[id(value)] = (type(value)(_finished(item, done) for item in value), value)
    return done[id(value)][0]
