"""Pickles of plain data are read, whatever Python wrote them; anything else is refused by name, and nothing runs."""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import pickle
import pickletools
import struct
import tracemalloc
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from cap2im.convert.pickle_limits import MOST_BYTES
from cap2im.convert.pickles import read_pickle
from cap2im.data.vocabulary import words_in_order

PLAIN = {
    "a": [1, -2, 300, 70_000, 2**40, -(2**70)],
    "é": (True, False, None, 1.5, -0.25),
    "nested": {"x": [[], {}, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)]},
    "set": {1, 2, "three"},
    3: "long " * 100,
    ("a", 1): frozenset({4, 5}),
    "雪": OrderedDict([("b", 1), ("a", 2)]),
}


@pytest.fixture
def read(tmp_path):
    def call(data: bytes):
        path = tmp_path / "some.pkl"
        path.write_bytes(data)
        return read_pickle(path)

    return call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_of_this_python(read, protocol):
    found = read(pickle.dumps(PLAIN, protocol))
    assert found == PLAIN
    assert [type(item) for item in found["é"]] == [bool, bool, type(None), float, float]
    assert list(found["雪"]) == ["b", "a"]
    assert read(pickletools.optimize(pickle.dumps(PLAIN, protocol))) == PLAIN


# what Python 2.7 writes: str as bytes, its own module names


def test_python_2_protocol_0(read):
    data = (
        b"(dp0\nS'a'\np1\nI7\nsS'caf\\xc3\\xa9'\np2\nL12345678901L\nsS\"it's\"\np3\n(lp4\nI01\naI00\naF0.5\naNasVu\\u00e9\np5\n"
        b"(I1\nI2\ntp6\nsS'set'\np7\nc__builtin__\nset\np8\n((lp9\nI3\natp10\nRp11\nsS'caf\\xe9'\ng6\ns."
    )
    assert read(data) == {
        "a": 7,
        "café": (1, 2),  # Latin-1, and the same word as the UTF-8 one: the later stays
        "it's": [True, False, 0.5, None],
        "ué": (1, 2),
        "set": {3},
    }


def test_python_2_protocol_2(read):
    words = (
        b"\x80\x02}q\x00(U\x03UNKq\x01K\x00U\x05caf\xc3\xa9q\x02M\x2c\x01U\x04na\xefvJ\x01\x00\x01\x00X\x02\x00\x00\x00\xc3\xa9q\x04K\x05u."
    )
    assert read(words) == {"UNK": 0, "café": 300, "naïv": 65537, "é": 5}
    ordered = b"\x80\x02ccollections\nOrderedDict\nq\x00]q\x01(]q\x02(U\x01bK\x01e]q\x03(U\x01aK\x02ee\x85q\x04Rq\x05."
    assert list(read(ordered).items()) == [("b", 1), ("a", 2)]


def test_python_2_captions_of_attngan(read):
    """[captions of training, of test, number -> word, word -> number]"""
    data = (
        b"\x80\x02]q\x00(]q\x01(]q\x02(K\x01K\x02e]q\x03K\x02ae]q\x04]q\x05K\x01aa}q\x06(K\x00U\x05<end>q\x07K\x01U\x01aq\x08K\x02U\x04birdq\tu"
        b"}q\n(h\x07K\x00h\x08K\x01h\tK\x02ue."
    )
    assert read(data) == [[[1, 2], [2]], [[1]], {0: "<end>", 1: "a", 2: "bird"}, {"<end>": 0, "a": 1, "bird": 2}]


def python_2_array(code: bytes, order: bytes, shape: bytes, fortran: bytes, data: bytes) -> bytes:
    """A numpy array as Python 2's cPickle writes it in protocol 2."""
    size = struct.pack("<i", len(data))
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03(K\x01"
        + shape
        + b"cnumpy\ndtype\nq\x04U"
        + bytes([len(code)])
        + code
        + b"K\x00K\x01\x87Rq\x05(K\x03U\x01"
        + order
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + fortran
        + b"T"
        + size
        + data
        + b"tb."
    )


