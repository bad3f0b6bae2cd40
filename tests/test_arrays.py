"""Files of arrays: only arrays inside the file are read; references and oversized declarations are refused in one line."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cap2im.arrays import open_hdf5, open_npy, read_npz

h5py = pytest.importorskip("h5py", reason="legacy files need h5py")


def in_another_file(file, folder: Path) -> None:
    (folder / "secret").write_bytes(bytes(40))
    file.create_dataset("a", (10,), "f", external=[(str(folder / "secret"), 0, 40)])


def virtual(file, folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["b"] = np.zeros(10, "f")
    layout = h5py.VirtualLayout((10,), "f")
    layout[:] = h5py.VirtualSource(folder / "other.h5", "b", (10,))
    file.create_virtual_dataset("a", layout)


def group_in_itself(file, _: Path) -> None:
    group = file.create_group("a")
    group["a"] = group


def huge_chunk(file, _: Path) -> None:
    file.create_dataset("a", (10,), "f8", maxshape=(None,), chunks=(2**27,), compression="gzip")[:] = 1


HOSTILE = {
    "external storage": (in_another_file, "a refers to other files"),
    "virtual dataset": (virtual, "a refers to other files"),
    "external link": (lambda f, _: f.__setitem__("a", h5py.ExternalLink("other.h5", "a")), "a is a link"),
    "soft link": (lambda f, _: f.__setitem__("a", h5py.SoftLink("/a")), "a is a link"),
    "group in itself": (group_in_itself, "a is a group"),
    "never written": (lambda f, _: f.create_dataset("a", (2**20, 2**10), "f"), "4,294,967,296 bytes, of which 0 are written"),
    "never written, in chunks": (lambda f, _: f.create_dataset("a", (2**40,), "f", chunks=(2**20,)), "of which 0 are written"),
    "zeros": (lambda f, _: f.create_dataset("a", data=np.zeros((3000, 3000), "f"), compression="gzip"), "36,000,000 bytes of arrays"),
    "huge chunk": (huge_chunk, "1,073,741,824 bytes of arrays; at most"),
    "text": (lambda f, _: f.create_dataset("a", data="text"), "a is not an array of numbers"),
    "records": (lambda f, _: f.create_dataset("a", (9,), "i4,f8"), "a is not an array of numbers"),
    "nothing": (lambda f, _: f.create_dataset("a", data=h5py.Empty("f")), "a is not an array of numbers"),
    "long name": (lambda f, _: f.create_dataset("x" * 60_000, data="text"), "xxx… is not an array of numbers"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_hdf5_is_refused(tmp_path, case):
    write, message = HOSTILE[case]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write(file, tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        open_hdf5(tmp_path / "a.h5")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_hdf5_arrays_stay_on_disk_until_read(tmp_path):
    values = np.arange(6, dtype="f4").reshape(2, 3)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = values
        file.create_dataset("b", data=values, compression="gzip", chunks=(1, 3))
        file.create_dataset("empty", (0, 3), "f")
        file["link"] = h5py.SoftLink("/a")
    datasets = open_hdf5(tmp_path / "a.h5", ["a", "b", "empty", "lacking"])
    assert list(datasets) == ["a", "b", "empty"]
    assert (datasets["a"][1] == values[1]).all()
    assert (datasets["b"][...] == values).all()


def header(shape: tuple[int, ...], descr: object = "<f4") -> bytes:
    data = io.BytesIO()
    np.lib.format.write_array_header_1_0(data, {"descr": descr, "fortran_order": False, "shape": shape})
    return data.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        header((2**40, 4)),
        header((-3, 4)) + bytes(48),
        header((2**62, 2**62)),
        header((2,), [("a", "<f4")]) + bytes(8),
        header((1,), "|O") + bytes(8),
        b"\x93NUMPY\x01\x00\x28\x23" + b"[" * 9000,
        b"\x93NUMPY\x01\x00\x10\x00{'descr':'<f4'} ",
        b"\x80\x02K\x01.",
    ],
)
def test_damaged_npy_is_refused(tmp_path, data):
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.npy: not a NumPy array of numbers: ") as error:
        open_npy(tmp_path / "a.npy")
    assert "\n" not in str(error.value)


def test_fortran_order_is_read(tmp_path):
    array = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(open_npy(tmp_path / "a.npy"), array)


def test_npz_bombs_are_refused(tmp_path):
    np.savez_compressed(tmp_path / "zeros.npz", a=np.zeros((3000, 3000), "f"))
    with pytest.raises(ValueError, match="36,000,128 bytes of arrays; at most"):
        read_npz(tmp_path / "zeros.npz", ["a"])
    assert read_npz(tmp_path / "zeros.npz", ["b"]) == {}
    with zipfile.ZipFile(tmp_path / "lying.npz", "w") as archive:
        archive.writestr("a.npy", header((2**30, 4)))
    with pytest.raises(ValueError, match=r"a declares shape \(1073741824, 4\)"):
        read_npz(tmp_path / "lying.npz", ["a"])


@pytest.mark.parametrize("read", [open_hdf5, open_npy, lambda path: read_npz(path, [])])
def test_special_files_are_refused(tmp_path, read):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match="fifo: is a FIFO, and a file is needed"):
        read(tmp_path / "fifo")
    with pytest.raises(ValueError, match="is a folder, and a file is needed"):
        read(tmp_path)
    with pytest.raises(ValueError, match="/dev/zero: is a device, and a file is needed"):
        read(Path("/dev/zero"))
