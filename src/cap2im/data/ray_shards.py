"""Write shards on the machines of a Ray cluster, which share a file system; each task writes a whole shard.

Ray repeats the tasks of a machine that is lost. A shard is written atomically, so this changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cap2im.data.manifest import Shard
from cap2im.data.records import CaptionedImage
from cap2im.data.shard_writer import write_shard
from cap2im.data.tokenizer import Tokenizer
from cap2im.data.workers import WorkerPool

if TYPE_CHECKING:
    from cap2im.data.prepare import PrepareOptions

TASKS_PER_PROCESSOR = 2  # that wait or run


def write_shards_by_ray(
    out: Path,
    plan: Iterable[tuple[str, Sequence[CaptionedImage]]],
    options: PrepareOptions,
    tokens: Tokenizer,
    advance: Callable[[int], None],
) -> Iterator[Shard]:
    """Write shards by the cluster at `RAY_ADDRESS`, else one that runs on this machine or is started there; yield each when it is done.

    Args:
        out: folder of the dataset, on a file system that all machines share.
        plan: names and records of the shards.
        options: of preparing.
        tokens: how captions are split into words.
        advance: called with a number of finished records.

    Raises:
        ValueError: a written shard cannot be read back.
        OSError: the folder cannot be written.
    """
    import ray  # an extra

    ray.init(include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    try:
        most = TASKS_PER_PROCESSOR * max(1, int(ray.cluster_resources().get("CPU", 1)))
        write, rest = ray.remote(_write), iter(plan)
        running: dict[Any, int] = {}  # records of each task
        while True:
            for name, records in islice(rest, most - len(running)):
                running[write.remote(out / name, name, records, options, tokens)] = len(records)
            if not running:
                return
            (done,), _ = ray.wait(list(running))
            shard = ray.get(done)
            advance(running.pop(done))
            yield shard
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    finally:
        ray.shutdown()


def _write(path: Path, name: str, records: Sequence[CaptionedImage], options: PrepareOptions, tokens: Tokenizer) -> Shard:
    return write_shard(path, name, records, options, tokens, WorkerPool(1), lambda rows: None)
