"""Legacy weights, written in their original layouts, through `cap2im convert`, give the numbers that the original programs gave."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from cap2im.checkpoint import read_config, read_weights
from cap2im.convert.legacy import convert, legacy_formats
from cap2im.convert.theano import BATCH_RECORDS, MNIST_WORDS, released_draw, released_layout, released_sharpener, sharpener_layout
from cap2im.convert.weight_files import read_tensors
from cap2im.data.mnist_captions import WORDS
from cap2im.models.aligndraw import DRAW, DRAWConfig
from cap2im.models.filterbank import Variant
from cap2im.models.lapgan import Sharpener, SharpenerConfig
from cap2im.pipeline import Pipeline
from tests.convert.legacy import golden_arrays, port_drawing, port_weights, run, write_dictionary, write_hdf5
from tests.limits import GIB, run_limited
from tests.parity.golden import FORWARD, Golden, distance, golden, pixels

COCO_WORDS = {"UNK": 29, "café": 0, **{f"word{n}": n for n in range(1, 29)}}  # of case B


def generated(folder: Path, file: Golden, dtype: torch.dtype) -> Tensor:
    """The golden drawing by a converted model: canvases [T, B, X]."""
    model = Pipeline.load(str(folder)).model.to(dtype)
    text = None
    if "in/y" in file:
        text = model.encode(file["in/y"], torch.ones_like(file["in/y"], dtype=torch.bool))
    canvases = model.sample(text, file["in/eps_gener"].transpose(0, 1).to(dtype)).canvases
    return pixels(canvases).transpose(0, 1)


@pytest.mark.parametrize("name", ["A_mnist_n4", "A_mnist_n5", "B_coco_n4", "B_coco_n5", "C_mnist_full", "D_draw_n5"])
@torch.no_grad()
def test_authors_files_give_the_golden_drawings(tmp_path, name):
    file = golden(name)
    records = {} if name.startswith("B") else {record: np.zeros((2, 3)) for record in BATCH_RECORDS}  # the MNIST programs save these too
    path = write_hdf5(tmp_path / "weights.h5", golden_arrays(file) | records)
    options = ["--dictionary", write_dictionary(tmp_path / "dictionary.pkl", COCO_WORDS)] if name.startswith("B") else []
    glimpses = [] if name in ("C_mnist_full",) else ["--glimpses", file.meta["T"]]
    run("convert", path, "--out", tmp_path / "model", *glimpses, *options)
    config = read_config(tmp_path / "model")
    assert config["model"]["variant"] == "released"
    assert config["model"]["glimpses"] == file.meta["T"]
    assert config["model"]["write_patch"] == config["model"]["read_patch"] == file.meta["N"]
    theirs = file["released/gen/c_ts_gener"]
    assert distance(generated(tmp_path / "model", file, torch.float64), theirs) <= (1e-7 if name == "C_mnist_full" else FORWARD)
    single = generated(tmp_path / "model", file, torch.float32)
    assert distance(single.double(), theirs) <= 2e-5


def test_draw_has_the_glimpses_of_its_own_program(tmp_path):
    convert(write_hdf5(tmp_path / "weights.h5", golden_arrays(golden("D_draw_n5"))), tmp_path / "model")
    pipeline = Pipeline.load(str(tmp_path / "model"))
    assert pipeline.model.config.glimpses == 64
    assert len(pipeline.draw("any words", samples=2)) == 2


def test_words_of_coco_in_the_order_of_their_numbers(tmp_path):
    file = golden("B_coco_n5")
    path = write_hdf5(tmp_path / "weights.h5", golden_arrays(file))
    convert(path, tmp_path / "model", dictionary=write_dictionary(tmp_path / "dictionary.pkl", COCO_WORDS))
    vocabulary = Pipeline.load(str(tmp_path / "model")).vocabulary
    assert vocabulary.words == ("café", *(f"word{n}" for n in range(1, 29)), "UNK")
    (caption,) = vocabulary.encode(["Café zebra"], unknown="mark")  # as the release numbers words that it does not know
    assert caption.numbers == (0, 29, 29)
    assert read_config(tmp_path / "model")["model"]["glimpses"] == 32
    card = (tmp_path / "model" / "README.md").read_text("utf-8")
    assert "`weights.h5`, SHA-256 " in card
    assert "12 x 12 x 3" in card


@torch.no_grad()
def test_vectors_that_no_word_has_change_nothing(tmp_path):
    """The MNIST configuration has 23 for 22 words: the last is left out. A dictionary may begin at 1: no caption has the 0."""
    file = golden("A_mnist_n4")
    arrays = golden_arrays(file)
    for name in ("W_y_hLangEnc", "W_yRev_hLangEncRev"):
        arrays[name] = np.concatenate([arrays[name], np.full_like(arrays[name][:1], 1e6)])
    path = write_hdf5(tmp_path / "weights.h5", arrays)
    convert(path, tmp_path / "mnist", glimpses=file.meta["T"])
    pipeline = Pipeline.load(str(tmp_path / "mnist"))
    assert pipeline.vocabulary.words == MNIST_WORDS
    assert sorted(MNIST_WORDS) == sorted(WORDS)
    assert distance(generated(tmp_path / "mnist", file, torch.float64), file["released/gen/c_ts_gener"]) <= FORWARD
    assert pipeline.draw("the digit three is at the top of the digit 1")[0].attention.shape == (6, 12)

    arrays = {name: np.roll(array, 1, axis=0) if name.startswith("W_y") else array for name, array in arrays.items()}
    dictionary = write_dictionary(tmp_path / "dictionary.pkl", {word: n for n, word in enumerate(MNIST_WORDS, 1)})
    convert(write_hdf5(tmp_path / "rolled.h5", arrays), tmp_path / "rolled", dictionary=dictionary, glimpses=file.meta["T"])
    rolled = Pipeline.load(str(tmp_path / "rolled"))
    assert rolled.vocabulary.words == ("<no word 0>", *MNIST_WORDS)
    caption = "the digit 3 is at the top of the digit 1"
    assert torch.equal(rolled.images(rolled.prompts([caption]), [5]), pipeline.images(pipeline.prompts([caption]), [5]))
    with pytest.raises(ValueError, match="unknown word 'no'"):
        rolled.draw("<no word 0>")


@torch.no_grad()
def test_sharpening_network(tmp_path):
    file = golden("G_sharpen")
    run("convert", write_hdf5(tmp_path / "gan.hdf5", golden_arrays(file)), "--out", tmp_path / "sharpener")
    config = read_config(tmp_path / "sharpener")
    assert config["kind"] == "sharpener"
    model = Sharpener(SharpenerConfig.model_validate(config["model"]))
    model.load_state_dict(read_weights(tmp_path / "sharpener", config))
    images = file["in/x_blurry"].view(-1, 3, 12, 12)
    assert distance(model.double()(images, file["in/skipthought"]), file["released/out/edges"]) <= FORWARD
    with pytest.raises(ValueError, match="is a model of kind 'sharpener'; expected draw"):
        Pipeline.load(str(tmp_path / "sharpener"))


@torch.no_grad()
def test_museums_file_is_the_authors_as_tensors(tmp_path):
    file = golden("B_coco_n5")
    tensors = {name: torch.from_numpy(array) for name, array in golden_arrays(file).items()}
    dictionary = write_dictionary(tmp_path / "dictionary.pkl", COCO_WORDS)
    for name, content, zipped in (("a", tensors, True), ("b", {"state_dict": OrderedDict(tensors)}, True), ("c", tensors, False)):
        torch.save(content, tmp_path / f"{name}.pt", _use_new_zipfile_serialization=zipped)
        run("convert", tmp_path / f"{name}.pt", "--dictionary", dictionary, "--glimpses", file.meta["T"], "-o", tmp_path / name)
        assert distance(generated(tmp_path / name, file, torch.float64), file["released/gen/c_ts_gener"]) <= FORWARD


# The PyTorch port

PORT = DRAWConfig(
    side=32,
    colours=3,
    glimpses=4,
    read_patch=5,
    write_patch=5,
    inference_units=9,
    generative_units=8,
    latent=6,
    vocabulary_size=11,
    language_units=7,
    align_features=10,
    variant="port",
)


def port_checkpoint(path: Path, weights: dict[str, Tensor]) -> Path:
    """As the port's training writes it, optimizer and schedule included."""
    parameters = [torch.nn.Parameter(tensor.clone()) for tensor in weights.values()]
    optimizer = torch.optim.RMSprop(parameters, lr=0.001)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[11], gamma=0.1)
    sum(p.sum() for p in parameters).backward()
    optimizer.step()
    schedule.step()
    states = {"model": OrderedDict(weights), "optimizer": optimizer.state_dict(), "scheduler": schedule.state_dict()}
    torch.save({"epoch": 17, "best_obj": 1834.5, **states}, path)
    return path


