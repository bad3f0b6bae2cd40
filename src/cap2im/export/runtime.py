"""onnxruntime-web, which draws in a browser: from a folder, the cache or a verified download by npm."""

from __future__ import annotations

import logging
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from cap2im.data.mnist import cache_folder
from cap2im.files import read_bytes, sha256, write_atomically

logger = logging.getLogger(__name__)

PACKAGE = "onnxruntime-web@1.30.0"  # of npm
SCRIPT, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"  # the smallest build: WebAssembly on the processor
SHA256 = {
    SCRIPT: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
DOWNLOAD_MB = 33
LARGEST_FILE = 32 * 2**20  # bytes


def cached_runtime() -> Path:
    """Return the cache's folder of the package, which may not exist."""
    return cache_folder() / PACKAGE.replace("@", "-")


def is_cached() -> bool:
    """Return whether the cache has the files, so that no download is needed."""
    return all((cached_runtime() / "dist" / name).is_file() for name in SHA256)


def load_runtime(folder: Path | None = None) -> dict[str, bytes]:
    """Load the script and the WebAssembly of onnxruntime-web, verified by SHA-256.

    Args:
        folder: the unpacked npm package; None takes that of the cache, after a download by npm if it is not there.

    Returns:
        the files of `SHA256`.

    Raises:
        ValueError: a file is missing or another one than expected, or npm is missing or fails.
        OSError: the cache cannot be written.
    """
    if folder is None:
        folder = cached_runtime()
        if not is_cached():
            _download(folder)
    files = {}
    for name, expected in SHA256.items():
        path = folder / "dist" / name
        if not path.is_file():
            raise ValueError(f"{path}: no such file; {folder} should be the unpacked npm package {PACKAGE}")
        files[name] = _verified(read_bytes(path, LARGEST_FILE), path, expected)
    return files


def _verified(content: bytes, path: Path, expected: str) -> bytes:
    if (checksum := sha256(content)) != expected:
        raise ValueError(f"{path}: SHA-256 {checksum}, expected {expected}, that of {PACKAGE}")
    return content


def _download(folder: Path) -> None:
    """Download the package by npm, which knows the user's registry and proxy, and write its needed files into a folder."""
    npm, otherwise = shutil.which("npm"), f"give the unpacked npm package {PACKAGE} with --runtime"
    if npm is None:
        raise ValueError(f"{PACKAGE} is not in {folder}, and npm, which downloads it, is not installed; {otherwise}")
    logger.info("downloading %s (%d MB) with npm to %s", PACKAGE, DOWNLOAD_MB, folder)
    with tempfile.TemporaryDirectory() as temporary:
        done = subprocess.run([npm, "pack", PACKAGE, "--pack-destination", temporary], capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[0]
            raise ValueError(f"npm cannot download {PACKAGE} ({reason}); {otherwise}")
        (archive,) = Path(temporary).iterdir()
        files = {}
        with tarfile.open(archive) as package:
            for name, expected in SHA256.items():
                path = f"package/dist/{name}"
                member = package.extractfile(path) if path in package.getnames() else None
                files[name] = _verified(b"" if member is None else member.read(LARGEST_FILE + 1), archive / name, expected)
    (folder / "dist").mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomically(folder / "dist" / name, content)
