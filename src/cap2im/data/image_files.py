"""References to images: in files, parts of files, memory and arrays. An image is opened when it is needed."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cap2im.arrays import open_hdf5, open_npy
from cap2im.files import check_regular_file, read_bytes, sha256

MAX_FILE_BYTES = 512 * 2**20  # of an image
MAX_ROW_VALUES = 3 * 4096**2  # of an array

# Pillow registers extensions of these formats, but they need another program, are no images, or hold values without a known white
_EXCLUDED_FORMATS = frozenset({"BUFR", "EPS", "FITS", "GRIB", "HDF5", "IPTC", "MPEG", "PALM", "PDF", "WMF"})
Image.init()
FORMATS = tuple(name for name in Image.ID if name in Image.OPEN and name in set(Image.EXTENSION.values()) - _EXCLUDED_FORMATS)
EXTENSIONS = frozenset(extension for extension, name in Image.EXTENSION.items() if name in FORMATS)
# formats that people have and that are not read; their files are reported instead of skipped
_OTHER_EXTENSIONS = (
    "heic heif heics heifs hif avci avif jxl jxr wdp hdp jp2 webp bpg flif hdr exr dpx cin psb xcf kra clip svg svgz eps ps ai pdf cdr wmf "
    "emf indd djvu fits fit fts dcm dicom pict pct raw dng cr2 cr3 crw nef nrw arw srf sr2 orf rw2 rwl raf pef srw x3f 3fr fff kdc dcr mrw "
    "erf mef mos iiq gpr"
)
UNREADABLE_EXTENSIONS = frozenset(f".{name}" for name in _OTHER_EXTENSIONS.split()) - EXTENSIONS


def unreadable_format(suffix: str) -> str:
    """Return the error message for an image in a format that is not read."""
    return f"{suffix} images are not read; convert it to JPEG or PNG"


def member_name(path: Path | str, member: str) -> str:
    """Return the name of a part of a file, for messages: `shards/0.tar:0001.jpg`."""
    return f"{path}:{member}"


@dataclass(frozen=True)
class ImageFile:
    """An image in a file, or in a part of a file, such as a member of a tar file.

    Attributes:
        path: of the file.
        offset: first byte of the image.
        size: of the image in bytes; None for a whole file.
        member: name of the part.
    """

    path: Path
    offset: int = 0
    size: int | None = None
    member: str = ""

    @property
    def name(self) -> str:
        """Path, with the part's name."""
        return member_name(self.path, self.member) if self.member else str(self.path)

    @property
    def state(self) -> str:
        """Size and time of the file, which change when the file changes."""
        try:
            status = self.path.stat()
        except OSError:
            return "missing"
        return f"{status.st_size} {status.st_mtime_ns}"

    def open(self) -> Image.Image:
        """Open the image without decoding its pixels.

        Raises:
            ValueError: it is not a regular file, empty, or too large.
            OSError: it cannot be read, or its format is not read.
        """
        if self.size is None:
            check_regular_file(self.path)
            _check_file_size(self.path.stat().st_size)
            return Image.open(self.path, formats=FORMATS)
        return Image.open(io.BytesIO(self.content()), formats=FORMATS)

    def content(self) -> bytes:
        """Return the encoded bytes; see `open` for errors."""
        if self.size is None:
            return read_bytes(self.path, MAX_FILE_BYTES)
        check_regular_file(self.path)
        _check_file_size(self.size)
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def _check_file_size(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{size:,} bytes; at most {MAX_FILE_BYTES:,} are read")
    if size == 0:
        raise ValueError("the file is empty")


@dataclass(frozen=True)
class ImageBytes:
    """An encoded image in memory."""

    name: str
    data: bytes

    @property
    def state(self) -> str:
        """SHA-256 hex digest of the bytes."""
        return sha256(self.data)

    def open(self) -> Image.Image:
        """Open the image without decoding its pixels."""
        return Image.open(io.BytesIO(self.data), formats=FORMATS)

    def content(self) -> bytes:
        """Return the encoded bytes."""
        return self.data


@dataclass(frozen=True)
class ArrayImage:
    """An image in a row of an array of C * A * A values, colours first.

    Attributes:
        path: a .npy file, or an HDF5 file.
        row: of the image.
        white: value of white; black is 0.
        colours: C.
        key: dataset in the HDF5 file.
    """

    path: Path
    row: int
    white: float
    colours: int = 3
    key: str | None = None

    @property
    def name(self) -> str:
        """Path and row."""
        return f"{self.path}[{self.row}]"

    @property
    def state(self) -> str:
        """Size and time of the file."""
        return ImageFile(self.path).state

    def open(self) -> Image.Image:
        """Return the row as an image.

        Raises:
            ValueError: the row is not a square image, too large, or holds NaN or infinite values.
        """
        array = open_array(self.path, self.key)
        count = math.prod(array.shape[1:])
        side = math.isqrt(count // self.colours)
        if array.dtype.kind not in "fiub" or side < 1 or count != self.colours * side**2 or count > MAX_ROW_VALUES:
            expected = f"{self.colours} x A x A numbers, at most {MAX_ROW_VALUES:,}"
            raise ValueError(f"a row holds {count:,} values of type {array.dtype}; an image needs {expected}")
        values = np.asarray(array[self.row], np.float32)
        if not np.isfinite(values).all():
            raise ValueError("its pixels hold NaN or infinite values")
        pixels = (values.reshape(self.colours, side, side) * (255 / self.white)).round().clip(0, 255).astype(np.uint8)
        return Image.fromarray(pixels[0] if self.colours == 1 else pixels.transpose(1, 2, 0))

    def content(self) -> bytes:
        """Return no bytes: an array is not encoded."""
        return b""


@dataclass(frozen=True)
class MissingImage:
    """A named image that cannot be opened, with the reason."""

    name: str
    reason: str

    @property
    def state(self) -> str:
        """Constant."""
        return "missing"

    def open(self) -> Image.Image:
        """Raise a ValueError with the reason."""
        raise ValueError(self.reason)

    def content(self) -> bytes:
        """Raise a ValueError with the reason."""
        raise ValueError(self.reason)


ImageReference = ImageFile | ImageBytes | ArrayImage | MissingImage


def open_array(path: Path, key: str | None = None) -> Any:
    """Open an array without reading its rows.

    Args:
        path: a .npy file, or an HDF5 file.
        key: dataset in the HDF5 file.

    Raises:
        ValueError: the file is damaged, holds Python objects, or refers to another file.
    """
    return _open_array(path, key, ImageFile(path).state)


@lru_cache(maxsize=8)
def _open_array(path: Path, key: str | None, state: str) -> Any:
    if key is None:
        return open_npy(path)
    if key not in (datasets := open_hdf5(path, [key])):
        raise ValueError(f"{path}: has no array {key!r}")
    return datasets[key]