@pytest.mark.parametrize("windows", ["two windows", "one window"])
@pytest.mark.parametrize("changes", [{}, {"colours": 1, "side": 60, "read_patch": 4, "write_patch": 4}])
@torch.no_grad()
def test_port_draws_as_its_equations_say(tmp_path, windows, changes):
    sizes = PORT.model_copy(update=changes)
    weights = port_weights(sizes, windows)
    with torch.enable_grad():
        path = port_checkpoint(tmp_path / "current.ckpt", weights)
    dictionary = write_dictionary(tmp_path / "dictionary.pkl", {f"w{n}": n for n in range(11)})
    run("convert", path, "--dictionary", dictionary, "--glimpses", "4", "--out", tmp_path / "model")
    model = Pipeline.load(str(tmp_path / "model")).model.double()
    assert model.config == sizes
    tokens = torch.tensor([[1, 2, 3, 4, 5], [10, 0, 7, 7, 1]])
    noise = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1)).double()
    text = model.encode(tokens, torch.ones_like(tokens, dtype=torch.bool), independent=True)
    drawn = model.sample(text, noise)
    canvases, alphas = port_drawing(weights, sizes, windows, tokens, noise)
    assert distance(drawn.canvases, canvases) <= FORWARD
    assert distance(drawn.words, alphas) <= FORWARD
    for variant in set(get_args(Variant)) - {"port"}:  # the control: none of the others would do
        other = type(model)(sizes.model_copy(update={"variant": variant})).double()
        other.load_state_dict(model.state_dict())
        text = other.encode(tokens, torch.ones_like(tokens, dtype=torch.bool), independent=True)
        assert distance(other.sample(text, noise).canvases, canvases) > 1e-3


