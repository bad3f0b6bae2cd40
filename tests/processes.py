"""Two processes that train or measure together, as `accelerate launch` arranges them, in less time than its launcher takes to start."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack


def in_two_processes(*arguments: str, **environment: str) -> None:
    """Runs Python with these arguments twice: ranks 0 and 1 of one group, on one thread each.

    Raises:
        AssertionError: a process failed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", **environment}
    with ExitStack() as stack:
        logs = [stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")) for _ in range(2)]
        started = [
            subprocess.Popen(
                [sys.executable, *arguments],
                env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            for rank, log in enumerate(logs)
        ]
        try:
            ended = [process.wait(300) for process in started]
        finally:
            for process in started:
                process.kill()
        for log in logs:
            log.seek(0)
        assert ended == [0, 0], [log.read()[-3000:] for log in logs]
