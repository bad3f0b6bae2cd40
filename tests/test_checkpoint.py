"""Checkpoints: whole or absent, checked on reading, nothing executed."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from cap2im import checkpoint
from cap2im.checkpoint import (
    CONFIG,
    KEPT_CHECKPOINTS,
    TRAINING_STATE,
    TRAINING_TENSORS,
    WEIGHTS,
    Checkpoint,
    checkpoints,
    load_checkpoint,
    map_weights,
    read_config,
    read_weights,
    save_checkpoint,
    write_large_model,
    write_model,
)
from cap2im.files import atomic_folder, existing_folder
from cap2im.loading import find_model
from tests.kills import kills, run_child

WEIGHT = {"w": torch.arange(6.0).view(2, 3), "i": torch.tensor([1, 2])}


def state(step: int) -> Checkpoint:
    return Checkpoint(
        step, {"kind": "draw"}, {"model.w": torch.full((3,), float(step)), "random.0.cpu": torch.get_rng_state()}, {"seconds": 1.5}
    )


def test_round_trip_keeps_only_the_newest(tmp_path):
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


def test_large_models_are_written_without_a_copy_in_memory(tmp_path):
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
def test_damaged_tensors_name_their_file(tmp_path, name, damage):
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
        ("{", "Invalid JSON"),
        ("[" * 100_000, "Invalid JSON: recursion limit exceeded"),
        ('{"format": [[[[1]]]]}', "format [[[[1]]]], this version"),
        ("[]", "Input should be an object"),
        ('{"format": 99}', "format 99, this version of cap2im reads format 1"),
        ('{"format": 1}', "no SHA-256"),
    ],
)
def test_damaged_json_names_its_file(tmp_path, content, message):
    folder = save_checkpoint(tmp_path, state(1), WEIGHT, {"kind": "draw"})
    (folder / TRAINING_STATE).write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        load_checkpoint(folder)
    assert TRAINING_STATE in str(error.value)


@pytest.mark.parametrize(
    ("name", "old", "new"), [(TRAINING_STATE, '"step": 1', '"step": 3'), (CONFIG, '"kind": "draw"', '"kind": "paint"')]
)
def test_altered_json_names_its_file(tmp_path, name, old, new):
    folder = save_checkpoint(tmp_path, state(1), WEIGHT, {"kind": "draw"})
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=f"{name}: altered"):
        read_config(folder) if name == CONFIG else load_checkpoint(folder)


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    save_checkpoint(tmp_path, state(1), WEIGHT, {"kind": "draw"})
    broken = Checkpoint(2, {}, {"model.w": torch.tensor([1.0, float("nan")])}, {})
    with pytest.raises(ValueError, match=r"not finite after step 2: model.w; the last checkpoint was kept"):
        save_checkpoint(tmp_path, broken, WEIGHT, {"kind": "draw"})
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000001"]


def test_no_model_here(tmp_path):
    with pytest.raises(ValueError, match=r"no config.json in this folder"):
        read_config(tmp_path)


def test_full_disk_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    first = save_checkpoint(tmp_path, state(1), WEIGHT, {"kind": "draw"})
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name == TRAINING_TENSORS:
            write(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"No space left.*step-00000001 is kept: with more space, --resume continues") as error:
        save_checkpoint(tmp_path, state(2), WEIGHT, {"kind": "draw"})
    assert error.value.errno == errno.ENOSPC
    assert error.value.filename == str(tmp_path / "checkpoints" / "step-00000002" / TRAINING_TENSORS)
    assert list((tmp_path / "checkpoints").iterdir()) == [first]
    assert load_checkpoint(first).step == 1


def test_atomic_folder_replaces_an_existing_one(tmp_path):
    target = tmp_path / "model"
    for text in ("old", "new"):
        with atomic_folder(target) as folder:
            (folder / "a").write_text(text)
    assert (target / "a").read_text() == "new"
    with pytest.raises(ZeroDivisionError), atomic_folder(target) as folder:
        (folder / "a").write_text(str(1 / 0))
    assert (target / "a").read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_replaced_folder_survives_a_kill(tmp_path):
    """A process is killed before every operation on files; the model that is found is then the old one or the new one."""
    target = tmp_path / "model"

    def write(value: float) -> None:
        with atomic_folder(target) as folder:
            write_model(folder, {"w": torch.full((3,), value)}, {"kind": "draw"}, card=f"{value}")
            (folder / "sentence-encoder").mkdir()
            (folder / "sentence-encoder" / "a").write_text("a")

    write(1.0)
    retired = 0
    for kill_at in range(1, run_child(lambda: write(1.0)) + 1):
        run_child(lambda: write(2.0), kill_at)
        retired += not target.exists()
        found = existing_folder(target)
        for read in (read_weights, map_weights):
            assert read(target, read_config(target))["w"].tolist() in ([1.0] * 3, [2.0] * 3)
        assert sorted(path.name for path in found.iterdir()) == ["README.md", CONFIG, WEIGHTS, "sentence-encoder"]
        assert find_model(str(target)) == find_model(str(tmp_path)) == found
        write(1.0)
        assert list(tmp_path.iterdir()) == [target], f"killed at {kill_at}: the next write removes what was left"
    assert retired == 1


def test_two_writers_of_a_folder_do_not_mix(tmp_path):
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "a").write_text("mine")
        with pytest.raises(ValueError, match=r"model: another process is writing this folder$"), atomic_folder(tmp_path / "model"):
            pass
    assert (tmp_path / "model" / "a").read_text() == "mine"


def test_a_link_to_a_model_stays_a_link(tmp_path):
    (tmp_path / "large disk").mkdir()
    (tmp_path / "model").symlink_to(tmp_path / "large disk")
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "a").write_text("new")
    assert (tmp_path / "model").is_symlink()
    assert (tmp_path / "large disk" / "a").read_text() == "new"


def test_a_kill_at_any_operation_leaves_whole_checkpoints(tmp_path):
    """Saving step 3 removes step 1; whatever the kill, the newest checkpoint is whole and the run goes on to equal bytes."""
    begun, killed, whole = tmp_path / "begun", tmp_path / "killed", tmp_path / "whole"

    def save(run: Path, *steps: int) -> None:
        for step in steps:
            save_checkpoint(run, state(step), WEIGHT, {"kind": "draw"})

    def files(run: Path) -> dict[str, bytes]:
        return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}

    save(begun, 1, 2)
    shutil.copytree(begun, whole)
    for kill_at in kills(run_child(lambda: save(whole, 3))):
        shutil.copytree(begun, killed)
        run_child(lambda: save(killed, 3), kill_at)
        steps = []
        for folder in checkpoints(killed):
            steps.append(load_checkpoint(folder).step)
            assert torch.equal(read_weights(folder, read_config(folder))["w"], WEIGHT["w"])
        assert steps in ([1, 2], [1, 2, 3], [2, 3])
        save(killed, 3)
        assert files(killed) == files(whole), f"killed at {kill_at}"
        shutil.rmtree(killed)


def test_only_folders_of_steps_are_checkpoints(tmp_path):
    for step in (99_999_999, 100_000_000):
        save_checkpoint(tmp_path, state(step), WEIGHT, {"kind": "draw"})
    shutil.copytree(checkpoints(tmp_path)[0], tmp_path / "checkpoints" / "step-99999999.bak")
    assert [path.name for path in checkpoints(tmp_path)] == ["step-99999999", "step-100000000"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": -1}, "step: Input should be greater than or equal to 0, got -1"),
        ({"step": "one"}, "step: Input should be a valid integer"),
        ({"recipe": [1]}, "recipe: Input should be a valid dictionary"),
        ({"numbers": None}, "numbers: Input should be a valid dictionary, got None"),
    ],
)
def test_malformed_training_state_is_refused(tmp_path, changes, message):
    folder = save_checkpoint(tmp_path, state(1), WEIGHT, {"kind": "draw"})
    document = json.loads((folder / TRAINING_STATE).read_text()) | changes
    document["sha256"][TRAINING_STATE] = checkpoint._own_sha256(document)
    (folder / TRAINING_STATE).write_text(json.dumps(document))
    with pytest.raises(ValueError, match=rf"training\.json: {re.escape(message)}"):
        load_checkpoint(folder)


def test_lone_surrogates_are_stored_as_text(tmp_path):
    folder = save_checkpoint(tmp_path, state(1), WEIGHT, {"kind": "draw", "command": "cap2im train --data caf\udce9"})
    assert read_config(folder)["command"] == "cap2im train --data caf\\udce9"


def test_a_file_is_not_replaced_by_a_folder(tmp_path):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(ValueError, match=r"model: is a file, and a folder is needed$"), atomic_folder(tmp_path / "model"):
        pass
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("special", ["FIFO", "folder"])
def test_special_files_are_not_read_as_weights(tmp_path, special):
    write_model(tmp_path, WEIGHT, {"kind": "draw"})
    config = read_config(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    os.mkfifo(tmp_path / WEIGHTS) if special == "FIFO" else (tmp_path / WEIGHTS).mkdir()
    for read in (read_weights, map_weights):
        with pytest.raises(ValueError, match=f"{WEIGHTS}: is a {special}, and a file is needed"):
            read(tmp_path, config)
