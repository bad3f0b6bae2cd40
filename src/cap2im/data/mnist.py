"""Handwritten digits: MNIST from a folder, the cache or a verified download, and the small set in scikit-learn."""

from __future__ import annotations

import gzip
import http.client
import io
import logging
import math
import os
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cap2im.data.splits import Split
from cap2im.extras import require
from cap2im.files import read_bytes, sha256, write_atomically

logger = logging.getLogger(__name__)

DIGIT_SIDE = 28
LARGEST_IDX = 256 * 2**20  # bytes uncompressed; MNIST's training images have 47 million

# the original site is gone; these mirrors hold the original files
MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")

# SHA-256 of the uncompressed files, independent of the compressor
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}

DigitSource = Literal["mnist", "digits"]
VALIDATION_SIZE = 10_000  # the last of the 60,000 training digits


@dataclass(frozen=True)
class Digits:
    """Handwritten digits.

    Attributes:
        images: [N, 28, 28] uint8, 0 is background.
        labels: [N] uint8.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice) -> Digits:
        """Return some of the digits."""
        return Digits(self.images[rows], self.labels[rows])


def parse_idx(data: bytes, name: str, dimensions: int) -> np.ndarray:
    """Return the array of an uncompressed IDX file of unsigned bytes.

    Args:
        data: content of the file.
        name: of the file, named in messages.
        dimensions: number of axes.

    Raises:
        ValueError: empty, another magic number, or another length than in the header.
    """
    expected = f"an IDX file of {dimensions} {'axis' if dimensions == 1 else 'axes'} of bytes"
    if not data:
        raise ValueError(f"{name}: empty; {expected} was expected")
    magic = int.from_bytes(data[:4], "big")
    if magic != 0x0800 + dimensions:
        raise ValueError(f"{name}: magic number {magic:#010x}; {expected} has {0x0800 + dimensions:#010x}")
    header = 4 + 4 * dimensions
    if len(data) < header:
        raise ValueError(f"{name}: {len(data)} bytes, shorter than its header of {header}")
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", dimensions, 4))
    if max(shape) > LARGEST_IDX:
        raise ValueError(f"{name}: {' x '.join(map(str, shape))} values; at most {LARGEST_IDX:,} are read")
    size = header + math.prod(shape)
    if len(data) != size:
        raise ValueError(f"{name}: {len(data)} bytes uncompressed; its header announces {size}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _decompressed(data: bytes, name: str) -> bytes:
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        with gzip.open(io.BytesIO(data)) as file:
            content = file.read(LARGEST_IDX + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{name}: truncated or damaged gzip ({error})") from None
    if len(content) > LARGEST_IDX:
        raise ValueError(f"{name}: more than {LARGEST_IDX:,} bytes uncompressed")
    return content


def find_idx(folder: Path, stem: str) -> Path:
    """Return the file `stem` or `stem`.gz in a folder, with `-` or `.` before `idx`.

    Raises:
        ValueError: no such file.
    """
    stems = (stem, stem.replace("-idx", ".idx"))
    paths = [folder / (s + end) for s in stems for end in ("", ".gz")]
    for path in paths:
        if path.is_file():
            return path
    for path in paths:
        if path.is_dir():
            raise ValueError(f"{path}: is a folder, not a file; no {stem} and no {stem}.gz in {folder}")
    raise ValueError(f"{folder}: no {stem} and no {stem}.gz in this folder")


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Return the array of an IDX file, compressed or not.

    Raises:
        ValueError: damaged or of another type.
    """
    return parse_idx(_decompressed(read_bytes(path, LARGEST_IDX), str(path)), str(path), dimensions)


def cache_folder() -> Path:
    """Return the folder for downloads: CAP2IM_CACHE, else cap2im in the user's cache folder.

    Raises:
        ValueError: neither variable is set and the user has no home folder, as in a container with an unknown user.
    """
    if named := os.environ.get("CAP2IM_CACHE"):
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if cache.startswith("~"):
        raise ValueError("this user has no home folder for downloads; set CAP2IM_CACHE to a folder")
    return Path(cache) / "cap2im"


