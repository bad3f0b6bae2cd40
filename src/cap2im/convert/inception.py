"""Published weights of Inception-v3, from a path, the cache, or a verified download into the cache."""

from __future__ import annotations

import http.client
import logging
import os
import urllib.request
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from cap2im.convert.weight_files import read_tensors
from cap2im.data.mnist import cache_folder
from cap2im.files import explain, file_sha256, naming
from cap2im.models.inception import Inception, InceptionVariant

logger = logging.getLogger(__name__)


class WeightFile(NamedTuple):
    """The URL and SHA-256 of a weight file."""

    url: str
    sha256: str


WEIGHT_FILES: dict[InceptionVariant, WeightFile] = {
    "imagenet": WeightFile(
        "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth",
        "0cc3c7bd75056d25e46cba549dc184522069b81e9787eff6df84f397bd52a5ef",
    ),
    "fid": WeightFile(
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    ),
}
OPTION: dict[InceptionVariant, str] = {"imagenet": "--set train.inception=FILE", "fid": "--inception FILE"}
AUXILIARY = "AuxLogits."  # torchvision's second classifier, used only in training
BYTES_AT_ONCE = 2**20
LARGEST_DOWNLOAD = 256 * 2**20  # bytes; the weights have 109 and 96 million


def fetch(url: str, target: Path, sha256: str, option: str = "its path") -> None:
    """Download a file with a known SHA-256. An interrupted download is resumed.

    Args:
        url: the file to download.
        target: the path to write.
        sha256: of the whole file.
        option: the option that replaces the download, for the error message.

    Raises:
        ValueError: the download fails, or has another SHA-256 and was removed.
        OSError: the file cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    here = part.stat().st_size if part.is_file() else 0
    if here and _wrong(part, sha256) is None:  # complete, but not yet renamed
        os.replace(part, target)
        return
    logger.info("downloading %s to %s", url, target.parent)
    request = urllib.request.Request(url, headers={"Range": f"bytes={here}-"} if here else {})
    advice = f"give {option}, or put the file into {target.parent}"
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    try:
        with urllib.request.urlopen(request, timeout=60) as response, Progress(*columns, console=Console(stderr=True)) as bar:
            here = here if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
            promised = response.headers.get("Content-Length")
            task = bar.add_task(target.name, total=None if promised is None else here + int(promised), completed=here)
            with naming(part), part.open("ab" if here else "wb") as file:
                while block := response.read(BYTES_AT_ONCE):
                    file.write(block)
                    bar.advance(task, len(block))
                    if file.tell() > LARGEST_DOWNLOAD:
                        raise ValueError(f"{url}: more than {LARGEST_DOWNLOAD:,} bytes; {part} has what was downloaded")
    except OSError as error:
        if error.filename == str(part):  # a disk error, not a network error
            raise
        raise ValueError(f"cannot download {url}: {explain(error)}; {advice}") from None
    except http.client.HTTPException as error:
        raise ValueError(f"cannot download {url}: {explain(error)}; {advice}") from None
    if (problem := _wrong(part, sha256)) is not None:
        part.unlink()
        raise ValueError(f"{url}: {problem}")
    os.replace(part, target)


def _wrong(path: Path, sha256: str) -> str | None:
    """Return a message if a file has another SHA-256, else None."""
    actual = file_sha256(path)
    return None if actual == sha256 else f"SHA-256 is {actual}, expected {sha256}"


def find_inception(variant: InceptionVariant, path: str | Path = "") -> Path:
    """Return the file of the published weights: `path`, or the cached file if `path` is empty, downloaded if missing.

    Raises:
        ValueError: `path` does not exist, the download fails, or the cached file has another SHA-256.
    """
    if path:
        if not Path(path).is_file():
            raise ValueError(f"{path}: no such file; expected the weights of {WEIGHT_FILES[variant].url}")
        return Path(path)
    url, sha256 = WEIGHT_FILES[variant]
    target = cache_folder() / "inception" / url.rpartition("/")[2]
    if not target.is_file():
        fetch(url, target, sha256, OPTION[variant])
    elif (problem := _wrong(target, sha256)) is not None:
        raise ValueError(f"{target}: {problem}; remove it to download it again")
    return target


def load_inception(variant: InceptionVariant, path: str | Path = "", *, classifies: bool = True) -> tuple[Inception, str]:
    """Return a frozen Inception-v3 with published weights, and the SHA-256 of their file.

    Args:
        variant: the network; see `cap2im.models.inception`.
        path: the weight file; empty for the cache or a download.
        classifies: whether to include the classification layer.

    Raises:
        ValueError: as `find_inception`, or the file is damaged or has the weights of another network.
    """
    file = find_inception(variant, path)
    tensors = {name: value for name, value in read_tensors(file).items() if not name.startswith(AUXILIARY)}
    if not classifies:
        tensors = {name: value for name, value in tensors.items() if not name.startswith("fc.")}
    model = Inception(variant, classifies=classifies)
    counters = {name: value for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")}  # missing in older files
    try:
        model.load_state_dict(counters | tensors)
    except RuntimeError as error:
        raise ValueError(f"{file}: not the weights of this Inception-v3: {' '.join(str(error).split())[:300]}") from None
    return model.eval().requires_grad_(False), file_sha256(file)
