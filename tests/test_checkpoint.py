"""Checkpoints: whole or absent, checked on reading, nothing executed."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cap2im.checkpoint import (
    CONFIG,
    KEPT_CHECKPOINTS,
    TRAINING_STATE,
    TRAINING_TENSORS,
    WEIGHTS,
    TrainingState,
    checkpoints,
    load_checkpoint,
    map_weights,
    read_config,
    read_weights,
    save_checkpoint,
    whole_folder,
    write_large_model,
    write_model,
)

WEIGHT = {"w": torch.arange(6.0).view(2, 3), "i": torch.tensor([1, 2])}


def state(step: int) -> TrainingState:
    return TrainingState(
        step, {"kind": "draw"}, {"model.w": torch.full((3,), float(step)), "random.0.cpu": torch.get_rng_state()}, {"seconds": 1.5}
    )


def test_round_trip_and_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 3, 10):
        save_checkpoint(tmp_path, state(step), WEIGHT, {"kind": "draw"})
    found = checkpoints(tmp_path)
    assert [path.name for path in found] == ["step-00000003", "step-00000010"][-KEPT_CHECKPOINTS:]
    loaded = load_checkpoint(found[-1])
    assert (loaded.step, loaded.numbers) == (10, {"seconds": 1.5})
    assert torch.equal(loaded.tensors["model.w"], torch.full((3,), 10.0))
    weights = read_weights(found[-1], read_config(found[-1]))
    assert torch.equal(weights["w"], WEIGHT["w"])


def test_half_precision_export(tmp_path):
    write_model(tmp_path, WEIGHT, {"kind": "draw"}, card="# card", dtype=torch.float16)
    weights = read_weights(tmp_path, read_config(tmp_path))
    assert weights["w"].dtype == torch.float16
    assert weights["i"].dtype == torch.int64
    assert (tmp_path / "README.md").read_text() == "# card"


def test_large_models_are_the_same_without_passing_through_memory(tmp_path):
    (tmp_path / "large").mkdir()
    turned = {"w": WEIGHT["w"].T, "i": WEIGHT["i"]}
    write_large_model(tmp_path / "large", turned, {"kind": "draw"})
    config = read_config(tmp_path / "large")
    for read in (map_weights, read_weights):
        weights = read(tmp_path / "large", config)
        assert all(torch.equal(weights[name], tensor) for name, tensor in turned.items())
    data = (tmp_path / "large" / WEIGHTS).read_bytes()
    for damaged in (data[:-1], data[:-1] + bytes([data[-1] ^ 1])):
        (tmp_path / "large" / WEIGHTS).write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{WEIGHTS}: truncated or altered: SHA-256"):
            map_weights(tmp_path / "large", config)


@pytest.mark.parametrize("name", [WEIGHTS, TRAINING_TENSORS])
@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_damaged_tensors_are_told_by_file(tmp_path, name, damage):
    folder = save_checkpoint(tmp_path, state(1), WEIGHT, {"kind": "draw"})
    data = (folder / name).read_bytes()
    if damage == "missing":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(data[:-1] if damage == "truncated" else data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match=f"{name}: (truncated or altered: SHA-256|missing)"):
        read_weights(folder, read_config(folder)) if name == WEIGHTS else load_checkpoint(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "damaged"),
        ("[]", "format 'list'"),
        ('{"format": 99}', "format 99, this version of cap2im reads format 1"),
        ('{"format": 1}', "no SHA-256"),
    ],
)
def test_damaged_json_is_told_by_file(tmp_path, content, message):
    folder = save_checkpoint(tmp_path, state(1), WEIGHT, {"kind": "draw"})
    (folder / TRAINING_STATE).write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        load_checkpoint(folder)
    assert TRAINING_STATE in str(error.value)


@pytest.mark.parametrize(
    ("name", "old", "new"), [(TRAINING_STATE, '"step": 1', '"step": 3'), (CONFIG, '"kind": "draw"', '"kind": "paint"')]
)
def test_altered_json_is_told_by_file(tmp_path, name, old, new):
    folder = save_checkpoint(tmp_path, state(1), WEIGHT, {"kind": "draw"})
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=f"{name}: altered"):
        read_config(folder) if name == CONFIG else load_checkpoint(folder)


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    save_checkpoint(tmp_path, state(1), WEIGHT, {"kind": "draw"})
    broken = TrainingState(2, {}, {"model.w": torch.tensor([1.0, float("nan")])}, {})
    with pytest.raises(ValueError, match=r"not finite after step 2: model.w; the last checkpoint was kept"):
        save_checkpoint(tmp_path, broken, WEIGHT, {"kind": "draw"})
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000001"]


def test_no_model_here(tmp_path):
    with pytest.raises(ValueError, match=r"no config.json in this folder"):
        read_config(tmp_path)


def test_full_disk_keeps_the_old_checkpoint_and_leaves_no_rubbish(tmp_path, monkeypatch):
    first = save_checkpoint(tmp_path, state(1), WEIGHT, {"kind": "draw"})
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name == TRAINING_TENSORS:
            write(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"training.safetensors.*No space left") as error:
        save_checkpoint(tmp_path, state(2), WEIGHT, {"kind": "draw"})
    assert error.value.errno == errno.ENOSPC
    assert list((tmp_path / "checkpoints").iterdir()) == [first]
    assert load_checkpoint(first).step == 1


def test_whole_folder_replaces_what_was_there(tmp_path):
    target = tmp_path / "model"
    for text in ("old", "new"):
        with whole_folder(target) as folder:
            (folder / "a").write_text(text)
    assert (target / "a").read_text() == "new"
    with pytest.raises(ZeroDivisionError), whole_folder(target) as folder:
        (folder / "a").write_text(str(1 / 0))
    assert (target / "a").read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


SAVER = """
import sys, torch
from pathlib import Path
from cap2im.checkpoint import TrainingState, save_checkpoint
for step in range(1, 100000):
    tensors = {"model.w": torch.full((200_000,), float(step))}
    save_checkpoint(Path(sys.argv[1]), TrainingState(step, {}, tensors, {}), {"w": tensors["model.w"]}, {"kind": "draw"})
    print(step, flush=True)
"""


def test_kill_at_any_moment_leaves_a_complete_checkpoint(tmp_path):
    """A process that does nothing but save is killed at odd moments; what it leaves is read back in full."""
    for attempt, delay in enumerate((0.0, 0.003, 0.007, 0.013)):
        run = tmp_path / str(attempt)
        process = subprocess.Popen([sys.executable, "-c", SAVER, str(run)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(3):
            process.stdout.readline()
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        found = checkpoints(run)
        assert found
        for folder in found:
            step = load_checkpoint(folder).step
            assert json.loads((folder / CONFIG).read_text())["kind"] == "draw"
            assert read_weights(folder, read_config(folder))["w"][0] == step
        save_checkpoint(run, state(10**6), WEIGHT, {"kind": "draw"})
        assert not list((run / "checkpoints").glob(".*")), "the next save clears what the killed one left"
