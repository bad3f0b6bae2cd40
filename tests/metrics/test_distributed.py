"""Shards of a measurement."""

from __future__ import annotations

import torch

from cap2im.metrics.distributed import ProcessGroup


def test_shards_cover_everything_once():
    for items in (0, 1, 2, 7, 100):
        for count in (1, 2, 3, 8):
            runs = [ProcessGroup(index, count).shard(items) for index in range(count)]
            assert [item for run in runs for item in run] == list(range(items))
            assert max(map(len, runs)) - min(map(len, runs)) <= 1
    part = torch.rand(3)
    assert ProcessGroup().all_gather(part) is part
