"""What training loops share."""

from __future__ import annotations

import errno
import json
import platform
import shutil
import signal
import subprocess
import sys
import threading

import pytest
from tensorboard.summary.writer.record_writer import RecordWriter

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


def run_log(run, step: int = 0) -> RunLog:
    return RunLog(run, load_recipe("aligndraw-digits"), step, 10, make_accelerator("cpu", 1))


def test_a_full_disk_under_tensorboard_is_one_error(tmp_path, monkeypatch, capfd):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def log_until_it_fails() -> None:
        with run_log(tmp_path) as log, monkeypatch.context() as patch:
            patch.setattr(RecordWriter, "write", full)
            patch.setattr(RecordWriter, "flush", full)
            for step in range(1_000):
                log.scalars(step, {"loss": 1.0})

    hook = threading.excepthook
    with pytest.raises(OSError, match="No space left") as error:
        log_until_it_fails()
    assert error.value.filename == str(tmp_path / "tensorboard")
    assert "Traceback" not in capfd.readouterr().err
    assert threading.excepthook is hook
    with run_log(tmp_path):
        pass  # the folder is locked no longer


def test_a_log_that_was_moved_away_is_begun_anew(tmp_path):
    with run_log(tmp_path) as log:
        log.scalars(1, {"loss": 1.0})
        (tmp_path / "stats.jsonl").rename(tmp_path / "old.jsonl")
        log.scalars(2, {"loss": 2.0})
        assert json.loads((tmp_path / "stats.jsonl").read_text()) == {"step": 2, "loss": 2.0}
        shutil.rmtree(tmp_path)
        with pytest.raises(OSError, match="No such file") as error:
            log.scalars(3, {"loss": 3.0})
        assert error.value.filename == str(tmp_path / "stats.jsonl")


def test_damaged_lines_of_a_log_are_counted_and_left_out(tmp_path, capsys):
    lines = [
        '{"step": 1, "a": "\u2028"}',
        "[" * 10_000,
        '{"step": "one"}',
        "null",
        '{"step": 2, "x": NaN}',
        '{"step": 9}',
        '{"step": 2, "ha',
    ]
    (tmp_path / "stats.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with run_log(tmp_path, step=5):
        pass
    assert (tmp_path / "stats.jsonl").read_text("utf-8").split("\n") == [lines[0], lines[4], ""]
    assert "stats.jsonl: 3 damaged lines left out" in " ".join(capsys.readouterr().out.split())
