"""Training straight from the shards of a prepared dataset, wherever they lie: for data that exceed a disk.

Each process reads its own shards, one at a time, whole and in a random order, and goes through a shard's images in a random order; what
comes next depends on the seed, the step and the number of processes, so that a resumed run opens the right shard at once. A shard is
Parquet, as `cap2im prepare` writes it, or a tar file in the layout of WebDataset; see `webdataset`. A sample that cannot be used is
skipped and reported, and another one of its shard takes its place: which one depends on the shard alone.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from cap2im.data.batch import ALL, Batch, fixed_noise, step_noise
from cap2im.data.captioned_images import pixels_of
from cap2im.data.dataset import PreparedDataset, open_file
from cap2im.data.image_resizing import Fit
from cap2im.data.records import Problem
from cap2im.data.sentence_vectors import SentenceEncoder
from cap2im.data.splits import Split
from cap2im.data.vocabulary import pad
from cap2im.data.webdataset import open_tar, read_member, read_samples
from cap2im.files import explain, shortened
from cap2im.randomness import generator

logger = logging.getLogger(__name__)

LARGEST_UNPACKED = 2**29  # bytes of a compressed tar file


@dataclass(frozen=True)
class CaptionedBytes:
    """An image as it is stored, with its captions, and how to call it."""

    name: str
    image: bytes
    captions: tuple[str, ...]


def read_shard(url: str, problems: list[Problem] | None = None) -> list[CaptionedBytes]:
    """Return all usable images of a shard, Parquet or tar.

    Args:
        url: a path, or any URL that fsspec knows.
        problems: is extended by the samples that cannot be used.

    Raises:
        ValueError: it is missing or damaged, or no sample of it can be used.
    """
    skipped: list[Problem] = []
    try:
        with open_file(url) as file:
            data = file.read()
    except Exception as error:  # each remote file system has exceptions of its own
        raise ValueError(f"{url}: missing or damaged shard: {shortened(explain(error).removeprefix(f'{url}: '), 200)}") from None
    try:
        images = _parquet(url, data, skipped) if url.endswith(".parquet") else _tar(url, data, skipped)
    except (OSError, ImportError, ValueError, KeyError, tarfile.TarError) as error:
        reason = " ".join(str(error).split()).removeprefix(f"{url}: ")
        raise ValueError(f"{url}: missing or damaged shard: {reason[:200]}") from None
    if skipped and not images:
        raise ValueError(f"{url}: none of its {len(skipped)} samples can be used; the first: {skipped[0]}")
    if problems is not None:
        problems += skipped
    return images


def check_rows(url: str, rows: int, images: int, skipped: int) -> None:
    """Compare the samples of a shard with its manifest, which may count those that cannot be used or not.

    Raises:
        ValueError: samples are missing, or there are more.
    """
    if not images <= rows <= images + skipped:
        also = f" and {skipped} that cannot be used" if skipped else ""
        raise ValueError(f"{url}: holds {images} images{also}; the manifest says {rows}")


def _parquet(url: str, data: bytes, problems: list[Problem]) -> list[CaptionedBytes]:
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


def _tar(url: str, data: bytes, problems: list[Problem]) -> list[CaptionedBytes]:
    with open_tar(_uncompressed(data)) as archive:
        samples = read_samples(archive, url, problems)
        return [CaptionedBytes(f"{url}: image {each.key}", read_member(archive, each.image), each.captions) for each in samples]


def _uncompressed(data: bytes) -> bytes:
    """Return the content of a .tar.gz, and a plain tar file as it is.

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


