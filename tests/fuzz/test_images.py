"""Damaged and hostile images: bytes or a reason, never an exception, and bounded memory."""

from __future__ import annotations

import io
import os
import struct
import zlib
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from cap2im.data.image_files import ImageBytes
from cap2im.data.image_preparation import inspect_image, prepare_image
from tests.data.sources import picture
from tests.fuzz.floats import FLOATS, SHARES
from tests.limits import GIB, run_limited


def _seeds() -> dict[str, bytes]:
    image, exif = picture(1, 24, 20), Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    kinds = {
        "PNG": (image, {"exif": exif, "icc_profile": profile}),
        "PNG palette": (image.quantize(16), {"transparency": b"\0\x80"}),
        "JPEG": (image, {"exif": exif, "icc_profile": profile}),
        "JPEG progressive": (image.convert("CMYK"), {"progressive": True}),
        "GIF": (image.quantize(16), {"save_all": True, "append_images": [image.quantize(8)]}),
        "TIFF": (image, {"exif": exif, "compression": "tiff_lzw"}),
        "TIFF plain": (image.convert("CMYK"), {}),
        "BMP": (image, {}),
        "WEBP": (image.convert("RGBA"), {"exif": exif, "icc_profile": profile, "method": 0}),
        "ICO": (image.convert("RGBA"), {"sizes": [(16, 16)]}),
        "TGA": (image, {"compression": "tga_rle"}),
        "PPM": (image, {}),
        "JPEG2000": (image, {}),
        "SGI": (image, {}),
        "PCX": (image, {}),
        "DDS": (image, {}),
        "QOI": (image, {}),
    }
    seeds = {}
    for kind, (each, saving) in kinds.items():
        buffer = io.BytesIO()
        each.save(buffer, kind.split()[0], **saving)
        seeds[kind] = buffer.getvalue()
    return seeds


