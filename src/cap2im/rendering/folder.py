"""The folder of a caption's drawing: its name, and the files in it."""

from __future__ import annotations

import io
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from cap2im.files import RESERVED_NAMES, sha256, write_atomically
from cap2im.rendering.drawing import Drawing, check_samples
from cap2im.rendering.images import png_bytes
from cap2im.rendering.parts import PARTS


def save_drawings(drawings: Sequence[Drawing], folder: str | Path, parts: Iterable[str] = PARTS) -> list[Path]:
    """Write the samples of one caption into a folder, in place of an earlier drawing there.

    Each file is replaced atomically, and not flushed to the disk. Files of the earlier drawing that the new one lacks are removed. PNG
    files without the name of the model get the first drawing's provenance.

    Args:
        drawings: samples of one caption by one model.
        folder: created if it is missing.
        parts: names of the parts to write.

    Returns:
        The written files, in the order of `PARTS`.

    Raises:
        ValueError: the drawings are not samples of one caption, or a part is unknown.
        OSError: the folder or a file cannot be written; the error names it.
    """
    check_samples(drawings)
    chosen = set(parts)
    if unknown := sorted(chosen - set(PARTS)):
        raise ValueError(f"unknown part {unknown[0]!r} of a drawing; choose from {', '.join(PARTS)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, part in PARTS.items():
        if name not in chosen:
            continue
        for file_name, content in part.files(drawings):
            stamped = _stamped(content, drawings[0]) if file_name.endswith(".png") else content
            write_atomically(folder / file_name, stamped, durable=False)  # flushing took a quarter of the time of 100 captions
            written.append(folder / file_name)
    for stale in set(_drawing_files(folder)).difference(written):
        stale.unlink()
    return written


def _stamped(png: bytes, drawing: Drawing) -> bytes:
    with Image.open(io.BytesIO(png)) as picture:
        return png if "model" in picture.info else png_bytes(picture, drawing.provenance)


def _drawing_files(folder: Path) -> list[Path]:
    pattern = re.compile("|".join(part.names for part in PARTS.values()))
    return sorted(path for path in folder.glob("*.*") if pattern.fullmatch(path.name) and path.is_file())


def drawing_model(folder: Path) -> str | None:
    """Return the model of the drawing in a folder: None without a drawing, "" if no file names the model."""
    files = _drawing_files(folder)
    for path in files:
        try:
            if path.suffix not in (".png", ".gif"):
                match = re.search(rb'"model": ?("(?:[^"\\]|\\.)*")', path.read_bytes())
                name = None if match is None else json.loads(match[1])
            else:
                with Image.open(path) as picture:
                    name = json.loads(picture.info["comment"])["model"] if path.suffix == ".gif" else picture.info.get("model")
        except (OSError, ValueError, KeyError, TypeError, SyntaxError, RecursionError, Image.DecompressionBombError):  # another program's
            continue
        if isinstance(name, str):
            return name
    return "" if files else None


def drawing_folder(caption: str, model: str, out: Path) -> Path:
    """Return the folder in `out` for a caption's drawing; it is neither a file nor holds a drawing by another model."""
    name = slug(caption)
    folder, number = out / name, 1
    while (folder.exists() and not folder.is_dir()) or drawing_model(folder) not in (None, model):
        folder = out / (f"{name}-by-{slug(model)}" if number == 1 else f"{name}-by-{slug(model)}-{number}")
        number += 1
    return folder


def slug(text: str) -> str:
    """Return a short name for a folder: lower-case ASCII letters, digits and hyphens, at most 60, valid on every file system.

    Texts that differ in more than case, spaces and a final full stop get different names. A hash is added if the letters do not suffice.
    """
    plain = " ".join(text.lower().split()).removesuffix(".").rstrip()
    name = re.sub(r"[^a-z0-9]+", "-", unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()).strip("-")
    if not plain:
        return "no-caption"
    if name == plain.replace(" ", "-") and len(name) <= 60 and name not in RESERVED_NAMES:
        return name
    short = name if len(name) <= 53 else name[:53].rsplit("-", 1)[0]
    return f"{short}-{sha256(plain.encode(errors='replace'))[:6]}".lstrip("-")
