"""Prepare images for a dataset, and inspect them: the work of worker processes."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

from PIL import Image

from cap2im.data.image_decoding import error_reason, read_image
from cap2im.data.image_files import ImageReference
from cap2im.data.image_resizing import BAND_PIXELS, Box, Fit, resize_image

MAX_PNG_SIDE = 64  # larger images are stored as JPEG
JPEG_QUALITY = 95


def encode_image(image: Image.Image, side: int) -> bytes:
    """Encode an image without metadata: PNG up to 64 pixels, JPEG of quality 95 above."""
    buffer = io.BytesIO()
    if side <= MAX_PNG_SIDE:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def prepare_image(reference: ImageReference, side: int, fit: Fit, box: Box | None) -> bytes | str:
    """Resize and encode an image.

    Args:
        reference: to the image.
        side: in pixels.
        fit: see `resize_image`.
        box: the part of the upright image to use.

    Returns:
        The encoded bytes, or the reason in words why the image cannot be used.

    Raises:
        ValueError: out of memory.
    """
    try:
        return encode_image(read_image(reference, lambda image: resize_image(image, side, fit, box)), side)
    except MemoryError:
        raise ValueError(f"{reference.name}: out of memory; --resume with fewer --workers goes on") from None
    except Exception as error:  # a decoder can fail in any way; the image is reported
        return error_reason(error, reference)


@dataclass(frozen=True)
class ImageInfo:
    """Facts of a decoded image, or the reason why it cannot be decoded.

    Attributes:
        width: in pixels.
        height: in pixels.
        sha256: of mode, size and pixels.
        reason: empty for an image that can be used.
    """

    width: int = 0
    height: int = 0
    sha256: str = ""
    reason: str = ""


def inspect_image(reference: ImageReference, box: Box | None = None) -> ImageInfo:
    """Check that an image can be prepared, and decode it in full."""
    if isinstance(reason := prepare_image(reference, MAX_PNG_SIDE, "stretch", box), str):
        return ImageInfo(reason=reason)

    def info(image: Image.Image) -> ImageInfo:
        image.load()
        digest = hashlib.sha256(f"{image.mode} {image.size} ".encode())
        rows = max(1, BAND_PIXELS // image.width)
        for top in range(0, image.height, rows):
            digest.update(image.crop((0, top, image.width, min(top + rows, image.height))).tobytes())
        return ImageInfo(image.width, image.height, digest.hexdigest())

    try:
        return read_image(reference, info)
    except Exception as error:  # a decoder can fail in any way; the image is reported
        return ImageInfo(reason=error_reason(error, reference))
