"""Device, processes and memory of a training, and the operations that its processes do together."""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path
from typing import Any, Literal, cast

import torch
from accelerate import Accelerator
from torch import Tensor

from cap2im.files import split_lines

MMAP_MAX, TRIM_THRESHOLD = -4, -1  # M_MMAP_MAX and M_TRIM_THRESHOLD of glibc's malloc.h


def flush_denormals() -> None:
    """Treat denormal numbers as zero: narrow Gaussian filters produce them, and processors are many times slower with them."""
    torch.set_flush_denormal(True)


def keep_freed_memory() -> None:
    """Keep freed memory in the process, because fetching large tensors from the system again, page by page, takes time.

    Does nothing where the C library is not glibc.
    """
    if platform.libc_ver()[0] == "glibc":
        c_library = ctypes.CDLL(None)
        c_library.mallopt(MMAP_MAX, 0)
        c_library.mallopt(TRIM_THRESHOLD, -1)


def machine() -> str:
    """Return the name of the processor or accelerator."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = split_lines(cpuinfo.read_text("utf-8", "replace")) if cpuinfo.is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    threads = torch.get_num_threads()
    return f"{threads} thread{'s' * (threads != 1)} of {name}"


def make_accelerator(
    device: Literal["auto", "cpu"], batch_size: int, *, log_with: str | None = None, folder: Path | None = None
) -> Accelerator:
    """Return the engine of one process, or of those of `accelerate launch`, which share every batch.

    Mixed precision is off here: trainers use `models.precision.autocast` around their networks.

    Args:
        device: "auto" takes the accelerator if the machine has one.
        batch_size: examples of an update, over all processes.
        log_with: name of an Accelerate tracker; None logs nothing.
        folder: of the tracker's files.

    Raises:
        ValueError: `batch_size` is not a multiple of the number of processes.
    """
    # without an accelerator, Accelerate must be told to use the CPU: several processes would otherwise each believe to be the only one
    cpu = device == "cpu" or not torch.accelerator.is_available()
    accelerator = Accelerator(cpu=cpu, mixed_precision="no", log_with=log_with, project_dir=folder)
    if batch_size % accelerator.num_processes:
        raise ValueError(f"train.batch_size {batch_size} is not a multiple of the {accelerator.num_processes} processes")
    return accelerator


class _AllGather(torch.autograd.Function):
    # torch has a differentiable all-gather only in a private module, under a name that changes between the versions supported here
    @staticmethod
    def forward(ctx: Any, shard: Tensor, accelerator: Accelerator) -> Tensor:
        first = accelerator.process_index * len(shard)
        ctx.accelerator, ctx.rows = accelerator, slice(first, first + len(shard))
        return cast(Tensor, accelerator.gather(shard))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return cast(Tensor, ctx.accelerator.reduce(gradient, "sum"))[ctx.rows], None


def all_gather(shard: Tensor, accelerator: Accelerator) -> Tensor:
    """Concatenate the equally large shards [b, ...] of all processes to [B, ...], with gradients (a collective call).

    The gradient of a shard is the sum of the gradients of all processes' losses. A loss that every process computes of the whole batch thus
    has the right gradient when DDP averages the gradients.
    """
    if accelerator.num_processes == 1:
        return shard
    return cast(Tensor, _AllGather.apply(shard, accelerator))  # type: ignore[no-untyped-call]
