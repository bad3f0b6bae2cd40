"""Decode images of any origin within bounded memory and time.

Pixels are counted before they are decoded. Metadata that cannot be read are ignored.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from PIL import Image, UnidentifiedImageError

from cap2im.data.image_files import UNREADABLE_EXTENSIONS, ImageFile, ImageReference, unreadable_format

Result = TypeVar("Result")

MAX_PIXELS = 178_956_970  # Pillow's own limit
# decoders that need several times the memory of the pixels
MAX_PIXELS_OF = {"WEBP": 60_000_000, "AVIF": 40_000_000, "JPEG2000": 40_000_000, "progressive JPEG": 80_000_000}
MAX_SCANS = 100  # of a JPEG; each is decoded over the whole image, and encoders write about ten
MAX_PROFILE_BYTES = 16 * 2**20  # of a colour profile

_JPEG_SEGMENT = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")  # no escaped byte, restart, start or fill byte
_JPEG_SCAN, _JPEG_END = b"\xff\xda", b"\xff\xd9"
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})


class PixelsError(ValueError):
    """An image that can be decoded but is too large, or whose values have no known meaning."""


def read_image(reference: ImageReference, use: Callable[[Image.Image], Result]) -> Result:
    """Open an image, and return `use(image)`.

    A PNG that cannot be read is opened again without its metadata, because Pillow refuses long texts and large colour profiles.

    Args:
        reference: to the image.
        use: decodes the pixels; the image is closed afterwards.

    Raises:
        PixelsError: the image is too large. Decoders may raise OSError, SyntaxError and other errors.
    """
    with _no_warnings():
        try:
            with reference.open() as image:
                _check_pixels(image)
                if image.format in ("JPEG", "MPO"):
                    _check_scans(image, reference.content())
                return use(image)
        except PixelsError:
            raise
        except Exception:
            data = reference.content()
            if not data.startswith(_PNG):
                raise
            try:
                pixels, profile = _without_metadata(data)
                with Image.open(io.BytesIO(pixels), formats=("PNG",)) as image:
                    _check_pixels(image)
                    image.info["icc_profile"] = profile
                    return use(image)
            except (OSError, SyntaxError, struct.error):
                pass
            raise


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Silence Pillow's warnings of damaged metadata."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_pixels(image: Image.Image) -> None:
    """Refuse an image that would need more than 1 GiB to decode."""
    name = "progressive JPEG" if image.info.get("progressive") else image.format or ""
    largest = MAX_PIXELS_OF.get(name, MAX_PIXELS)
    if image.width * image.height > largest:
        kind = f" in {name}" if name in MAX_PIXELS_OF else ""
        raise PixelsError(f"{image.width} x {image.height} pixels; at most {largest:,}{kind} are read")


def _check_scans(image: Image.Image, data: bytes) -> None:
    """Refuse a JPEG with so many scans that decoding takes minutes, or with several scans of too many pixels for memory."""
    place, scans = 2, 0
    while (segment := _JPEG_SEGMENT.search(data, place)) is not None and segment[0] != _JPEG_END and scans <= MAX_SCANS:
        scans += segment[0] == _JPEG_SCAN
        place = segment.end() + int.from_bytes(data[segment.end() : segment.end() + 2])
    if scans > MAX_SCANS:
        raise PixelsError(f"more than {MAX_SCANS} scans in a JPEG")
    largest = MAX_PIXELS_OF["progressive JPEG"]
    if scans > 1 and image.width * image.height > largest:
        raise PixelsError(f"{image.width} x {image.height} pixels; at most {largest:,} in JPEG of several scans are read")


def _without_metadata(data: bytes) -> tuple[bytes, bytes]:
    """Return a PNG reduced to the chunks of its pixels, and its colour profile."""
    chunks, profile, place = [_PNG], b"", len(_PNG)
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if kind in _PNG_PIXELS:
            chunks.append(data[place:end])
        elif kind == b"iCCP":
            profile = _inflated(data[place + 8 : end - 4].partition(b"\0")[2][1:])
        place = end
        if kind == b"IEND":
            break
    return b"".join(chunks), profile


def _inflated(data: bytes) -> bytes:
    """Decompress a colour profile; return no bytes if it is damaged or too large."""
    try:
        inflate = zlib.decompressobj()
        profile = inflate.decompress(data, MAX_PROFILE_BYTES)
    except zlib.error:
        return b""
    return b"" if inflate.unconsumed_tail else profile


def error_reason(error: Exception, reference: ImageReference) -> str:
    """Return the reason in one line why an image cannot be used."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnidentifiedImageError):
        suffix = Path(reference.path).suffix.lower() if isinstance(reference, ImageFile) else ""
        if suffix in UNREADABLE_EXTENSIONS:
            return unreadable_format(suffix)
        return _content_type(reference)
    if isinstance(error, Image.DecompressionBombError):
        return f"at most {MAX_PIXELS:,} pixels are read: {error}"
    return " ".join(str(error).split()).removeprefix(f"{reference.name}: ") or type(error).__name__


def _content_type(reference: ImageReference) -> str:
    """Describe a file that no decoder accepts, by its first bytes."""
    try:
        head = reference.content()[:200]
    except (OSError, ValueError):
        head = b""
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
        return "it is HEIC, which is not read; convert it to JPEG or PNG"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the image; git lfs pull downloads it"
    if head.lstrip()[:1] == b"<":
        return "it is HTML, XML or SVG, not an image that can be read"
    return "not an image that can be read"