def test_python_2_arrays(read):
    values = np.array([[1.5, -2, 3], [4, 5, 1e300]])
    assert (read(python_2_array(b"f8", b"<", b"K\x02K\x03\x86", b"\x89", values.tobytes())) == values).all()
    found = read(python_2_array(b"f8", b">", b"K\x02K\x03\x86", b"\x88", values.astype(">f8").tobytes("F")))
    assert (found == values).all()
    assert found.dtype == np.float64
    assert found.dtype.isnative
    assert read(python_2_array(b"i4", b"<", b"K\x00\x85", b"\x89", b"")).shape == (0,)
    kind = b"cnumpy\ndtype\nU\x02i8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    scalar = b"\x80\x02cnumpy.core.multiarray\nscalar\n" + kind + b"U\x08"
    assert read(scalar + struct.pack("<q", -5) + b"\x86R.") == -5


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "array", [np.arange(6).reshape(2, 3).T, np.float32([1, 2]), np.array([["é", "bird"]]), np.array([True]), np.array(b"x")]
)
def test_arrays_of_this_python(read, protocol, array):
    found = read(pickle.dumps({"here": [array], "scalar": array.flat[0]}, protocol))
    np.testing.assert_array_equal(found["here"][0], array)
    assert found["here"][0].dtype == array.dtype
    assert found["scalar"] == array.flat[0].item() or found["scalar"] == array.flat[0].item().decode()


def test_shared_objects_stay_shared_and_cost_one_visit(read):
    layer = ["end"]
    for _ in range(60):
        layer = [layer, layer]
    found = read(pickle.dumps(layer, 2))
    assert found[0] is found[1]
    endless: list = []
    endless.append(endless)
    assert (found := read(pickle.dumps(endless)))[0] is found


def peak(read, data: bytes) -> int:
    """The most bytes of memory that reading takes at once."""
    tracemalloc.start()
    try:
        with contextlib.suppress(ValueError):
            read(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


MUCH = b"T" + struct.pack("<i", 200_000) + b"x" * 200_000 + b"q\x00"
MUCH_TEXT = b"X" + struct.pack("<i", 200_000) + b"x" * 200_000 + b"q\x00"
MANY = b"](" + b"".join(b"M" + struct.pack("<H", n) for n in range(60_000)) + b"eq\x00"


def test_repeated_bytes_are_decoded_once(read):
    data = b"\x80\x02](" + MUCH + 5_000 * b"h\x00" + b"e."
    assert peak(read, data) < 5_000_000
    assert len(found := read(data)) == 5_001
    assert all(text is found[0] for text in found)


@pytest.mark.parametrize(
    "again",
    [
        MUCH_TEXT + b"c_codecs\nencode\nq\x01" + 5_000 * b"h\x01h\x00U\x06latin1\x86R",
        MANY + b"c__builtin__\nset\nq\x01" + 500 * b"h\x01h\x00\x85R",
        MUCH
        + b"cnumpy\ndtype\nU\x02u1\x85Rq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03"
        + 5_000 * (b"h\x02h\x03\x85R(K\x01J" + struct.pack("<i", 200_000) + b"\x85h\x01\x89h\x00tb"),
    ],
    ids=["encoded text", "sets", "arrays"],
)
def test_one_part_is_not_built_from_again_and_again(read, again):
    data = b"\x80\x02](" + again + b"e."
    with pytest.raises(ValueError, match="refused: it builds far more than it holds"):
        read(data)
    assert peak(read, data) < 150 * len(data)


def test_long_tuples_are_read(read):
    flat = tuple(range(50_000))
    assert read(pickle.dumps(flat, 2)) == flat


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_honest_pickles_have_room(read, protocol):
    """Many small things, which grow most."""
    numbers = range(1_000)
    many = [[set(), {1}, frozenset({n, -n}), OrderedDict(), OrderedDict(a=n), np.int8(n % 9), np.zeros(1), b"x%d" % n] for n in numbers]
    assert len(read(pickle.dumps(many, protocol))) == 1_000


# Refusals


class Reduce:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments, state=None) -> None:
        self.reduction = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduction


class Renamed(pickle._Pickler):
    """The pickler of Python, with persistent ids for one type."""

    def persistent_id(self, value):
        return "id" if isinstance(value, bytearray) else None


def persistent(protocol: int) -> bytes:
    buffer = io.BytesIO()
    Renamed(buffer, protocol).dump([bytearray(b"x")])
    return buffer.getvalue()


def hidden_in_array(command: str) -> bytes:
    """A numpy array of objects, one of which is a call."""
    array = np.empty(1, dtype=object)
    array[0] = Reduce(os.system, command)
    return pickle.dumps(array, 2)


