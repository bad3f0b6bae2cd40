"""Run a command of cap2im in a child process whose memory and processor time are limited and measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30
# a small process between this one and the command: Linux counts the memory of the process that forks as the child's
LAUNCHER = """
import json, os, resource, sys
usage, space, seconds, *command = sys.argv[1:]
child = os.fork()
if child == 0:
    resource.setrlimit(resource.RLIMIT_AS, (int(space), int(space)))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
    os.execv(command[0], command)
_, status, used = os.wait4(child, 0)
with open(usage, "w", encoding="utf-8") as file:
    json.dump([os.waitstatus_to_exitcode(status), used.ru_maxrss, used.ru_utime + used.ru_stime], file)
"""


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

    start = [sys.executable, "-c", code] if code is not None else [sys.executable, "-m", "cap2im"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as usage:
        launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, usage.name, str(address_space), str(cpu), *start, *arguments]
        done = subprocess.run(
            launcher, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", env=environment, check=True
        )
        status, peak, seconds = json.load(usage)
    return Limited(status, done.stdout, done.stderr, peak * 1024, seconds)
