"""Pictures as they lie on a disk, and the same pictures at a training size.

Only the pixels count: metadata that cannot be read are ignored, and none are stored. Colours are converted to sRGB where a picture
brings a valid profile, transparency becomes white, animations are represented by their first frame.

Memory is bounded: pixels are counted before they are decoded, JPEG's own reduction by 2, 4 or 8 comes first, and large pictures are
converted and reduced in bands.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from cap2im.arrays import open_hdf5, open_npy
from cap2im.files import check_regular_file, read_bytes

Fit = Literal["stretch", "crop", "shorter"]
Box = tuple[float, float, float, float]  # left, upper, right, lower, in pixels of the upright picture
Result = TypeVar("Result")

LARGEST_PNG = 64  # side; larger pictures are stored as JPEG
JPEG_QUALITY = 95
MOST_PIXELS = 178_956_970  # of a picture, before it is decoded: where Pillow refuses as well
# decoders that need several times the memory of the pixels
MOST_PIXELS_OF = {"WEBP": 60_000_000, "AVIF": 40_000_000, "JPEG2000": 40_000_000, "progressive JPEG": 80_000_000}
MOST_SCANS = 100  # of a JPEG: each is decoded over the whole picture; encoders write about ten
LARGEST_FILE = 512 * 2**20  # bytes of a picture
LARGEST_PROFILE = 16 * 2**20  # bytes of a colour profile
LONGEST_SHAPE = 50  # longer side / shorter side of what "shorter" stores
MOST_NUMBERS = 3 * 4096**2  # of a row of an array
LARGE = 2**24  # pixels; larger pictures are converted and reduced in bands
BAND = 2**22  # pixels of a band

_JPEG_SEGMENT = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")  # no escaped byte, restart, start or filling
_JPEG_SCAN, _JPEG_END = b"\xff\xda", b"\xff\xd9"

# Pillow registers extensions for them; they need another program, are no pictures, or hold measurements without a known white
_NO_PICTURES = frozenset({"BUFR", "EPS", "FITS", "GRIB", "HDF5", "IPTC", "MPEG", "PALM", "PDF", "WMF"})
Image.init()
FORMATS = tuple(name for name in Image.ID if name in Image.OPEN and name in set(Image.EXTENSION.values()) - _NO_PICTURES)
EXTENSIONS = frozenset(extension for extension, name in Image.EXTENSION.items() if name in FORMATS)
# pictures that people have and that cannot be read; they are named, never passed over in silence
_OTHERS = (
    "heic heif heics heifs hif avci avif jxl jxr wdp hdp jp2 webp bpg flif hdr exr dpx cin psb xcf kra clip svg svgz eps ps ai pdf cdr wmf "
    "emf indd djvu fits fit fts dcm dicom pict pct raw dng cr2 cr3 crw nef nrw arw srf sr2 orf rw2 rwl raf pef srw x3f 3fr fff kdc dcr mrw "
    "erf mef mos iiq gpr"
)
UNREADABLE_EXTENSIONS = frozenset(f".{name}" for name in _OTHERS.split()) - EXTENSIONS

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})


@dataclass(frozen=True)
class ImageFile:
    """A picture in a file, or in a part of one, such as a member of a tar file."""

    path: Path
    offset: int = 0
    size: int | None = None
    member: str = ""

    @property
    def name(self) -> str:
        return f"{self.path}:{self.member}" if self.member else str(self.path)

    @property
    def state(self) -> str:
        """What changes when the file does."""
        try:
            status = self.path.stat()
        except OSError:
            return "missing"
        return f"{status.st_size} {status.st_mtime_ns}"

    def open(self) -> Image.Image:
        """Open the picture; pixels are not decoded yet.

        Raises:
            ValueError: not a regular file, or too large.
            OSError: it cannot be read, or is no picture.
        """
        if self.size is None:
            check_regular_file(self.path)
            _check_file_size(self.path.stat().st_size)
            return Image.open(self.path, formats=FORMATS)
        return Image.open(io.BytesIO(self.content()), formats=FORMATS)

    def content(self) -> bytes:
        """Return the encoded bytes; see `open` for errors."""
        if self.size is None:
            return read_bytes(self.path, LARGEST_FILE)
        check_regular_file(self.path)
        _check_file_size(self.size)
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def _check_file_size(size: int) -> None:
    if size > LARGEST_FILE:
        raise ValueError(f"{size:,} bytes; at most {LARGEST_FILE:,} are read")
    if size == 0:
        raise ValueError("the file is empty")


@dataclass(frozen=True)
class ImageBytes:
    """A picture whose encoded bytes are at hand."""

    name: str
    data: bytes

    @property
    def state(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def open(self) -> Image.Image:
        """Open the picture; pixels are not decoded yet."""
        return Image.open(io.BytesIO(self.data), formats=FORMATS)

    def content(self) -> bytes:
        """Return the encoded bytes."""
        return self.data


@dataclass(frozen=True)
class ArrayImage:
    """A row of an array: C * A * A numbers, colours first, 0 to `white`. The array is a .npy file, or the dataset `key` of an HDF5 file."""

    path: Path
    row: int
    white: float
    colours: int = 3
    key: str | None = None

    @property
    def name(self) -> str:
        return f"{self.path}[{self.row}]"

    @property
    def state(self) -> str:
        return ImageFile(self.path).state

    def open(self) -> Image.Image:
        """Return the row as a picture.

        Raises:
            ValueError: the row is no square picture, too large, or holds NaN or infinite numbers.
        """
        array = open_array(self.path, self.key)
        count = math.prod(array.shape[1:])
        side = math.isqrt(count // self.colours)
        if array.dtype.kind not in "fiub" or side < 1 or count != self.colours * side**2 or count > MOST_NUMBERS:
            wanted = f"{self.colours} x A x A numbers, at most {MOST_NUMBERS:,}"
            raise ValueError(f"a row holds {count:,} values of type {array.dtype}; a picture needs {wanted}")
        numbers = np.asarray(array[self.row], np.float32)
        if not np.isfinite(numbers).all():
            raise ValueError("its pixels hold NaN or infinite numbers")
        pixels = (numbers.reshape(self.colours, side, side) * (255 / self.white)).round().clip(0, 255).astype(np.uint8)
        return Image.fromarray(pixels[0] if self.colours == 1 else pixels.transpose(1, 2, 0))

    def content(self) -> bytes:
        """Return nothing: an array has no encoded bytes."""
        return b""


@dataclass(frozen=True)
class MissingImage:
    """A picture that is named but not there, and why."""

    name: str
    reason: str

    @property
    def state(self) -> str:
        return "missing"

    def open(self) -> Image.Image:
        """Raise a ValueError with the reason."""
        raise ValueError(self.reason)

    def content(self) -> bytes:
        """Raise a ValueError with the reason."""
        raise ValueError(self.reason)


ImageReference = ImageFile | ImageBytes | ArrayImage | MissingImage


def open_array(path: Path, key: str | None = None) -> Any:
    """Open an array that stays on disk until rows of it are read.

    Raises:
        ValueError: the file is damaged, holds Python objects, or takes its numbers from another file.
    """
    return _open_array(path, key, ImageFile(path).state)


@lru_cache(maxsize=8)
def _open_array(path: Path, key: str | None, state: str) -> Any:
    if key is None:
        return open_npy(path)
    if key not in (datasets := open_hdf5(path, [key])):
        raise ValueError(f"{path}: has no array {key!r}")
    return datasets[key]


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Silence Pillow, which warns of strange metadata; they do not matter for pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_image(reference: ImageReference, use: Callable[[Image.Image], Result]) -> Result:
    """Open a picture and return what `use` makes of it.

    A PNG that cannot be read is tried again without its metadata: Pillow refuses long texts and large colour profiles.

    Raises:
        ValueError, OSError, SyntaxError and others: a decoder can fail in any way.
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


