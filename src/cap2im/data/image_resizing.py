"""Resize images to a training size: upright, in sRGB, without metadata.

Transparency becomes white, and animations are represented by their first frame. Memory is bounded: JPEG is decoded at a reduced size, and
large images are converted in bands.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, ImageCms

from cap2im.data.image_decoding import MAX_PROFILE_BYTES, PixelsError

Fit = Literal["stretch", "crop", "shorter"]
Box = tuple[float, float, float, float]  # left, upper, right, lower, in pixels of the upright image

MAX_ASPECT = 50  # longer side / shorter side of images that "shorter" resizes
LARGE_PIXELS = 2**24  # larger images are converted in bands
BAND_PIXELS = 2**22

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


def resize_image(image: Image.Image, side: int, fit: Fit, box: Box | None = None) -> Image.Image:
    """Return an image upright, in sRGB, at a training size, without metadata.

    Args:
        image: opened but not decoded, so that a JPEG is decoded no larger than needed.
        side: in pixels.
        fit: "stretch" gives side x side whatever the shape, "crop" the central square, "shorter" makes the shorter side `side` long.
        box: the part of the upright image to use.

    Raises:
        ValueError: the box holds no pixel, the shape is too long for "shorter", or the value of white is unknown.
    """
    is_jpeg = image.format in ("JPEG", "MPO")
    if not is_jpeg:
        image.load()  # loading a TIFF turns it upright, which changes its size and orientation
    orientation = _orientation(image)
    sideways = orientation in _SIDEWAYS
    width, height = reversed(image.size) if sideways else image.size
    left, upper, right, lower = _region(width, height, fit, box)
    across, down = right - left, lower - upper
    if fit == "shorter":
        scale = side / min(across, down)
        target = max(side, round(across * scale)), max(side, round(down * scale))
    else:
        target = side, side
    if is_jpeg:
        draft = math.ceil(2 * target[0] * width / across), math.ceil(2 * target[1] * height / down)
        image.draft(None, draft[::-1] if sideways else draft)
    factor = 1
    if image.width * image.height > LARGE_PIXELS:  # a reducing gap of 3 is left for the resize below
        shrunk = (image.height if sideways else image.width) / width
        factor = max(1, int(min(across * shrunk / target[0], down * shrunk / target[1]) / 3))
    profile, decoded = image.info.get("icc_profile"), image.size
    image = _converted(image, factor)
    # reduced pixels per original pixel; the last reduced pixel may cover fewer
    x, y = (1 / factor * decoded[i] / size for i, size in zip((1, 0) if sideways else (0, 1), (width, height), strict=True))
    if orientation != 1:
        image = image.transpose(_TRANSPOSITIONS[orientation])
    area = (left * x, upper * y, min(right * x, image.width), min(lower * y, image.height))
    image = image.resize(target, Image.Resampling.BICUBIC, area, reducing_gap=3)
    image = _to_srgb(image, profile)
    image.info = {}
    return image


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1 (upright) if it is missing or damaged."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # EXIF can be damaged in any way
        return 1
    return orientation if isinstance(orientation, int) and orientation in _TRANSPOSITIONS else 1


def _region(width: int, height: int, fit: Fit, box: Box | None) -> Box:
    """Return the part of an image to resize: the box inside the image, and its central square for "crop".

    Raises:
        PixelsError: no pixel is left, or the shape is too long for "shorter".
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
    if fit == "shorter" and max(across, down) > MAX_ASPECT * min(across, down):
        raise PixelsError(
            f"{across:.0f} x {down:.0f} pixels: with --fit shorter the longer side is at most {MAX_ASPECT} times the shorter; "
            "--fit crop or --fit stretch takes any shape"
        )
    return left, upper, right, lower


def _converted(image: Image.Image, factor: int) -> Image.Image:
    """Return 8-bit pixels without transparency, averaged over squares of `factor` pixels; convert large images in bands."""
    convert = _converter(image)
    if image.width * image.height <= LARGE_PIXELS:
        converted = convert(image)
        return converted if factor == 1 else converted.reduce(factor)
    result = None
    rows = max(1, BAND_PIXELS // image.width // factor) * factor
    for top in range(0, image.height, rows):
        band = convert(image.crop((0, top, image.width, min(top + rows, image.height))))
        band = band if factor == 1 else band.reduce(factor)
        if result is None:
            result = Image.new(band.mode, (band.width, math.ceil(image.height / factor)))
        result.paste(band, (0, top // factor))
    assert result is not None
    return result


def _converter(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Return the function that converts an image, or a part of it, to 8 bits without transparency.

    Raises:
        PixelsError: the value of white is unknown.
    """
    # some versions of Pillow open 16-bit PNG and PGM in mode I
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        tags = getattr(image, "tag_v2", {})
        depth = tags.get(ExifTags.Base.BitsPerSample, (16,))[0] if tags else 16
        inverted = bool(tags) and tags.get(ExifTags.Base.PhotometricInterpretation) == 0
        return lambda part: _to_8_bits(part, depth if depth in (12, 16) else 16, inverted)
    if image.mode.startswith(("I", "F")):
        numbers = "floating-point numbers" if image.mode.startswith("F") else "integers"
        raise PixelsError(f"its pixels are {numbers} of 32 bits with an unknown value of white; save it with 8 or 16 bits")
    return _opaque


def _to_8_bits(image: Image.Image, depth: int, inverted: bool) -> Image.Image:
    """Convert 16-bit values to 8-bit levels; the transparent value becomes white."""
    values = np.asarray(image)
    white = 2**depth - 1
    levels = np.rint(values.clip(0, white).astype(np.float32) * (255 / white)).astype(np.uint8)
    if inverted:
        levels = 255 - levels
    if isinstance(clear := image.info.get("transparency"), int):
        levels[values == clear] = 255
    return Image.fromarray(levels)


def _opaque(image: Image.Image) -> Image.Image:
    """Convert an image to mode L, RGB, CMYK or LAB; transparency becomes white."""
    if image.has_transparency_data:
        if image.mode == "La":  # Pillow cannot convert it to RGBA directly
            image = image.convert("LA")
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    if image.mode in ("L", "RGB", "CMYK", "LAB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _to_srgb(image: Image.Image, profile: object) -> Image.Image:
    """Convert an L, RGB, CMYK or LAB image to sRGB by its colour profile; without a valid profile, to RGB."""
    transform = None
    if isinstance(profile, bytes) and 128 < len(profile) <= MAX_PROFILE_BYTES:  # a header has 128 bytes
        transform = _srgb_transform(profile, image.mode)
    if image.mode == "LAB" and transform is None:
        transform = _srgb_transform(b"", "LAB")
    return image.convert("RGB") if transform is None else transform.apply(image)


@lru_cache(maxsize=16)
def _srgb_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform of a colour profile to sRGB; None if it is damaged, of another mode than the pixels, or sRGB itself."""
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