@torch.no_grad()
def test_port_does_not_let_padding_in(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({f"module.{name}": tensor for name, tensor in port_weights(PORT, "two windows").items()}, path)
    convert(path, tmp_path / "model", dictionary=write_dictionary(tmp_path / "d.pkl", {f"w{n}": n for n in range(11)}))
    pipeline = Pipeline.load(str(tmp_path / "model"))
    captions = ["w1 w2 w10", "w1 w2 w3 w4 w5 w6 w7"]
    together = pipeline.vocabulary.encode(captions, unknown="skip")
    assert [len(t.numbers) for t in together] == [3, 7]
    short, both = (pipeline.draw(c, seed=0, unknown="skip")[0].canvases.astype(int) for c in (captions[:1], captions))
    assert np.abs(short - both).max() <= 1


# What is refused


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """alignDRAW in the authors' layout, tiny."""
    c = DRAWConfig(side=8, read_patch=2, write_patch=3, inference_units=5, generative_units=6, latent=4, language_units=3, align_features=7)
    return {name: view.detach().numpy().copy() for name, view in released_layout(DRAW(c)).items()}


def changed(arrays, **changes):
    return {name: array for name, array in (arrays | changes).items() if array is not None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b_c": None}, r"damaged, or not alignDRAW of the authors' program, which has 33 parameters; missing: b_c$"),
        ({"extra": np.zeros(3)}, r"33 parameters; surplus: extra$"),
        (
            {"b_c": None, "c0": None, "h0_dec": None, "v_align": None, "b_mu": None, "more": np.zeros(1)},
            "missing: b_c, .* and 1 more; surplus: more",
        ),
        ({"b_hdec": np.zeros(9)}, r"alignDRAW of the authors' program: b_hdec has shape \[9\], the others imply \[24\]"),
        ({"c0": np.zeros((1, 65))}, r"c0: 65 numbers are not a square picture of 1 or 3 colours"),
        ({"c0": np.zeros(64)}, r"c0 has shape \[64\], expected 2 axes"),
        ({"W_hdec_c": np.zeros((6, 7))}, r"W_hdec_c: 7 numbers are not a square picture"),
        ({"b_mu": np.full(4, np.nan)}, "b_mu is not finite"),
    ],
)
def test_damaged_parameters_are_named(tmp_path, arrays, change, message):
    path = write_hdf5(tmp_path / "weights.h5", changed(arrays, **change))
    with pytest.raises(ValueError, match=message) as error:
        convert(path, tmp_path / "model")
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "model").exists()


