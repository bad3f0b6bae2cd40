"""Which criteria pictures meet, one boolean a picture and criterion."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch

from cap2im.metrics.distributed import ProcessGroup


@dataclass(frozen=True)
class Criteria:
    """Criteria of N pictures. Each field of a subclass is a criterion, a tensor [N] of booleans."""

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """Return the criteria of several batches in their order."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in dataclasses.fields(cls)))

    def all_gather(self, processes: ProcessGroup) -> Self:
        """Return the criteria of all processes (a collective call)."""
        return type(self)(*(processes.all_gather(getattr(self, field.name)) for field in dataclasses.fields(self)))
