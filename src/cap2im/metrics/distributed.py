"""Sharing a measurement among the processes of `accelerate launch`.

Every process has a run of the items (captions, images), and what is measured of them is put together in the order of the items. Noise
belongs to an item (`randomness.item_noise`), so that the number of processes does not change what is measured, but for rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sharing:
    """Which of how many processes this is; alone by default."""

    index: int = 0
    count: int = 1

    @classmethod
    def launched(cls) -> Sharing:
        """As `accelerate launch` says; what is exchanged goes over gloo, whatever the device."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        from accelerate import PartialState  # an extra

        state = PartialState(cpu=True)
        return cls(state.process_index, state.num_processes)

    @property
    def is_first(self) -> bool:
        """Whether this process prints and writes."""
        return self.index == 0

    def mine(self, items: int) -> range:
        """This process's run of the items."""
        return range(items * self.index // self.count, items * (self.index + 1) // self.count)

    def joined(self, mine: Tensor) -> Tensor:
        """What all processes measured of their runs [mine, ...], in the order of the items (a collective call)."""
        if self.count == 1:
            return mine
        from accelerate.utils import gather_object  # an extra

        return torch.cat(gather_object([mine.cpu()]))

    @contextmanager
    def first_ahead(self) -> Iterator[None]:
        """Lets the first process through the block before the others, for what is made once and kept in a file (a collective call)."""
        if not self.is_first:
            self.joined(torch.empty(0))
        yield
        if self.is_first:
            self.joined(torch.empty(0))
