"""Read pickles of plain data without executing anything.

A pickle is a program that may call any function by its name. `read_pickle` runs it by `pickle.Unpickler` with a list of the few names
that plain data needs; each stands for a builder of this module and is never looked up. That covers the authors' `dictionary.pkl` and
`*-cap2im.pkl` and AttnGAN's `captions.pickle`, `filenames.pickle` and `class_info.pickle`, which Python 2 wrote.

`scan_pickle` goes through a pickle before it is run and bounds memory and time: a few bytes can ask for a huge memo, build a large
object again and again, or nest tuples so that the hash of a key takes for ever.

Source: `pickletools` for the operations, protocols 0 to 5; numpy's `__reduce__` for the states of arrays.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cap2im.files import brief, read_bytes, shortened

MOST_BYTES = 2**27  # of a pickle; the largest of the authors' files has some 30 million
MOST_MEMORY = 2**30  # bytes of what a pickle builds, by estimate
MOST_OPERATIONS = 2**24  # COCO's captions.pickle has some 9 million
MOST_GROWTH = 64  # steps of hashing and copying for each byte of a pickle
DEEPEST_TUPLE = 100  # hashing a tuple takes a frame of the interpreter's stack for each level

_CONTAINER = {
    "EMPTY_LIST": 280,
    "LIST": 280,
    "EMPTY_DICT": 460,
    "DICT": 460,
    "EMPTY_SET": 600,
    "FROZENSET": 600,
}  # bytes, the scan included
_PARTS = {"APPENDS": 16, "APPEND": 16, "ADDITEMS": 80, "SETITEMS": 60, "SETITEM": 120, "LIST": 16, "DICT": 60, "FROZENSET": 80}
_TUPLES = {"EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "TUPLE"}
_CALLS = {"REDUCE", "BUILD", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST"}
_MEMO_PUT, _MEMO_GET = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}, {"GET", "BINGET", "LONG_BINGET"}
_OPERATIONS = {ord(operation.code): operation for operation in pickletools.opcodes}

_NUMPY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMPY_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
_ARRAY_KINDS = re.compile(r"[|<>=]?[biufcSU][1-9]\d*")  # numbers and words; no Python objects, no records
_MOST_AXES = 32
_HASHED_APART = sys.hash_info.modulus  # larger integers may share a hash, and many such keys take quadratic time
_LONGEST_KEY = 100  # parts of a tuple


class RefusedError(ValueError):
    """The pickle asks for more than data, or for more memory than its size justifies."""


def read_pickle(path: Path) -> Any:
    """Read a pickle of plain data; nothing in it is executed.

    Args:
        path: written by Python 2 or 3, in any protocol.

    Returns:
        lists, dictionaries (ordered ones as plain ones), tuples, sets, text, numbers and numpy arrays. The `str` of Python 2 and the
        `bytes` of Python 3 become text: UTF-8, or else Latin-1.

    Raises:
        ValueError: it asks for anything else, by name of what it asked for; it is damaged, too large, or no pickle.
    """
    data = read_bytes(path, MOST_BYTES)
    try:
        scan_pickle(io.BytesIO(data))
        return _finished(_Unpickler(io.BytesIO(data), encoding="bytes").load(), {}, {})
    except RefusedError as refusal:
        raise ValueError(f"{path}: refused: {refusal}; only plain data is read from pickles, and nothing of it was executed") from None
    except RecursionError:
        raise ValueError(f"{path}: refused: nested too deeply") from None
    except (pickle.UnpicklingError, EOFError, LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: damaged, or no pickle of plain data ({shortened(str(error) or type(error).__name__, 200)})") from None


# The scan


class _Cell:
    """What the scan knows of an object.

    Attributes:
        weight: the cost of copying or hashing it.
        depth: how deep its tuples are nested; 0 for anything else.
        parts: of its tuples, shared ones counted as often as they occur; 1 for anything else.
    """

    __slots__ = ("depth", "parts", "weight")

    def __init__(self, weight: int = 1, depth: int = 0, parts: int = 1) -> None:
        self.weight, self.depth, self.parts = weight, depth, parts


_ATOM = _Cell()


def scan_pickle(file: BinaryIO, refuse_name: Callable[[str], None] = lambda _: None, largest_tuple: int = 2**61) -> None:
    """Go through a pickle without running it; the file is left where the pickle ends.

    Args:
        file: at the beginning of the pickle.
        refuse_name: is called with every MODULE.NAME of a GLOBAL or INST operation, and may raise.
        largest_tuple: parts of a tuple, those of tuples in it included; a machine that lets any tuple be a key needs a small number.

    Raises:
        RefusedError: it would take too much memory or time.
        ValueError: it is damaged or ends too early; LookupError where its stack or memo runs out.
    """
    start = file.tell()
    stack: list[_Cell] = []
    marks: list[int] = []
    memo: dict[int, _Cell] = {}
    memory = work = 0
    for count, (operation, argument) in enumerate(_operations(file)):
        name = operation.name
        if count > MOST_OPERATIONS:
            raise RefusedError(f"it has more than {MOST_OPERATIONS:,} operations")
        if name in _MEMO_GET:
            stack.append(memo[argument])
            memory += 8
            continue
        if name in _MEMO_PUT:
            place = len(memo) if argument is None else argument
            if not 0 <= place <= len(memo) + 2**16:
                raise RefusedError(f"it asks for a memo of {place:,} places")
            memo[place] = stack[-1]
            memory += 120
        elif name == "MARK":
            marks.append(len(stack))
            memory += 16
        elif name == "POP" and marks and marks[-1] == len(stack):
            marks.pop()
        elif name == "DUP":
            stack.append(stack[-1])
            memory += 8
        else:
            items = _popped(operation, stack, marks)
            if not operation.stack_after:
                continue
            memory += 8
            if name in _TUPLES:
                memory += 60 + 8 * len(items) + 260
                depth = 1 + max((item.depth for item in items), default=0)
                parts = 1 + sum(item.parts for item in items)
                if depth > DEEPEST_TUPLE or parts > largest_tuple:
                    raise RefusedError("it has tuples that are nested too deeply")
                stack.append(_Cell(min(2**60, 1 + sum(item.weight for item in items)), depth, min(2**60, parts)))
            elif name in _PARTS:
                others = {"DICT": items[::2], "ADDITEMS": items[1:], "FROZENSET": items}
                keys = items[1::2] if "SETITEM" in name else others.get(name, [])
                work += sum(key.weight for key in keys)
                made = name in _CONTAINER
                whole = _Cell() if made else items[0]
                whole.weight += len(items)
                memory += _CONTAINER.get(name, 0) + _PARTS[name] * len(items)
                stack.append(whole)
            elif name in _CALLS:
                if name == "INST":
                    refuse_name(argument.replace(" ", "."))
                weight = sum(item.weight for item in items)
                work += weight
                memory += 200 + 32 * weight
                stack.append(_Cell(1 + weight))
            elif name in _CONTAINER:
                memory += _CONTAINER[name]
                stack.append(_Cell())
            elif name == "GLOBAL":
                refuse_name(argument.replace(" ", "."))
                stack.append(_Cell())
            elif isinstance(argument, int) and not -_HASHED_APART < argument < _HASHED_APART:
                memory += (size := sys.getsizeof(argument))
                stack.append(_Cell(2000 + size // 8))
            elif argument is None or (size := sys.getsizeof(argument)) < 100:
                memory += 40 if argument is None else size
                stack.append(_ATOM)
            else:
                memory += 3 * size
                stack.append(_Cell(1 + size // 8))
        if memory > MOST_MEMORY or work > MOST_GROWTH * (file.tell() - start) + 2**16:
            raise RefusedError("it builds far more than it holds")


def _operations(file: BinaryIO) -> Iterator[tuple[pickletools.OpcodeInfo, Any]]:
    """Yield the operations and their arguments, as `pickletools.genops`, which fails at Python 2's text that is not ASCII."""
    while code := file.read(1):
        operation = _OPERATIONS.get(code[0])
        if operation is None:
            raise ValueError(f"no operation has the code {code[0]}")
        if operation.arg is None:
            yield operation, None
            if operation.name == "STOP":
                return
        elif operation.name == "STRING":
            yield operation, file.readline()
        else:
            argument = operation.arg.reader(file)
            if operation.name == "PROTO" and argument > pickle.HIGHEST_PROTOCOL:
                raise ValueError(f"protocol {argument}; 0 to {pickle.HIGHEST_PROTOCOL} are known")
            yield operation, argument
    raise ValueError("it ends too early")


