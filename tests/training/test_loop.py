"""What training loops share."""

from __future__ import annotations

import platform
import signal
import subprocess
import sys

import pytest

from cap2im.config import load_recipe
from cap2im.training.loop import RunLog, make_accelerator

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


def test_a_first_ctrl_c_is_heard_and_a_second_one_ends_it_at_once(tmp_path):
    def handlers():
        return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests were started with
    try:
        as_they_were = handlers()
        for number in (signal.SIGINT, signal.SIGTERM):
            with RunLog(tmp_path, load_recipe("aligndraw-digits"), 0, 10, make_accelerator("cpu", 1)) as log:
                assert not log.stopping
                signal.raise_signal(number)
                assert log.stopping
                with pytest.raises(KeyboardInterrupt):
                    signal.raise_signal(signal.SIGINT)
        with RunLog(tmp_path, load_recipe("aligndraw-digits"), 0, 10, make_accelerator("cpu", 1)):
            assert all(now != then for now, then in zip(handlers(), as_they_were, strict=True))
        assert handlers() == as_they_were
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with RunLog(tmp_path, load_recipe("aligndraw-digits"), 0, 10, make_accelerator("cpu", 1)) as log:
            signal.raise_signal(signal.SIGINT)
            assert not log.stopping
    finally:
        signal.signal(signal.SIGINT, before)
