"""Captioned images of any source -> one prepared dataset: Parquet shards that Hugging Face `datasets` opens, a vocabulary, a manifest.

    OUT/data/{train,validation,test}-00000-of-0000N.parquet     id, image, captions, class_id
    OUT/vocabulary.json    OUT/manifest.json    OUT/README.md    OUT/problems.txt (only if there are any)

Shards are written one at a time, a draft first and then renamed; an interrupted run leaves whole shards and goes on from them. The same
source and options give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, TypeVar

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

import cap2im
from cap2im.data.captioned import CaptionedImage, Problem, Source, fingerprint, usable_captions
from cap2im.data.digits import Split
from cap2im.data.pictures import JPEG_QUALITY, LARGEST_PNG, Fit, PictureTask, prepare_pictures
from cap2im.data.vocabulary import Tokenizer, Vocabulary

FORMAT = "cap2im captioned images 1"
MANIFEST, VOCABULARY, PROBLEMS_FILE, CARD = "manifest.json", "vocabulary.json", "problems.txt", "README.md"
PROGRESS = "preparing.json"  # only while a run is not done
TASK_ROWS = 16  # images that a worker is given at once
GROUP_ROWS = 256  # images that are in memory at once

Task = TypeVar("Task")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Options:
    """How images and captions are prepared.

    Attributes:
        side: of the images, in pixels.
        fit: "stretch", "crop" or "shorter"; see `pictures.fitted`.
        captions: the first ones of each image to take; None takes all.
        tokens: how captions are split into words.
        minimum_count: words that the training captions hold less often are left out of the vocabulary.
        words: the most words in the vocabulary; None keeps all.
    """

    side: int = 32
    fit: Fit = "stretch"
    captions: int | None = None
    tokens: Tokenizer = "released"
    minimum_count: int = 1
    words: int | None = None

    @property
    def image_format(self) -> Literal["PNG", "JPEG"]:
        return "PNG" if self.side <= LARGEST_PNG else "JPEG"

    @property
    def shard_rows(self) -> int:
        return 10_000 if self.image_format == "PNG" else 2_000


@dataclass(frozen=True)
class Shard:
    """What is known of a written shard, and what was wrong with the records that it was made of."""

    file: str
    rows: int
    captions: int
    sha256: str
    problems: tuple[Problem, ...] = ()


def progress_bar(unit: str) -> Progress:
    """The bar of a long pass over images, with their number a second and the time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


class _Speed(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: rich.progress.Task) -> Text:
        elapsed = task.finished_time or task.elapsed
        return Text(f"{self.unit}, {task.completed / elapsed:.0f}/s" if elapsed else self.unit)


@contextmanager
def parallel(workers: int) -> Iterator[Callable[[Callable[[Task], Answer], Iterable[Task]], Iterator[Answer]]]:
    """A `map` over worker processes, in order, that holds a few tasks at a time; one worker works in this process.

    Raises:
        ValueError: a worker was killed.
    """
    if workers == 1:
        yield map
        return
    # spawn: forking a process that runs torch's threads can hang
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:

        def in_order(function: Callable[[Task], Answer], tasks: Iterable[Task]) -> Iterator[Answer]:
            pending: deque[Future[Answer]] = deque()
            try:
                for task in tasks:
                    pending.append(pool.submit(function, task))
                    if len(pending) >= 4 * workers:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            except BrokenProcessPool:
                raise ValueError("a worker process was killed, perhaps for want of memory; --resume and fewer --workers go on") from None

        try:
            yield in_order
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def available_workers() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def batched(records: Iterable[Task], rows: int) -> Iterator[list[Task]]:
    """Consecutive parts; records that are made when they are asked for are made once."""
    rest = iter(records)
    while part := list(islice(rest, rows)):
        yield part


def _write_json(path: Path, document: Any) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")
    os.replace(draft, path)


