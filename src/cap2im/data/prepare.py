"""Captioned images of any source -> one prepared dataset: Parquet shards that Hugging Face `datasets` opens, a vocabulary, a manifest.

    OUT/data/{train,validation,test}-00000-of-0000N.parquet     id, image, captions, class_id
    OUT/vocabulary.json    OUT/manifest.json    OUT/README.md    OUT/problems.txt (only if there are any)

Shards are written one at a time, a draft first and then renamed; an interrupted run leaves whole shards and goes on from them. The same
source and options give the same bytes. Each shard is opened again as training opens it.
"""

from __future__ import annotations

import io
import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import AfterValidator, BaseModel, Field

from cap2im._version import __version__
from cap2im.data.image_preparation import JPEG_QUALITY, MAX_PNG_SIDE, ImageTask, prepare_images
from cap2im.data.image_resizing import Fit
from cap2im.data.records import PROBLEMS, CaptionedImage, LazyRecords, Problem, Source, fingerprint, tokens_of, usable_captions
from cap2im.data.splits import Split
from cap2im.data.vocabulary import Tokenizer, Vocabulary
from cap2im.data.workers import available_workers, batched, parallel, progress_bar
from cap2im.files import atomic_path, dump_json, file_sha256, is_unbegun, read_json, shortened, write_atomically
from cap2im.hub import licence_lines

logger = logging.getLogger(__name__)

FORMAT = "cap2im captioned images 1"
MANIFEST, VOCABULARY, PROBLEMS_FILE, CARD = "manifest.json", "vocabulary.json", "problems.txt", "README.md"
PROGRESS = "preparing.json"  # only while a run is not done
ENCODING = 2  # changes when the same picture is stored in other bytes
MOST_ROWS = 10**9  # of a shard
TASK_ROWS = 16  # images that a worker is given at once
GROUP_ROWS = 256  # images that are in memory at once


@dataclass(frozen=True)
class PrepareOptions:
    """How images and captions are prepared.

    Attributes:
        side: of the images, in pixels.
        fit: "stretch", "crop" or "shorter"; see `pictures.fitted`.
        captions: the first ones of each image to take; None takes all.
        tokens: how captions are split into words; None leaves it to the source's own vocabulary, else it is "released".
        minimum_count: words that the training captions hold less often are left out of the vocabulary.
        words: the most words in the vocabulary; None keeps all.
        title: what the data is, for the cards of models that are trained on it.
        licence: of the data, an SPDX identifier or a name, for those cards.
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
        return "PNG" if self.side <= MAX_PNG_SIDE else "JPEG"

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


def check_relative(file: str) -> str:
    """Return the name of a file below the dataset's folder.

    Raises:
        ValueError: it is absolute, has a drive letter, or leads out of the folder by `..`.
    """
    windows = PureWindowsPath(file)
    if "\0" in file or PurePosixPath(file).is_absolute() or windows.drive or windows.root or ".." in windows.parts or not windows.parts:
        raise ValueError("a file below the dataset's folder is needed, without .. and not absolute")
    return file


Rows = Annotated[int, Field(ge=0, le=MOST_ROWS, strict=True)]


class _ShardEntry(BaseModel):
    file: Annotated[str, AfterValidator(check_relative)]
    rows: Rows
    captions: Annotated[int, Field(ge=0, strict=True)]
    sha256: str
    problems: tuple[tuple[str, str, str], ...] = ()


class _Progress(BaseModel):
    """What an earlier run left in `preparing.json` or `manifest.json`."""

    fingerprint: str
    shards: tuple[_ShardEntry, ...]


def _write_json(path: Path, document: Any) -> None:
    write_atomically(path, dump_json(document) + "\n")


def _schema() -> Any:
    import datasets  # an extra, and slow to import

    text = datasets.Value("string")
    features = {"id": text, "image": datasets.Image(), "captions": datasets.List(text), "class_id": datasets.Value("int64")}
    return datasets.Features(features).arrow_schema  # its metadata says which column is a picture


def _write_shard(
    path: Path,
    name: str,
    records: Sequence[CaptionedImage],
    options: PrepareOptions,
    tokens: Tokenizer,
    compute: Callable[..., Iterator[Any]],
    advance: Callable[[int], None],
) -> Shard:
    import pyarrow as pa
    import pyarrow.parquet as pq

    problems: list[Problem] = []
    rows = captions_written = 0
    waiting: deque[list[CaptionedImage]] = deque()

    def tasks() -> Iterator[ImageTask]:
        for part in batched(records, TASK_ROWS):
            waiting.append(part)
            yield [(record.image, record.box) for record in part], options.side, options.fit

    schema = _schema()
    extension = options.image_format.lower()
    group: list[dict[str, Any]] = []
    with atomic_path(path) as draft:
        # an open file, because pyarrow takes some paths for URLs
        with draft.open("wb") as file, pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=False) as writer:
            for pictures in compute(prepare_images, tasks()):
                part = waiting.popleft()
                for record, picture in zip(part, pictures, strict=True):
                    captions, wrong = usable_captions(record, options.captions, tokens)
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
        _read_back(draft, rows, options)
    return Shard(name, rows, captions_written, file_sha256(path), tuple(problems))


def _read_back(file: Path, rows: int, options: PrepareOptions) -> None:
    """Open a written shard as training does, and decode its first pictures.

    Raises:
        ValueError: it is not what was written; the disk or its memory is at fault.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with file.open("rb") as opened:
            shard = pq.ParquetFile(opened)
            if shard.metadata.num_rows != rows:
                raise ValueError(f"{shard.metadata.num_rows} rows")
            batch = next(shard.iter_batches(TASK_ROWS, columns=["image"]), None)
            for stored in () if batch is None else batch.column("image").to_pylist():
                with Image.open(io.BytesIO(stored["bytes"])) as image:
                    image.load()
                    if min(image.size) != options.side:
                        raise ValueError(f"a picture of {image.width} x {image.height}")
    except (OSError, ValueError, SyntaxError, pa.ArrowException) as error:
        raise ValueError(f"{file}: what was written cannot be read again ({' '.join(str(error).split())[:200]})") from None


