"""Read one shard of a prepared dataset: Parquet, as `cap2im prepare` writes it, or tar in WebDataset's layout."""

from __future__ import annotations

import io
import tarfile
import zlib
from dataclasses import dataclass

from cap2im.data.dataset_files import open_file
from cap2im.data.problems import Problem
from cap2im.data.tar_samples import TarSamples, read_member
from cap2im.files import explain, shortened

LARGEST_UNPACKED = 2**29  # bytes of a compressed tar file


@dataclass(frozen=True)
class CaptionedBytes:
    """An encoded image with its captions; `name` is for messages."""

    name: str
    image: bytes
    captions: tuple[str, ...]


def read_shard(url: str, problems: list[Problem] | None = None) -> list[CaptionedBytes]:
    """Return all usable images of a shard.

    Args:
        url: a path, or any URL that fsspec supports.
        problems: extended by the samples that cannot be used.

    Raises:
        ValueError: missing or damaged, or no sample can be used.
    """
    skipped: list[Problem] = []
    try:
        with open_file(url) as file:
            data = file.read()
    except Exception as error:  # remote file systems raise exceptions of many libraries
        raise ValueError(f"{url}: missing or damaged shard: {shortened(explain(error).removeprefix(f'{url}: '), 200)}") from None
    try:
        images = _parquet_images(url, data, skipped) if url.endswith(".parquet") else _tar_images(url, data, skipped)
    except (OSError, ImportError, ValueError, KeyError, tarfile.TarError) as error:
        reason = " ".join(str(error).split()).removeprefix(f"{url}: ")
        raise ValueError(f"{url}: missing or damaged shard: {reason[:200]}") from None
    if skipped and not images:
        raise ValueError(f"{url}: none of its {len(skipped)} samples can be used; the first: {skipped[0]}")
    if problems is not None:
        problems += skipped
    return images


def check_rows(url: str, rows: int, images: int, skipped: int) -> None:
    """Compare the samples of a shard with its manifest, which may or may not count samples that cannot be used.

    Raises:
        ValueError: samples are missing, or there are more.
    """
    if not images <= rows <= images + skipped:
        also = f" and {skipped} that cannot be used" if skipped else ""
        raise ValueError(f"{url}: holds {images} images{also}; the manifest lists {rows}")


def _parquet_images(url: str, data: bytes, problems: list[Problem]) -> list[CaptionedBytes]:
    import pyarrow as pa  # an extra
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(io.BytesIO(data), columns=["id", "image", "captions"]).to_pylist()
    except pa.ArrowException as error:
        raise OSError(str(error)) from None
    images = []
    for number, row in enumerate(rows):
        name, image, captions = f"{url}: image {row.get('id', number)}", row.get("image"), row.get("captions")
        if not isinstance(image, dict) or not isinstance(image.get("bytes"), bytes):
            problems.append(Problem("unreadable image", name, "its row holds no picture"))
        elif not isinstance(captions, list) or not (texts := tuple(c for c in captions if isinstance(c, str) and c.strip())):
            problems.append(Problem("image without captions", name))
        else:
            images.append(CaptionedBytes(name, image["bytes"], texts))
    return images


def _tar_images(url: str, data: bytes, problems: list[Problem]) -> list[CaptionedBytes]:
    with tarfile.open(fileobj=io.BytesIO(_uncompressed(data)), mode="r:") as archive:
        listed = TarSamples(archive, url)
        problems += listed.problems
        return [CaptionedBytes(f"{url}: image {each.key}", read_member(archive, each.image), each.captions) for each in listed.samples]


def _uncompressed(data: bytes) -> bytes:
    """Return the content of a .tar.gz; other data is returned as it is.

    Raises:
        ValueError: damaged, or more than `LARGEST_UNPACKED` bytes.
    """
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        unpacker = zlib.decompressobj(wbits=31)  # gzip
        content = unpacker.decompress(data, LARGEST_UNPACKED)
    except zlib.error as error:
        raise ValueError(f"damaged gzip file ({error})") from None
    if unpacker.unconsumed_tail:
        raise ValueError(f"unpacks to more than {LARGEST_UNPACKED:,} bytes; store shards without compression")
    return content
