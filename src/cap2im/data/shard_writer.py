"""Write captioned images as one Parquet shard that Hugging Face `datasets` opens, and read it back."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from cap2im.data.image_preparation import prepare_image
from cap2im.data.manifest import Shard
from cap2im.data.problems import Problem
from cap2im.data.records import CaptionedImage, usable_captions
from cap2im.data.tokenizer import Tokenizer
from cap2im.data.workers import WorkerPool
from cap2im.files import atomic_path, file_sha256

if TYPE_CHECKING:
    from cap2im.data.prepare import PrepareOptions

GROUP_ROWS = 256  # images in memory at a time, and in a row group of the shard
READ_BACK_ROWS = 16


def write_shard(
    path: Path,
    name: str,
    records: Sequence[CaptionedImage],
    options: PrepareOptions,
    tokens: Tokenizer,
    pool: WorkerPool,
    advance: Callable[[int], None],
) -> Shard:
    """Write a shard; it is whole or absent.

    Args:
        path: of the shard.
        name: of the shard in the manifest.
        records: to write; those that cannot be used become problems of the shard.
        options: of preparing.
        tokens: how captions are split into words.
        pool: prepares the pictures.
        advance: called with a number of finished records.

    Raises:
        ValueError: the written shard cannot be read back.
    """
    import pyarrow as pa  # an extra, and slow to import
    import pyarrow.parquet as pq

    schema, extension = _schema(), options.image_format.lower()
    problems: list[Problem] = []
    rows: list[dict[str, Any]] = []
    images = captions_written = 0
    with atomic_path(path) as draft:
        # an open file, because pyarrow takes some paths for URLs
        with draft.open("wb") as file, pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=False) as writer:
            prepared = pool.map(prepare_image, records, lambda record: (record.image, options.side, options.fit, record.box))
            for record, picture in prepared:
                captions, unusable = usable_captions(record, options.captions, tokens)
                problems += unusable
                if isinstance(picture, str):
                    problems.append(Problem("unreadable image", record.image.name, picture))
                elif captions:
                    image = {"bytes": picture, "path": f"{record.id.replace('/', '-')}.{extension}"}
                    rows.append({"id": record.id, "image": image, "captions": captions, "class_id": record.class_id})
                    images, captions_written = images + 1, captions_written + len(captions)
                if len(rows) == GROUP_ROWS:
                    writer.write_table(pa.Table.from_pylist(rows, schema))
                    rows.clear()
                advance(1)
            writer.write_table(pa.Table.from_pylist(rows, schema))
        _read_back(draft, images, options.side)
    entries = tuple((problem.kind, problem.file, problem.detail) for problem in problems)
    return Shard(file=name, rows=images, captions=captions_written, sha256=file_sha256(path), problems=entries or None)


def _schema() -> Any:
    """Return the Arrow schema, whose metadata mark the column of pictures."""
    import datasets  # an extra, and slow to import

    text = datasets.Value("string")
    features = {"id": text, "image": datasets.Image(), "captions": datasets.List(text), "class_id": datasets.Value("int64")}
    return datasets.Features(features).arrow_schema


def _read_back(file: Path, rows: int, side: int) -> None:
    """Open a written shard as training does, and decode its first pictures.

    Raises:
        ValueError: it differs from what was written, as on a faulty disk.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with file.open("rb") as opened:
            shard = pq.ParquetFile(opened)
            if shard.metadata.num_rows != rows:
                raise ValueError(f"{shard.metadata.num_rows} rows")
            batch = next(shard.iter_batches(READ_BACK_ROWS, columns=["image"]), None)
            for stored in () if batch is None else batch.column("image").to_pylist():
                with Image.open(io.BytesIO(stored["bytes"])) as image:
                    image.load()
                    if min(image.size) != side:
                        raise ValueError(f"a picture of {image.width} x {image.height}")
    except (OSError, ValueError, SyntaxError, pa.ArrowException) as error:
        raise ValueError(f"{file}: what was written cannot be read again ({' '.join(str(error).split())[:200]})") from None
