"""Pictures as they lie on a disk, and the same pictures at a training size.

What is decoded is only as much as the size needs: JPEG's own reduction by 2, 4 or 8 comes before the antialiased resize.
"""

from __future__ import annotations

import hashlib
import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps

from cap2im.arrays import open_hdf5, open_npy

Fit = Literal["stretch", "crop", "shorter"]
Box = tuple[float, float, float, float]  # left, upper, right, lower, in pixels of the upright picture

LARGEST_PNG = 64  # side; larger pictures are stored as JPEG
JPEG_QUALITY = 95
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


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
        if self.size is None:
            return Image.open(self.path)
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return Image.open(io.BytesIO(file.read(self.size)))


@dataclass(frozen=True)
class ImageBytes:
    """A picture whose encoded bytes are at hand."""

    name: str
    data: bytes

    @property
    def state(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def open(self) -> Image.Image:
        return Image.open(io.BytesIO(self.data))


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
        numbers = np.asarray(open_array(self.path, self.key)[self.row], np.float32)
        side = math.isqrt(numbers.size // self.colours)
        pixels = (numbers.reshape(self.colours, side, side) * (255 / self.white)).round().clip(0, 255).astype(np.uint8)
        return Image.fromarray(pixels[0] if self.colours == 1 else pixels.transpose(1, 2, 0))


ImageReference = ImageFile | ImageBytes | ArrayImage


def open_array(path: Path, key: str | None = None) -> Any:
    """An array that stays on disk until rows of it are asked for.

    Raises:
        ValueError: the file is damaged or holds Python objects.
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
    """Pillow warns of strange metadata, which does not matter for pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _colours(image: Image.Image, file_format: str | None) -> Image.Image:
    """RGB; transparency becomes white.

    Raises:
        ValueError: numbers of which nobody knows what white is.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format == "PNG"):  # 16 bits a pixel
        return Image.fromarray((np.asarray(image, np.float32) / 257).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode.startswith(("I", "F")):
        numbers = "fractions" if image.mode.startswith("F") else "whole numbers"
        raise ValueError(f"its pixels are {numbers} of 32 bits, and nothing says which of them is white; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _region(width: int, height: int, fit: Fit, box: Box | None) -> Box:
    """The part of a picture that is kept; what a box has outside of the picture does not count."""
    left, upper, right, lower = 0.0, 0.0, float(width), float(height)
    if box is not None:
        left, upper, right, lower = max(left, box[0]), max(upper, box[1]), min(right, box[2]), min(lower, box[3])
    if fit == "crop":
        side = min(right - left, lower - upper)
        left, upper = left + (right - left - side) / 2, upper + (lower - upper - side) / 2
        right, lower = left + side, upper + side
    return left, upper, right, lower


def fitted(image: Image.Image, side: int, fit: Fit, box: Box | None = None) -> Image.Image:
    """An opened picture, upright, in RGB, at a training size.

    Args:
        image: opened and not read yet, so that a JPEG is decoded no larger than needed.
        side: in pixels.
        fit: "stretch" gives side x side whatever the shape, "crop" the central square, "shorter" makes the shorter side that long.
        box: the part of the upright picture to take.
    """
    sideways = image.getexif().get(ExifTags.Base.Orientation, 1) in SIDEWAYS
    width, height = reversed(image.size) if sideways else image.size
    left, upper, right, lower = _region(width, height, fit, box)
    across, down = right - left, lower - upper
    if across <= 0 or down <= 0:
        raise ValueError(f"the box {box} holds no pixel")
    if fit == "shorter":
        scale = side / min(across, down)
        target = max(side, round(across * scale)), max(side, round(down * scale))
    else:
        target = side, side
    wanted = math.ceil(2 * target[0] * width / across), math.ceil(2 * target[1] * height / down)
    image.draft(None, wanted[::-1] if sideways else wanted)
    image = _colours(ImageOps.exif_transpose(image), image.format)
    x, y = image.width / width, image.height / height  # below 1 where the JPEG was reduced
    return image.resize(target, Image.Resampling.BICUBIC, (left * x, upper * y, right * x, lower * y), reducing_gap=3)


def encoded(image: Image.Image, side: int) -> bytes:
    """A picture as it is stored: PNG up to 64 pixels, JPEG of quality 95 above."""
    buffer = io.BytesIO()
    if side <= LARGEST_PNG:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "not a picture that can be read" if isinstance(error, Image.UnidentifiedImageError) else " ".join(str(error).split())


def prepare_picture(reference: ImageReference, side: int, fit: Fit, box: Box | None) -> bytes | str:
    """The stored bytes of a picture, or why there are none."""
    try:
        with _no_warnings(), reference.open() as image:
            return encoded(fitted(image, side, fit, box), side)
    except Exception as error:  # a decoder can fail in any way; the picture is reported
        return _reason(error) or type(error).__name__


PictureTask = tuple[Sequence[tuple[ImageReference, Box | None]], int, Fit]


def prepare_pictures(task: PictureTask) -> list[bytes | str]:
    """What a worker does at once: several pictures with their boxes, the side, the fit."""
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
    """Prepares a picture, whatever the size, and decodes it in full."""
    if isinstance(reason := prepare_picture(reference, LARGEST_PNG, "stretch", box), str):
        return Examined(reason=reason)
    try:
        with _no_warnings(), reference.open() as image:
            image.load()
            pixels = hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()
            return Examined(image.width, image.height, pixels)
    except Exception as error:  # a decoder can fail in any way; the picture is reported
        return Examined(reason=_reason(error) or type(error).__name__)


def examine_pictures(pictures: Sequence[tuple[ImageReference, Box | None]]) -> list[Examined]:
    """What a worker does at once: several pictures with their boxes."""
    return [examine_picture(reference, box) for reference, box in pictures]
