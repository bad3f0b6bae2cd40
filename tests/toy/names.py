"""A source of captioned images whose file names are their captions."""

from __future__ import annotations

from pathlib import Path

from cap2im.data.folder_listing import list_files
from cap2im.data.image_files import ImageFile
from cap2im.data.problems import Problem
from cap2im.data.readers import ReadOptions, SourceReader
from cap2im.data.records import CaptionedImage, Source


class NamesReader(SourceReader):
    """Reads a folder with a file `names.toy`: the picture `a-red-bus.jpg` has the caption "a red bus"."""

    folder_patterns = ("names.toy",)

    def read(self, path: Path, options: ReadOptions) -> Source:
        """List the pictures; one without a hyphen in its name has no caption."""
        listing = list_files(path)
        problems, records = [*listing.problems], []
        for picture in listing.pictures():
            if "-" in picture.stem:
                records.append(CaptionedImage(picture.stem, ImageFile(picture), (picture.stem.replace("-", " "),)))
            else:
                problems.append(Problem("image without captions", str(picture), "its name has no hyphen"))
        return Source({"train": records}, problems)
