"""Images: metadata never prevent reading pixels, and memory is bounded for every file."""

from __future__ import annotations

import io
import os
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

from cap2im.data import image_decoding, image_preparation, image_resizing
from cap2im.data.captioned_images import pixels_of
from cap2im.data.image_files import EXTENSIONS, UNREADABLE_EXTENSIONS, ArrayImage, ImageBytes, ImageFile
from cap2im.data.image_preparation import inspect_image, prepare_image
from tests.data.sources import picture

GREY = (90, 90, 90)


def stored(image: Image.Image, kind: str, **saving) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **saving)
    return buffer.getvalue()


def prepared(data: bytes, side: int = 16, fit: str = "stretch", box=None) -> Image.Image:
    result = prepare_image(ImageBytes("a picture", data), side, fit, box)
    assert isinstance(result, bytes), result
    return Image.open(io.BytesIO(result))


def refused(data: bytes, fit: str = "stretch", box=None, side: int = 16) -> str:
    result = prepare_image(ImageBytes("a picture", data), side, fit, box)
    assert isinstance(result, str), "it was read"
    return result


def distance(one: Image.Image, two: Image.Image) -> float:
    return float(np.abs(np.asarray(one.convert("RGB"), float) - np.asarray(two.convert("RGB"), float)).mean())


def png_with(chunk: bytes, content: bytes, image: Image.Image | None = None) -> bytes:
    """Return a PNG with one more chunk after its header."""
    data = stored(picture(1) if image is None else image, "PNG")
    checked = chunk + content
    return data[:33] + struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked)) + data[33:]


# Metadata


@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40, b"Exif\0\0MM\0*" + b"\x7f" * 9]
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_is_ignored(kind, exif):
    data = stored(picture(1), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    assert distance(prepared(data), prepared(stored(picture(1), "PNG"))) < 3


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_invalid_orientation_is_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert distance(prepared(stored(picture(1), "JPEG", exif=exif)), prepared(stored(picture(1), "JPEG"))) == 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_every_orientation_is_turned_upright(kind, orientation):
    upright, exif = picture(3, 64, 32), Image.Exif()
    turns = dict(enumerate([None, 0, 3, 1, 5, 2, 6, 4], 1))  # transposition that undoes the EXIF orientation
    lying = upright if turns[orientation] is None else upright.transpose(Image.Transpose(turns[orientation]))
    exif[0x0112] = orientation
    data = stored(lying, kind, exif=exif)
    box = (0.0, 0.0, 32.0, 32.0)
    expected = prepared(stored(upright, "PNG"), 32, "stretch", box)
    assert distance(prepared(data, 32, "stretch", box), expected) < 4
    assert prepared(data, 16, "shorter").size == (32, 16)


@pytest.mark.parametrize(
    ("chunk", "content"),
    [
        (b"tEXt", b"comment\0" + b"x" * 2_000_000),
        (b"zTXt", b"comment\0\0" + zlib.compress(b"x" * 3_000_000)),
        (b"iTXt", b"comment\0\1\0\0\0" + zlib.compress(b"x" * 3_000_000)),
        (b"iCCP", b"profile\0\0" + zlib.compress(bytes(1_800_000))),
        (b"iCCP", b"profile\0\0" + zlib.compress(bytes(40_000_000))),
        (b"iCCP", b"profile\0\0not compressed"),
        (b"pHYs", b"x"),
        (b"eXIf", b"MM\0*\xff\xff\xff\xff"),
        (b"gAMA", b""),
        (b"tIME", b"x" * 100_000),
    ],
)
def test_png_metadata_never_prevent_reading(chunk, content):
    assert distance(prepared(png_with(chunk, content)), prepared(stored(picture(1), "PNG"))) == 0
    assert not inspect_image(ImageBytes("a picture", png_with(chunk, content))).reason


def test_only_pixels_are_stored():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010E] = "a description"
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "a comment")
    plain = {side: prepare_image(ImageBytes("a", stored(picture(1, 90, 90), "PNG")), side, "stretch", None) for side in (16, 80)}
    for data in (
        stored(picture(1, 90, 90), "PNG", icc_profile=profile, exif=exif, pnginfo=text, dpi=(300, 300)),
        stored(picture(1, 90, 90), "TIFF", icc_profile=profile, exif=exif, dpi=(300, 300)),
    ):
        for side in (16, 80):
            assert prepare_image(ImageBytes("a", data), side, "stretch", None) == plain[side]


def test_stored_image_with_a_large_profile_is_read():
    """Earlier versions stored a profile in every image."""
    data = png_with(b"iCCP", b"profile\0\0" + zlib.compress(os.urandom(1_200_000)), picture(1, 8, 8))
    assert pixels_of(data, "a picture", 3).shape == (3, 8, 8)
    assert pixels_of(data, "a picture", 3, 4).shape == (3, 4, 4)


