"""A Ray cluster of two nodes writes the bytes that this machine's processes write."""

from __future__ import annotations

import pytest

from cap2im.data.prepare import PrepareOptions
from tests.data import sources
from tests.data.test_prepare import contents, prepared


def test_ray_is_named_if_it_is_missing(tmp_path, run, monkeypatch):
    monkeypatch.setattr("cap2im.extras.find_spec", lambda package: None if package == "ray" else package)
    source = sources.coco(tmp_path / "coco")
    for more, message in (
        ([], '--engine ray needs more than the core: pip install "cap2im[ray]"'),
        (["--workers", "2"], "--workers 2: the cluster of --engine ray decides; only for --engine local"),
    ):
        status, _, error = run("prepare", "coco", str(source), "--out", str(tmp_path / "out"), "--engine", "ray", *more)
        assert (status, error) == (2, f"cap2im: {message}\n")


@pytest.mark.slow
def test_ray_writes_the_same_bytes(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setattr(PrepareOptions, "shard_rows", 1)  # five shards
    source = sources.coco(tmp_path / "coco")
    (source / "train2017" / "000000000002.jpg").write_bytes(b"damaged")
    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        cluster.add_node(**node)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        by_ray = prepared("coco", source, tmp_path / "ray", PrepareOptions(side=8), engine="ray")
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert prepared("coco", source, tmp_path / "local", PrepareOptions(side=8)) == by_ray
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    assert len(by_ray["shards"]) > 2
    assert by_ray["problems"] == 2