def test_sizes_are_compared_before_they_take_memory(tmp_path, arrays):
    """Three million recurrent rows ask for a network of 144 terabytes."""
    path = write_hdf5(tmp_path / "weights.h5", changed(arrays, W_henc_henc=np.zeros((3_000_000, 1))))
    with pytest.raises(ValueError, match=r"W_henc_henc has shape \[3000000, 1\], the others imply \[3000000, 12000000\]"):
        convert(path, tmp_path / "model")
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    with pytest.raises(ValueError, match="sizes that no machine can hold"):
        released_draw(tensors | {"W_henc_henc": torch.zeros(1, 1).expand(2**33, 1)})
    sharpener = Sharpener(SharpenerConfig(side=4, sentence_features=1, features=(1, 1)))
    tensors = sharpener_layout(sharpener) | {"W_conv0": torch.zeros(1, 1, 1, 1).expand(3_000_000, 1, 1, 1)}
    with pytest.raises(ValueError, match=r"W_conv0 has shape \[3000000, 1, 1, 1\], "):
        released_sharpener(tensors)


def test_wrongly_shaped_parameters_of_the_port_are_named(tmp_path):
    weights = port_weights(PORT, "two windows") | {"w_logvar.weight": torch.zeros(2, 2)}
    torch.save(weights, tmp_path / "port.pt")
    with pytest.raises(ValueError, match=r"PyTorch port: w_logvar\.weight has shape \[2, 2\], the others imply \[6, 9\]"):
        convert(tmp_path / "port.pt", tmp_path / "model")


@pytest.mark.filterwarnings("ignore::UserWarning")  # quantised tensors are on their way out of torch
@pytest.mark.parametrize(
    "odd",
    [
        lambda: torch.zeros(6, 9).to_sparse(),
        lambda: torch.quantize_per_tensor(torch.zeros(6, 9), 0.1, 0, torch.qint8),
        lambda: torch.zeros(6, 9, dtype=torch.complex64),
        lambda: torch.zeros(6, 9, device="meta"),
        lambda: torch.zeros(1, 1).expand(2**20, 2**20),
    ],
)
def test_tensors_that_are_no_plain_arrays(tmp_path, odd):
    torch.save(port_weights(PORT, "two windows") | {"w_logvar.weight": odd()}, tmp_path / "port.pt")
    with pytest.raises(ValueError, match=r"port\.pt: w_logvar\.weight (is not a dense array of real numbers|states)") as error:
        convert(tmp_path / "port.pt", tmp_path / "model")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("extra", "message"), [("clip.logit_scale", "CLIP's sentence vector"), ("dec_linear.weight", "early version")])
def test_kinds_of_the_port_that_are_not_read(tmp_path, extra, message):
    torch.save(port_weights(PORT, "two windows") | {extra: torch.zeros(1)}, tmp_path / "port.pt")
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "port.pt", tmp_path / "model")