def malicious(marker: Path) -> dict[str, tuple[bytes, str]]:
    """Pickles that would make the marker file, with what they ask for first."""
    touch = f"touch {marker}"
    code = f"open({str(marker)!r}, 'w').close()"
    system = f"{os.system.__module__}.system"
    attack = Reduce(os.system, touch)
    quoted = repr(touch).encode()
    cases = {
        **{f"system, protocol {p}": (pickle.dumps(attack, p), system) for p in range(6)},
        "eval": (pickle.dumps(Reduce(eval, code), 4), "builtins.eval"),
        "Python 2": (b"cposix\nsystem\n(S" + quoted + b"\ntR.", "posix.system"),
        "Python 2, eval": (b"\x80\x02c__builtin__\neval\nU" + bytes([len(code)]) + code.encode() + b"\x85R.", "__builtin__.eval"),
        "getattr": (pickle.dumps(Reduce(getattr, Reduce(__import__, "os"), "system"), 2), "getattr"),
        "stack global": (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + bytes([len(touch)]) + touch.encode() + b"\x85R.", "os.system"),
        "dotted": (b"\x80\x04\x8c\x0bcollections\x8c\x1eOrderedDict.fromkeys.__globals\x93.", "collections.OrderedDict.fromkeys"),
        "inst": (b"(S" + quoted + b"\nios\nsystem\n.", "os.system"),
        "object": (b"(cos\nsystem\nS" + quoted + b"\no.", "os.system"),
        "in a list": (pickle.dumps([1, {"a": (2, [attack])}], 2), system),
        "as a key": (pickle.dumps({attack: 1}, 2), system),
        "in a dtype's arguments": (pickle.dumps(Reduce(np.dtype, attack), 2), system),
        "in a dtype's state": (pickle.dumps(Reduce(np.dtype, "i8", state=(3, "<", None, None, attack, -1, -1, 0)), 2), system),
        "in an array's state": (hidden_in_array(touch), "array of 'O8'"),
        "array class": (pickle.dumps(Reduce(np.zeros(1).__reduce__()[0], Reduce(os.system, touch), (0,), b"b"), 2), system),
        "new object": (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "NEWOBJ class argument must be a type"),
        "build on a function": (b"\x80\x02ccollections\nOrderedDict\n}U\x08__code__Nsb.", "sets the attributes of collections.OrderedDict"),
        "build on a dictionary": (pickle.dumps(Reduce(OrderedDict, state={"items": 1}), 2), "'dict' object has no attribute '__dict__'"),
        "call of a word": (b"\x80\x02U\x01a)R.", "'bytes' object is not callable"),
        "call of a builder's result": (b"\x80\x02c__builtin__\nset\n)R)R.", "'set' object is not callable"),
        "a name alone": (b"\x80\x02c__builtin__\nset\n.", "holds __builtin__.set"),
        "extension": (b"\x80\x02\x82\x01.", "unregistered extension code 1"),
        "persistent, protocol 0": (persistent(0), "a persistent object, 'id'"),
        "persistent, protocol 2": (persistent(2), "a persistent object, 'id'"),
        "records": (pickle.dumps(np.zeros(2, "i4,f8"), 2), "array of 'V12'"),
        "codec": (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aU\x03zip\x86R.", "_codecs.encode to b'zip'"),
    }
    deep = b"\x80\x02}" + b")" + b"\x85" * 300_000 + b"K\x01s."  # its hash would overflow the interpreter's stack
    deep_lists = b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b"."
    return cases | {"deep key": (deep, "more than 4,096 tuples in a tuple"), "deep": (deep_lists, "too deeply")}


@pytest.mark.parametrize("name", malicious(Path("x")))
def test_refused_by_name_and_nothing_runs(read, tmp_path, name, monkeypatch):
    marker = tmp_path / "ran"
    data, asked = malicious(marker)[name]
    for module, function in ((os, "system"), (builtins, "eval"), (builtins, "exec")):
        monkeypatch.setattr(module, function, lambda *_: pytest.fail("it ran"))
    with pytest.raises(ValueError, match=r"some\.pkl: (refused: |damaged, or not a pickle of plain data)") as refusal:
        read(data)
    assert asked in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not marker.exists()


def test_the_attack_is_one(tmp_path):
    """The control: Python's own machine runs it."""
    marker = tmp_path / "ran"
    pickle.loads(malicious(marker)["in a list"][0])
    assert marker.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no pickle at all\n",
        b"\x89HDF\r\n\x1a\n",
        b"PK\x03\x04",
        b"\x80\x09K\x01.",
        b"\x80\x02K\x01",
        b"\x80\x02.",
        b"\x80\x02h\x05.",
        b"\x80\x02]q\x00K\x01u.",
        b"\x80\x02}K\x01K\x02K\x03u.",
        b"\x80\x02K\x01K\x02a.",
        b"I12x\n.",
        b"S'open\n.",
        b"I1",
        b"\x80\x02\x8b\xff\xff\xff\xff.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x02X\xff\xff\xff\xffabc.",
        b"I" + b"9" * 10_000 + b"\n.",
        python_2_array(b"f8", b"<", b"K\x02K\x03\x86", b"\x89", b"short"),
        python_2_array(b"f8", b"<", b"K\x02\x85", b"\x89", b"more than two"),
        python_2_array(b"S0", b"|", b"J\xff\xff\xff\x7f\x85", b"\x89", b""),
        python_2_array(b"i7", b"<", b"K\x00\x85", b"\x89", b""),
    ],
)
def test_damaged(read, data):
    with pytest.raises(ValueError, match=r"some\.pkl: (damaged|refused)") as error:
        read(data)
    assert "\n" not in str(error.value)


