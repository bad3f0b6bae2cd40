"""What is wrong with captioned images, told before anything starts; and whether a prepared dataset is whole."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cap2im.data.dataset import Manifest, PreparedDataset, is_url, parse_manifest
from cap2im.data.image_files import ImageBytes, ImageReference
from cap2im.data.image_preparation import ImageInfo, inspect_images
from cap2im.data.image_resizing import Box
from cap2im.data.prepare import MANIFEST, VOCABULARY
from cap2im.data.records import PROBLEMS, CaptionedImage, PickleReader, Problem, Source, tokens_of, usable_captions
from cap2im.data.source_kinds import Kind
from cap2im.data.splits import SPLIT_NAMES, Split
from cap2im.data.vocabulary import Tokenizer, Vocabulary, split_words
from cap2im.data.workers import available_workers, batched, parallel, progress_bar
from cap2im.files import file_sha256, read_bytes, read_json

TASK_ROWS = 16


@dataclass
class SplitSummary:
    """The numbers of one split; sizes and lengths are smallest, median, largest."""

    images: int = 0
    captions: int = 0
    sides: list[int] = field(default_factory=list)  # of the shorter side of each image
    lengths: list[int] = field(default_factory=list)  # words of each caption
    words: Counter[str] = field(default_factory=Counter)


@dataclass
class Report:
    """What a check found.

    Attributes:
        kind: of the source, or "prepared".
        splits: summaries by split.
        problems: all of them.
        vocabulary: the number of different words in the training captions, or in the vocabulary that the source brings.
        unknown: by split other than train, the share of words that training captions do not hold.
    """

    kind: str
    splits: dict[Split, SplitSummary]
    problems: list[Problem]
    vocabulary: int = 0
    unknown: dict[Split, float] = field(default_factory=dict)

    @property
    def loses_data(self) -> bool:
        return any(PROBLEMS[problem.kind] for problem in self.problems)


def check_source(source: Source, kind: str, *, tokens: Tokenizer | None = None, workers: int | None = None) -> Report:
    """Prepares every picture, decodes it in full, reads every caption, and compares the splits.

    Args:
        source: see `sources.read_source`.
        kind: of the source, for the report.
        tokens: how captions are split; see `captioned.tokens_of`.
        workers: processes; None takes as many as there are processors.

    Raises:
        ValueError: the source's own vocabulary splits captions otherwise.
    """
    splits = {split: (len(records), records) for split, records in source.splits.items()}
    return _check(kind, splits, list(source.problems), source.vocabulary, tokens_of(source, tokens), workers)


def _check(
    kind: str,
    splits: Mapping[Split, tuple[int, Iterable[CaptionedImage]]],
    problems: list[Problem],
    vocabulary: Vocabulary | None,
    tokens: Tokenizer,
    workers: int | None,
) -> Report:
    report = Report(kind, {}, problems)
    first_seen: dict[str, tuple[Split, str]] = {}
    with parallel(available_workers() if workers is None else workers) as compute, progress_bar("images") as bar:
        task = bar.add_task("checking", total=sum(count for count, _ in splits.values()))
        for split, (_, records) in splits.items():
            summary = report.splits.setdefault(split, SplitSummary())
            for record, seen in _examined(records, compute):
                _count(record, seen, split, summary, report.problems, first_seen, tokens)
                bar.advance(task)
    _compare(report, vocabulary)
    return report


def _examined(records: Iterable[CaptionedImage], compute: Any) -> Iterator[tuple[CaptionedImage, ImageInfo]]:
    waiting: deque[list[CaptionedImage]] = deque()

    def tasks() -> Iterator[list[tuple[ImageReference, Box | None]]]:
        for part in batched(records, TASK_ROWS):
            waiting.append(part)
            yield [(record.image, record.box) for record in part]

    for answers in compute(inspect_images, tasks()):
        yield from zip(waiting.popleft(), answers, strict=True)


def _count(
    record: CaptionedImage,
    seen: ImageInfo,
    split: Split,
    summary: SplitSummary,
    problems: list[Problem],
    first_seen: dict[str, tuple[Split, str]],
    tokens: Tokenizer,
) -> None:
    captions, wrong = usable_captions(record, tokens=tokens)
    problems += wrong
    if seen.reason:
        problems.append(Problem("unreadable image", record.image.name, seen.reason))
        return
    other, name = first_seen.setdefault(seen.sha256, (split, record.image.name))
    if other != split:
        problems.append(Problem("duplicate across splits", record.image.name, f"the same picture is in {other}: {name}"))
    if captions:
        summary.images += 1
        summary.captions += len(captions)
        summary.sides.append(min(seen.width, seen.height))
        for words in (split_words(caption, tokens) for caption in captions):
            summary.lengths.append(len(words))
            summary.words.update(words)


def _compare(report: Report, vocabulary: Vocabulary | None) -> None:
    """The vocabulary of training, and how much of the other splits it does not know."""
    training = report.splits.get("train", SplitSummary()).words
    known = set(training) if vocabulary is None else set(vocabulary.words)
    report.vocabulary = len(known)
    for split, summary in report.splits.items():
        if (split != "train" or vocabulary is not None) and (total := summary.words.total()):
            report.unknown[split] = sum(n for word, n in summary.words.items() if word not in known) / total


def check_prepared(folder: Path | str, *, workers: int | None = None) -> Report:
    """Compare a prepared dataset with its manifest: checksums first, then pictures and captions of the shards that are whole.

    Args:
        folder: a folder, or a URL that fsspec knows, whose checksums are not compared.
        workers: processes; None takes as many as there are processors.

    Raises:
        ValueError: the manifest is damaged, or cannot be read.
    """
    problems: list[Problem] = []
    vocabulary = None
    if is_url(str(folder)):
        dataset = PreparedDataset.open(folder)
        vocabulary, files = dataset.vocabulary, [(shard, dataset.url(shard)) for shard in dataset.manifest.shards]
    else:
        folder = Path(folder)
        manifest = parse_manifest(read_bytes(folder / MANIFEST), str(folder))
        problems = _damaged_files(folder, manifest)
        damaged = {problem.file for problem in problems}
        files = [(shard, str(folder / shard.file)) for shard in manifest.shards if str(folder / shard.file) not in damaged]
        if str(folder / VOCABULARY) not in damaged:
            try:
                vocabulary = read_json(folder / VOCABULARY, Vocabulary)
            except ValueError as error:
                reason = str(error).removeprefix(f"{folder / VOCABULARY}: ")
                problems.append(Problem("damaged file", str(folder / VOCABULARY), " ".join(reason.split())[:200]))
    whole: dict[Split, list[tuple[str, int]]] = {}
    for shard, url in files:
        whole.setdefault(SPLIT_NAMES[shard.split], []).append((url, shard.rows))
    splits = {split: (sum(rows for _, rows in shards), _stored(shards, problems)) for split, shards in whole.items()}
    return _check("prepared", splits, problems, vocabulary, "released" if vocabulary is None else vocabulary.tokens, workers)


def _damaged_files(folder: Path, manifest: Manifest) -> list[Problem]:
    """Return the files that are missing, altered, or not in the manifest."""
    problems = []
    for name, sha256 in [*((shard.file, shard.sha256) for shard in manifest.shards), (VOCABULARY, manifest.vocabulary.sha256)]:
        path = folder / name
        if not path.is_file():
            problems.append(Problem("damaged file", str(path), "missing"))
        elif sha256 is not None and (found := file_sha256(path)) != sha256:
            problems.append(Problem("damaged file", str(path), f"truncated or altered: SHA-256 {found[:12]}…, expected {sha256[:12]}…"))
    listed = {shard.file for shard in manifest.shards}
    strays = sorted(file for file in (folder / "data").glob("*.parquet") if f"data/{file.name}" not in listed)
    return problems + [Problem("damaged file", str(file), "not in the manifest, but would be loaded") for file in strays]


def _stored(shards: Sequence[tuple[str, int]], problems: list[Problem]) -> Iterator[CaptionedImage]:
    """The images of shards, one shard in memory at a time; what is wrong with a shard is added to the problems."""
    from cap2im.data.shards import check_rows, read_shard

    for url, rows in shards:
        skipped: list[Problem] = []
        try:
            images = read_shard(url, skipped)
        except ValueError as error:
            problems.append(Problem("damaged file", url, str(error).removeprefix(f"{url}: ")))
            continue
        problems += skipped
        try:
            check_rows(url, rows, len(images), len(skipped))
        except ValueError as error:
            problems.append(Problem("damaged file", url, str(error).removeprefix(f"{url}: ")))
        for image in images:
            yield CaptionedImage(image.name, ImageBytes(image.name, image.image), image.captions)


def missing_validation(splits: Mapping[str, Any], share: float = 0.0) -> str | None:
    """Return a hint if there are no validation images.

    Args:
        splits: names of the splits that have images.
        share: that was to be held out.
    """
    if "validation" in splits or "train" not in splits:
        return None
    if share:
        return f"no validation images: --validation {share} holds out none of so few; choose a larger share"
    return "no validation images, which train needs: prepare with --validation 0.1 to hold out a tenth, and --test 0.1 to test on"


def spread(numbers: Sequence[int]) -> str:
    """Smallest, median and largest of some numbers, for a table."""
    return f"{min(numbers)} / {int(np.median(numbers))} / {max(numbers)}" if numbers else "-"


def check(
    path: str,
    *,
    read_pickle: PickleReader,
    kind: Kind | None = None,
    tokens: Tokenizer | None = None,
    image_column: str | None = None,
    caption_column: str | tuple[str, ...] | None = None,
    split_column: str | None = None,
    images: str | None = None,
    workers: int | None = None,
) -> Report:
    """Checks a prepared dataset, or a source of a kind that is given or guessed.

    Raises:
        ValueError: nothing lies there, it is not of that kind, or has no use for an option.
    """
    from cap2im.data.sources import guess_kind, read_source
    from cap2im.data.table_columns import AskedColumns

    folder = Path(os.path.expanduser(path))
    captions = (caption_column,) if isinstance(caption_column, str) else tuple(caption_column or ())
    if kind is None and (is_url(path) or (folder / MANIFEST).is_file()):
        asked = {"--tokens": tokens, "--image-column": image_column, "--caption-column": captions or None}
        asked |= {"--split-column": split_column, "--images": images}
        if strays := [option for option, value in asked.items() if value is not None]:
            raise ValueError(f"{path}: is a prepared dataset, and {', '.join(strays)} means nothing there")
        return check_prepared(path if is_url(path) else str(folder), workers=workers)
    found = guess_kind(path, AskedColumns(image_column, captions, split_column)) if kind is None else kind
    columns: dict[str, Any] = {"image_column": image_column, "caption_column": captions, "split_column": split_column}
    source = read_source(found, path, read_pickle=read_pickle, images=images, **columns)
    if not source.splits.get("train"):
        source.problems.append(Problem("no training images", path, "cap2im prepare needs some, with captions"))
    return check_source(source, found, tokens=tokens, workers=workers)