# Colours


def rgb_profile(gamma: int = 256) -> bytes:
    """Return the sRGB profile with one gamma, in 1/256, for its three tone curves."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    curve = data.index(b"para\0\0\0\0")
    count = struct.pack(">HH", 0, 0) + struct.pack(">i", gamma * 256)  # parametric, type 0: one gamma
    return data[: curve + 8] + count + data[curve + 8 + len(count) :]


def test_linear_profile_is_converted_to_srgb():
    data = stored(Image.new("RGB", (20, 20), (64, 64, 64)), "PNG", icc_profile=rgb_profile())
    assert np.asarray(prepared(data)).mean() == pytest.approx(137, abs=1)  # 64 / 255 of the light


def test_srgb_profiles_change_no_level():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    levels = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB")
    assert distance(prepared(stored(levels, "PNG", icc_profile=profile)), levels) == 0


@pytest.mark.parametrize("profile", [b"x", bytes(128), os.urandom(4000), rgb_profile()[:300], bytes(2_000_000)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_damaged_profiles_are_ignored(mode, profile):
    image = Image.new("RGB", (20, 20), GREY).convert(mode)
    assert np.asarray(prepared(stored(image, "JPEG", icc_profile=profile))).mean() == pytest.approx(90, abs=2)


def test_profile_of_another_mode_is_ignored():
    for mode in ("L", "CMYK"):
        image = Image.new("RGB", (20, 20), GREY).convert(mode)
        assert np.asarray(prepared(stored(image, "JPEG", icc_profile=rgb_profile()))).mean() == pytest.approx(90, abs=2)


def test_lab_is_converted():
    lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    image = lab.apply(picture(1))
    assert distance(prepared(stored(image, "TIFF"), 32), prepared(stored(picture(1), "PNG"), 32)) < 3


# Modes and depths


def tiff(values: np.ndarray, bits: int, photometric: int) -> bytes:
    """Return an uncompressed grey TIFF of 1, 8, 12 or 16 bits."""
    height, width = values.shape
    if bits == 16:
        strip = values.astype("<u2").tobytes()
    elif bits == 8:
        strip = values.astype(np.uint8).tobytes()
    else:
        spread = (values[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        strip = np.packbits(spread.reshape(height, -1).astype(np.uint8), axis=1).tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(strip)}
    directory = 8 + len(strip) + len(strip) % 2
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return (
        struct.pack("<2sHI", b"II", 42, directory) + strip.ljust(directory - 8, b"\0") + struct.pack("<H", len(tags)) + entries + bytes(4)
    )


@pytest.mark.parametrize(("bits", "photometric"), [(1, 0), (8, 0), (16, 0), (1, 1), (8, 1), (12, 1), (16, 1)])
def test_grey_tiff_of_every_depth(bits, photometric):
    white = 2**bits - 1
    values = np.zeros((16, 16), np.int64)
    values[:, 8:] = white
    expected = np.repeat([[0, 255] if photometric else [255, 0]], 8, 1).repeat(16, 0)
    assert np.array_equal(np.asarray(prepared(tiff(values, bits, photometric)).convert("L")), expected)
    if bits > 1:
        half = np.full((16, 16), white // 4)
        level = np.asarray(prepared(tiff(half, bits, photometric))).mean()
        assert level == pytest.approx(64 if photometric else 191, abs=1)


def test_compressed_white_is_zero_tiff():
    values = np.full((16, 16), 65_535 // 4, np.uint16)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for photometric, expected in ((1, 64), (0, 191)):
        tags[262] = photometric
        data = stored(Image.fromarray(values), "TIFF", compression="tiff_lzw", tiffinfo=tags)
        with Image.open(io.BytesIO(data)) as image:
            assert image.tag_v2[262] == photometric
        assert np.asarray(prepared(data)).mean() == pytest.approx(expected, abs=1)


def png_16(colour_type: int, pixel: tuple[int, ...], clear: tuple[int, ...] = ()) -> bytes:
    """Return a PNG of 16 x 16 equal pixels of 16 bits."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, colour_type, 0, 0, 0))]
    if clear:
        chunks.append((b"tRNS", struct.pack(f">{len(clear)}H", *clear)))
    row = b"\0" + struct.pack(f">{len(pixel)}H", *pixel) * 16
    chunks += [(b"IDAT", zlib.compress(row * 16)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)


@pytest.mark.parametrize(
    ("colour_type", "pixel", "clear", "expected"),
    [
        (0, (0x4040,), (), (64, 64, 64)),
        (0, (0x4040,), (0x4040,), (255, 255, 255)),
        (0, (0x4041,), (0x4040,), (64, 64, 64)),
        (2, (0x4040, 0x8080, 0xC0C0), (), (64, 128, 192)),
        (2, (0x4040, 0x8080, 0xC0C0), (0x4040, 0x8080, 0xC0C0), (255, 255, 255)),
        (2, (0x4040, 0x8080, 0xC0C0), (0x4040, 0x8080, 0xC0C1), (64, 128, 192)),
        (4, (0x4040, 0x8080), (), (159, 159, 159)),
        (6, (0x4040, 0x8080, 0xC0C0, 0xFFFF), (), (64, 128, 192)),
    ],
)
def test_png_of_16_bits(colour_type, pixel, clear, expected):
    assert np.abs(np.asarray(prepared(png_16(colour_type, pixel, clear)), int) - expected).max() <= 1


def test_transparency_of_every_kind_becomes_white():
    half = Image.new("RGBA", (32, 16), (10, 20, 30, 0))
    half.paste((10, 20, 30, 255), (0, 0, 16, 16))
    palette = Image.new("P", (32, 16), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30, 40, 40, 40, 50, 50, 50])
    palette.paste(3, (16, 0, 32, 16))
    for data in (
        stored(half, "PNG"),
        stored(half, "WEBP", lossless=True),
        stored(half, "TIFF"),
        stored(half.convert("LA"), "PNG"),
        stored(palette, "PNG", transparency=3),
        stored(palette, "PNG", transparency=b"\xff\xff\xff\0"),
        stored(palette, "GIF", transparency=3),
    ):
        result = np.asarray(prepared(data, 32))
        assert result[:, :14].max() < 40
        assert result[:, 18:].min() == 255


