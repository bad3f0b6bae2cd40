"""Check captioned images of any kind, or a prepared dataset, without changing them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cap2im.data.dataset import PreparedDataset, check_sha256, is_prepared
from cap2im.data.dataset_files import is_url
from cap2im.data.image_files import ImageBytes
from cap2im.data.image_preparation import ImageInfo, inspect_image
from cap2im.data.manifest import MANIFEST, VOCABULARY, Manifest, parse_manifest
from cap2im.data.problems import PROBLEMS, Problem
from cap2im.data.readers import ReadOptions
from cap2im.data.records import CaptionedImage, Source, usable_captions
from cap2im.data.shards import check_rows, read_shard
from cap2im.data.sources import guess_kind, read_source
from cap2im.data.splits import Split
from cap2im.data.tokenizer import Tokenizer, split_words
from cap2im.data.vocabulary import Vocabulary
from cap2im.data.workers import worker_pool
from cap2im.files import file_sha256, read_bytes, read_json
from cap2im.progress import progress_bar


@dataclass
class SplitSummary:
    """Statistics of one split.

    Attributes:
        images: number of images.
        captions: number of captions.
        sides: shorter side of each image, in pixels.
        lengths: number of words of each caption.
        words: count of each word.
    """

    images: int = 0
    captions: int = 0
    sides: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    words: Counter[str] = field(default_factory=Counter)


@dataclass
class DatasetReport:
    """Result of a check.

    Attributes:
        kind: of the source, or "prepared".
        splits: summary of each split.
        problems: all problems.
        vocabulary: number of different words in the training captions, or in the source's own vocabulary.
        unknown: share of words outside of the vocabulary, by split.
    """

    kind: str
    splits: dict[Split, SplitSummary]
    problems: list[Problem]
    vocabulary: int = 0
    unknown: dict[Split, float] = field(default_factory=dict)

    @property
    def loses_data(self) -> bool:
        """Whether any problem loses data."""
        return any(PROBLEMS[problem.kind] for problem in self.problems)


def check_path(
    path: str,
    options: ReadOptions | None = None,
    *,
    kind: str | None = None,
    tokens: Tokenizer | None = None,
    workers: int | None = None,
) -> DatasetReport:
    """Check a prepared dataset or a source.

    Args:
        path: of either.
        options: of reading a source.
        kind: of the source; None guesses it.
        tokens: how captions are split into words; None uses the source's vocabulary, else "released".
        workers: number of processes; None uses one per available processor.

    Raises:
        ValueError: the path does not exist or is not of this kind, or an option does not apply.
    """
    options = ReadOptions() if options is None else options
    if kind is None and is_prepared(path):
        columns = options.columns
        given = {"--tokens": tokens, "--image-column": columns.image, "--caption-column": columns.captions or None}
        given |= {"--split-column": columns.split, "--images": options.images}
        if unused := [option for option, value in given.items() if value is not None]:
            raise ValueError(f"{path}: is a prepared dataset, and {', '.join(unused)} does not apply")
        return check_prepared(path, workers=workers)
    kind = guess_kind(path, options.columns) if kind is None else kind
    source = read_source(kind, path, options)
    if not source.splits.get("train"):
        source.problems.append(Problem("no training images", path, "cap2im prepare needs some, with captions"))
    return check_source(source, kind, tokens=tokens, workers=workers)


def check_source(source: Source, kind: str, *, tokens: Tokenizer | None = None, workers: int | None = None) -> DatasetReport:
    """Prepare and decode every picture of a source, read every caption, and compare the splits.

    Args:
        source: see `sources.read_source`.
        kind: of the source, stored in the report.
        tokens: how captions are split into words; see `Source.tokenizer`.
        workers: number of processes; None uses one per available processor.

    Raises:
        ValueError: `tokens` contradicts the source's own vocabulary.
    """
    splits = {split: (len(records), records) for split, records in source.splits.items()}
    return _check(kind, splits, list(source.problems), source.vocabulary, source.tokenizer(tokens), workers)


def _check(
    kind: str,
    splits: Mapping[Split, tuple[int, Iterable[CaptionedImage]]],
    problems: list[Problem],
    vocabulary: Vocabulary | None,
    tokens: Tokenizer,
    workers: int | None,
) -> DatasetReport:
    """Check the records of each split, given with their number."""
    report = DatasetReport(kind, {split: SplitSummary() for split in splits}, problems)
    first_seen: dict[str, tuple[Split, str]] = {}  # checksum of the pixels -> split and name
    with worker_pool(workers) as pool, progress_bar("images") as bar:
        task = bar.add_task("checking", total=sum(count for count, _ in splits.values()))
        for split, (_, records) in splits.items():
            for record, picture in pool.map(inspect_image, records, lambda record: (record.image, record.box)):
                report.problems += _add_record(report.splits[split], split, record, picture, first_seen, tokens)
                bar.advance(task)
    training = report.splits["train"].words if "train" in report.splits else Counter[str]()
    known = set(training) if vocabulary is None else set(vocabulary.words)
    report.vocabulary = len(known)
    for split, summary in report.splits.items():
        if (split != "train" or vocabulary is not None) and (total := summary.words.total()):
            report.unknown[split] = sum(count for word, count in summary.words.items() if word not in known) / total
    return report


def _add_record(
    summary: SplitSummary,
    split: Split,
    record: CaptionedImage,
    picture: ImageInfo,
    first_seen: dict[str, tuple[Split, str]],
    tokens: Tokenizer,
) -> list[Problem]:
    """Add a record to the summary of its split, and return its problems."""
    captions, problems = usable_captions(record, tokens=tokens)
    if picture.reason:
        return [*problems, Problem("unreadable image", record.image.name, picture.reason)]
    other, name = first_seen.setdefault(picture.sha256, (split, record.image.name))
    if other != split:
        problems.append(Problem("duplicate across splits", record.image.name, f"the same picture is in {other}: {name}"))
    if captions:
        summary.images += 1
        summary.captions += len(captions)
        summary.sides.append(min(picture.width, picture.height))
        for caption in captions:
            words = split_words(caption, tokens)
            summary.lengths.append(len(words))
            summary.words.update(words)
    return problems


def check_prepared(folder: Path | str, *, workers: int | None = None) -> DatasetReport:
    """Compare a prepared dataset with its manifest: checksums first, then pictures and captions of intact shards.

    Args:
        folder: a folder, or a URL of fsspec, whose checksums are not compared.
        workers: number of processes; None uses one per available processor.

    Raises:
        ValueError: the manifest is damaged, or cannot be read.
    """
    problems: list[Problem] = []
    vocabulary = None
    if is_url(str(folder)):
        dataset = PreparedDataset.open(folder)
        vocabulary, files = dataset.vocabulary, [(shard, dataset.url(shard)) for shard in dataset.manifest.shards]
    else:
        folder = Path(os.path.expanduser(folder))
        manifest = parse_manifest(read_bytes(folder / MANIFEST), str(folder))
        problems = _damaged_files(folder, manifest)
        damaged = {problem.file for problem in problems}
        files = [(shard, str(folder / shard.file)) for shard in manifest.shards if str(folder / shard.file) not in damaged]
        if str(folder / VOCABULARY) not in damaged:
            try:
                vocabulary = read_json(folder / VOCABULARY, Vocabulary)
            except ValueError as error:
                problems.append(_damaged(str(folder / VOCABULARY), error))
    shards: dict[Split, list[tuple[str, int]]] = {}
    for shard, url in files:
        shards.setdefault(shard.split, []).append((url, shard.rows))
    splits = {split: (sum(rows for _, rows in intact), _stored_records(intact, problems)) for split, intact in shards.items()}
    return _check("prepared", splits, problems, vocabulary, "released" if vocabulary is None else vocabulary.tokens, workers)


def _damaged(file: str, error: ValueError) -> Problem:
    return Problem("damaged file", file, " ".join(str(error).removeprefix(f"{file}: ").split())[:200])


def _damaged_files(folder: Path, manifest: Manifest) -> list[Problem]:
    """Return a problem for each file that is missing, altered, or not in the manifest."""
    problems = []
    for name, sha256 in [*((shard.file, shard.sha256) for shard in manifest.shards), (VOCABULARY, manifest.vocabulary.sha256)]:
        path = folder / name
        try:
            if not path.is_file():
                raise ValueError("missing")
            if sha256 is not None:
                check_sha256(str(path), file_sha256(path), sha256)
        except ValueError as error:
            problems.append(_damaged(str(path), error))
    listed = {shard.file for shard in manifest.shards}
    unlisted = sorted(file for file in (folder / "data").glob("*.parquet") if f"data/{file.name}" not in listed)
    return problems + [Problem("damaged file", str(file), "not in the manifest, but would be loaded") for file in unlisted]


def _stored_records(shards: Sequence[tuple[str, int]], problems: list[Problem]) -> Iterator[CaptionedImage]:
    """Yield the images of shards, one shard in memory at a time; damaged shards and samples become problems."""
    for url, rows in shards:
        skipped: list[Problem] = []
        try:
            images = read_shard(url, skipped)
        except ValueError as error:
            problems.append(_damaged(url, error))
            continue
        problems += skipped
        try:
            check_rows(url, rows, len(images), len(skipped))
        except ValueError as error:
            problems.append(_damaged(url, error))
        for image in images:
            yield CaptionedImage(image.name, ImageBytes(image.name, image.image), image.captions)


def missing_validation(splits: Collection[str], share: float = 0.0) -> str | None:
    """Return a hint if there are no validation images, which training needs.

    Args:
        splits: names of the splits that have images.
        share: of the training images that was to be held out.
    """
    if "validation" in splits or "train" not in splits:
        return None
    if share:
        return f"no validation images: --validation {share} holds out none of so few; choose a larger share"
    return "no validation images, which train needs: prepare with --validation 0.1 to hold out a tenth, and --test 0.1 to test on"
