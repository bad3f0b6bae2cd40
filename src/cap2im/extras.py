"""Optional dependencies: what the extras of `pyproject.toml` install, and a compiler."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path


def require(purpose: str, extra: str, *packages: str) -> None:
    """Check that the packages of an extra are installed.

    Args:
        purpose: What needs them, for the message.
        extra: A key of `project.optional-dependencies`.
        packages: Names to import.

    Raises:
        ValueError: A package is not installed.
    """
    if any(find_spec(package) is None for package in packages):
        raise ValueError(f'{purpose} needs more than the core: pip install "cap2im[{extra}]"')


def missing_compiler(device: str) -> str:
    """Return what `torch.compile` lacks on a type of device, in words; empty if it has everything."""
    if device != "cpu":
        return "" if find_spec("triton") else "the package triton"
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "cl" if sys.platform == "win32" else "g++")
    if shutil.which(compiler) is None:
        return f"a C++ compiler ({compiler} was not found)"
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return "" if headers.is_file() else f"Python's header files ({headers} does not exist)"