class ShardBatches:
    """Batches from whole shards; each image comes once an epoch, with one of its captions.

    Args:
        dataset: its manifest names the shards.
        split: whose shards.
        noise_shape: (T, Z) of the model's noise.
        side: of the canvas; images of another size are resized.
        colours: 1 or 3.
        batch_size: over all processes.
        processes: that share the shards.
        seed: of order and noise.
        encoder: makes sentence vectors, for the models that are conditioned on them.

    Raises:
        ValueError: fewer shards than processes, or too few images for a batch.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        split: Split,
        noise_shape: tuple[int, int],
        *,
        side: int,
        colours: int,
        batch_size: int,
        processes: int = 1,
        seed: int = 0,
        encoder: SentenceEncoder | None = None,
    ) -> None:
        self.dataset, self.noise_shape, self.encoder = dataset, noise_shape, encoder
        self.side, self.colours, self.batch_size, self.seed = side, colours, batch_size, seed
        self._shards = dataset.shards(split)
        self._rows = torch.tensor([shard.rows for shard in self._shards])
        if len(self._shards) < processes:
            raise ValueError(f"{dataset.folder}: {len(self._shards)} {split} shards cannot be shared among {processes} processes")
        least = int(self._rows.sort().values[: len(self._shards) // processes].sum())  # images that every process has, whatever the order
        self.steps_per_epoch = least // (batch_size // processes)
        if self.steps_per_epoch == 0:
            told = f"a process may have no more than {least} {split} images, which do not fill its share of {batch_size}"
            raise ValueError(f"{dataset.folder}: {told}; a smaller batch may: --set train.batch_size=16")
        self._open: tuple[int, list[CaptionedBytes]] = (-1, [])
        self._reported: set[str] = set()  # shards, and images that cannot be decoded

    def at(self, step: int, rows: slice = ALL) -> Batch:
        """The share of a process, told by its rows (its number, then every n-th), of the update that follows `step` updates."""
        process, processes = rows.start or 0, rows.step or 1
        epoch, index = divmod(step, self.steps_per_epoch)
        mine = torch.randperm(len(self._shards), generator=generator("shards", self.seed, epoch))[process::processes]
        ends = self._rows[mine].cumsum(0)
        count = self.batch_size // processes
        positions = torch.arange(index * count, (index + 1) * count)
        which = torch.searchsorted(ends, positions, right=True)
        chosen = []
        for part in which.unique().tolist():
            shard, start = int(mine[part]), int(ends[part - 1]) if part else 0
            images, random = self._images(shard), generator("in shard", self.seed, epoch, shard)
            order = torch.randperm(len(images), generator=random)
            caption = torch.randint(2**31, (len(images),), generator=random)
            places = (positions[which == part] - start) % len(images)  # more rows than images: some were skipped
            for row in order[places].tolist():
                chosen.append((shard, row, int(caption[row])))
        return self._batch([self._decoded(*each) for each in chosen], step_noise(self.seed, step, self.batch_size, self.noise_shape)[rows])

    @property
    def captions(self) -> list[str]:
        """Those of the first shard."""
        return [caption for image in self._images(0) for caption in image.captions]

    def fixed(self, count: int) -> Batch:
        """At most `count` images, the first ones of the shards, with their first captions and the same noise at every call."""
        chosen = [(image, pixels, 0) for image, pixels in self._first(count)]
        return self._batch(chosen, fixed_noise(len(chosen), self.noise_shape))

    def examples(self, count: int) -> tuple[list[str], Tensor]:
        """Return at most `count` different captions of the first shard and their images [N, C, A, A] in 0..1.

        Raises:
            ValueError: none of the images can be decoded.
        """
        images = {caption: image for image in self._images(0) for caption in image.captions}
        different, places = list(images), torch.linspace(0, len(images) - 1, min(count, len(images))).long().tolist()
        decoded = [(different[place], self._pixels(images[different[place]])) for place in places]
        shown = [(caption, pixels) for caption, pixels in decoded if pixels is not None]
        if not shown:
            raise ValueError(f"{self.dataset.url(self._shards[0])}: none of {len(places)} images that were tried can be decoded")
        return [caption for caption, _ in shown], torch.stack([pixels for _, pixels in shown]).float() / 255

    def fixed_captions(self, count: int) -> list[str]:
        """The captions of `fixed`."""
        return [image.captions[0] for image, _ in self._first(count)]

    def _first(self, count: int) -> list[tuple[CaptionedBytes, Tensor]]:
        """Return the first images that can be decoded, with their pixels."""
        chosen: list[tuple[CaptionedBytes, Tensor]] = []
        for shard in range(len(self._shards)):
            for image in self._images(shard) if len(chosen) < count else ():
                if len(chosen) < count and (pixels := self._pixels(image)) is not None:
                    chosen.append((image, pixels))
        return chosen

    def _decoded(self, shard: int, row: int, caption: int) -> tuple[CaptionedBytes, Tensor, int]:
        """Return an image with its pixels, or the next one of its shard that can be decoded.

        Raises:
            ValueError: none of the shard can be decoded.
        """
        images = self._images(shard)
        for each in (*range(row, len(images)), *range(row)):
            if (pixels := self._pixels(images[each])) is not None:
                return images[each], pixels, caption
        raise ValueError(f"{self.dataset.url(self._shards[shard])}: none of its images can be decoded; the first: {images[0].name}")

    def _pixels(self, image: CaptionedBytes) -> Tensor | None:
        fit: Fit = "stretch" if self.dataset.manifest.fit == "stretch" else "crop"
        try:
            return pixels_of(image.image, image.name, self.colours, self.side, fit)
        except ValueError as error:
            self._report(image.name, f"skipped a sample: {error}")
            return None

    def _report(self, what: str, message: str) -> None:
        """Log a message once; of several loader processes, which read the same shards, the first one logs."""
        worker = get_worker_info()
        if what not in self._reported and (worker is None or worker.id == 0):
            logger.warning(message)
        self._reported.add(what)

    def _images(self, shard: int) -> list[CaptionedBytes]:
        """Return all usable images of a shard; the last shard stays in memory.

        Raises:
            ValueError: the shard is damaged, is not the one of the manifest, or has nothing that can be used.
        """
        if self._open[0] != shard:
            url, known = self.dataset.url(self._shards[shard]), self.dataset.vocabulary.numbered
            problems: list[Problem] = []
            images = [dataclasses.replace(i, captions=tuple(c for c in i.captions if known(c))) for i in read_shard(url, problems)]
            problems += [Problem("caption without words", image.name, "no known word") for image in images if not image.captions]
            images = [image for image in images if image.captions]
            check_rows(url, int(self._rows[shard]), len(images), len(problems))
            if not images:
                raise ValueError(f"{url}: none of its samples can be used; the first: {problems[0]}")
            if problems:
                first = f"{problems[0].kind}: {problems[0].file.removeprefix(f'{url}: ')}, {problems[0].detail}"
                self._report(url, f"{url}: skipped {len(problems)} of {len(images) + len(problems)} samples; the first: {first}")
            self._open = (shard, images)
        return self._open[1]

    def _batch(self, chosen: Sequence[tuple[CaptionedBytes, Tensor, int]], noise: Tensor) -> Batch:
        captions = [image.captions[number % len(image.captions)] for image, _, number in chosen]
        tokens, mask = pad([self.dataset.vocabulary.numbered(caption) for caption in captions])
        pixels = torch.stack([each for _, each, _ in chosen]).float() / 255
        vectors = None if self.encoder is None else self.encoder.encode(captions)
        return Batch(pixels, tokens, mask, noise, vectors)
