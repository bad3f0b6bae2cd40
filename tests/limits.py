"""Run a command of cap2im in a child process whose memory and processor time are limited and measured."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30


@dataclass(frozen=True)
class Limited:
    """The end of a limited command.

    Attributes:
        status: exit status; negative is a signal.
        out, err: standard output and error.
        peak: bytes of memory that the process held at most (its children not included).
        cpu: seconds of processor time.
    """

    status: int
    out: str
    err: str
    peak: int
    cpu: float


def run_limited(*arguments: str, cwd: Path, address_space: int = 8 * GIB, cpu: int = 60, code: str | None = None) -> Limited:
    """Run `cap2im ARGUMENTS`, or Python `code` with these arguments, under limits.

    Args:
        arguments: of the command.
        cwd: folder in which it runs.
        address_space: bytes; an allocation beyond it fails in the child, not on this machine.
        cpu: seconds, after which the kernel kills the child.
        code: Python code to run in place of the command line.
    """

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
        resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))

    start = [sys.executable, "-c", code] if code is not None else [sys.executable, "-m", "cap2im"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out, tempfile.TemporaryFile("w+", encoding="utf-8") as err:
        child = subprocess.Popen(
            [*start, *arguments], cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment, preexec_fn=limit
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        return Limited(child.returncode, out.read(), err.read(), usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime)
