"""Prepare captioned images of any source: Parquet shards, a vocabulary, a manifest and a card; see `manifest` for the layout.

Shards are written atomically. An interrupted run leaves whole shards and continues from them. The same source and options
give the same bytes.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from cap2im._version import __version__
from cap2im.data.dataset_card import dataset_card
from cap2im.data.image_preparation import JPEG_QUALITY, MAX_PNG_SIDE
from cap2im.data.image_resizing import Fit
from cap2im.data.manifest import (
    CARD,
    FORMAT,
    MANIFEST,
    PROBLEMS_FILE,
    PROGRESS,
    VOCABULARY,
    Shard,
    SplitCounts,
    VocabularyEntry,
    WrittenManifest,
)
from cap2im.data.ray_shards import write_shards_by_ray
from cap2im.data.records import CaptionedImage, LazyRecords, Source, training_captions
from cap2im.data.shard_writer import write_shard
from cap2im.data.splits import Split
from cap2im.data.tokenizer import Tokenizer
from cap2im.data.vocabulary import Vocabulary
from cap2im.data.workers import worker_pool
from cap2im.extras import require
from cap2im.files import dump_json, file_sha256, has_no_files, lock, read_json, write_atomically
from cap2im.progress import progress_bar

logger = logging.getLogger(__name__)

Engine = Literal["local", "ray"]

ENCODING = 2  # changes when the same picture is stored in other bytes


@dataclass(frozen=True)
class PrepareOptions:
    """Options of preparing a dataset.

    Attributes:
        side: of the images, in pixels.
        fit: "stretch", "crop" or "shorter"; see `pictures.fitted`.
        captions: number of captions of each image to keep; None keeps all.
        tokens: how captions are split into words; None uses the source's vocabulary, else "released".
        minimum_count: rarer words are left out of the vocabulary.
        words: most words in the vocabulary; None keeps all.
        title: name of the data in the cards of models trained on it.
        licence: of the data in those cards: an SPDX identifier or a name.
    """

    side: int = 32
    fit: Fit = "stretch"
    captions: int | None = None
    tokens: Tokenizer | None = None
    minimum_count: int = 1
    words: int | None = None
    title: str | None = None
    licence: str | None = None

    @property
    def image_format(self) -> Literal["PNG", "JPEG"]:
        """Format of the stored images."""
        return "PNG" if self.side <= MAX_PNG_SIDE else "JPEG"

    @property
    def shard_rows(self) -> int:
        """Most images in a shard."""
        return 10_000 if self.image_format == "PNG" else 2_000


class _Progress(BaseModel):
    """The state of a run in `preparing.json`; a manifest has the same entries."""

    fingerprint: str
    shards: tuple[Shard, ...]


def prepare_dataset(
    source: Source,
    out: Path,
    *,
    kind: str,
    path: str,
    options: PrepareOptions | None = None,
    workers: int | None = None,
    resume: bool = False,
    engine: Engine = "local",
) -> WrittenManifest:
    """Write a prepared dataset.

    Args:
        source: see `sources.read_source`.
        out: a folder that is absent or empty.
        kind: of the source, stored in the manifest.
        path: of the source, stored in the manifest.
        options: of preparing.
        workers: number of processes; None uses one per available processor.
        resume: continue an interrupted run, or repair a finished one. Source and options must be the same.
        engine: what prepares shards: "local", one after the other by `workers` processes; or "ray", many at a time by a Ray cluster.

    Raises:
        ValueError: no training images, the folder holds something else or another run writes there, the run to resume had another source
            or other options, vocabulary options for a source with its own vocabulary, or Ray is missing.
    """
    options = PrepareOptions() if options is None else options
    if engine == "ray":
        require("--engine ray", "ray", "ray")
    if not source.splits.get("train"):
        raise ValueError(f"{path}: no training images with captions in it" + "".join(f"; {p}" for p in source.problems[:3]))
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file, and a folder is needed")
    tokens = source.tokenizer(options.tokens)
    _check_vocabulary(source, options, tokens)
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        fingerprint = _fingerprint(source, options, kind, tokens)
        done = {shard.file: shard for shard in _finished_shards(out, resume, fingerprint)}
        (out / "data").mkdir(exist_ok=True)
        for draft in [*out.glob(".*.draft"), *(out / "data").glob(".*.draft")]:  # of a run that was killed
            draft.unlink()
        plan = _plan(source, options)
        _write_progress(out, fingerprint, done.values())
        rest = [(name, records) for name, records in plan if name not in done]
        with progress_bar("images") as bar:
            before = sum(len(records) for name, records in plan if name in done)
            task = bar.add_task("preparing", total=sum(len(records) for _, records in plan), completed=before)
            write = write_shards_by_ray if engine == "ray" else partial(_write_shards, workers=workers)
            for shard in write(out, rest, options, tokens, lambda rows: bar.advance(task, rows)):
                done[shard.file] = shard
                _write_progress(out, fingerprint, done.values())
        shards = [done[name] for name, _ in plan]
        return _finish(source, out, {"kind": kind, "path": path}, options, tokens, fingerprint, shards)


def _write_shards(
    out: Path,
    plan: Iterable[tuple[str, Sequence[CaptionedImage]]],
    options: PrepareOptions,
    tokens: Tokenizer,
    advance: Callable[[int], None],
    *,
    workers: int | None,
) -> Iterator[Shard]:
    """Write shards one after the other, by `workers` processes; see `write_shards_by_ray`."""
    with worker_pool(workers) as pool:
        for name, records in plan:
            yield write_shard(out / name, name, records, options, tokens, pool, advance)


def _check_vocabulary(source: Source, options: PrepareOptions, tokens: Tokenizer) -> None:
    """Refuse options that cannot give a vocabulary before any picture is decoded. Captions of tables are not read for that.

    Raises:
        ValueError: the source has its own vocabulary, or no word is left.
    """
    records = source.splits["train"]
    if source.vocabulary is not None:
        if options.minimum_count != 1 or options.words is not None:
            raise ValueError("--minimum-count and --words: this source has its own vocabulary, which cannot be changed")
    elif not isinstance(records, LazyRecords) and (captions := training_captions(records, options.captions, tokens)):
        _build_vocabulary(captions, options, tokens)


def _build_vocabulary(captions: Iterable[str], options: PrepareOptions, tokens: Tokenizer) -> Vocabulary:
    return Vocabulary.build(captions, tokens=tokens, minimum_count=options.minimum_count, size=options.words)


def _fingerprint(source: Source, options: PrepareOptions, kind: str, tokens: Tokenizer) -> str:
    """Return a checksum of a source's listing, the sizes and times of its files, and the options that change shards."""
    settings = {
        "encoding": ENCODING,
        "kind": kind,
        "side": options.side,
        "fit": options.fit,
        "captions": options.captions,
        "tokens": tokens,
    }
    digest = hashlib.sha256(repr((sorted(settings.items()), source.vocabulary)).encode())
    for split, records in source.splits.items():
        if isinstance(records, LazyRecords):
            digest.update(repr((split, records.prefix, records.state, list(records.rows))).encode())
        else:
            for record in records:
                digest.update(repr((split, record, record.image.state)).encode())
    return digest.hexdigest()


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Keep other runs out of a folder; the lock ends with the process.

    Raises:
        ValueError: another run is writing there.
    """
    if os.name == "nt":  # Windows cannot open folders
        yield
        return
    descriptor = os.open(out, os.O_RDONLY)
    try:
        if not lock(descriptor):
            raise ValueError(f"{out}: another cap2im prepare is writing there")
        yield
    finally:
        os.close(descriptor)


def _finished_shards(out: Path, resume: bool, fingerprint: str) -> list[Shard]:
    """Return the whole shards of an earlier run.

    Raises:
        ValueError: the folder holds something else.
    """
    state = next((out / name for name in (PROGRESS, MANIFEST) if (out / name).is_file()), None)
    if not resume or state is None:
        if not has_no_files(out, PROGRESS, ("data",)):
            interrupted = state is not None and state.name == PROGRESS
            hint = "--resume continues the interrupted run" if interrupted else "choose another"
            raise ValueError(f"{out}: this folder is not empty; {hint}")
        return []
    try:
        progress = read_json(state, _Progress)
    except ValueError as error:
        raise ValueError(f"{' '.join(str(error).split())}; prepare into another folder") from None
    if progress.fingerprint != fingerprint:
        raise ValueError(
            f"{out}: began with another source or other options, files have changed since, or another version of cap2im made it; "
            "prepare into another folder"
        )
    files = {shard.file: shard for shard in progress.shards if (out / shard.file).is_file()}
    return [shard for file, shard in files.items() if file_sha256(out / file) == shard.sha256]


def _plan(source: Source, options: PrepareOptions) -> list[tuple[str, Sequence[CaptionedImage]]]:
    """Return the file name and the records of each shard to write."""
    plan: list[tuple[str, Sequence[CaptionedImage]]] = []
    for split, records in source.splits.items():
        parts = [records[start : start + options.shard_rows] for start in range(0, len(records), options.shard_rows)]
        plan += [(f"data/{split}-{i:05d}-of-{len(parts):05d}.parquet", part) for i, part in enumerate(parts)]
    return plan


def _write_json(path: Path, document: BaseModel) -> None:
    write_atomically(path, dump_json(document.model_dump(exclude_none=True)) + "\n")


def _write_progress(out: Path, fingerprint: str, shards: Iterable[Shard]) -> None:
    _write_json(out / PROGRESS, _Progress(fingerprint=fingerprint, shards=tuple(shards)))


def shard_captions(files: Iterable[Path]) -> Iterator[str]:
    """Yield all captions of shards; a part of a shard is in memory at a time."""
    import pyarrow.parquet as pq

    for file in files:
        with file.open("rb") as opened:
            for batch in pq.ParquetFile(opened).iter_batches(1000, columns=["captions"]):
                yield from batch.column("captions").flatten().to_pylist()


def _finish(
    source: Source,
    out: Path,
    origin: dict[str, Any],
    options: PrepareOptions,
    tokens: Tokenizer,
    fingerprint: str,
    shards: Sequence[Shard],
) -> WrittenManifest:
    """Write vocabulary, problems, card, and last of all the manifest.

    Raises:
        ValueError: no training image can be used.
    """
    counts: dict[Split, SplitCounts] = {}
    for shard in shards:
        split = counts.setdefault(shard.split, SplitCounts())
        split.images += shard.rows
        split.captions += shard.captions or 0
    problems = [*source.problems, *(problem for shard in shards for problem in shard.known_problems)]
    if not counts["train"].images:
        raise ValueError(f"{origin['path']}: none of its training images can be used; the first problem: {problems[0]}")
    vocabulary = source.vocabulary
    if vocabulary is None:
        vocabulary = _build_vocabulary(shard_captions(out / s.file for s in shards if s.split == "train"), options, tokens)
    for shard in shards:
        if not counts[shard.split].images:
            (out / shard.file).unlink()
    write_atomically(out / VOCABULARY, vocabulary.model_dump_json(indent=1) + "\n")
    (out / PROBLEMS_FILE).unlink(missing_ok=True)
    if problems:
        write_atomically(out / PROBLEMS_FILE, "".join(f"{problem}\n" for problem in problems))
        kinds = Counter(problem.kind for problem in problems)
        summary = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common())
        logger.warning("problems, listed in %s: %s", out / PROBLEMS_FILE, summary)
    manifest = WrittenManifest(
        format=FORMAT,
        version=__version__,
        source=origin,
        title=options.title or None,
        licence=options.licence or None,
        side=options.side,
        fit=options.fit,
        captions=options.captions,
        tokens=vocabulary.tokens,
        minimum_count=options.minimum_count if source.vocabulary is None else None,
        words=options.words,
        stored="PNG" if options.image_format == "PNG" else f"JPEG of quality {JPEG_QUALITY}, colours at full resolution",
        splits={split: count for split, count in counts.items() if count.images},
        vocabulary=VocabularyEntry(words=len(vocabulary), sha256=file_sha256(out / VOCABULARY)),
        problems=len(problems),
        shards=tuple(shard for shard in shards if counts[shard.split].images),
        fingerprint=fingerprint,
    )
    write_atomically(out / CARD, dataset_card(manifest))
    _write_json(out / MANIFEST, manifest)
    (out / PROGRESS).unlink(missing_ok=True)
    return manifest