def _popped(operation: pickletools.OpcodeInfo, stack: list[_Cell], marks: list[int]) -> list[_Cell]:
    """Take from the stack what an operation takes."""
    before = operation.stack_before
    if not before:
        return []
    start = len(stack) - len(before)
    if pickletools.markobject in before:
        start = marks.pop() - before.index(pickletools.markobject)
    if start < (marks[-1] if marks else 0):
        raise IndexError("its stack is empty where something is needed")
    items = stack[start:]
    del stack[start:]
    return items


# Builders


@dataclass(eq=False, slots=True)
class _Builder:
    """A function or class that a pickle may name, and what is called in its place."""

    full: str
    function: Callable[..., Any] | None

    def __call__(self, *arguments: Any) -> Any:
        if self.function is None:
            raise RefusedError(f"it calls {self.full}")
        return self.function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise RefusedError(f"it sets the attributes of {self.full}")


@dataclass(slots=True)
class _Type:
    """A numpy dtype in the making."""

    dtype: np.dtype[Any]

    def __setstate__(self, state: Any) -> None:
        _version, order, *fields = state[:5]
        if any(field is not None for field in fields):
            raise RefusedError("it asks for a numpy array of records")
        if (sign := _word(order)) in ("<", ">"):
            self.dtype = self.dtype.newbyteorder("<" if sign == "<" else ">")


