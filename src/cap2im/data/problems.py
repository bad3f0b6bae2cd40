"""Problems of a source or dataset: things that are wrong with its files, and whether they lose data."""

from __future__ import annotations

from dataclasses import dataclass

# kind of problem -> whether data is lost
PROBLEMS = {
    "unreadable image": True,
    "unreadable file": True,
    "picture format not read": True,
    "picture outside the folder": True,
    "image without captions": True,
    "image without annotation": False,
    "caption without image": True,
    "misspelt metadata file": True,
    "misplaced metadata file": True,
    "unusable entry": True,
    "duplicate id": True,
    "ids of two types": False,
    "not a caption": True,
    "empty caption": False,
    "caption without words": True,
    "over-long caption": True,
    "words not separated": False,
    "wrong encoding": True,
    "split not used": True,
    "no training images": True,
    "misplaced split folder": False,
    "picture in no split": False,
    "column not used": False,
    "file not used": False,
    "linked folder": False,
    "duplicate across splits": False,
    "damaged file": True,
    "no transparency": True,
    "empty cut-out": True,
    "unnamed cut-out": True,
    "duplicate name": True,
}


def visible(text: str) -> str:
    """Escape invisible characters, line breaks and characters that UTF-8 cannot encode."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@dataclass(frozen=True, order=True)
class Problem:
    """One problem and the file that has it. Both texts are printable.

    Attributes:
        kind: a key of `PROBLEMS`.
        file: path, with a line or an entry if one is at fault.
        detail: explanation for the user.
    """

    kind: str
    file: str
    detail: str = ""

    def __post_init__(self) -> None:
        assert self.kind in PROBLEMS, self.kind
        for name in ("file", "detail"):
            object.__setattr__(self, name, visible(getattr(self, name)))

    def __str__(self) -> str:
        return f"{self.kind}: {self.file}" + (f": {self.detail}" if self.detail else "")
