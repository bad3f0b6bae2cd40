"""What training loops share."""

from __future__ import annotations

import errno
import io
import json
import multiprocessing
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from cap2im.config import load_recipe
from cap2im.training.run import BatchesAhead, RunLog, make_accelerator, progress_bar

FETCHED = """
import resource, sys, torch
from cap2im.training.run import BatchesAhead, keep_memory
if sys.argv[1] == "kept":
    keep_memory()
fetched = []
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**26).add_(1)
    fetched.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(fetched[1:]))
"""


class Numbers:
    """Batches that are the number of their step."""

    def at(self, step, rows):
        time.sleep(0.01)
        return step


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_all_processes_leave_the_loader_alive(number):
    """A terminal and a service manager send them so; the training needs its batches until its step is done."""
    ahead = BatchesAhead(Numbers(), slice(None), range(40), 1)
    assert ahead.next() == 0
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, number)
    assert [ahead.next() for _ in range(39)] == list(range(1, 40))
    del ahead
    worker.join(10)
    assert worker.exitcode == 0


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

    def log_into_nothing() -> None:
        with run_log(tmp_path / "gone") as log:
            shutil.rmtree(tmp_path / "gone")
            log.scalars(3, {"loss": 3.0})

    with pytest.raises(OSError, match="No such file") as error:
        log_into_nothing()
    assert error.value.filename == str(tmp_path / "gone" / "stats.jsonl")


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


def log(folder, step=0, total=2000, *changes, steps_per_epoch=25):
    recipe = load_recipe("aligndraw-digits", ["train.validate_every=100", "train.checkpoint_every=200", *changes])
    return RunLog(folder, recipe, step, total, make_accelerator("cpu", 1), steps_per_epoch)


def test_the_bar_fits_80_columns():
    lines = io.StringIO()
    bar = progress_bar(Console(file=lines, force_terminal=True, width=80, color_system=None))
    note = "G/D coarse 0.69/0.71, fine 1.23/0.04"
    task = bar.add_task("", total=200_000, completed=123_456, note=note)
    lines.truncate(0)
    bar.console.print(bar.get_renderable())
    (line,) = [line for line in lines.getvalue().splitlines() if line.strip()]
    assert "123456/200000" in line
    assert "left" in line
    assert note[:28] in line
    assert "…" not in line.partition("left")[0]
    assert len(line) <= 80
    bar.remove_task(task)


def test_without_a_terminal_a_line_comes_now_and_then(tmp_path, capsys, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("cap2im.training.run.time.monotonic", lambda: now)
    with log(tmp_path) as running:
        for _ in range(100):
            now += 1.0
            running.advance("bound -12.3 nats, KL 4.5")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "2,000 updates of 50 (80.0 epochs); validation every 100, a checkpoint every 200 updates",
        "step 30 of 2,000, 0:32:50 left: bound -12.3 nats, KL 4.5",
        "step 60 of 2,000, 0:32:20 left: bound -12.3 nats, KL 4.5",
        "step 90 of 2,000, 0:31:50 left: bound -12.3 nats, KL 4.5",
    ]


def test_samples_are_shown_with_their_captions(tmp_path):
    with log(tmp_path) as running:
        for step in (1, 2):
            running.samples(step, "drawings", np.zeros((4, 4, 3), np.uint8), ["a *red* bus", "green"])
    assert [path.name for path in sorted((tmp_path / "samples").iterdir())] == ["drawings-00000001.png", "drawings-00000002.png"]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["images"] == ["drawings"]
    (text,) = events.Tensors("drawings/captions/text_summary")
    assert text.tensor_proto.string_val[0].decode() == "1. a *red* bus\n2. green"


def test_more_updates_than_asked_for_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has made 30 updates, more than the 20 that are asked for; --set train\.updates=60"):
        log(tmp_path, 30, 20)
    assert not list(tmp_path.iterdir())
