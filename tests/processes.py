"""Two processes that train or measure together on this machine's processors, over loopback.

Processes without a launcher are forked from one that has imported torch and other packages, which takes longer than the trainings of tests.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from unittest.mock import patch

PRELOADED = (
    "accelerate",
    "cap2im.cli",
    "cap2im.training.dispatch",
    "sklearn.datasets",
    "torch._dynamo",
    "torch.distributed.fsdp",
    "torch.utils.tensorboard",
)


def in_two_processes(*arguments: str, **environment: str) -> None:
    """Run Python with these arguments twice, as `accelerate launch` arranges it, on one thread each.

    Args:
        arguments: a script, or -m and a module; then its arguments.
        environment: further variables.

    Raises:
        AssertionError: a process failed.
    """
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), **environment}
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder, f"{rank}.log") for rank in range(2)]
        ranks = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
        started = [start_process(*arguments, log=log, threads=1, **of_rank) for log, of_rank in zip(logs, ranks, strict=True)]
        try:
            for process in started:
                process.join(300)
        finally:
            for process in started:
                process.kill()
        assert [process.exitcode for process in started] == [0, 0], [log.read_text("utf-8")[-3000:] for log in logs]


def on_two_machines(*arguments: str) -> None:
    """Run Python with these arguments by two launchers with the commands of docs/guides/many-processes.md, as if on two machines.

    Raises:
        AssertionError: a launcher failed.
    """
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "2", "--num_processes", "2"]
    launch += ["--main_process_ip", "127.0.0.1", "--main_process_port", str(free_port())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with ExitStack() as stack:
        logs = [stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")) for _ in range(2)]
        started = []
        for rank, log in enumerate(logs):
            command = [sys.executable, *launch, "--machine_rank", str(rank), *arguments]
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
        try:
            ended = [process.wait(300) for process in started]
        finally:
            for process in started:
                process.kill()
        for log in logs:
            log.seek(0)
        assert ended == [0, 0], [log.read()[-3000:] for log in logs]


def start_process(*arguments: str, log: Path, threads: int, **environment: str) -> ForkServerProcess:
    """Start Python with these arguments, on so many threads of torch; output goes to `log`."""
    process = fork_server().Process(target=_run, args=(arguments, environment, log, threads))
    with patch.dict(os.environ, OMP_NUM_THREADS="1"):  # of the process that all are forked from: none may have other threads
        process.start()
    return process


def fork_server() -> ForkServerContext:
    """Return the context of processes that are forked from one with the packages."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


def free_port() -> int:
    """Return the number of a port on loopback that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def _run(arguments: tuple[str, ...], environment: dict[str, str], log: Path, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    os.environ |= environment
    with log.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    first, *rest = arguments
    if first == "-m":
        module, *rest = rest
        sys.argv = [module, *rest]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [first, *rest]
        runpy.run_path(first, run_name="__main__")