def _plan(source: Source, options: PrepareOptions) -> list[tuple[Split, str, Sequence[CaptionedImage]]]:
    """The shards to write: split, file name, records."""
    plan: list[tuple[Split, str, Sequence[CaptionedImage]]] = []
    for split, records in source.splits.items():
        parts = [records[start : start + options.shard_rows] for start in range(0, len(records), options.shard_rows)]
        plan += [(split, f"data/{split}-{i:05d}-of-{len(parts):05d}.parquet", part) for i, part in enumerate(parts)]
    return plan


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keeps other runs out of a folder; the lock ends with the process, however that ends.

    Raises:
        ValueError: another run is writing there.
    """
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows has no such locks
        yield
        return
    folder = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{out}: another cap2im prepare is writing there") from None
        except OSError:  # some network file systems have no locks either
            pass
        yield
    finally:
        os.close(folder)


def _done_before(out: Path, resume: bool, print_of: str) -> list[Shard]:
    """The whole shards that an earlier run left.

    Raises:
        ValueError: the folder holds something else.
    """
    state = next((out / name for name in (PROGRESS, MANIFEST) if (out / name).is_file()), None)
    if not resume or state is None:
        if out.is_dir() and not is_unbegun(out, PROGRESS, ("data",)):
            interrupted = state is not None and state.name == PROGRESS
            hint = "--resume goes on with the run that was interrupted there" if interrupted else "choose another"
            raise ValueError(f"{out}: this folder is not empty; {hint}")
        return []
    try:
        document = read_json(state, _Progress)
    except ValueError as error:
        raise ValueError(f"{' '.join(str(error).split())}; prepare into another folder") from None
    if document.fingerprint != print_of:
        raise ValueError(
            f"{out}: began with another source or other options, files have changed since, or another version of cap2im made it; "
            "prepare into another folder"
        )
    shards = []
    for entry in document.shards:
        problems = tuple(Problem(*problem) for problem in entry.problems if problem[0] in PROBLEMS)
        shards.append(Shard(entry.file, entry.rows, entry.captions, entry.sha256, problems))
    return [shard for shard in shards if (out / shard.file).is_file() and file_sha256(out / shard.file) == shard.sha256]


def prepare_dataset(
    source: Source,
    out: Path,
    *,
    kind: str,
    path: str,
    options: PrepareOptions | None = None,
    workers: int | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Writes a prepared dataset.

    Args:
        source: see `sources.read_source`.
        out: a folder that is not there, or is empty.
        kind, path: of the source, for the manifest.
        options: how to prepare.
        workers: processes; None takes as many as there are processors.
        resume: go on with an interrupted run, or mend a finished one; only with the same source, and options that make the same shards.

    Returns:
        the manifest.

    Raises:
        ValueError: nothing to prepare, a folder that holds something else or that another run writes into, a run to go on with that had
            another source or other options, or options for a vocabulary that the source has already.
    """
    options = PrepareOptions() if options is None else options
    if not source.splits.get("train"):
        raise ValueError(f"{path}: no training images with captions in it" + "".join(f"; {p}" for p in source.problems[:3]))
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file, and a folder is needed")
    _check_vocabulary(source, options)
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        return _prepare(source, out, kind, path, options, workers, resume)


