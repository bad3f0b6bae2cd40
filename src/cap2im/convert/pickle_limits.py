"""Limits on the memory and time that a pickle takes, checked before it is loaded.

A few bytes can ask for a huge memo, build a large object again and again, or nest tuples so that hashing a key never ends.

Source: `pickletools` for the operations of protocols 0 to 5.
"""

from __future__ import annotations

import pickletools
import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

MOST_BYTES = 2**27  # of a pickle; the largest of the authors' files has about 30 million
MOST_OPERATIONS = 2**24  # COCO's captions.pickle has about 9 million
MOST_CONTAINERS = 2**21  # and calls; an empty set takes 216 bytes
MOST_GROWTH = 64  # elements hashed or copied for each byte of a pickle
MOST_NESTED_TUPLES = 4096  # in a tuple, shared ones each time they occur; bounds the recursion of its hash

# of an object: the cost of hashing or copying it, and the number of tuples in a tuple, itself included; its references share the list
_Size = list[int]
_ATOM: _Size = [1, 0]
_OPERATIONS = {operation.code.encode("latin-1"): operation for operation in pickletools.opcodes}
_CALLS = {"REDUCE", "BUILD", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST"}
_CONTAINERS = {"EMPTY_LIST", "LIST", "EMPTY_DICT", "DICT", "EMPTY_SET", "FROZENSET"}
_TUPLES = {"EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "TUPLE"}
_ADDITIONS = {"APPEND", "APPENDS", "ADDITEMS", "SETITEM", "SETITEMS"}
# which operands an operation hashes or copies
_WORK = {
    "DICT": slice(0, None, 2),
    "SETITEM": slice(1, None, 2),
    "SETITEMS": slice(1, None, 2),
    "ADDITEMS": slice(1, None),
    **dict.fromkeys({"FROZENSET", *_CALLS}, slice(None)),
}


class RefusedError(ValueError):
    """The pickle asks for more than plain data, or for too much memory or time."""


def check_pickle(file: BinaryIO, refuse_name: Callable[[str], None] = lambda _: None) -> None:
    """Check a pickle without loading it, and leave the file where the pickle ends.

    Args:
        file: at the start of the pickle.
        refuse_name: called with every MODULE.NAME of a GLOBAL or INST operation; may raise.

    Raises:
        RefusedError: the pickle exceeds a limit.
        ValueError: the pickle is damaged or truncated; LookupError if its stack or memo lacks an object.
    """
    start = file.tell()
    stack: list[_Size] = []
    marks: list[int] = []
    memo: dict[int, _Size] = {}
    built = work = 0
    for count, (operation, argument) in enumerate(_operations(file)):
        name = operation.name
        if name.endswith("GET"):
            stack.append(memo[argument])
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "POP" and marks and marks[-1] == len(stack):
            marks.pop()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "MEMOIZE" or name.endswith("PUT"):
            place = len(memo) if argument is None else argument
            if not 0 <= place <= len(memo) + 2**16:
                raise RefusedError(f"it asks for a memo of {place:,} places")
            memo[place] = stack[-1]
        else:
            items = _pop(operation, stack, marks)
            if name in _WORK:
                work += sum(cost for cost, _ in items[_WORK[name]])
            if name in ("GLOBAL", "INST"):
                refuse_name(argument.replace(" ", "."))
            if name in _ADDITIONS:
                if items[0] is _ATOM:
                    raise ValueError("it adds items to a value that is not a container")
                items[0][0] += len(items) - 1
                stack.append(items[0])
            elif name in _CONTAINERS:
                built += 1
                stack.append([1 + len(items), 0])
            elif name in _TUPLES or name in _CALLS:
                built += 1
                tuples = 1 + sum(tuples for _, tuples in items) if name in _TUPLES else 0
                if tuples > MOST_NESTED_TUPLES:
                    raise RefusedError(f"it has more than {MOST_NESTED_TUPLES:,} tuples in a tuple")
                stack.append([1 + sum(cost for cost, _ in items), tuples])
            elif operation.stack_after:
                stack.append(_atom(argument))
        if count > MOST_OPERATIONS or built > MOST_CONTAINERS or work > MOST_GROWTH * (file.tell() - start) + 2**16:
            raise RefusedError("it builds far more than it holds")


def _operations(file: BinaryIO) -> Iterator[tuple[pickletools.OpcodeInfo, Any]]:
    """Yield operations and arguments, as `pickletools.genops`, which fails at Python 2's text that is not ASCII."""
    while code := file.read(1):
        operation = _OPERATIONS.get(code)
        if operation is None:
            raise ValueError(f"unknown operation {code!r}")
        if operation.name == "STRING":
            yield operation, file.readline()
        else:
            yield operation, None if operation.arg is None else operation.arg.reader(file)
        if operation.name == "STOP":
            return
    raise ValueError("truncated")


def _atom(argument: object) -> _Size:
    if isinstance(argument, str | bytes | bytearray) and len(argument) >= 100:
        return [1 + len(argument) // 8, 0]
    if isinstance(argument, int) and abs(argument) >= sys.hash_info.modulus:
        return [2000, 0]  # such integers can share a hash, and a dictionary with many of them as keys takes quadratic time
    return _ATOM


def _pop(operation: pickletools.OpcodeInfo, stack: list[_Size], marks: list[int]) -> list[_Size]:
    """Pop the operands of an operation."""
    before = operation.stack_before
    if not before:
        return []
    start = len(stack) - len(before)
    if pickletools.markobject in before:
        start = marks.pop() - before.index(pickletools.markobject)
    if start < (marks[-1] if marks else 0):
        raise IndexError("its stack lacks an object")
    items = stack[start:]
    del stack[start:]
    return items