def test_large_images_are_the_same_in_bands(monkeypatch):
    image = picture(1, 600, 400).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize((600, 400)))
    kinds = [stored(each, "PNG") for each in (image, image.convert("LA"), image.convert("RGB").quantize(64), image.convert("L"))]
    kinds += [stored(Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257), "PNG"), stored(image.convert("CMYK"), "TIFF")]
    for box in (None, (100.0, 50.0, 420.0, 333.0)):
        expected = [prepared(data, 20, "crop", box) for data in kinds]
        with monkeypatch.context() as patch:
            patch.setattr(image_resizing, "LARGE_PIXELS", 1000)
            patch.setattr(image_resizing, "BAND_PIXELS", 5000)
            for data, whole in zip(kinds, expected, strict=True):
                assert distance(prepared(data, 20, "crop", box), whole) < 2


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animation_is_its_first_frame(kind):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue", "blue")]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    data = stored(frames[0], kind, save_all=True, append_images=frames[1:], **lossless)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.n_frames > 1
    assert distance(prepared(data, 20), frames[0]) < 2


@pytest.mark.parametrize(
    "extension", sorted({".jfif", ".jpe", ".apng", ".jp2", ".tga", ".ppm", ".pgm", ".pbm", ".pnm", ".ico", ".avif", ".qoi"})
)
def test_formats_of_pillow_are_read(tmp_path, extension):
    mode = {".pgm": "L", ".pbm": "1"}.get(extension, "RGB")
    image = picture(1, 32, 32).convert(mode)
    image.save(tmp_path / f"a{extension}")
    assert extension in EXTENSIONS
    result = prepare_image(ImageFile(tmp_path / f"a{extension}"), 32, "stretch", None)
    assert isinstance(result, bytes), result
    assert distance(Image.open(io.BytesIO(result)), image) < 6


