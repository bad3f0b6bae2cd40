"""Statistics of the real images of a split for FID, computed once and stored beside the dataset."""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cap2im.files import LARGEST_DOCUMENT, atomic_path, check_regular_file, sha256
from cap2im.metrics.distributed import ProcessGroup
from cap2im.metrics.fid import Statistics

FOLDER = "image-statistics"  # beside a dataset's shards
logger = logging.getLogger(__name__)


def stored_statistics(folder: Path, about: Mapping[str, Any], measure: Callable[[], Statistics], processes: ProcessGroup) -> Statistics:
    """Read statistics from their file, or measure and store them, in the layout of pytorch-fid (a collective call).

    Args:
        folder: of the files.
        about: everything that decides the numbers, as JSON values; the name of the file is its checksum.
        measure: returns the statistics of all processes' pictures.
        processes: share the work.
    """
    path = folder / f"{sha256(json.dumps(about, sort_keys=True).encode())[:16]}.npz"
    stored = read_statistics(path)
    if bool(processes.all_gather(torch.tensor([stored is not None])).all()) and stored is not None:
        return stored
    statistics = measure()
    if processes.is_main_process:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as draft, draft.open("wb") as file:
                mean, covariance = statistics.mean.numpy(), statistics.covariance.numpy()
                np.savez(file, mu=mean, sigma=covariance, count=statistics.count, about=json.dumps(about))
        except OSError as error:  # the statistics are valid without their file
            logger.warning("%s: %s; the statistics will be measured again", error.filename or path, error.strerror or error)
    return statistics


def read_statistics(path: Path) -> Statistics | None:
    """Read statistics from a file; return None if it is missing or damaged, as they can be measured again."""
    try:
        check_regular_file(path)
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > LARGEST_DOCUMENT:
                return None
        with np.load(path, allow_pickle=False) as file:
            count, mean, covariance = int(file["count"]), torch.from_numpy(file["mu"]), torch.from_numpy(file["sigma"])
    except Exception:  # zipfile, zlib and NumPy raise different ones
        return None
    if count < 2 or mean.dtype != torch.float64 or covariance.dtype != torch.float64 or covariance.shape != mean.shape * 2:
        return None
    return Statistics(count, mean, covariance * (count - 1))
