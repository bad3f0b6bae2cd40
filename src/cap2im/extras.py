"""Optional dependencies, which the extras of `pyproject.toml` install."""

from __future__ import annotations

from importlib.util import find_spec


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