class PixelsError(ValueError):
    """The picture can be decoded, but is too large, or its numbers have no known meaning."""


def _check_pixels(image: Image.Image) -> None:
    """Refuse a picture whose pixels would not fit into 1 GiB while it is decoded."""
    name = "progressive JPEG" if image.info.get("progressive") else image.format or ""
    most = MOST_PIXELS_OF.get(name, MOST_PIXELS)
    if image.width * image.height > most:
        kind = f" in {name}" if name in MOST_PIXELS_OF else ""
        raise PixelsError(f"{image.width} x {image.height} pixels; at most {most:,}{kind} are read")


def _check_scans(image: Image.Image, data: bytes) -> None:
    """Refuse a JPEG of so many scans that decoding it takes minutes, or of several scans that would not fit into memory."""
    place, scans = 2, 0
    while (found := _JPEG_SEGMENT.search(data, place)) is not None and found[0] != _JPEG_END and scans <= MOST_SCANS:
        scans += found[0] == _JPEG_SCAN
        place = found.end() + int.from_bytes(data[found.end() : found.end() + 2])
    if scans > MOST_SCANS:
        raise PixelsError(f"more than {MOST_SCANS} scans in a JPEG")
    most = MOST_PIXELS_OF["progressive JPEG"]
    if scans > 1 and image.width * image.height > most:
        raise PixelsError(f"{image.width} x {image.height} pixels; at most {most:,} in JPEG of several scans are read")


