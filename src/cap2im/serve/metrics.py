"""Prometheus metrics of a server, summed over its worker processes."""

from __future__ import annotations

import os
import re
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # shared by worker processes; must be set before prometheus_client is imported
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Metrics of this process.

    Attributes:
        requests: requests by route and status; 499 is a client that disconnected before its response.
        seconds: duration of a request from its head to the end of its response, by route.
        refused: requests that did not fit the queue.
        pictures: drawn pictures by model.
        batches: batch sizes by model.
        drawing: duration of a batch by model.
        queued: pictures that wait or are being drawn.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("cap2im_requests", "Requests; status 499: the client disconnected.", ["route", "status"], registry=registry)
        self.seconds = Histogram("cap2im_request_seconds", "Duration of a request.", ["route"], buckets=SECONDS, registry=registry)
        self.refused = Counter("cap2im_refused", "Requests that did not fit the queue.", registry=registry)
        self.pictures = Counter("cap2im_pictures", "Pictures drawn.", ["model"], registry=registry)
        self.batches = Histogram("cap2im_batch_pictures", "Batch size.", ["model"], buckets=BATCHES, registry=registry)
        self.drawing = Histogram("cap2im_batch_seconds", "Duration of a batch.", ["model"], buckets=SECONDS, registry=registry)
        self.queued = Gauge("cap2im_queued", "Pictures that wait or are being drawn.", multiprocess_mode="livesum", registry=registry)

    def text(self) -> bytes:
        """Return the metrics of all worker processes in Prometheus' text format."""
        folder = os.environ.get(FOLDER)
        if folder is None:
            return generate_latest(self.registry)
        if os.name != "nt":  # there os.kill(process, 0) sends Ctrl-C
            _remove_gauges_of_killed_processes(Path(folder))
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return generate_latest(registry)


def _remove_gauges_of_killed_processes(folder: Path) -> None:
    """Remove the files that killed workers leave behind: the sum of a live gauge would include them."""
    for process in {int(match[1]) for path in folder.iterdir() if (match := re.fullmatch(r"gauge_live\w+_(\d+)\.db", path.name))}:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            mark_process_dead(process)
