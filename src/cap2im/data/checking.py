"""What is wrong with captioned images, told before anything starts; and whether a prepared dataset is whole."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cap2im.data.captioned import PROBLEMS, SPLIT_FOLDERS, CaptionedImage, PickleReader, Problem, Source, usable_captions
from cap2im.data.digits import Split
from cap2im.data.pictures import Examined, ImageBytes, ImageReference, examine_pictures
from cap2im.data.preparing import MANIFEST, VOCABULARY, available_workers, batched, file_sha256, parallel, progress_bar
from cap2im.data.vocabulary import Tokenizer, Vocabulary, split_words

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


def check_source(source: Source, kind: str, *, tokens: Tokenizer = "released", workers: int | None = None) -> Report:
    """Decodes every picture in full, reads every caption, and compares the splits."""
    splits = {split: (len(records), records) for split, records in source.splits.items()}
    return _check(kind, splits, source.problems, source.vocabulary, tokens, workers)


def _check(
    kind: str,
    splits: Mapping[Split, tuple[int, Iterable[CaptionedImage]]],
    problems: Sequence[Problem],
    vocabulary: Vocabulary | None,
    tokens: Tokenizer,
    workers: int | None,
) -> Report:
    report = Report(kind, {}, list(problems))
    first_seen: dict[str, tuple[Split, str]] = {}
    if vocabulary is not None:
        tokens = vocabulary.tokens
    with parallel(available_workers() if workers is None else workers) as compute, progress_bar("images") as bar:
        task = bar.add_task("checking", total=sum(count for count, _ in splits.values()))
        for split, (_, records) in splits.items():
            summary = report.splits.setdefault(split, SplitSummary())
            for record, seen in _examined(records, compute):
                _count(record, seen, split, summary, report.problems, first_seen, tokens)
                bar.advance(task)
    _compare(report, vocabulary)
    return report


def _examined(records: Iterable[CaptionedImage], compute: Any) -> Iterator[tuple[CaptionedImage, Examined]]:
    waiting: deque[list[CaptionedImage]] = deque()

    def tasks() -> Iterator[list[ImageReference]]:
        for part in batched(records, TASK_ROWS):
            waiting.append(part)
            yield [record.image for record in part]

    for answers in compute(examine_pictures, tasks()):
        yield from zip(waiting.popleft(), answers, strict=True)


def _count(
    record: CaptionedImage,
    seen: Examined,
    split: Split,
    summary: SplitSummary,
    problems: list[Problem],
    first_seen: dict[str, tuple[Split, str]],
    tokens: Tokenizer,
) -> None:
    captions, wrong = usable_captions(record)
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


def check_prepared(folder: Path, *, workers: int | None = None) -> Report:
    """A prepared dataset against its manifest: checksums first, then pictures and captions of the shards that are whole.

    Raises:
        ValueError: the manifest is damaged.
    """
    import pyarrow.parquet as pq  # an extra, and slow to import

    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        expected = {shard["file"]: shard["sha256"] for shard in manifest["shards"]}
        words = manifest["vocabulary"]["sha256"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / MANIFEST}: damaged ({error!r})") from None
    problems = []
    for name, sha256 in [*expected.items(), (VOCABULARY, words)]:
        path = folder / name
        if not path.is_file():
            problems.append(Problem("damaged file", str(path), "missing"))
        elif (found := file_sha256(path)) != sha256:
            problems.append(Problem("damaged file", str(path), f"truncated or altered: SHA-256 {found[:12]}…, expected {sha256[:12]}…"))
    strays = sorted(file for file in (folder / "data").glob("*.parquet") if f"data/{file.name}" not in expected)
    problems += [Problem("damaged file", str(file), "not in the manifest, but would be loaded") for file in strays]
    damaged = {problem.file for problem in problems}
    whole: dict[Split, list[Path]] = {}
    for name in expected:
        if str(folder / name) not in damaged:
            whole.setdefault(SPLIT_FOLDERS[name.removeprefix("data/").split("-")[0]], []).append(folder / name)
    splits = {split: (sum(pq.read_metadata(file).num_rows for file in files), _stored(files)) for split, files in whole.items()}
    vocabulary = None
    if str(folder / VOCABULARY) not in damaged:
        vocabulary = Vocabulary.model_validate_json((folder / VOCABULARY).read_text("utf-8"))
    return _check("prepared", splits, problems, vocabulary, "released", workers)


def _stored(files: Sequence[Path]) -> Iterator[CaptionedImage]:
    import pyarrow.parquet as pq

    for path in files:
        for batch in pq.ParquetFile(path).iter_batches(256):
            for row in batch.to_pylist():
                image = ImageBytes(f"{path}, {row['id']}", row["image"]["bytes"])
                yield CaptionedImage(row["id"], image, tuple(row["captions"]), row["class_id"])


def spread(numbers: Sequence[int]) -> str:
    """Smallest, median and largest of some numbers, for a table."""
    return f"{min(numbers)} / {int(np.median(numbers))} / {max(numbers)}" if numbers else "-"


def check(path: str, *, kind: str | None = None, read_pickle: PickleReader, workers: int | None = None, **options: Any) -> Report:
    """Checks a prepared dataset, or a source of a kind that is given or guessed.

    Raises:
        ValueError: nothing lies there, or it is not of that kind.
    """
    from cap2im.data.sources import guess_kind, read_source

    if kind is None and (Path(path) / MANIFEST).is_file():
        return check_prepared(Path(path), workers=workers)
    found = guess_kind(path) if kind is None else kind
    return check_source(read_source(found, path, read_pickle=read_pickle, **options), found, workers=workers)  # type: ignore[arg-type]
