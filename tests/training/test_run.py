"""The run: signals, log, time left, best model and trackers."""

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

from cap2im.checkpoint import checkpoints, read_config
from cap2im.pipeline import Pipeline
from cap2im.training.accelerator import make_accelerator
from cap2im.training.dispatch import train
from cap2im.training.log import RunLog, progress_bar
from cap2im.training.prefetch import Prefetcher
from cap2im.training.run import Run
from cap2im.training.samples import SampleGrid
from cap2im.training.variational import VariationalTrainer
from tests.tiny import tiny_recipe, tiny_trainer
from tests.training.stopping import stop_at

FETCHED = """
import resource, sys, torch
from cap2im.training.accelerator import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
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
    ahead = Prefetcher(Numbers(), slice(None), range(40), 1)
    assert next(ahead) == 0
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, number)
    assert [next(ahead) for _ in range(39)] == list(range(1, 40))
    del ahead
    worker.join(10)
    assert worker.exitcode == 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for glibc alone")
@pytest.mark.parametrize("way", ["kept", "given back"])
def test_large_tensors_are_not_fetched_from_the_system_again(way):
    """256 MiB a few times, the first times aside, when small things may come to lie in its place."""
    pages = int(subprocess.run([sys.executable, "-c", FETCHED, way], check=True, stdout=subprocess.PIPE).stdout)
    assert pages < 20 if way == "kept" else pages > 100


def run_in(folder, *changes: str, step: int = 0, log: str | None = None) -> Run:
    """The run of a tiny trainer before its first update."""
    trainer = tiny_trainer(tiny_recipe(*changes))
    trainer.accelerator = make_accelerator("cpu", 4, log_with=log, folder=folder)
    trainer.state.step = step
    return Run(folder, trainer)


def test_a_first_signal_ends_the_update_and_a_second_one_all(tmp_path):
    def handlers():
        return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests were started with
    try:
        original = handlers()
        for number in (signal.SIGINT, signal.SIGTERM):
            with run_in(tmp_path) as run:
                assert not run.stopping
                signal.raise_signal(number)
                assert run.stopping
                with pytest.raises(KeyboardInterrupt):
                    signal.raise_signal(signal.SIGINT)
        with run_in(tmp_path):
            assert all(now != then for now, then in zip(handlers(), original, strict=True))
        assert handlers() == original
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with run_in(tmp_path) as run:
            signal.raise_signal(signal.SIGINT)
            assert not run.stopping
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_full_disk_under_tensorboard_is_one_error(tmp_path, monkeypatch, capfd):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def log_until_it_fails() -> None:
        with run_in(tmp_path, log="tensorboard") as run, monkeypatch.context() as patch:
            patch.setattr(RecordWriter, "write", full)
            patch.setattr(RecordWriter, "flush", full)
            for step in range(1_000):
                run.log.scalars(step, {"loss": 1.0})

    hook = threading.excepthook
    with pytest.raises(OSError, match="No space left") as error:
        log_until_it_fails()
    assert error.value.filename == str(tmp_path / "tensorboard")
    assert "Traceback" not in capfd.readouterr().err
    assert threading.excepthook is hook
    with run_in(tmp_path):
        pass  # the folder is not locked any more


def test_a_full_disk_is_one_error_with_the_name_of_the_log(tmp_path):
    with run_in(tmp_path) as run:
        (tmp_path / "stats.jsonl").symlink_to("/dev/full")
        with pytest.raises(OSError, match="No space left") as error:
            run.log.scalars(1, {"bound": 1.0})
    assert error.value.filename == str(tmp_path / "stats.jsonl")


def test_a_log_that_was_moved_away_starts_again(tmp_path):
    with run_in(tmp_path) as run:
        run.log.scalars(1, {"loss": 1.0})
        (tmp_path / "stats.jsonl").rename(tmp_path / "old.jsonl")
        run.log.scalars(2, {"loss": 2.0})
        assert json.loads((tmp_path / "stats.jsonl").read_text()) == {"step": 2, "loss": 2.0}

    def log_into_nothing() -> None:
        with run_in(tmp_path / "gone") as run:
            shutil.rmtree(tmp_path / "gone")
            run.log.scalars(3, {"loss": 3.0})

    with pytest.raises(OSError, match="No such file") as error:
        log_into_nothing()
    assert error.value.filename == str(tmp_path / "gone" / "stats.jsonl")


def test_damaged_lines_of_a_log_are_counted_and_removed(tmp_path, capsys):
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
    with run_in(tmp_path, step=5):
        pass
    assert (tmp_path / "stats.jsonl").read_text("utf-8").split("\n") == [lines[0], lines[4], ""]
    assert "stats.jsonl: removed 3 damaged lines" in " ".join(capsys.readouterr().out.split())


def test_the_bar_fits_80_columns():
    lines = io.StringIO()
    bar = progress_bar(Console(file=lines, force_terminal=True, width=80, color_system=None))
    note = "G/D coarse 0.69/0.71, fine 1.23/0.04"
    task = bar.add_task("", total=200_000, completed=123_456, left="1:02:03", note=note)
    lines.truncate(0)
    bar.console.print(bar.get_renderable())
    (line,) = [line for line in lines.getvalue().splitlines() if line.strip()]
    assert "123456/200000" in line
    assert "left" in line
    assert note[:28] in line
    assert "…" not in line.partition("left")[0]
    assert len(line) <= 80
    bar.remove_task(task)


def test_time_left_leaves_out_the_first_update(tmp_path, capsys, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("cap2im.training.log.time.monotonic", lambda: now)
    log = RunLog(tmp_path, make_accelerator("cpu", 1), 0, 2000)
    for update in range(100):
        now += 5.0 if update == 0 else 1.0  # the first one is slower
        log.advance("bound -12.3 nats, KL 4.5")
    assert capsys.readouterr().out.splitlines() == [
        "step 1 of 2,000, -:--:-- left: bound -12.3 nats, KL 4.5",
        "step 31 of 2,000, 0:32:49 left: bound -12.3 nats, KL 4.5",
        "step 61 of 2,000, 0:32:19 left: bound -12.3 nats, KL 4.5",
        "step 91 of 2,000, 0:31:49 left: bound -12.3 nats, KL 4.5",
    ]


def test_samples_are_shown_with_their_captions(tmp_path):
    grid = SampleGrid("drawings", ("a *red* bus", "green"), np.zeros((4, 4, 3), np.uint8))
    with run_in(tmp_path, log="tensorboard") as run:
        for step in (1, 2):
            run.log.grid(step, grid)
    assert [path.name for path in sorted((tmp_path / "samples").iterdir())] == ["drawings-00000001.png", "drawings-00000002.png"]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["images"] == ["drawings"]
    (text,) = events.Tensors("drawings/captions/text_summary")
    assert text.tensor_proto.string_val[0].decode() == "1. a *red* bus\n2. green"


def test_more_updates_than_the_recipe_has_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has made 30 updates of 10; --set train\.updates=60 extends the run"):
        run_in(tmp_path, step=30)
    assert not list(tmp_path.iterdir())


def scored(patch: pytest.MonkeyPatch, *bounds: float) -> None:
    """Let validations return these bounds, one after the other."""
    left = iter(bounds)
    patch.setattr(VariationalTrainer, "validate", lambda self: {"bound": next(left), "kl": 0.0})


def test_the_best_model_is_kept_beside_the_last(tmp_path, monkeypatch, capsys):
    wanted = tiny_recipe("train.validate_every=2", "train.ema_decay=0.5")
    with monkeypatch.context() as patch:
        scored(patch, -9.0, -3.0, -5.0, float("nan"))
        stop_at(patch, VariationalTrainer, 6)
        with pytest.raises(KeyboardInterrupt):
            train(wanted, tmp_path / "run", device="cpu")
        best = read_config(tmp_path / "run" / "best")["best"]
        assert best == {"score": "validation/bound", "value": -3.0, "step": 4}
    with monkeypatch.context() as patch:
        scored(patch, -4.0, -7.0, -6.0)  # of steps 8 and 10, and of the finished model
        train(wanted, tmp_path / "run", device="cpu", resume=True)
    assert read_config(tmp_path / "run" / "best")["best"] == best, "the best of all parts of a run"
    assert f"best validation/bound: -3 at step 4, in {tmp_path}/run/best" in capsys.readouterr().out
    hashes = [read_config(tmp_path / "run" / name)["sha256"] for name in ("best", "model")]
    assert hashes[0] != hashes[1]
    assert Pipeline.load(str(tmp_path / "run" / "best")).draw("the digit 3 is at the top of the digit 1")


def test_a_best_model_after_the_checkpoint_does_not_count(tmp_path, monkeypatch):
    wanted = tiny_recipe("train.validate_every=2")
    with monkeypatch.context() as patch:
        scored(patch, -9.0, -3.0)
        stop_at(patch, VariationalTrainer, 4, kill=True)
        with pytest.raises(KeyboardInterrupt):
            train(wanted, tmp_path, device="cpu")
    assert (read_config(tmp_path / "best")["best"]["step"], checkpoints(tmp_path)[-1].name) == (4, "step-00000003")
    with monkeypatch.context() as patch:
        scored(patch, -8.0, -7.0, -7.5, -7.0, -7.0)
        train(wanted, tmp_path, device="cpu", resume=True)
    assert read_config(tmp_path / "best")["best"] == {"score": "validation/bound", "value": -7.0, "step": 6}


def test_weights_and_biases_log_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="an extra")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(tiny_recipe("train.epochs=1"), tmp_path, device="cpu", log="wandb")
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert next(folder.glob("*.wandb")).stat().st_size > 1000
    assert not (tmp_path / "tensorboard").exists()
    assert json.loads((tmp_path / "run.json").read_text())["wandb_id"] in folder.name


def test_a_missing_tracker_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("cap2im.extras.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'^--log wandb needs more than the core: pip install "cap2im\[wandb\]"$'):
        train(tiny_recipe(), tmp_path / "run", device="cpu", log="wandb")
    assert not (tmp_path / "run").exists()
