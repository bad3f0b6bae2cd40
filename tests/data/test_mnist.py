"""Test reading, verifying and downloading MNIST's files."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import threading

import pytest
import torch

from cap2im.data import mnist as mnist_module
from cap2im.data.mnist import SHA256, cache_folder, download_mnist, load_mnist
from tests.real_data import data_folder

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def idx(*shape: int, fill: int = 1) -> bytes:
    size = 1
    for n in shape:
        size *= n
    return (0x0800 + len(shape)).to_bytes(4, "big") + b"".join(n.to_bytes(4, "big") for n in shape) + bytes([fill]) * size


@pytest.fixture
def folder(tmp_path):
    (tmp_path / IMAGES).write_bytes(idx(10_010, 28, 28))
    (tmp_path / f"{LABELS}.gz").write_bytes(gzip.compress(idx(10_010)))
    return tmp_path


def test_reads_plain_and_compressed_files_and_splits(folder):
    assert len(load_mnist("train", folder)) == 10
    assert len(load_mnist("validation", folder)) == 10_000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (IMAGES, None, "no train-images-idx3-ubyte and no train-images-idx3-ubyte.gz"),
        (IMAGES, idx(10_010, 28, 28)[:-5], "7847851 bytes uncompressed; its header announces 7847856"),
        (IMAGES, idx(10_010), "magic number 0x00000801; an IDX file of 3 axes of bytes has 0x00000803"),
        (IMAGES, b"\x00\x00\x08\x03\x00", "shorter than its header"),
        (IMAGES, b"", rf"{IMAGES}: empty; an IDX file of 3 axes of bytes was expected$"),
        (f"{LABELS}.gz", b"", rf"{LABELS}\.gz: empty; an IDX file of 1 axis of bytes was expected$"),
        (f"{LABELS}.gz", gzip.compress(b""), rf"{LABELS}\.gz: empty"),
        (IMAGES, gzip.compress(idx(10_010, 28, 28))[:50], "truncated or damaged gzip"),
        (IMAGES, idx(10_010, 8, 8), rf"{IMAGES}: images of 8 x 8; MNIST has 28 x 28$"),
        (IMAGES, idx(9, 28, 28), rf"{IMAGES} holds 9 images and .*{LABELS}\.gz 10010 labels; each image needs one$"),
        (f"{LABELS}.gz", gzip.compress(idx(10_010, fill=12)), rf"{LABELS}\.gz: labels up to 12; MNIST has 0 to 9$"),
    ],
    ids=lambda value: value if isinstance(value, str) else "content",  # that of gzip is another one every second
)
def test_damaged_files_are_named(folder, name, content, message):
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        load_mnist("train", folder)
    assert str(folder) in str(error.value)


def test_the_cache_needs_a_home_or_a_variable(monkeypatch, tmp_path):
    for name in ("CAP2IM_CACHE", "XDG_CACHE_HOME", "HOME", "USERPROFILE"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as for a user whom the system does not know
    with pytest.raises(ValueError, match="no home folder for downloads; set CAP2IM_CACHE to a folder"):
        cache_folder()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "cap2im"
    monkeypatch.setenv("CAP2IM_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path


def test_missing_folder(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        load_mnist("train", tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file: is a file, not a folder; it should hold the four MNIST files"):
        load_mnist("train", tmp_path / "file")


def test_a_folder_in_place_of_a_file(folder):
    (folder / IMAGES).rename(folder / f"{IMAGES}.gz")
    (folder / IMAGES).mkdir()
    assert len(load_mnist("train", folder)) == 10, "the file beside it serves"
    (folder / f"{LABELS}.gz").unlink()
    (folder / f"{LABELS}.gz").mkdir()
    with pytest.raises(ValueError, match=rf"{LABELS}\.gz: is a folder, not a file; no {LABELS} and no {LABELS}\.gz in {folder}$"):
        load_mnist("train", folder)


def test_files_without_digits(folder):
    (folder / IMAGES).write_bytes(idx(0, 28, 28))
    (folder / f"{LABELS}.gz").write_bytes(idx(0))
    with pytest.raises(ValueError, match=rf"{LABELS}\.gz: 0 labels"):
        load_mnist("train", folder)


def test_the_real_files():
    folder = data_folder() / "mnist"
    train, validation, test = (load_mnist(split, folder) for split in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (50_000, 10_000, 10_000)
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    everything = torch.cat([train.labels, validation.labels]).long().bincount().tolist()
    assert everything == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    for stem, expected in SHA256.items():
        assert hashlib.sha256(gzip.decompress((folder / f"{stem}.gz").read_bytes())).hexdigest() == expected


@pytest.fixture
def mirror(tmp_path):
    """A server on this machine that hands out the files of a folder."""
    served = tmp_path / "served"
    served.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(served))

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield served, f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()


def test_download_verifies_and_tries_the_next_mirror(mirror, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "cap2im")
    served, url = mirror
    right = gzip.compress(idx(3))
    monkeypatch.setattr(mnist_module, "SHA256", {"some-idx1-ubyte": hashlib.sha256(idx(3)).hexdigest()})
    (served / "some-idx1-ubyte.gz").write_bytes(right)
    cache = tmp_path / "cache"
    download_mnist(cache, (f"{url}nowhere/", url))
    assert (cache / "some-idx1-ubyte.gz").read_bytes() == right
    assert f"downloading {url}some-idx1-ubyte.gz" in caplog.text
    download_mnist(cache, ("http://127.0.0.1:9/",))  # nothing is fetched twice


@pytest.mark.parametrize("wrong", [gzip.compress(b"something else"), b"", gzip.compress(idx(3))[:-9]], ids=["other", "empty", "cut off"])
def test_a_wrong_download_is_refused_and_leaves_nothing(mirror, tmp_path, monkeypatch, wrong):
    served, url = mirror
    monkeypatch.setattr(mnist_module, "SHA256", {"some-idx1-ubyte": hashlib.sha256(idx(3)).hexdigest()})
    (served / "some-idx1-ubyte.gz").write_bytes(wrong)
    with pytest.raises(ValueError, match=r"cannot download some-idx1-ubyte .*--data"):
        download_mnist(tmp_path / "cache", (url,))
    assert not (tmp_path / "cache").exists()