def file_sha256(path: Path) -> str:
    """Of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _schema() -> Any:
    import datasets  # an extra, and slow to import

    text = datasets.Value("string")
    features = {"id": text, "image": datasets.Image(), "captions": datasets.List(text), "class_id": datasets.Value("int64")}
    return datasets.Features(features).arrow_schema  # its metadata says which column is a picture


def _write_shard(
    path: Path,
    name: str,
    records: Sequence[CaptionedImage],
    options: Options,
    compute: Callable[..., Iterator[Any]],
    advance: Callable[[int], None],
) -> Shard:
    import pyarrow as pa
    import pyarrow.parquet as pq

    problems: list[Problem] = []
    rows = captions_written = 0
    draft = path.with_name(f".{path.name}.draft")
    waiting: deque[list[CaptionedImage]] = deque()

    def tasks() -> Iterator[PictureTask]:
        for part in batched(records, TASK_ROWS):
            waiting.append(part)
            yield [(record.image, record.box) for record in part], options.side, options.fit

    schema = _schema()
    extension = options.image_format.lower()
    group: list[dict[str, Any]] = []
    with pq.ParquetWriter(draft, schema, compression="zstd", use_dictionary=False) as writer:
        for pictures in compute(prepare_pictures, tasks()):
            part = waiting.popleft()
            for record, picture in zip(part, pictures, strict=True):
                captions, wrong = usable_captions(record, options.captions)
                problems += wrong
                if isinstance(picture, str):
                    problems.append(Problem("unreadable image", record.image.name, picture))
                elif captions:
                    image = {"bytes": picture, "path": f"{record.id.replace('/', '-')}.{extension}"}
                    group.append({"id": record.id, "image": image, "captions": captions, "class_id": record.class_id})
                    captions_written += len(captions)
            if len(group) >= GROUP_ROWS:
                writer.write_table(pa.Table.from_pylist(group, schema))
                rows += len(group)
                group.clear()
            advance(len(part))
        writer.write_table(pa.Table.from_pylist(group, schema))
        rows += len(group)
    with open(draft, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(draft, path)
    return Shard(name, rows, captions_written, file_sha256(path), tuple(problems))


def _plan(source: Source, options: Options) -> list[tuple[Split, str, Sequence[CaptionedImage]]]:
    """The shards to write: split, file name, records."""
    plan: list[tuple[Split, str, Sequence[CaptionedImage]]] = []
    for split, records in source.splits.items():
        parts = [records[start : start + options.shard_rows] for start in range(0, len(records), options.shard_rows)]
        plan += [(split, f"data/{split}-{i:05d}-of-{len(parts):05d}.parquet", part) for i, part in enumerate(parts)]
    return plan


def _done_before(out: Path, resume: bool, print_of: str) -> list[Shard] | None:
    """The shards that an interrupted run left; None if that run was done.

    Raises:
        ValueError: the folder holds something else.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file, and a folder is needed")
    state = next((out / name for name in (PROGRESS, MANIFEST) if (out / name).is_file()), None)
    if not resume or state is None:
        if out.is_dir() and any(out.iterdir()):
            interrupted = state is not None and state.name == PROGRESS
            hint = "--resume goes on with the run that was interrupted there" if interrupted else "choose another"
            raise ValueError(f"{out}: this folder is not empty; {hint}")
        return []
    try:
        document = json.loads(state.read_text("utf-8"))
        before = document["fingerprint"]
        shards = [
            Shard(e["file"], e["rows"], e["captions"], e["sha256"], tuple(Problem(*p) for p in e.get("problems", ())))
            for e in document["shards"]
        ]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{state}: damaged ({error!r}); prepare into another folder") from None
    if before != print_of:
        raise ValueError(f"{out}: began with another source or other options, or files have changed since; prepare into another folder")
    if state.name == MANIFEST:
        return None
    return [shard for shard in shards if (out / shard.file).is_file() and file_sha256(out / shard.file) == shard.sha256]


def prepare(
    source: Source, out: Path, *, kind: str, path: str, options: Options | None = None, workers: int | None = None, resume: bool = False
) -> dict[str, Any]:
    """Writes a prepared dataset.

    Args:
        source: see `sources.read_source`.
        out: a folder that is not there, or is empty.
        kind, path: of the source, for the manifest.
        options: how to prepare.
        workers: processes; None takes as many as there are processors.
        resume: go on with an interrupted run; only with the same source and options.

    Returns:
        the manifest.

    Raises:
        ValueError: nothing to prepare, a folder that holds something else, or a run to go on with that had another source or other options.
    """
    options = Options() if options is None else options
    if not source.splits.get("train"):
        raise ValueError(f"{path}: no training images with captions in it" + "".join(f"; {p}" for p in source.problems[:3]))
    print_of = fingerprint(source, {"kind": kind, **asdict(options)})
    shards = _done_before(out, resume, print_of)
    if shards is None:
        return dict(json.loads((out / MANIFEST).read_text("utf-8")))
    plan = _plan(source, options)
    done = {shard.file: shard for shard in shards}
    (out / "data").mkdir(parents=True, exist_ok=True)
    _write_progress(out, print_of, shards)
    workers = available_workers() if workers is None else workers
    with parallel(workers) as compute, progress_bar("images") as bar:
        task = bar.add_task("preparing", total=sum(len(records) for _, _, records in plan))
        for _, name, records in plan:
            if name in done:
                bar.advance(task, len(records))
                continue
            done[name] = _write_shard(out / name, name, records, options, compute, lambda rows: bar.advance(task, rows))
            _write_progress(out, print_of, done.values())
    ordered = [done[name] for _, name, _ in plan]
    return _finish(source, out, kind, path, options, print_of, ordered)


