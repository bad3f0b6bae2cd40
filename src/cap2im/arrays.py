"""Open files of arrays that people bring: HDF5, NumPy's `.npy` and `.npz`.

An HDF5 file may name other files of this machine, and a few bytes of any of these can say that they are terabytes. Every such file is
opened here: what leads elsewhere is refused, and what an array says of its size is compared with the size of its file.
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

MOST_GROWTH = 100  # bytes of arrays for each byte of their file; zeros compress a thousandfold, weights and pictures hardly
ROOM = 2**24  # bytes of arrays that any file may hold
MOST_NAMES = 100_000


def most_bytes(path: Path) -> int:
    """Return how many bytes the arrays of a file may have."""
    return MOST_GROWTH * path.stat().st_size + ROOM


def open_hdf5(path: Path, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Open the datasets of an HDF5 file, which stay on disk until they are read.

    Args:
        path: of the file.
        names: of the datasets that are needed, None for everything in the file. Groups are not entered.

    Returns:
        `h5py.Dataset` of numbers, by name; a needed name that the file lacks is left out.

    Raises:
        ValueError: damaged or no HDF5 file, h5py is not installed, or something in it is a group, a link, in another file (external
            storage, virtual datasets), no array of numbers, was never written, or is far larger than the file.
    """
    check_regular_file(path)
    require(f"{path}: HDF5", "legacy", "h5py")
    import h5py

    try:
        file = h5py.File(path, "r")
        if len(file) > MOST_NAMES:
            raise ValueError(f"holds {len(file):,} arrays; at most {MOST_NAMES:,} are read")
        datasets, total, most = {}, 0, most_bytes(path)
        for name in file if names is None else [name for name in names if name in file]:
            datasets[name] = dataset = _own_dataset(h5py, file, name)
            chunk = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize  # which is unpacked as a whole
            total += max(dataset.nbytes, chunk)
            if total > most:
                size = f"with {shortened(name)} says that it has {total:,} bytes of arrays"
                raise ValueError(f"{size}; at most {most:,} are read from a file of its size")
    except Exception as error:  # h5py raises what a damaged file happens to cause: OSError, RuntimeError, KeyError, TypeError and others
        raise ValueError(f"{path}: damaged, or not the arrays that were expected: {shortened(_line(error), 300)}") from None
    return datasets


def _own_dataset(h5py: Any, file: Any, name: str) -> Any:
    """Return a dataset of numbers that are in the file itself."""
    link = file.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{shortened(name)} is no array of numbers but a link, and links are not followed")
    item = file[name]
    if not isinstance(item, h5py.Dataset):
        raise ValueError(f"{shortened(name)} is no array of numbers but a group")
    if item.external or item.is_virtual:
        raise ValueError(f"{shortened(name)} is no array of numbers but refers to other files, which are not read")
    if item.dtype.kind not in "fiu" or item.shape is None:
        raise ValueError(f"{shortened(name)} is no array of numbers")
    stored = item.id.get_storage_size()
    if item.nbytes and (not stored or (item.chunks is None and stored < item.nbytes)):
        raise ValueError(f"{shortened(name)} says that it has {item.nbytes:,} bytes, and {stored:,} of them were written")
    return item


def open_npy(path: Path) -> np.ndarray[Any, Any]:
    """Map an array of numbers of a `.npy` file, which stays on disk.

    Raises:
        ValueError: damaged, Python objects or records, or the file is shorter than its header says.
    """
    check_regular_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a size that overflows
            array = np.load(path, mmap_mode="c", allow_pickle=False)
    except Exception as error:  # NumPy parses the header as Python code, which raises whatever the header causes
        raise ValueError(f"{path}: not a NumPy array of numbers: {shortened(_line(error), 200)}") from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError(f"{path}: not a NumPy array of numbers: an archive of several (.npz)")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{path}: not a NumPy array of numbers: its type is {shortened(str(array.dtype))}")
    return array


def read_npz(path: Path, names: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Read those of the named arrays that a `.npz` archive holds; nothing else in it is read.

    Raises:
        ValueError: damaged, Python objects, or the arrays are far larger than the file.
    """
    check_regular_file(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("a single array (.npy)")
            assert archive.zip is not None  # it is open
            held = [name for name in names if name in archive.files]
            sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.zip.infolist()}
            if (total := sum(sizes[name] for name in held)) > (most := most_bytes(path)):
                raise ValueError(f"it says that it has {total:,} bytes of arrays; at most {most:,} are read from a file of its size")
            for name in held:
                _check_header(archive.zip, name, sizes[name])
            return {name: archive[name] for name in held}
    except Exception as error:  # zipfile, zlib and NumPy each have their own
        raise ValueError(f"{path}: not a NumPy archive of numbers: {shortened(_line(error), 200)}") from None


def _check_header(archive: zipfile.ZipFile, name: str, size: int) -> None:
    """Raise ValueError where an array says that it is larger than its member of the archive: its memory is taken before it is read."""
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0}.get(version, np.lib.format.read_array_header_2_0)
        shape, _, dtype = read_header(file)
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"{name} says that it has shape {shape}, and has {size:,} bytes")


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
