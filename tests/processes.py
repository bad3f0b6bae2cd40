"""Two processes that train or measure together on this machine's processors, over loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack


def in_two_processes(*arguments: str, **environment: str) -> None:
    """Run Python with these arguments twice, as `accelerate launch` arranges it, in less time than its launcher takes to start."""

    def start(rank: int, port: int) -> tuple[list[str], dict[str, str]]:
        own = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)}
        return [*arguments], own | environment

    _run_both(start)


def on_two_machines(*arguments: str) -> None:
    """Run Python with these arguments by two launchers with the commands of docs/guides/many-processes.md, as if on two machines."""
    size = ["--multi_gpu", "--num_machines", "2", "--num_processes", "2"]

    def start(rank: int, port: int) -> tuple[list[str], dict[str, str]]:
        place = ["--machine_rank", str(rank), "--main_process_ip", "127.0.0.1", "--main_process_port", str(port)]
        return ["-m", "accelerate.commands.launch", *size, *place, *arguments], {}

    _run_both(start)


def _run_both(start: Callable[[int, int], tuple[list[str], dict[str, str]]]) -> None:
    """Run Python twice, on one thread each.

    Args:
        start: returns arguments and environment of a rank, for a free port.

    Raises:
        AssertionError: a process failed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ExitStack() as stack:
        logs = [stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")) for _ in range(2)]
        started = []
        for rank, log in enumerate(logs):
            arguments, environment = start(rank, port)
            environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
            started.append(subprocess.Popen([sys.executable, *arguments], env=environment, stdout=log, stderr=subprocess.STDOUT))
        try:
            ended = [process.wait(300) for process in started]
        finally:
            for process in started:
                process.kill()
        for log in logs:
            log.seek(0)
        assert ended == [0, 0], [log.read()[-3000:] for log in logs]