def test_hdf5_files_that_lead_elsewhere(tmp_path, arrays):
    h5py = pytest.importorskip("h5py")
    write_hdf5(tmp_path / "other.h5", arrays)
    write_hdf5(tmp_path / "weights.h5", changed(arrays, b_c=None, b_mu=None))
    with h5py.File(tmp_path / "weights.h5", "a") as file:
        file["b_c"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "b_c")
    with pytest.raises(ValueError, match="b_c is a link, and links are not followed"):
        convert(tmp_path / "weights.h5", tmp_path / "model")
    with h5py.File(tmp_path / "large.h5", "w") as file:
        file.create_dataset("b_c", (2**40,), dtype="f", chunks=(2**20,))
    with pytest.raises(ValueError, match="b_c declares 4,398,046,511,104 bytes"):
        convert(tmp_path / "large.h5", tmp_path / "model")


def test_words_that_do_not_fit(tmp_path, arrays):
    path = write_hdf5(tmp_path / "weights.h5", arrays)
    for numbers, message in (
        ({"a": 0, "b": 22}, r"dictionary\.pkl: has 23 words, the weights 22 word vectors: they do not belong together"),
        ({"a": 0, "b": 0}, "the words 'a' and 'b' have one number, 0"),
        ({}, "are no vocabulary"),
    ):
        with pytest.raises(ValueError, match=message):
            convert(path, tmp_path / "model", dictionary=write_dictionary(tmp_path / "dictionary.pkl", numbers))
    (tmp_path / "list.pkl").write_bytes(b"].")
    with pytest.raises(ValueError, match=r"list\.pkl: expected a dictionary of words and their numbers, got a list"):
        convert(path, tmp_path / "model", dictionary=tmp_path / "list.pkl")
    write_hdf5(path, changed(arrays, **{name: np.zeros((30, 12)) for name in ("W_y_hLangEnc", "W_yRev_hLangEncRev")}))
    with pytest.raises(ValueError, match=r"has 30 word vectors without their words: give --dictionary dictionary\.pkl"):
        convert(path, tmp_path / "model")


class Attack:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_dictionary_is_not_executed(tmp_path, arrays):
    marker = tmp_path / "ran"
    (tmp_path / "dictionary.pkl").write_bytes(pickle.dumps({"the": Attack(f"touch {marker}")}, 2))
    with pytest.raises(ValueError, match=rf"dictionary\.pkl: refused: it asks for {os.system.__module__}\.system; "):
        convert(write_hdf5(tmp_path / "weights.h5", arrays), tmp_path / "model", dictionary=tmp_path / "dictionary.pkl")
    assert not marker.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch_files_are_not_executed(tmp_path, zipped):
    marker = tmp_path / "ran"
    torch.save(
        {"model": port_weights(PORT, "two windows"), "x": Attack(f"touch {marker}")},
        tmp_path / "a.pt",
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(ValueError, match=rf"a\.pt: refused: it asks for {os.system.__module__}\.system") as error:
        convert(tmp_path / "a.pt", tmp_path / "model")
    assert "\n" not in str(error.value)
    assert not marker.exists()


# Whole checkpoints

TENSORS = {"a": torch.arange(3.0), "b": torch.ones(2, dtype=torch.float16)}
OTHERS = {"c": torch.zeros(1)}
OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(1)}}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize(
    "checkpoint",
    [
        TENSORS,
        {"netG": TENSORS},
        {"netG": TENSORS, "netD": OTHERS, "optimizer": OPTIMIZER, "epoch": 3},
        {"generator": TENSORS, "discriminators": [OTHERS, OTHERS]},
        {"state_dict": {f"module.{name}": tensor for name, tensor in TENSORS.items()}, "optimizer": OPTIMIZER},
        {"state_dict": {f"module.netG.{name}": tensor for name, tensor in TENSORS.items()}},
        {"model": {"netG": TENSORS, "netD": OTHERS}},
        [TENSORS],
        [{"epoch": 1}, {"weights": OrderedDict(TENSORS)}],
    ],
)
def test_network_of_a_checkpoint_is_found(tmp_path, checkpoint):
    torch.save(checkpoint, tmp_path / "a.pth")
    found = read_tensors(tmp_path / "a.pth")
    assert {name: tensor.tolist() for name, tensor in found.items()} == {name: tensor.tolist() for name, tensor in TENSORS.items()}


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [({"one": TENSORS, "two": OTHERS}, "one, two"), ([TENSORS, OTHERS], "0, 1"), ({"x": OPTIMIZER}, "no state dict")],
)
def test_several_networks_are_named(tmp_path, checkpoint, message):
    torch.save(checkpoint, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=message):
        read_tensors(tmp_path / "a.pth")