def download_mnist(folder: Path, mirrors: tuple[str, ...] = MIRRORS) -> None:
    """Download missing files of MNIST into a folder, verified by SHA-256.

    Raises:
        ValueError: no mirror has the right file; the message has the failure of each.
        OSError: a file cannot be written.
    """
    for stem, expected in SHA256.items():
        target = folder / f"{stem}.gz"
        if target.is_file() or (folder / stem).is_file():
            continue
        failures = []
        for mirror in mirrors:
            url = f"{mirror}{stem}.gz"
            logger.info("downloading %s to %s", url, folder)
            try:
                with urllib.request.urlopen(url, timeout=60) as response:
                    data = response.read(LARGEST_IDX + 1)
                checksum = sha256(_decompressed(data, url))
            except (OSError, ValueError, http.client.HTTPException) as error:
                failures.append(f"{url}: {error}")
                continue
            if checksum == expected:
                folder.mkdir(parents=True, exist_ok=True)
                write_atomically(target, data)
                break
            failures.append(f"{url}: SHA-256 {checksum}, expected {expected}")
        else:
            raise ValueError(
                f"cannot download {stem} ({'; '.join(failures)}); "
                f"give the folder of the four MNIST files with --data, or put them into {folder}"
            )


def load_mnist(split: Split, path: str | Path | None = None) -> Digits:
    """Load MNIST from a folder, else from the cache, else from a verified download into the cache.

    Args:
        split: "train" is the first 50,000 training digits, "validation" the last 10,000, "test" the test set.
        path: folder of the four IDX files, compressed or not.

    Raises:
        ValueError: a file is missing, damaged or of the wrong type, or cannot be downloaded.
    """
    if path is None:
        folder = cache_folder() / "mnist"
        download_mnist(folder)
    else:
        folder = Path(path)
        if not folder.is_dir():
            reason = "is a file, not a folder" if folder.exists() else "no such folder"
            raise ValueError(f"{folder}: {reason}; it should hold the four MNIST files ({', '.join(SHA256)}, or the same with .gz)")
    stem = "t10k" if split == "test" else "train"
    images_file, labels_file = find_idx(folder, f"{stem}-images-idx3-ubyte"), find_idx(folder, f"{stem}-labels-idx1-ubyte")
    images, labels = read_idx(images_file, 3), read_idx(labels_file, 1)
    if len(images) != len(labels):
        raise ValueError(f"{images_file} holds {len(images)} images and {labels_file} {len(labels)} labels; each image needs one")
    if images.shape[1:] != (DIGIT_SIDE, DIGIT_SIDE):
        height, width = images.shape[1:]
        raise ValueError(f"{images_file}: images of {height} x {width}; MNIST has {DIGIT_SIDE} x {DIGIT_SIDE}")
    if not len(labels):
        raise ValueError(f"{labels_file}: 0 labels; at least 1 is needed")
    if labels.max() > 9:
        raise ValueError(f"{labels_file}: labels up to {labels.max()}; MNIST has 0 to 9")
    digits = Digits(torch.from_numpy(images.copy()), torch.from_numpy(labels.copy()))
    if split == "test":
        return digits
    if len(digits) <= VALIDATION_SIZE:
        raise ValueError(f"{folder}: {len(digits)} training digits; more than {VALIDATION_SIZE} are needed")
    return digits[:-VALIDATION_SIZE] if split == "train" else digits[-VALIDATION_SIZE:]


def scikit_learn_digits(split: Split) -> Digits:
    """Load the 1,797 digits of 8 x 8 pixels in scikit-learn, enlarged to 28 x 28; no network is needed.

    The first 1,397 are for training, the next 200 for validation, the last 200 for testing.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    require("the dataset of scikit-learn's digits", "digits", "sklearn")
    from sklearn.datasets import load_digits  # slow to import

    data = load_digits()
    small = torch.from_numpy(data.images).float().unsqueeze(1) / 16  # 0..16 levels
    large = torch.nn.functional.interpolate(small, size=(24, 24), mode="bicubic", align_corners=False).clamp(0, 1)
    images = torch.nn.functional.pad(large, (2, 2, 2, 2)).squeeze(1).mul(255).round().to(torch.uint8)
    rows = {"train": slice(0, 1397), "validation": slice(1397, 1597), "test": slice(1597, None)}[split]
    return Digits(images, torch.from_numpy(data.target).to(torch.uint8))[rows]


def load_digits(source: DigitSource, split: Split, path: Path | None) -> Digits:
    """Load "mnist" from a folder, the cache or a download, or "digits" from scikit-learn."""
    return load_mnist(split, path) if source == "mnist" else scikit_learn_digits(split)