def _check_vocabulary(source: Source, options: PrepareOptions) -> None:
    """Tells before any picture is read that the vocabulary cannot be as it is asked for; captions in tables are not read for that."""
    tokens, records = tokens_of(source, options.tokens), source.splits["train"]
    if source.vocabulary is not None:
        if options.minimum_count != 1 or options.words is not None:
            raise ValueError("--minimum-count and --words: this source brings its own vocabulary, which is kept whole")
    elif not isinstance(records, LazyRecords):
        captions = [caption for record in records for caption in usable_captions(record, options.captions, tokens)[0]]
        if captions:
            _vocabulary(captions, tokens, options)


def _vocabulary(captions: Iterable[str], tokens: Tokenizer, options: PrepareOptions) -> Vocabulary:
    return Vocabulary.build(captions, tokens=tokens, minimum_count=options.minimum_count, size=options.words)


def _prepare(source: Source, out: Path, kind: str, path: str, options: PrepareOptions, workers: int | None, resume: bool) -> dict[str, Any]:
    """Writes what is not there yet; see `prepare`."""
    tokens = tokens_of(source, options.tokens)
    making = {"encoding": ENCODING, "kind": kind, "side": options.side, "fit": options.fit, "captions": options.captions, "tokens": tokens}
    print_of = fingerprint(source, making)
    shards = _done_before(out, resume, print_of)
    plan = _plan(source, options)
    done = {shard.file: shard for shard in shards}
    (out / "data").mkdir(exist_ok=True)
    for draft in [*out.glob(".*.draft"), *(out / "data").glob(".*.draft")]:  # of a run that was killed
        draft.unlink()
    _write_progress(out, print_of, shards)
    workers = available_workers() if workers is None else workers
    with parallel(workers) as compute, progress_bar("images") as bar:
        task = bar.add_task("preparing", total=sum(len(records) for _, _, records in plan))
        for _, name, records in plan:
            if name in done:
                bar.advance(task, len(records))
                continue
            done[name] = _write_shard(out / name, name, records, options, tokens, compute, lambda rows: bar.advance(task, rows))
            _write_progress(out, print_of, done.values())
    ordered = [done[name] for _, name, _ in plan]
    return _finish(source, out, kind, path, options, print_of, ordered)


def _entry(shard: Shard) -> dict[str, Any]:
    """What the manifest says of a shard; its problems only where there are any."""
    entry = {"file": shard.file, "rows": shard.rows, "captions": shard.captions, "sha256": shard.sha256}
    return entry | ({"problems": [[p.kind, p.file, p.detail] for p in shard.problems]} if shard.problems else {})


def _write_progress(out: Path, print_of: str, shards: Iterable[Shard]) -> None:
    _write_json(out / PROGRESS, {"fingerprint": print_of, "shards": [_entry(shard) for shard in shards]})