def _without_metadata(data: bytes) -> tuple[bytes, bytes]:
    """Return a PNG that has only the chunks which pixels need, and its colour profile."""
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
    """Return a decompressed colour profile; nothing if it is damaged or larger than any profile is."""
    try:
        inflate = zlib.decompressobj()
        profile = inflate.decompress(data, LARGEST_PROFILE)
    except zlib.error:
        return b""
    return b"" if inflate.unconsumed_tail else profile


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) where there is none or it cannot be read."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged in any way
        return 1
    return orientation if isinstance(orientation, int) and orientation in _TRANSPOSITIONS else 1


def _levels(image: Image.Image, depth: int, inverted: bool) -> Image.Image:
    """Return 16-bit numbers as 8-bit levels; a transparent one becomes white."""
    numbers = np.asarray(image)
    white = 2**depth - 1
    levels = np.rint(numbers.clip(0, white).astype(np.float32) * (255 / white)).astype(np.uint8)
    if inverted:
        levels = 255 - levels
    if isinstance(clear := image.info.get("transparency"), int):
        levels[numbers == clear] = 255
    return Image.fromarray(levels)


def _opaque(image: Image.Image) -> Image.Image:
    """Return the picture in mode L, RGB, CMYK or LAB; transparency becomes white."""
    if image.has_transparency_data:
        if image.mode == "La":  # has no direct way to RGBA
            image = image.convert("LA")
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    if image.mode in ("L", "RGB", "CMYK", "LAB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _converter(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Return how the pixels of a picture, or of a part of it, become levels of 8 bits without transparency.

    Raises:
        ValueError: numbers of which nobody knows what white is.
    """
    # Pillow opens the 16 bits of PNG and PGM as I in some versions
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        tags = getattr(image, "tag_v2", {})
        depth = tags.get(ExifTags.Base.BitsPerSample, (16,))[0] if tags else 16
        inverted = bool(tags) and tags.get(ExifTags.Base.PhotometricInterpretation) == 0
        return lambda part: _levels(part, depth if depth in (12, 16) else 16, inverted)
    if image.mode.startswith(("I", "F")):
        numbers = "fractions" if image.mode.startswith("F") else "whole numbers"
        raise PixelsError(f"its pixels are {numbers} of 32 bits, and nothing says which of them is white; save it with 8 or 16 bits")
    return _opaque


def _reduced(image: Image.Image, factor: int) -> Image.Image:
    """Return the converted pixels, averaged over squares of `factor` pixels; large pictures are converted in bands."""
    convert = _converter(image)
    if image.width * image.height <= LARGE:
        converted = convert(image)
        return converted if factor == 1 else converted.reduce(factor)
    result = None
    rows = max(1, BAND // image.width // factor) * factor
    for top in range(0, image.height, rows):
        band = convert(image.crop((0, top, image.width, min(top + rows, image.height))))
        band = band if factor == 1 else band.reduce(factor)
        if result is None:
            result = Image.new(band.mode, (band.width, math.ceil(image.height / factor)))
        result.paste(band, (0, top // factor))
    assert result is not None
    return result


def _region(width: int, height: int, fit: Fit, box: Box | None) -> Box:
    """Return the part of a picture that is kept; what a box has outside of the picture does not count.

    Raises:
        ValueError: no pixel is left, or too long a shape for "shorter".
    """
    left, upper, right, lower = 0.0, 0.0, float(width), float(height)
    if box is not None:
        if not all(math.isfinite(number) for number in box):
            raise PixelsError(f"the box {box} holds numbers that are not finite")
        left, upper, right, lower = max(left, box[0]), max(upper, box[1]), min(right, box[2]), min(lower, box[3])
        if right - left < 1 or lower - upper < 1:
            raise PixelsError(f"the box {box} holds no pixel of the {width} x {height}")
    if fit == "crop":
        side = min(right - left, lower - upper)
        left, upper = left + (right - left - side) / 2, upper + (lower - upper - side) / 2
        right, lower = left + side, upper + side
    across, down = right - left, lower - upper
    if fit == "shorter" and max(across, down) > LONGEST_SHAPE * min(across, down):
        raise PixelsError(
            f"{across:.0f} x {down:.0f} pixels: with --fit shorter the longer side is at most {LONGEST_SHAPE} times the shorter; "
            "--fit crop or --fit stretch takes any shape"
        )
    return left, upper, right, lower


def fitted(image: Image.Image, side: int, fit: Fit, box: Box | None = None) -> Image.Image:
    """Return a picture upright, in sRGB, at a training size, without metadata.

    Args:
        image: opened and not read yet, so that a JPEG is decoded no larger than needed.
        side: in pixels.
        fit: "stretch" gives side x side whatever the shape, "crop" the central square, "shorter" makes the shorter side that long.
        box: the part of the upright picture to take.

    Raises:
        ValueError: the box holds no pixel, the shape is too long for "shorter", or nobody knows which number is white.
    """
    drafted = image.format in ("JPEG", "MPO")
    if not drafted:
        image.load()  # TIFF is turned upright by loading it, which changes its size and its orientation
    orientation = _orientation(image)
    sideways = orientation in SIDEWAYS
    width, height = reversed(image.size) if sideways else image.size
    left, upper, right, lower = _region(width, height, fit, box)
    across, down = right - left, lower - upper
    if fit == "shorter":
        scale = side / min(across, down)
        target = max(side, round(across * scale)), max(side, round(down * scale))
    else:
        target = side, side
    if drafted:
        wanted = math.ceil(2 * target[0] * width / across), math.ceil(2 * target[1] * height / down)
        image.draft(None, wanted[::-1] if sideways else wanted)
    factor = 1
    if image.width * image.height > LARGE:  # the reducing gap of 3 stays for the resize below
        shrunk = (image.height if sideways else image.width) / width
        factor = max(1, int(min(across * shrunk / target[0], down * shrunk / target[1]) / 3))
    profile, decoded = image.info.get("icc_profile"), image.size
    image = _reduced(image, factor)
    # pixels here for one pixel there, below 1 where the picture was reduced; the last one may stand for fewer
    x, y = (1 / factor * decoded[i] / size for i, size in zip((1, 0) if sideways else (0, 1), (width, height), strict=True))
    if orientation != 1:
        image = image.transpose(_TRANSPOSITIONS[orientation])
    area = (left * x, upper * y, min(right * x, image.width), min(lower * y, image.height))
    image = image.resize(target, Image.Resampling.BICUBIC, area, reducing_gap=3)
    image = _to_srgb(image, profile)
    image.info = {}
    return image


def _to_srgb(image: Image.Image, profile: object) -> Image.Image:
    """Return an L, RGB, CMYK or LAB picture in RGB; colours of a valid profile are converted to sRGB, others taken as they are."""
    transform = None
    if isinstance(profile, bytes) and 128 < len(profile) <= LARGEST_PROFILE:  # a header has 128 bytes
        transform = _transform(profile, image.mode)
    if image.mode == "LAB" and transform is None:
        transform = _transform(b"", "LAB")
    return image.convert("RGB") if transform is None else transform.apply(image)


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the conversion of a colour profile to sRGB; None if it is damaged, of other colours than the pixels, or sRGB itself."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile)) if profile else ImageCms.createProfile("LAB")
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        if mode == "RGB":
            levels = np.linspace(0, 255, 18).round().astype(np.uint8)
            colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
            change = np.asarray(transform.apply(Image.fromarray(colours)), int) - colours
            if np.abs(change).max() <= 1:  # rounding
                return None
        return transform
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def encoded(image: Image.Image, side: int) -> bytes:
    """Return a picture as it is stored, without metadata: PNG up to 64 pixels, JPEG of quality 95 above."""
    buffer = io.BytesIO()
    if side <= LARGEST_PNG:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _reason(error: Exception, reference: ImageReference) -> str:
    """Return in one line why a picture cannot be used."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnidentifiedImageError):
        suffix = Path(reference.path).suffix.lower() if isinstance(reference, ImageFile) else ""
        if suffix in UNREADABLE_EXTENSIONS:
            return unreadable_format(suffix)
        return _what_it_is(reference)
    if isinstance(error, Image.DecompressionBombError):
        return f"at most {MOST_PIXELS:,} pixels are read: {error}"
    return " ".join(str(error).split()).removeprefix(f"{reference.name}: ") or type(error).__name__


def _what_it_is(reference: ImageReference) -> str:
    """Return what a file is that no reader knows, by its first bytes."""
    try:
        head = reference.content()[:200]
    except (OSError, ValueError):
        head = b""
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
        return "it is HEIC, which is not read; convert it to JPEG or PNG"
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the picture; git lfs pull downloads it"
    if head.lstrip()[:1] == b"<":
        return "it is HTML, XML or SVG, not a picture that can be read"
    return "not a picture that can be read"


def unreadable_format(suffix: str) -> str:
    """Return what is wrong with a picture in a format that is not read."""
    return f"{suffix} pictures are not read; convert it to JPEG or PNG"


def prepare_picture(reference: ImageReference, side: int, fit: Fit, box: Box | None) -> bytes | str:
    """Return the stored bytes of a picture, or why there are none.

    Raises:
        ValueError: out of memory; the picture is not at fault.
    """
    try:
        return encoded(read_image(reference, lambda image: fitted(image, side, fit, box)), side)
    except MemoryError:
        raise ValueError(f"{reference.name}: out of memory; --resume with fewer --workers goes on") from None
    except Exception as error:  # a decoder can fail in any way; the picture is reported
        return _reason(error, reference)


PictureTask = tuple[Sequence[tuple[ImageReference, Box | None]], int, Fit]


def prepare_pictures(task: PictureTask) -> list[bytes | str]:
    """Prepare several pictures with their boxes, for one side and fit; the work of a worker."""
    pictures, side, fit = task
    return [prepare_picture(reference, side, fit, box) for reference, box in pictures]


@dataclass(frozen=True)
class Examined:
    """A picture decoded in full: width, height, a checksum of its pixels; or why it cannot be."""

    width: int = 0
    height: int = 0
    sha256: str = ""
    reason: str = ""


def examine_picture(reference: ImageReference, box: Box | None = None) -> Examined:
    """Prepare a picture, whatever the size, and decode it in full."""
    if isinstance(reason := prepare_picture(reference, LARGEST_PNG, "stretch", box), str):
        return Examined(reason=reason)

    def measured(image: Image.Image) -> Examined:
        image.load()
        digest = hashlib.sha256(f"{image.mode} {image.size} ".encode())
        rows = max(1, BAND // image.width)
        for top in range(0, image.height, rows):
            digest.update(image.crop((0, top, image.width, min(top + rows, image.height))).tobytes())
        return Examined(image.width, image.height, digest.hexdigest())

    try:
        return read_image(reference, measured)
    except Exception as error:  # a decoder can fail in any way; the picture is reported
        return Examined(reason=_reason(error, reference))


def examine_pictures(pictures: Sequence[tuple[ImageReference, Box | None]]) -> list[Examined]:
    """Examine several pictures with their boxes; the work of a worker."""
    return [examine_picture(reference, box) for reference, box in pictures]