def doubled(make: bytes, first: bytes) -> bytes:
    """Sixty levels, each of which holds the level before twice: it expands to 2^60 parts."""
    levels = (make.replace(b"#", bytes([level])) + b"q" + bytes([level + 1]) for level in range(60))
    return first + b"q\x00" + b"".join(levels)


PAIRS = doubled(b"h#h#\x86", b")")  # tuples, which can be keys
LISTS = doubled(b"](h#h#e", b"]")
FLOODS = {
    "a key that takes for ever to hash": (b"\x80\x02}(" + PAIRS + b"K\x01u.", "more than 4,096 tuples in a tuple"),
    "a member of a set": (b"\x80\x04\x8f(" + PAIRS + b"\x90.", "more than 4,096 tuples in a tuple"),
    "a member of a frozen set": (b"\x80\x04(" + PAIRS + b"\x91.", "more than 4,096 tuples in a tuple"),
    "a member of Python 2's set": (b"\x80\x02c__builtin__\nset\n](" + PAIRS + b"0h\x3ce\x85R.", "more than 4,096 tuples in a tuple"),
    "a shape": (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01" + PAIRS + b"NNNtb.",
        "more than 4,096 tuples in a tuple",
    ),
    "a persistent id": (b"\x80\x02" + LISTS + b"Q.", r"a persistent object, \[\[\[\.\.\.\]"),
    "sets": (b"\x80\x04(" + b"\x8f" * 3_000_000 + b"l.", "builds far more"),
    "keys that share a hash": (
        b"\x80\x02}(" + b"".join(b"\x8a\x0a" + (1 + n * (2**61 - 1)).to_bytes(10, "little") + b"N" for n in range(1, 5000)) + b"u.",
        "builds far more",
    ),
    "a long key again and again": (b"\x80\x02}((" + b"K\x01" * 30_000 + b"tq\x00N" + b"h\x00N" * 30_000 + b"u.", "builds far more"),
}


@pytest.mark.parametrize("name", FLOODS)
def test_floods_are_refused_before_they_take_memory(read, name):
    data, message = FLOODS[name]
    with pytest.raises(ValueError, match=message) as error:
        read(data)
    assert len(str(error.value)) < 500


def test_nested_values_are_not_expanded(tmp_path):
    """The message of a dictionary of 782 bytes took for ever to be written."""
    path = tmp_path / "dictionary.pkl"
    path.write_bytes(b"\x80\x02" + LISTS + b"q\xf0}X\x01\x00\x00\x00ah\xf0s.")
    with pytest.raises(ValueError, match=r"'a': \[\[\[\.\.\.\], \[\.\.\.\]\]") as error:
        words_in_order(read_pickle(path), path)
    assert len(str(error.value)) < 300


def test_every_truncation_is_reported(read):
    data = pickle.dumps([{"a": [1, 70_000, 2**70], "é": (True, 1.5)}, np.arange(3)], 2)
    for length in range(len(data)):
        with pytest.raises(ValueError, match=r"damaged, or not a pickle"):
            read(data[:length])


def test_no_memory_for_nothing(read, tmp_path):
    """Six bytes that make Python's own machine reserve tens of gigabytes for its memo."""
    for put in (b"r\xff\xff\xff\x7f", b"p2147483647\n"):
        with pytest.raises(ValueError, match="refused: it asks for a memo of 2,147,483,647 places"):
            read(b"\x80\x02]" + put + b".")
    with pytest.raises(ValueError, match="refused: it asks for a memo of -1 places"):
        read(b"\x80\x02]p-1\n.")
    with (tmp_path / "large.pkl").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(ValueError, match=r"large\.pkl: 134,217,729 bytes; at most 134,217,728 are read"):
        read_pickle(tmp_path / "large.pkl")
