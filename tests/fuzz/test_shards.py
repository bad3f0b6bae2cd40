"""Damaged and hostile tar files, Parquet files and manifests give samples and problems, or a one-line error."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cap2im.data.manifest import Manifest, parse_manifest
from cap2im.data.shards import CaptionedBytes, read_shard
from cap2im.data.tar_samples import captions_of
from cap2im.data.webdataset import expand_braces
from tests.fuzz.floats import FINITE, FLOATS, SHARES
from tests.limits import GIB, run_limited

MEMBER_NAMES = [
    "a.jpg",
    "a.txt",
    "a.json",
    "a.b.jpg",
    "a.b.txt",
    "./a.png",
    "../a.txt",
    "/b.jpg",
    "b.txt",
    "._a.jpg",
    "a.cls",
    "x",
    ".",
    "é.jpg",
]
NAMES = st.sampled_from(MEMBER_NAMES)
KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
TEXTS = [b'{"caption": "red"}', b"[[[[", b'{"captions": {"text": ["a"]}}', b"red .", b"\xff\xfe"]
CONTENT = st.binary(max_size=20) | st.sampled_from(TEXTS)
MEMBERS = st.lists(st.tuples(NAMES, KINDS, NAMES, CONTENT), max_size=8)


def tar(members: list[tuple[str, bytes, str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind, target, content in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            member.linkname = target if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            member.size = len(content) if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def error_of(function: Callable[[], object]) -> str:
    """The message of a ValueError, empty without one; other errors are raised."""
    try:
        function()
    except ValueError as error:
        return str(error)
    return ""


def read(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    images: list[CaptionedBytes] = []
    if error := error_of(lambda: images.extend(read_shard(str(path), []))):
        assert error.startswith(f"{path}: ")
        assert "\n" not in error
    for image in images:
        assert image.captions
        assert all(caption.strip() for caption in image.captions)


@given(members=MEMBERS)
def test_tar_files_of_any_members_are_listed(tmp_path, members):
    read(tmp_path / "train-0.tar", tar(members))


@given(
    members=MEMBERS,
    place=SHARES,
    new=st.binary(max_size=12),
    cut=SHARES,
    packed=st.booleans(),
)
def test_damaged_tar_files_end_in_one_line(tmp_path, members, place, new, cut, packed):
    data = tar([("a.jpg", tarfile.REGTYPE, "", b"x"), ("a.txt", tarfile.REGTYPE, "", b"red"), *members])
    data = gzip.compress(data, 1) if packed else data[: 512 * (2 * len(members) + 4)]
    at = int(place * len(data))
    data = data[:at] + new + data[at + len(new) :]
    read(tmp_path / "train-0.tar", data[: int(cut * len(data))] if cut < 0.5 else data)


DOCUMENTS = st.recursive(
    st.none() | st.booleans() | FLOATS | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["caption", "captions", "text", "x"]), inner, max_size=3),
)


@given(document=DOCUMENTS)
def test_json_of_any_structure_gives_captions_or_none(document):
    assert all(isinstance(caption, str) and caption.strip() for caption in captions_of(document))


@given(pattern=st.text("{}.,019a*", max_size=14))
def test_any_pattern_of_braces_ends(pattern):
    error = error_of(lambda: expand_braces(pattern))
    assert not error or "more than 100,000 files" in error


FILES = st.sampled_from(["../train-0.tar", "/train-0.tar", "file:///train-0.tar"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | st.text(max_size=5) | FILES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
KEYS = ("format", "side", "fit", "source", "shards", "vocabulary", "file", "rows", "sha256")


@given(key=st.sampled_from(KEYS), value=VALUES)
def test_manifests_of_any_structure_end_in_one_line(key, value):
    shard = {"file": "data/train-0.tar", "rows": 3, "sha256": None}
    manifest = {"format": "cap2im captioned images 1", "side": 8, "fit": "crop", "source": {}, "shards": [shard], "vocabulary": {}}
    (shard if key in shard else manifest)[key] = value
    parsed: list[Manifest] = []
    if error := error_of(lambda: parsed.append(parse_manifest(json.dumps(manifest).encode(), "folder"))):
        assert error.startswith("folder")
        assert "\n" not in error
    for each in (shard for manifest in parsed for shard in manifest.shards):
        assert ".." not in each.file
        assert not each.file.startswith("/")
        assert 0 <= each.rows <= 10**9


READ = """
import sys
from cap2im.data.shards import read_shard
try:
    print(len(read_shard(sys.argv[1], problems := [])), *problems)
except ValueError as error:
    print(error)
"""


def sparse_member() -> bytes:
    """A tar file with a sparse member of 100 GB in 1 KB."""
    member = tarfile.TarInfo("b.jpg")
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "b.jpg", "GNU.sparse.realsize": str(10**11)}
    content = b"1\n0\n1\n".ljust(512, b"\0") + b"x"
    member.size = len(content)
    whole = [("a.jpg", tarfile.REGTYPE, "", b"x"), ("a.txt", tarfile.REGTYPE, "", b"red"), ("b.txt", tarfile.REGTYPE, "", b"blue")]
    buffer = io.BytesIO(tar(whole))
    with tarfile.open(fileobj=buffer, mode="a") as archive:
        archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (sparse_member, "1 unreadable image: "),
        (lambda: gzip.compress(bytes(600 * 2**20), 1), "unpacks to more than 536,870,912 bytes"),
        (lambda: tar([("a.jpg", tarfile.REGTYPE, "", b"x"), ("a.json", tarfile.REGTYPE, "", b"[" * 10**6)]), "recursion limit"),
    ],
)
def test_bombs_in_tar_files_are_refused(tmp_path, make, expected):
    (tmp_path / "train-0.tar").write_bytes(make())
    limited = run_limited(str(tmp_path / "train-0.tar"), cwd=tmp_path, code=READ)
    assert limited.status == 0, limited.err
    assert expected in limited.out
    assert limited.peak < 1.5 * GIB
