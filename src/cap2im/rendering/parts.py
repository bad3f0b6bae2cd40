r"""The parts of a drawing that `cap2im draw` writes.

A part is a function `files(drawings)` that yields file names and contents; it yields nothing where a drawing has nothing to show. To add a
part, write its function and add a line here: `"contact": Part("contact:files", r"contact\.png", "a contact sheet")`.

At least one file of a part names the model, by which `cap2im draw` knows its own folders: `save_drawings` adds it to PNG files; a file of
another format holds the JSON of `Drawing.provenance`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cap2im.rendering.drawing import Drawing


@dataclass(frozen=True)
class Part:
    """A part of a drawing.

    Attributes:
        function: "module:name" of its function in this package, imported when needed.
        names: regular expression of its file names, by which files of an earlier drawing are removed.
        description: of its files, for the help of `cap2im draw`.
    """

    function: str
    names: str
    description: str

    def files(self, drawings: Sequence[Drawing]) -> Iterable[tuple[str, bytes]]:
        """Return the file names and contents for the samples of one caption."""
        function: Callable[[Sequence[Drawing]], Iterable[tuple[str, bytes]]] = pkgutil.resolve_name(f"cap2im.rendering.{self.function}")
        return function(drawings)


PARTS = {
    "png": Part("grid:files", r"(?:sample-\d+(?:-\d+)?|grid)\.png", "pictures"),
    "gif": Part("gif:files", r"drawing\.gif", "an animation"),
    "attention": Part("attention:files", r"(?:attention|maps-\d+)\.png", "the attention over words"),
    "html": Part("page:files", r"drawing\.html", "an interactive page"),
}