def _write_progress(out: Path, print_of: str, shards: Iterable[Shard]) -> None:
    entries = [asdict(shard) | {"problems": [[p.kind, p.file, p.detail] for p in shard.problems]} for shard in shards]
    _write_json(out / PROGRESS, {"fingerprint": print_of, "shards": entries})


def shard_captions(files: Iterable[Path]) -> Iterator[str]:
    """All captions of shards, a part of a shard in memory at a time."""
    import pyarrow.parquet as pq

    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(1000, columns=["captions"]):
            yield from batch.column("captions").flatten().to_pylist()


def _finish(source: Source, out: Path, kind: str, path: str, options: Options, print_of: str, shards: Sequence[Shard]) -> dict[str, Any]:
    """Vocabulary, problems, card, and last of all the manifest."""
    counts: dict[str, dict[str, int]] = {}
    for shard in shards:
        split = counts.setdefault(shard.file.removeprefix("data/").split("-")[0], {"images": 0, "captions": 0})
        split["images"] += shard.rows
        split["captions"] += shard.captions
    problems = [*source.problems, *(problem for shard in shards for problem in shard.problems)]
    if not counts["train"]["images"]:
        raise ValueError(f"{path}: none of its training images can be used; the first problem: {problems[0]}")
    vocabulary = source.vocabulary
    if vocabulary is None:
        training = (out / shard.file for shard in shards if shard.file.startswith("data/train-"))
        vocabulary = Vocabulary.build(
            shard_captions(training), tokens=options.tokens, minimum_count=options.minimum_count, size=options.words
        )
    (out / VOCABULARY).write_text(vocabulary.model_dump_json(indent=1) + "\n", "utf-8")
    if problems:
        (out / PROBLEMS_FILE).write_text("".join(f"{problem}\n" for problem in problems), "utf-8")
        kinds = Counter(problem.kind for problem in problems)
        print(
            f"problems, listed in {out / PROBLEMS_FILE}: {', '.join(f'{n} x {kind}' for kind, n in kinds.most_common())}", file=sys.stderr
        )
    stored = "PNG" if options.image_format == "PNG" else f"JPEG of quality {JPEG_QUALITY}, colours at full resolution"
    manifest = {
        "format": FORMAT,
        "version": cap2im.__version__,
        "source": {"kind": kind, "path": path},
        **asdict(options),
        "tokens": vocabulary.tokens,
        "stored": stored,
        "splits": counts,
        "vocabulary": {"file": VOCABULARY, "words": len(vocabulary), "sha256": file_sha256(out / VOCABULARY)},
        "problems": len(problems),
        "shards": [{"file": s.file, "rows": s.rows, "captions": s.captions, "sha256": s.sha256} for s in shards],
        "fingerprint": print_of,
    }
    (out / CARD).write_text(_card(manifest), "utf-8")
    _write_json(out / MANIFEST, manifest)
    (out / PROGRESS).unlink(missing_ok=True)
    return manifest


def _card(manifest: dict[str, Any]) -> str:
    """The dataset's card, in the form of the Hugging Face hub."""
    files = "".join(f"  - split: {split}\n    path: data/{split}-*.parquet\n" for split in manifest["splits"])
    rows = "".join(f"| {split} | {counts['images']:,} | {counts['captions']:,} |\n" for split, counts in manifest["splits"].items())
    return (
        f"---\ntask_categories:\n- text-to-image\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n\n# Captioned images\n\n"
        f"Made by `cap2im prepare` {manifest['version']} from a source of kind `{manifest['source']['kind']}`: side {manifest['side']}, "
        f"fit {manifest['fit']}, stored as {manifest['stored']}.\n\n| split | images | captions |\n| --- | --- | --- |\n{rows}"
    )
