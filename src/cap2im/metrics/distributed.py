"""Shards of a measurement among the processes of `accelerate launch`.

Each process measures a contiguous shard of the items (captions or images); the results are gathered in the order of the items. Noise is a
function of the item (`randomness.item_noise`), so results do not depend on the number of processes, except for rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that share a measurement; a single process by default."""

    rank: int = 0
    world_size: int = 1

    @classmethod
    def from_environment(cls) -> ProcessGroup:
        """Return the group that `accelerate launch` started; it communicates over gloo on every device."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        from accelerate import PartialState  # an extra

        state = PartialState(cpu=True)
        return cls(state.process_index, state.num_processes)

    @property
    def is_main_process(self) -> bool:
        """Whether this process prints and writes files."""
        return self.rank == 0

    def shard(self, items: int) -> range:
        """Return the items of this process."""
        return range(items * self.rank // self.world_size, items * (self.rank + 1) // self.world_size)

    def all_gather(self, shard: Tensor) -> Tensor:
        """Concatenate the shards [n, ...] of all processes in the order of their ranks (a collective call)."""
        if self.world_size == 1:
            return shard
        from accelerate.utils import gather_object  # an extra

        return torch.cat(gather_object([shard.cpu()]))

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Run the block in the main process before the other processes run it, so that they find its files (a collective call)."""
        if not self.is_main_process:
            self.all_gather(torch.empty(0))
        yield
        if self.is_main_process:
            self.all_gather(torch.empty(0))
