"""The released skip-thoughts: files in their layout become a model folder that gives the golden vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from cap2im.checkpoint import WEIGHTS, read_config
from cap2im.convert.skipthoughts import convert_skipthoughts
from cap2im.sentence_encoders import load_sentence_encoder
from tests.convert.legacy import run
from tests.parity.golden import Golden, golden
from tests.released_skipthoughts import write_released


@pytest.fixture(scope="module")
def file() -> Golden:
    return golden("H_skipthoughts")


@pytest.fixture
def released(file, tmp_path) -> Path:
    return write_released(file, tmp_path / "released")


@pytest.mark.parametrize(("half", "tolerance"), [(False, 2e-5), (True, 2e-3)])
def test_round_trip_gives_the_golden_vectors(file, released, tmp_path, half, tolerance):
    (released / "uni_skip.npz.pkl").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")  # lies beside, and is never opened
    out = tmp_path / "model"
    run("convert", released, "--out", out, *(["--half"] if half else []))
    encoder = load_sentence_encoder(str(out))
    assert (encoder.name, encoder.features) == ("model", 14 + 9 + 9)
    ours = encoder.encode([str(sentence) for sentence in file.arrays["sentences"]])
    theirs = torch.from_numpy(file.arrays["released/float32/norm_noeos"])
    assert ours.dtype == torch.float32
    assert (ours - theirs).norm() / theirs.norm() < tolerance
    with safe_open(out / WEIGHTS, "pt") as weights:
        table = weights.get_tensor("encoders.uni.table.weight")
    assert table.dtype == (torch.float16 if half else torch.float32)
    np.testing.assert_allclose(table.float(), file.arrays["utable"], rtol=1e-3, atol=1e-4)
    assert read_config(out)["vocabulary"]["words"][:2] == ["<eos>", "UNK"]


def test_words_are_not_lower_cased(released, tmp_path):
    encoder = load_sentence_encoder(str(convert_skipthoughts(released, tmp_path / "model")))
    known, upper, unknown = encoder.encode(["dog", "DOG", "unicorn"])
    torch.testing.assert_close(upper, unknown)
    assert not torch.isclose(known, unknown).any()


def test_a_word_that_is_listed_twice_has_its_last_row(released, tmp_path):
    words = (released / "dictionary.txt").read_text().splitlines()
    words[2] = f"{words[4]}\u00a0"  # reading strips it
    (released / "dictionary.txt").write_text("\n".join(words) + "\n", "utf-8")
    out = convert_skipthoughts(released, tmp_path / "model")
    assert load_sentence_encoder(str(out)).vocabulary.numbers["dog"] == 4


def damage(folder: Path, how: str) -> None:
    if how == "missing":
        (folder / "btable.npy").unlink()
    elif how == "rows":
        np.save(folder / "utable.npy", np.zeros((7, 10), np.float32))
    elif how == "double":
        np.save(folder / "utable.npy", np.zeros((11, 10)))
    elif how == "width":
        np.save(folder / "btable.npy", np.zeros((11, 12), np.float32))
    elif how == "pickle":
        np.save(folder / "utable.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    elif how == "truncated":
        data = (folder / "uni_skip.npz").read_bytes()
        (folder / "uni_skip.npz").write_bytes(data[: len(data) // 2])
    elif how == "swapped":
        (folder / "uni_skip.npz").rename(folder / "x")
        (folder / "bi_skip.npz").rename(folder / "uni_skip.npz")
        (folder / "x").rename(folder / "bi_skip.npz")
    elif how == "shape":
        with np.load(folder / "uni_skip.npz") as archive:
            np.savez(folder / "uni_skip.npz", **{**archive, "encoder_W": np.zeros((10, 27), np.float32)})
    elif how == "no unknown":
        (folder / "dictionary.txt").write_text("".join(f"w{i}\n" for i in range(11)))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"no btable.npy; the released skip-thoughts are uni_skip.npz, utable.npy, bi_skip.npz, btable.npy, dictionary.txt"),
        ("rows", r"utable.npy: float32 \(7, 10\), expected a float32 matrix with a row for each of the 11 words"),
        ("double", r"utable.npy: float64 \(11, 10\), expected a float32 matrix"),
        ("width", r"word vectors of 10 numbers in utable.npy and of 12 in btable.npy"),
        ("pickle", r"utable.npy: not a NumPy array of numbers: .*(pickle|object)"),
        ("truncated", r"uni_skip.npz: not a NumPy archive of numbers"),
        ("swapped", r"bi_skip.npz: has no array encoder_r_W; it has encoder_U, "),
        ("shape", r"uni_skip.npz: encoder_W is float32 \(10, 27\), expected floating point numbers \(10, 28\)"),
        ("no unknown", r"dictionary.txt: no word UNK among its 11"),
    ],
)
def test_damaged_files_are_one_line(released, tmp_path, how, message):
    damage(released, how)
    with pytest.raises(ValueError, match=message) as error:
        convert_skipthoughts(released, tmp_path / "model")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "model").exists()