SEEDS = _seeds()
EXTREMES = [b"", b"\0", b"\xff", b"\x7f", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"]
BYTES = st.sampled_from(EXTREMES) | st.binary(max_size=8)
CHANGES = st.lists(st.tuples(SHARES, st.booleans(), BYTES), min_size=1, max_size=6)


def mutated(data: bytes, changes: list[tuple[float, bool, bytes]], cut: float) -> bytes:
    """Overwrite or insert some bytes, most of them in the header, and cut the end off."""
    for place, insert, new in changes:
        at = int(place**3 * len(data))
        data = data[:at] + new + data[at + (0 if insert else len(new)) :]
    return data[: int(len(data) * cut) + 1]


@pytest.mark.parametrize("kind", sorted(SEEDS))
def test_the_seeds_are_read(kind):
    assert isinstance(prepare_image(ImageBytes(kind, SEEDS[kind]), 8, "crop", None), bytes)


@given(
    kind=st.sampled_from(sorted(SEEDS)),
    changes=CHANGES,
    cut=st.one_of(st.just(1.0), SHARES),
    fit=st.sampled_from(["stretch", "crop", "shorter"]),
    box=st.none() | st.tuples(*[FLOATS] * 4),
)
@example(kind="PNG", changes=[(0.0, True, b"")], cut=0.0, fit="crop", box=None)
def test_a_damaged_picture_gives_bytes_or_a_reason(kind, changes, cut, fit, box):
    reference = ImageBytes(kind, mutated(SEEDS[kind], changes, cut))
    result = prepare_image(reference, 8, fit, box)
    if isinstance(result, bytes):
        with Image.open(io.BytesIO(result)) as image:
            image.load()
            assert min(image.size) == 8
            assert max(image.size) <= 400
            assert not set(image.info) & {"icc_profile", "exif", "comment"}
    else:
        assert result
        assert "\n" not in result
    examined = inspect_image(reference)
    assert bool(examined.reason) != bool(examined.sha256)


def png(width: int, height: int, bits: int, colour_type: int, *chunks: tuple[bytes, bytes], data: bytes | None = None) -> bytes:
    """A PNG of zeros, or of other image data, with more chunks before it."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type]
    if data is None:
        squeeze, row = zlib.compressobj(1), bytes(1 + (width * channels * bits + 7) // 8)
        data = b"".join([*(squeeze.compress(row) for _ in range(height)), squeeze.flush()])
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
    parts = [header, *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in parts)


@cache
def zeros(size: int) -> bytes:
    return zlib.compress(bytes(size), 1)


def bomb(kind: bytes, size: int) -> tuple[bytes, bytes]:
    return kind, b"a\0\0" + (b"\1\0\0\0" if kind == b"iTXt" else b"") + zeros(size)


def gif_of_endless_frames() -> bytes:
    frame = b",\0\0\0\0\x08\0\x08\0\0\x02\x07\x84\x8f\xa9\xcb\xed\x0f\x00"
    return b"GIF89a\x08\0\x08\0\x80\0\0\0\0\0\xff\xff\xff" + frame * 300_000


def tiff_header(width: int, height: int, tile: int) -> bytes:
    tags = {256: width, 257: height, 258: 8, 259: 5, 262: 1, 277: 1, 322: tile, 323: tile, 324: 8, 325: 100}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<H", len(tags)) + entries + bytes(4 + 200)


BOMBS = {
    "zTXt.png": lambda: png(8, 8, 8, 2, bomb(b"zTXt", 400 * 2**20)),
    "iCCP.png": lambda: png(8, 8, 8, 2, bomb(b"iCCP", 400 * 2**20)),
    "iTXt.png": lambda: png(8, 8, 8, 2, *[bomb(b"iTXt", 2**20 - 9)] * 300),
    "idat.png": lambda: png(8, 8, 8, 2, data=zeros(400 * 2**20)),
    "huge.png": lambda: png(2**31 - 1, 2**31 - 1, 1, 0, data=b""),
    "wide.png": lambda: png(178_956_970, 1, 8, 0),
    "line.png": lambda: png(30_000, 1, 1, 0),
    "la.png": lambda: png(13_300, 13_300, 8, 4),
    "palette.png": lambda: png(13_300, 13_300, 1, 3, (b"PLTE", bytes(6)), (b"tRNS", b"\0\x80")),
    "deep.png": lambda: png(13_300, 13_300, 16, 0),
    "frames.gif": gif_of_endless_frames,
    "tile.tif": lambda: tiff_header(64, 64, 2**30),
    "strips.tif": lambda: tiff_header(13_300, 13_300, 64),
}
READ_ALL = """
import sys
from pathlib import Path
from cap2im.data.image_files import ImageFile
from cap2im.data.image_preparation import prepare_image
for path in sorted(Path(sys.argv[1]).iterdir()):
    result = prepare_image(ImageFile(path), 304, "shorter", None)
    print(path.name, result if isinstance(result, str) else "read", sep=": ")
"""


def test_bombs_stay_within_1_gib(tmp_path):
    for name, make in BOMBS.items():
        (tmp_path / name).write_bytes(make())
    limited = run_limited(str(tmp_path), cwd=tmp_path, address_space=4 * GIB, cpu=120, code=READ_ALL)
    assert limited.status == 0, limited.err
    results = dict(line.split(": ", 1) for line in limited.out.splitlines())
    assert set(results) == set(BOMBS)
    read = {name for name, result in results.items() if result == "read"}
    assert read >= {"zTXt.png", "iCCP.png", "iTXt.png", "la.png", "palette.png", "deep.png", "frames.gif"}
    assert "at most 178,956,970 pixels" in results["huge.png"]
    assert "the longer side is at most 50 times the shorter" in results["line.png"]
    assert limited.peak < GIB
    assert "Traceback" not in limited.err


def test_special_files_beside_pictures_do_not_stop_prepare(tmp_path):
    folder = tmp_path / "pairs"
    folder.mkdir()
    picture(1).save(folder / "good.png")
    os.mkfifo(folder / "fifo.jpg")
    (folder / "folder.jpg").mkdir()
    Path(folder / "zero.png").symlink_to("/dev/zero")
    for name in ("good", "fifo", "folder", "zero"):
        (folder / f"{name}.txt").write_text("a picture")
    limited = run_limited("prepare", "pairs", str(folder), "--out", "out", "--workers", "1", cwd=tmp_path)
    assert limited.status == 0, limited.err
    problems = (tmp_path / "out" / "problems.txt").read_text()
    assert [f"{name}: is not a regular file" in problems for name in ("fifo.jpg", "zero.png")] == [True] * 2
    assert "there is no image folder.jpg" in problems
