"""What a server counts, as Prometheus reads it; the worker processes of one server are added up."""

from __future__ import annotations

import os
import re
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # where worker processes leave their counts; has to be set before this module is imported
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of this process.

    Attributes:
        requests: answered, by route and status; 499 is a client that left before its answer.
        seconds: from a request's head to the end of its answer, by route.
        refused: requests that did not fit the queue.
        pictures: drawn, by model.
        batches: pictures of a batch, by model.
        drawing: seconds of a batch, by model.
        queued: pictures that wait or are drawn.
    """

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self.requests = Counter("cap2im_requests", "Answered requests; 499: the client left.", ["route", "status"], registry=own)
        self.seconds = Histogram("cap2im_request_seconds", "Until an answer's end.", ["route"], buckets=SECONDS, registry=own)
        self.refused = Counter("cap2im_refused", "Requests that did not fit the queue.", registry=own)
        self.pictures = Counter("cap2im_pictures", "Pictures drawn.", ["model"], registry=own)
        self.batches = Histogram("cap2im_batch_pictures", "Pictures of a batch.", ["model"], buckets=BATCHES, registry=own)
        self.drawing = Histogram("cap2im_batch_seconds", "Drawing a batch.", ["model"], buckets=SECONDS, registry=own)
        self.queued = Gauge("cap2im_queued", "Pictures that wait or are drawn.", multiprocess_mode="livesum", registry=own)

    def text(self) -> bytes:
        """All counts of all worker processes, in Prometheus' text format."""
        folder = os.environ.get(FOLDER)
        if folder is None:
            return generate_latest(self.registry)
        for process in {int(found[1]) for path in Path(folder).iterdir() if (found := re.fullmatch(r"gauge_live\w+_(\d+)\.db", path.name))}:
            try:
                os.kill(process, 0)
            except ProcessLookupError:
                mark_process_dead(process)  # it was killed, and what it had queued is gone with it
        every = CollectorRegistry()
        MultiProcessCollector(every)
        return generate_latest(every)