def test_formats_that_run_programs_are_not_opened(tmp_path):
    for extension in (".eps", ".ps", ".pdf", ".h5", ".mpg", ".wmf", ".svg", ".heic"):
        assert extension not in EXTENSIONS
    assert {".heic", ".eps", ".pdf", ".svg", ".cr2", ".dng"} <= UNREADABLE_EXTENSIONS
    picture(1).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    assert prepare_image(ImageFile(tmp_path / "a.png"), 16, "stretch", None) == "not an image that can be read"
    (tmp_path / "a.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    assert prepare_image(ImageFile(tmp_path / "a.HEIC"), 16, "stretch", None) == ".heic images are not read; convert it to JPEG or PNG"


# Bounds


@pytest.mark.parametrize("size", [(4000, 2), (2, 4000), (60_000, 1)])
def test_too_long_shapes_are_refused_before_resizing(size):
    data = stored(Image.new("RGB", size), "PNG")
    assert refused(data, "shorter", side=304).startswith(f"{size[0]} x {size[1]} pixels: with --fit shorter the longer side is at most 50")
    for fit in ("crop", "stretch"):
        assert prepared(data, 16, fit).size == (16, 16)


def test_too_many_pixels_are_refused_before_decoding(monkeypatch):
    image = picture(1, 11, 10)
    cases = [
        (stored(image, "PNG"), "100"),
        (stored(image, "JPEG", progressive=True), "90 in progressive JPEG"),
        (stored(image, "WEBP"), "80 in WEBP"),
    ]
    monkeypatch.setattr(image_decoding, "MAX_PIXELS", 100)
    monkeypatch.setattr(image_decoding, "MAX_PIXELS_OF", {"progressive JPEG": 90, "WEBP": 80})
    monkeypatch.setattr(Image.Image, "load", None)  # must not be called
    for data, most in cases:
        assert refused(data) == f"11 x 10 pixels; at most {most} are read"


def scanned(scans: int) -> bytes:
    """Return a progressive JPEG whose last scan is repeated."""
    data = stored(picture(1, 64, 48), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def test_jpeg_of_many_scans_is_refused():
    assert refused(scanned(5000)) == "more than 100 scans in a JPEG"
    assert prepared(scanned(80), 16, "crop").size == (16, 16)
    thumbnails = b"".join(b"\xff\xe1\x00\x06\xff\xda\x00\x00" for _ in range(200))  # markers inside metadata do not count
    data = scanned(1)
    assert prepared(data[:2] + thumbnails + data[2:], 16, "crop").size == (16, 16)


def test_large_jpeg_of_several_scans_is_refused(monkeypatch):
    data = scanned(2).replace(b"\xff\xc2", b"\xff\xc0", 1)  # declared sequential
    monkeypatch.setitem(image_decoding.MAX_PIXELS_OF, "progressive JPEG", 3000)
    assert refused(data) == "64 x 48 pixels; at most 3,000 in JPEG of several scans are read"


def test_a_header_of_a_billion_pixels_is_refused():
    data = bytearray(stored(picture(1), "PNG"))
    data[16:24] = struct.pack(">II", 40_000, 40_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    assert refused(bytes(data)).startswith("at most 178,956,970 pixels are read")


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, float("nan"), 9),
        (float("-inf"), 0, 9, 9),
        (5, 5, 5, 9),
        (9, 9, 3, 3),
        (100, 0, 200, 9),
        (0, 0, 1e-300, 9),
        (1e308, 0, 1.7e308, 9),
    ],
)
@pytest.mark.parametrize("fit", ["stretch", "crop", "shorter"])
def test_boxes_without_a_pixel_are_refused(box, fit):
    assert refused(stored(picture(1), "PNG"), fit, box).startswith(f"the box {box} holds n")


def test_huge_box_is_the_whole_image():
    data = stored(picture(1), "PNG")
    assert distance(prepared(data, 16, "stretch", (-1e308, -1e308, 1e308, 1e308)), prepared(data)) == 0


@pytest.mark.parametrize(
    "array", [np.full((1, 12), np.nan), np.full((1, 12), -np.inf, np.float32), np.zeros((1, 12), np.complex64), np.zeros((1, 13))]
)
def test_arrays_that_are_not_images_are_refused(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    reason = prepare_image(ArrayImage(tmp_path / "a.npy", 0, 1.0), 16, "stretch", None)
    assert isinstance(reason, str)
    assert any(text in reason for text in ("its pixels hold NaN", "a row holds", "its type is complex64"))


@pytest.mark.parametrize("kind", ["FIFO", "folder", "socket", "device", "loop", "missing", "empty"])
def test_special_files_are_refused(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("a.png")
    create = {
        "FIFO": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "socket": lambda: socket.socket(socket.AF_UNIX).bind(str(path)),
        "device": lambda: path.symlink_to("/dev/zero"),
        "loop": lambda: path.symlink_to(path),
        "missing": lambda: None,
        "empty": path.touch,
    }
    create[kind]()
    reason = prepare_image(ImageFile(path), 16, "stretch", None)
    expected = {"loop": "Too many levels of symbolic links", "missing": "no such file", "empty": "the file is empty"}
    assert reason == expected.get(kind, f"is a {kind}, and a file is needed")


def test_out_of_memory_is_not_reported_as_a_bad_image(monkeypatch):
    def full(*arguments):
        raise MemoryError

    monkeypatch.setattr(image_preparation, "resize_image", full)
    with pytest.raises(ValueError, match="a picture: out of memory; --resume with fewer --workers goes on"):
        prepare_image(ImageBytes("a picture", stored(picture(1), "PNG")), 16, "stretch", None)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "Git LFS"),
        (b"<!DOCTYPE html><title>404</title>", "HTML"),
        (b"nonsense", "not an image"),
    ],
)
def test_unreadable_files_are_described_by_content(tmp_path, data, reason):
    (tmp_path / "a.jpg").write_bytes(data)
    assert reason in prepare_image(ImageFile(tmp_path / "a.jpg"), 8, "stretch", None)
