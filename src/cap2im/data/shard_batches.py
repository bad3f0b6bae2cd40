"""Training batches straight from the shards of a prepared dataset, which may exceed the disk.

Each process reads its own shards, one at a time, whole and in a random order, and visits the images of a shard in a random order. The seed,
the step and the number of processes determine every batch, so a resumed run opens the right shard at once. A sample that cannot be decoded
is skipped and logged; the next sample of its shard takes its place, the same one in every run.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from cap2im.data.batch import ALL, Batch, fixed_noise, pad, step_noise
from cap2im.data.captioned_images import pixels_of
from cap2im.data.dataset import PreparedDataset
from cap2im.data.image_resizing import Fit
from cap2im.data.problems import Problem
from cap2im.data.sentence_vectors import SentenceEncoder
from cap2im.data.shards import CaptionedBytes, check_rows, read_shard
from cap2im.data.splits import Split
from cap2im.randomness import generator

logger = logging.getLogger(__name__)


class ShardBatches:
    """Batches from whole shards; each image is used once an epoch, with one of its captions.

    Args:
        dataset: prepared dataset.
        split: whose shards to read.
        noise_shape: (T, Z) of the model's noise.
        side: of the canvas; images of another size are resized.
        colours: 1 or 3.
        batch_size: over all processes.
        processes: number of processes that share the shards.
        seed: of order and noise.
        encoder: computes sentence vectors, for models that are conditioned on them.

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
        least = int(self._rows.sort().values[: len(self._shards) // processes].sum())  # images of any process, in the worst order
        self.steps_per_epoch = least // (batch_size // processes)
        if self.steps_per_epoch == 0:
            share = f"a process may have no more than {least} {split} images, which do not fill its share of {batch_size}"
            raise ValueError(f"{dataset.folder}: {share}; a smaller batch may: --set train.batch_size=16")
        self._open: tuple[int, list[CaptionedBytes]] = (-1, [])  # the last shard
        self._reported: set[str] = set()  # shards, and images that cannot be decoded

    def at(self, step: int, rows: slice = ALL) -> Batch:
        """Return a process's share of the batch for update `step` + 1.

        Args:
            step: number of updates done.
            rows: number of the process as start, and number of processes as step.
        """
        process, processes = rows.start or 0, rows.step or 1
        epoch, index = divmod(step, self.steps_per_epoch)
        shards = torch.randperm(len(self._shards), generator=generator("shards", self.seed, epoch))[process::processes]
        ends = self._rows[shards].cumsum(0)
        count = self.batch_size // processes
        positions = torch.arange(index * count, (index + 1) * count)
        parts = torch.searchsorted(ends, positions, right=True)
        chosen = []
        for part in parts.unique().tolist():
            shard, start = int(shards[part]), int(ends[part - 1]) if part else 0
            images, random = self._images(shard), generator("in shard", self.seed, epoch, shard)
            order = torch.randperm(len(images), generator=random)
            caption = torch.randint(2**31, (len(images),), generator=random)
            places = (positions[parts == part] - start) % len(images)  # wraps around if samples were skipped
            chosen += [(shard, row, int(caption[row])) for row in order[places].tolist()]
        return self._batch([self._decode(*each) for each in chosen], step_noise(self.seed, step, self.batch_size, self.noise_shape)[rows])

    @property
    def captions(self) -> list[str]:
        """Captions of the first shard."""
        return [caption for image in self._images(0) for caption in image.captions]

    def fixed(self, count: int) -> Batch:
        """Return at most `count` images, the first ones, with their first captions and the same noise at every call."""
        chosen = [(image, pixels, 0) for image, pixels in self._first(count)]
        return self._batch(chosen, fixed_noise(len(chosen), self.noise_shape))

    def fixed_captions(self, count: int) -> list[str]:
        """Return the captions of `fixed`."""
        return [image.captions[0] for image, _ in self._first(count)]

    def examples(self, count: int) -> tuple[list[str], Tensor]:
        """Return at most `count` different captions of the first shard and their images [N, C, A, A] in 0..1.

        Raises:
            ValueError: none of the images can be decoded.
        """
        images = {caption: image for image in self._images(0) for caption in image.captions}
        captions, places = list(images), torch.linspace(0, len(images) - 1, min(count, len(images))).long().tolist()
        decoded = [(captions[place], self._pixels(images[captions[place]])) for place in places]
        readable = [(caption, pixels) for caption, pixels in decoded if pixels is not None]
        if not readable:
            raise ValueError(f"{self.dataset.url(self._shards[0])}: none of {len(places)} images that were tried can be decoded")
        return [caption for caption, _ in readable], torch.stack([pixels for _, pixels in readable]).float() / 255

    def _first(self, count: int) -> list[tuple[CaptionedBytes, Tensor]]:
        """Return the first images that can be decoded, with their pixels."""
        chosen: list[tuple[CaptionedBytes, Tensor]] = []
        for shard in range(len(self._shards)):
            for image in self._images(shard) if len(chosen) < count else ():
                if len(chosen) < count and (pixels := self._pixels(image)) is not None:
                    chosen.append((image, pixels))
        return chosen

    def _decode(self, shard: int, row: int, caption: int) -> tuple[CaptionedBytes, Tensor, int]:
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
            self._warn_once(image.name, f"skipped a sample: {error}")
            return None

    def _warn_once(self, key: str, message: str) -> None:
        """Log a warning once; of several loader workers, which read the same shards, only the first one logs."""
        worker = get_worker_info()
        if key not in self._reported and (worker is None or worker.id == 0):
            logger.warning(message)
        self._reported.add(key)

    def _images(self, shard: int) -> list[CaptionedBytes]:
        """Return all usable images of a shard; the last shard stays in memory.

        Raises:
            ValueError: the shard is damaged, is not the one of the manifest, or no sample can be used.
        """
        if self._open[0] != shard:
            url, known = self.dataset.url(self._shards[shard]), self.dataset.vocabulary.numbered
            problems: list[Problem] = []
            images = [replace(i, captions=tuple(c for c in i.captions if known(c))) for i in read_shard(url, problems)]
            problems += [Problem("caption without words", image.name, "no known word") for image in images if not image.captions]
            images = [image for image in images if image.captions]
            check_rows(url, int(self._rows[shard]), len(images), len(problems))
            if not images:
                raise ValueError(f"{url}: none of its samples can be used; the first: {problems[0]}")
            if problems:
                first = f"{problems[0].kind}: {problems[0].file.removeprefix(f'{url}: ')}, {problems[0].detail}"
                self._warn_once(url, f"{url}: skipped {len(problems)} of {len(images) + len(problems)} samples; the first: {first}")
            self._open = (shard, images)
        return self._open[1]

    def _batch(self, chosen: Sequence[tuple[CaptionedBytes, Tensor, int]], noise: Tensor) -> Batch:
        captions = [image.captions[number % len(image.captions)] for image, _, number in chosen]
        tokens, mask = pad([self.dataset.vocabulary.numbered(caption) for caption in captions])
        pixels = torch.stack([each for _, each, _ in chosen]).float() / 255
        vectors = None if self.encoder is None else self.encoder.encode(captions)
        return Batch(pixels, tokens, mask, noise, vectors)
