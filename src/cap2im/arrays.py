"""Open arrays from outside: HDF5 and NumPy's `.npy` and `.npz`.

An HDF5 file can refer to other files of the machine, and a file of a few bytes can declare arrays of terabytes. References are refused
here, and the declared size of an array is compared with the size of its file.
"""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cap2im.extras import require
from cap2im.files import check_regular_file, shortened

MAX_RATIO = 100  # bytes of arrays per byte of their file; zeros compress a thousandfold, weights and pictures hardly
MIN_LIMIT = 2**24  # bytes of arrays that any file may hold
MAX_NAMES = 100_000


def max_bytes(path: Path) -> int:
    """Return the limit on the bytes of the arrays of a file."""
    return MAX_RATIO * path.stat().st_size + MIN_LIMIT


def open_hdf5(path: Path, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Open the datasets of an HDF5 file, which stay on disk until they are read.

    Args:
        path: Of the file.
        names: Of the datasets to open; None opens all. Groups are not entered.

    Returns:
        `h5py.Dataset` of numbers by name, without names that the file lacks.

    Raises:
        ValueError: The file is damaged or not HDF5, h5py is not installed, or a dataset is a group, a link, in another file (external
            storage, virtual datasets), not an array of numbers, not written, or far larger than the file.
    """
    check_regular_file(path)
    require(f"{path}: HDF5", "legacy", "h5py")
    import h5py

    try:
        file = h5py.File(path, "r")
        if len(file) > MAX_NAMES:
            raise ValueError(f"holds {len(file):,} arrays; at most {MAX_NAMES:,} are read")
        datasets, total, limit = {}, 0, max_bytes(path)
        for name in file if names is None else [name for name in names if name in file]:
            datasets[name] = dataset = _own_dataset(h5py, file, name)
            chunk = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize  # a chunk is unpacked as a whole
            total += max(dataset.nbytes, chunk)
            if total > limit:
                size = f"with {shortened(name)} it declares {total:,} bytes of arrays"
                raise ValueError(f"{size}; at most {limit:,} are read from a file of its size")
    except Exception as error:  # damaged files make h5py raise OSError, RuntimeError, KeyError, TypeError and others
        raise ValueError(f"{path}: damaged, or unexpected arrays: {shortened(_line(error), 300)}") from None
    return datasets


def _own_dataset(h5py: Any, file: Any, name: str) -> Any:
    """Return a dataset of numbers that are stored in the file itself."""
    link = file.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{shortened(name)} is a link, and links are not followed")
    item = file[name]
    if not isinstance(item, h5py.Dataset):
        raise ValueError(f"{shortened(name)} is a group, not an array of numbers")
    if item.external or item.is_virtual:
        raise ValueError(f"{shortened(name)} refers to other files, which are not read")
    if item.dtype.kind not in "fiu" or item.shape is None:
        raise ValueError(f"{shortened(name)} is not an array of numbers")
    stored = item.id.get_storage_size()
    if item.nbytes and (not stored or (item.chunks is None and stored < item.nbytes)):
        raise ValueError(f"{shortened(name)} declares {item.nbytes:,} bytes, of which {stored:,} are written")
    return item


def open_npy(path: Path) -> np.ndarray[Any, Any]:
    """Map the array of numbers of a `.npy` file, without reading it.

    Raises:
        ValueError: The file is damaged or truncated, or holds Python objects or records.
    """
    check_regular_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes that overflow
            array = np.load(path, mmap_mode="c", allow_pickle=False)
    except Exception as error:  # NumPy parses the header as a Python literal, which can raise any error
        raise ValueError(f"{path}: not a NumPy array of numbers: {shortened(_line(error), 200)}") from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError(f"{path}: not a NumPy array of numbers: an archive of several (.npz)")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{path}: not a NumPy array of numbers: its type is {shortened(str(array.dtype))}")
    return array


def read_npz(path: Path, names: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Read named arrays of a `.npz` archive, without names that it lacks; nothing else is read.

    Raises:
        ValueError: The file is damaged, holds Python objects, or its arrays are far larger than the file.
    """
    check_regular_file(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("a single array (.npy)")
            assert archive.zip is not None  # it is open
            present = [name for name in names if name in archive.files]
            sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.zip.infolist()}
            if (total := sum(sizes[name] for name in present)) > (limit := max_bytes(path)):
                raise ValueError(f"it declares {total:,} bytes of arrays; at most {limit:,} are read from a file of its size")
            for name in present:
                _check_header(archive.zip, name, sizes[name])
            return {name: archive[name] for name in present}
    except Exception as error:  # zipfile, zlib and NumPy raise errors of their own
        raise ValueError(f"{path}: not a NumPy archive of numbers: {shortened(_line(error), 200)}") from None


def _check_header(archive: zipfile.ZipFile, name: str, size: int) -> None:
    """Check that an array is not larger than its member of the archive: its memory would be allocated before it is read.

    Raises:
        ValueError: It is.
    """
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0}.get(version, np.lib.format.read_array_header_2_0)
        shape, _, dtype = read_header(file)
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"{name} declares shape {shape}, but has {size:,} bytes")


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