def pickled_pytorch(path: Path, pickled: bytes, storage: bytes = b"", method: int = zipfile.ZIP_STORED, *more: str) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/data/0", storage)
        for name in more:
            archive.writestr(name, b"")
    return path


def tensor_pickle(held: int, size: int) -> bytes:
    """A state dict with a tensor of a size in a storage that is said to hold so many numbers."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuJ" + struct.pack("<i", held) + b"tQ"
    numbers = b"K\x00J" + struct.pack("<i", size) + b"\x85K\x01\x85\x89ccollections\nOrderedDict\n)R"
    return b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n(" + storage + numbers + b"tRs."


PAIRS = b")q\x00" + b"".join(b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) for n in range(60))
BOMBS = {
    "bytes by their number": ((b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",), "it asks for builtins.bytearray"),
    "flood": ((b"\x80\x02(" + b"}" * 3_000_000 + b"l.",), "it builds far more than it holds"),
    "hash": ((b"\x80\x02}(" + PAIRS + b"K\x01u.",), "more than 4,096 tuples in a tuple"),
    "counted": ((b"\x80\x02ccollections\nCounter\n](" + PAIRS + b"e\x85R.",), "more than 4,096 tuples in a tuple"),
    "compressed": ((b"\x80\x02(" + b"}" * 3_000_000 + b"l.", b"", zipfile.ZIP_DEFLATED), "is compressed"),
    "two pickles": ((b"\x80\x02}.", b"", zipfile.ZIP_STORED, "archive/DATA.PKL"), "two members of its archive have the same name"),
    "storage is shorter than said": ((tensor_pickle(10**9, 10**9), bytes(16)), "damaged, or not of PyTorch"),
    "tensor is longer than its storage": ((tensor_pickle(4, 10**9), bytes(16)), "damaged, or not of PyTorch"),
    "negative storage": ((tensor_pickle(-4, 4), bytes(16)), "damaged, or not of PyTorch"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_pytorch_bombs_are_refused(tmp_path, name):
    arguments, message = BOMBS[name]
    with pytest.raises(ValueError, match=message) as error:
        read_tensors(pickled_pytorch(tmp_path / "a.pth", *arguments))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_repeated_numbers_take_no_memory(tmp_path, zipped):
    torch.save({"a": torch.zeros(1).expand(10**12)}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="a states 4,000,000,000,000 bytes, and 4 are stored"):
        read_tensors(tmp_path / "a.pth")
    shared = torch.zeros(10_000)
    torch.save({f"a{n}": shared for n in range(20)}, tmp_path / "b.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="states 800,000 bytes of weights"):
        read_tensors(tmp_path / "b.pth")


@pytest.mark.parametrize("what", ["hdf5", "pytorch", "pickle"])
def test_bombs_stay_in_bounds_on_the_command_line(tmp_path, arrays, what):
    arguments = ["bomb"]
    if what == "hdf5":
        h5py = pytest.importorskip("h5py")
        write_hdf5(tmp_path / "bomb", changed(arrays, W_henc_henc=None))
        with h5py.File(tmp_path / "bomb", "a") as file:
            file.create_dataset("W_henc_henc", (30_000, 30_000), "f", chunks=(100, 100))
    elif what == "pytorch":
        torch.save(port_weights(PORT, "two windows") | {"w_mu.weight": torch.zeros(1, 1).expand(60_000, 60_000)}, tmp_path / "bomb")
    else:
        write_hdf5(tmp_path / "weights.h5", arrays)
        (tmp_path / "bomb").write_bytes(b"\x80\x02}(" + PAIRS + b"K\x01u.")
        arguments = ["weights.h5", "--dictionary", "bomb"]
    end = run_limited("convert", *arguments, "--out", "model", cwd=tmp_path)
    assert (end.status, len(end.err.splitlines())) == (2, 1), end.err
    assert "bomb: " in end.err
    assert end.peak < 2 * GIB
    assert end.cpu < 30


@pytest.mark.parametrize("name", ["fifo", "folder.pth", "missing"])
def test_weights_that_are_no_file(tmp_path, name):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(ValueError, match=rf"{name}: (is a FIFO|is a folder|no such file)"):
        read_tensors(tmp_path / name)


def test_unrecognised_files(tmp_path, arrays):
    def refused(path: Path, message: str, **options) -> None:
        with pytest.raises(ValueError, match=message) as error:
            convert(path, tmp_path / "model", **options)
        assert "\n" not in str(error.value)

    (tmp_path / "text").write_text("hello, world")
    refused(tmp_path / "text", r"expected an HDF5 or a PyTorch file, got one that begins with b'hello, w'")
    write_hdf5(tmp_path / "other.h5", {"conv1": np.zeros(3)})
    refused(tmp_path / "other.h5", "unknown weights with the parameters conv1; known are alignDRAW of the authors' program; ")
    whole = write_hdf5(tmp_path / "whole.h5", arrays).read_bytes()
    (tmp_path / "half.h5").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "half.h5", "damaged, or unexpected arrays: .*truncated file")
    torch.save(port_weights(PORT, "two windows"), tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "half.pt", "damaged, or not of PyTorch")
    np.savez(tmp_path / "arrays.npz", a=np.zeros(3))
    refused(tmp_path / "arrays.npz", "damaged, or not of PyTorch")
    torch.save([1, 2], tmp_path / "list.pt")
    refused(tmp_path / "list.pt", "has no state dict; it holds a list")
    torch.save({"epoch": 1}, tmp_path / "epoch.pt")
    refused(tmp_path / "epoch.pt", "has no state dict; it holds .epoch.")
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", r"folder: no uni_skip\.npz, .*; the released skip-thoughts are .*, AttnGAN's files \*\.pth$")


def test_nothing_is_overwritten(tmp_path, arrays):
    path = write_hdf5(tmp_path / "weights.h5", arrays)
    for name in ("empty", "full"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    convert(path, tmp_path / "empty")
    for taken in ("full", "empty", "weights.h5"):
        with pytest.raises(ValueError, match="exists already; give a new or an empty folder"):
            convert(path, tmp_path / taken)


def test_options_that_a_kind_does_not_have(tmp_path, arrays):
    with pytest.raises(ValueError, match="leave out --text-encoder and --glimpses"):
        convert(tmp_path, tmp_path / "out", glimpses=3)
    with pytest.raises(ValueError, match="leave out --dictionary"):
        convert(tmp_path, tmp_path / "out", dictionary=tmp_path / "dictionary.pkl")
    with pytest.raises(ValueError, match="leave out --half"):
        convert(write_hdf5(tmp_path / "weights.h5", arrays), tmp_path / "out", half=True)


def test_kinds_are_recognised_by_parameter_names():
    """Complete files have no rival: no kind's names are another's."""
    names = [kind.names for kind in legacy_formats()]
    assert len(set(names)) == len(names)


def test_slow_text_encodings_are_never_called(tmp_path):
    text = "".join(chr(0x4E00 + n % 20_000) for n in range(60_000)).encode()  # Punycode takes minutes for it
    called = b"\x80\x02c_codecs\nencode\n(X" + len(text).to_bytes(4, "little") + text + b"X\x08\0\0\0punycodetR."
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("archive/data.pkl", called)
        archive.writestr("archive/version", "3\n")
    ended = run_limited("convert", "a.pth", "--out", "out", cwd=tmp_path, cpu=10)
    assert ended.status == 2
    assert "refused: it asks for _codecs.encode" in ended.err
