"""What training loops share."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FETCHED = """
import resource, sys, torch
from cap2im.training.loop import keep_memory
if sys.argv[1] == "kept":
    keep_memory()
fetched = []
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**26).add_(1)
    fetched.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(fetched[1:]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for glibc alone")
@pytest.mark.parametrize("way", ["kept", "given back"])
def test_large_tensors_are_not_fetched_from_the_system_again(way):
    """256 MiB a few times, the first times aside, when small things may come to lie in its place."""
    pages = int(subprocess.run([sys.executable, "-c", FETCHED, way], check=True, stdout=subprocess.PIPE).stdout)
    assert pages < 20 if way == "kept" else pages > 100
