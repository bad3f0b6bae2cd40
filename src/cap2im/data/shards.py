"""Training straight from the shards of a prepared dataset, wherever they lie: for data that exceed a disk.

Each process reads its own shards, one at a time, whole and in a random order, and goes through a shard's images in a random order; what
comes next depends on the seed, the step and the number of processes, so that a resumed run opens the right shard at once. A shard is
Parquet, as `cap2im prepare` writes it, or a tar file in the layout of WebDataset: `NAME.jpg` or `NAME.png` beside `NAME.json` with its
`captions`, or `NAME.txt` with one caption a line.
"""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import fsspec
import torch
from torch import Tensor

from cap2im.data.batch import ALL, Batch, fixed_noise, step_noise
from cap2im.data.captions import SentenceEncoder, pixels_of
from cap2im.data.digits import Split
from cap2im.data.pictures import EXTENSIONS, Fit
from cap2im.data.prepared import PreparedDataset
from cap2im.data.vocabulary import pad
from cap2im.randomness import generator


@dataclass(frozen=True)
class CaptionedBytes:
    """An image as it is stored, with its captions, and how to call it."""

    name: str
    image: bytes
    captions: tuple[str, ...]


def read_shard(url: str) -> list[CaptionedBytes]:
    """All images of a shard, Parquet or tar, from a path or any URL that fsspec knows.

    Raises:
        ValueError: it is missing or damaged, or an image in it has no captions.
    """
    try:
        with fsspec.open(url, "rb") as file:
            data = file.read()
        return _parquet(url, data) if url.endswith(".parquet") else _tar(url, data)
    except (OSError, KeyError, tarfile.TarError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{url}: missing or damaged shard: {' '.join(str(error).split())[:200]}") from None


def _parquet(url: str, data: bytes) -> list[CaptionedBytes]:
    import pyarrow.parquet as pq  # an extra
    from pyarrow import ArrowInvalid

    try:
        table = pq.read_table(io.BytesIO(data), columns=["id", "image", "captions"])
    except ArrowInvalid as error:
        raise OSError(str(error)) from None
    rows = zip(*(table.column(name).to_pylist() for name in ("id", "image", "captions")), strict=True)
    return [CaptionedBytes(f"{url}: image {name}", image["bytes"], tuple(captions)) for name, image, captions in rows]


def _tar(url: str, data: bytes) -> list[CaptionedBytes]:
    members: dict[str, dict[str, bytes]] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            if member.isfile() and (file := archive.extractfile(member)) is not None:
                path = PurePosixPath(member.name)
                members.setdefault(str(path.with_suffix("")), {})[path.suffix.lower()] = file.read()
    images = {name: _one(name, parts, sorted(EXTENSIONS)) for name, parts in members.items()}
    return [CaptionedBytes(f"{url}: image {name}", image, _captions(name, members[name])) for name, image in images.items()]


def _one(name: str, parts: dict[str, bytes], suffixes: Iterable[str]) -> bytes:
    found = next((parts[suffix] for suffix in suffixes if suffix in parts), None)
    if found is None:
        raise KeyError(f"{name} has no {' or '.join(suffixes)}")
    return found


def _captions(name: str, parts: dict[str, bytes]) -> tuple[str, ...]:
    if ".json" in parts:
        document: dict[str, Any] = json.loads(parts[".json"])
        told = document.get("captions", document.get("caption"))
        captions = [told] if isinstance(told, str) else told
    else:
        captions = [line.strip() for line in _one(name, parts, (".txt",)).decode().splitlines() if line.strip()]
    if not captions:
        raise KeyError(f"{name} has no captions")
    return tuple(captions)


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
            for row in order[positions[which == part] - start].tolist():
                chosen.append((images[row], int(caption[row])))
        return self._batch(chosen, step_noise(self.seed, step, self.batch_size, self.noise_shape)[rows])

    @property
    def captions(self) -> list[str]:
        """Those of the first shard."""
        return [caption for image in self._images(0) for caption in image.captions]

    def fixed(self, count: int) -> Batch:
        """At most `count` images, the first ones of the shards, with their first captions and the same noise at every call."""
        chosen = [(image, 0) for image in self._first(count)]
        return self._batch(chosen, fixed_noise(len(chosen), self.noise_shape))

    def examples(self, count: int) -> tuple[list[str], Tensor]:
        """Return at most `count` different captions of the first shard and their images [N, C, A, A] in 0..1."""
        images = {caption: image for image in self._images(0) for caption in image.captions}
        different, places = list(images), torch.linspace(0, len(images) - 1, min(count, len(images))).long().tolist()
        chosen = [different[place] for place in places]
        return chosen, torch.stack([self._pixels(images[caption]) for caption in chosen])

    def _pixels(self, image: CaptionedBytes) -> Tensor:
        fit: Fit = "stretch" if self.dataset.manifest.fit == "stretch" else "crop"
        return pixels_of(image.image, image.name, self.colours, self.side, fit).float() / 255

    def fixed_captions(self, count: int) -> list[str]:
        """The captions of `fixed`."""
        return [image.captions[0] for image in self._first(count)]

    def _first(self, count: int) -> list[CaptionedBytes]:
        chosen: list[CaptionedBytes] = []
        for shard in range(len(self._shards)):
            if len(chosen) < count:
                chosen += self._images(shard)[: count - len(chosen)]
        return chosen

    def _images(self, shard: int) -> list[CaptionedBytes]:
        """All of a shard; the last one stays in memory."""
        if self._open[0] != shard:
            url, known = self.dataset.url(self._shards[shard]), self.dataset.vocabulary.numbered
            images = [dataclasses.replace(i, captions=tuple(c for c in i.captions if known(c))) for i in read_shard(url)]
            if silent := next((image.name for image in images if not image.captions), None):
                raise ValueError(f"{silent}: has no caption with a known word")
            if len(images) != self._rows[shard]:
                raise ValueError(f"{url}: holds {len(images)} images; the manifest says {int(self._rows[shard])}")
            self._open = (shard, images)
        return self._open[1]

    def _batch(self, chosen: Sequence[tuple[CaptionedBytes, int]], noise: Tensor) -> Batch:
        captions = [image.captions[number % len(image.captions)] for image, number in chosen]
        tokens, mask = pad([self.dataset.vocabulary.numbered(caption) for caption in captions])
        pixels = torch.stack([self._pixels(image) for image, _ in chosen])
        vectors = None if self.encoder is None else self.encoder.encode(captions)
        return Batch(pixels, tokens, mask, noise, vectors)