@dataclass(slots=True)
class _Array:
    """A numpy array in the making."""

    value: np.ndarray[Any, Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _version, shape, kind, fortran, data = state
        self.value = _array(data, kind, shape, "F" if fortran else "C")


class _Unpickler(pickle.Unpickler):
    """Python's own machine, to which only the builders are known."""

    def find_class(self, module: str, name: str) -> _Builder:
        if (builder := _BUILDERS.get(f"{module}.{name}")) is None:
            raise RefusedError(f"it asks for {shortened(f'{module}.{name}', 100)}")
        return builder

    def persistent_load(self, persistent_id: Any) -> Any:
        raise RefusedError(f"it asks for a persistent object, {brief(persistent_id)}")


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    return {_key(key): value for key, value in pairs}


def _set(items: Any = ()) -> set[Any]:
    return {_key(item) for item in items}


def _frozen_set(items: Any = ()) -> frozenset[Any]:
    return frozenset(_set(items))


def _key(value: Any) -> Any:
    """Return what can be hashed in no time: a word, a number, or a short tuple of these."""
    plain = bytes | str | int | float | None
    if isinstance(value, plain) or (isinstance(value, tuple) and len(value) <= _LONGEST_KEY and all(isinstance(v, plain) for v in value)):
        return value
    raise RefusedError(f"it has {_described(value)} for a key")


def _encoded(text: Any = "", encoding: Any = "latin1") -> bytes:
    """Return bytes from the text as which protocol 2 of Python 3 writes them."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", b"latin1", b"latin-1"):
        raise RefusedError(f"it asks for _codecs.encode to {brief(encoding)}")
    return text.encode("latin-1")


def _type(kind: Any, *_flags: Any) -> _Type:
    if not _ARRAY_KINDS.fullmatch(_word(kind)):
        raise RefusedError(f"it asks for a numpy array of {brief(_word(kind))}; those of numbers and of words are read")
    return _Type(np.dtype(_word(kind)))


def _empty_array(kind: Any, *_rest: Any) -> _Array:
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
    array = np.ndarray(sides, dtype, raw, order="F" if _word(order) == "F" else "C")
    return array.astype(dtype.newbyteorder("="))  # its own memory, in this machine's order of bytes


def _array_in_place(data: Any, kind: Any, shape: Any, order: Any) -> _Array:
    return _Array(_array(data, kind, shape, order))


def _scalar(kind: Any, data: Any) -> Any:
    return _array(data, kind, (), "C").item()


_FUNCTIONS: Mapping[str, Callable[..., Any] | None] = {
    "collections.OrderedDict": _ordered,
    "__builtin__.set": _set,
    "builtins.set": _set,
    "__builtin__.frozenset": _frozen_set,
    "builtins.frozenset": _frozen_set,
    "_codecs.encode": _encoded,
    "numpy.dtype": _type,
    "numpy.ndarray": None,  # an argument of _reconstruct
    **{f"{module}._reconstruct": _empty_array for module in _NUMPY_MODULES},
    **{f"{module}.scalar": _scalar for module in _NUMPY_MODULES},
    **{f"{module}._frombuffer": _array_in_place for module in _NUMPY_NUMERIC},
}
_BUILDERS = {full: _Builder(full, function) for full, function in _FUNCTIONS.items()}


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


def _described(value: Any) -> str:
    return value.full if isinstance(value, _Builder) else f"a {type(value).__name__.lstrip('_').lower()}"


def _finished(value: Any, done: dict[int, Any], texts: dict[bytes, str]) -> Any:
    """Return the value with text for bytes and arrays for arrays in the making; lists, dictionaries and sets are changed in place.

    Args:
        value: of the machine.
        done: by identity, what is finished or being finished, so that shared objects stay shared and cost one visit. The original is
            kept beside a tuple's replacement, so that its identity is not used again.
        texts: text of bytes.
    """
    if value is None or isinstance(value, str | int | float | complex):
        return value
    if isinstance(value, bytes | bytearray):
        data = bytes(value)
        return texts[data] if data in texts else texts.setdefault(data, _decoded(data))
    if (place := id(value)) in done:
        return done[place][0]
    if isinstance(value, _Array) and value.value is not None:
        return value.value
    done[place] = (value, None)
    if isinstance(value, list):
        value[:] = [_finished(item, done, texts) for item in value]
    elif isinstance(value, dict):
        items: Sequence[Any] = [(_finished(key, done, texts), _finished(item, done, texts)) for key, item in value.items()]
        value.clear()
        value.update(items)
    elif isinstance(value, set):
        items = [_finished(item, done, texts) for item in value]
        value.clear()
        value.update(items)
    elif isinstance(value, tuple | frozenset):
        done[place] = (type(value)(_finished(item, done, texts) for item in value), value)
    else:
        raise RefusedError(f"it holds {_described(value)}")
    return done[place][0]