def shard_captions(files: Iterable[Path]) -> Iterator[str]:
    """All captions of shards, a part of a shard in memory at a time."""
    import pyarrow.parquet as pq

    for file in files:
        with file.open("rb") as opened:
            for batch in pq.ParquetFile(opened).iter_batches(1000, columns=["captions"]):
                yield from batch.column("captions").flatten().to_pylist()


def _split_of(shard: Shard) -> str:
    return shard.file.removeprefix("data/").split("-")[0]


def _finish(
    source: Source, out: Path, kind: str, path: str, options: PrepareOptions, print_of: str, shards: Sequence[Shard]
) -> dict[str, Any]:
    """Vocabulary, problems, card, and last of all the manifest."""
    counts: dict[str, dict[str, int]] = {}
    for shard in shards:
        split = counts.setdefault(_split_of(shard), {"images": 0, "captions": 0})
        split["images"] += shard.rows
        split["captions"] += shard.captions
    problems = [*source.problems, *(problem for shard in shards for problem in shard.problems)]
    if not counts["train"]["images"]:
        raise ValueError(f"{path}: none of its training images can be used; the first problem: {problems[0]}")
    vocabulary = source.vocabulary
    if vocabulary is None:
        training = (out / shard.file for shard in shards if shard.file.startswith("data/train-"))
        vocabulary = _vocabulary(shard_captions(training), tokens_of(source, options.tokens), options)
    counts = {split: count for split, count in counts.items() if count["images"]}
    for shard in shards:
        if _split_of(shard) not in counts:  # none of its pictures can be used
            (out / shard.file).unlink()
    write_atomically(out / VOCABULARY, vocabulary.model_dump_json(indent=1) + "\n")
    (out / PROBLEMS_FILE).unlink(missing_ok=True)
    if problems:
        write_atomically(out / PROBLEMS_FILE, "".join(f"{problem}\n" for problem in problems))
        kinds = Counter(problem.kind for problem in problems)
        listed = ", ".join(f"{n} x {kind}" for kind, n in kinds.most_common())
        logger.warning("problems, listed in %s: %s", out / PROBLEMS_FILE, listed)
    stored = "PNG" if options.image_format == "PNG" else f"JPEG of quality {JPEG_QUALITY}, colours at full resolution"
    manifest = {
        "format": FORMAT,
        "version": __version__,
        "source": {"kind": kind, "path": path},
        **{key: value for key, value in (("title", options.title), ("licence", options.licence)) if value},
        "side": options.side,
        "fit": options.fit,
        "captions": options.captions,
        "tokens": vocabulary.tokens,
        **({} if source.vocabulary is not None else {"minimum_count": options.minimum_count, "words": options.words}),
        "stored": stored,
        "splits": counts,
        "vocabulary": {"file": VOCABULARY, "words": len(vocabulary), "sha256": file_sha256(out / VOCABULARY)},
        "problems": len(problems),
        "shards": [_entry(shard) for shard in shards if _split_of(shard) in counts],
        "fingerprint": print_of,
    }
    write_atomically(out / CARD, _card(manifest))
    _write_json(out / MANIFEST, manifest)
    (out / PROGRESS).unlink(missing_ok=True)
    return manifest


def _card(manifest: dict[str, Any]) -> str:
    """The dataset's card, in the form of the Hugging Face hub."""
    files = "".join(f"  - split: {split}\n    path: data/{split}-*.parquet\n" for split in manifest["splits"])
    rows = "".join(f"| {split} | {counts['images']:,} | {counts['captions']:,} |\n" for split, counts in manifest["splits"].items())
    title, licence = (shortened(" ".join(manifest.get(key, "").split()), 200) for key in ("title", "licence"))
    heading, terms = title or "Captioned images", licence or "not known"
    return (
        f"---\n{licence_lines(licence)}"
        f"task_categories:\n- text-to-image\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n\n# {heading}\n\n"
        f"Made by `cap2im prepare` {manifest['version']} from a source of kind `{manifest['source']['kind']}`: side {manifest['side']}, "
        f"fit {manifest['fit']}, stored as {manifest['stored']}.\n\n| split | images | captions |\n| --- | --- | --- |\n{rows}"
        f"\nLicence: {terms}.\n"
    )
