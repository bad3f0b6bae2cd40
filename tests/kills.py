"""Kill a child process at its n-th operation on files, and count such operations.

Tests kill at up to 20 operations; `KILLS=all pytest tests/test_checkpoint.py tests/test_generation.py ...` kills at each.
"""

from __future__ import annotations

import builtins
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

MOST = 20
OPERATIONS = ("open", "write", "replace", "rename", "fsync", "ftruncate", "unlink", "mkdir", "rmdir", "link")


def kills(operations: int) -> list[int]:
    """Return the numbers of the operations to kill at: the first, the last, and others evenly between them."""
    count = operations if os.environ.get("KILLS") == "all" else min(MOST, operations)
    return sorted({1 + round(i * (operations - 1) / max(1, count - 1)) for i in range(count)})


def _count(before: Callable[[], None]) -> None:
    """Call `before` ahead of every operation on files, in this process from here on."""

    def counted(operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            before()
            return operation(*arguments, **options)

        return call

    def write_in_halves(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            for part in (data[: len(data) // 2], data[len(data) // 2 :]):
                before()
                file.write(part)
                file.flush()
        return len(data)

    for name in OPERATIONS:
        setattr(os, name, counted(getattr(os, name)))
    io.open = builtins.open = counted(builtins.open)  # type: ignore[assignment]
    Path.write_bytes = write_in_halves  # type: ignore[method-assign, assignment]


def run_child(action: Callable[[], object], kill_at: int | None = None) -> int:
    """Run an action in a forked child and return how many operations on files it made.

    Args:
        action: is called in the child; must use one thread.
        kill_at: number of the operation, from 1, ahead of which the child is killed; None never kills it.

    Raises:
        AssertionError: the child failed by itself, or ended before it was to be killed.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        made = 0

        def before() -> None:
            nonlocal made
            made += 1
            if made == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            send = os.write
            _count(before)
            action()
            send(writer, str(made).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(1)
    os.close(writer)
    with open(reader, "rb") as file:
        made = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == (0 if kill_at is None else -signal.SIGKILL), f"the child ended with status {status}"
    return int(made or 0)
