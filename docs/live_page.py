"""Sphinx extension: the directive `live-page`, the page that draws with `PAGE_MODEL` in the browser.

Its content takes its place if onnxruntime-web is not in the cache: a build of the site needs no network.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from cap2im.export.page import export_page
from cap2im.export.runtime import cached_runtime, is_cached
from cap2im.loading import PAGE_MODEL
from cap2im.pipeline import Pipeline

FOLDER = "live"  # of the site
FRAME = """<iframe src="{folder}/index.html" title="Type a caption and watch it being drawn"
  style="width: 100%; height: 44rem; border: 1px solid var(--color-background-border); border-radius: 14px"></iframe>
"""


class LivePage(SphinxDirective):
    """A frame with the page, or the content of the directive."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the nodes."""
        if is_cached():
            return [nodes.raw("", FRAME.format(folder=FOLDER), format="html")]
        return self.parse_content_to_nodes()


def export(app: Any) -> None:
    """Write the page into the site."""
    if not is_cached():
        missing = f"onnxruntime-web is not in {cached_runtime()}; `cap2im export {PAGE_MODEL} --format page --out site` downloads it"
        sys.stderr.write(f"the front page is without the model that draws: {missing}\n")
        return
    folder = Path(app.outdir) / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    export_page(Pipeline.load(PAGE_MODEL), folder, words=20)


def setup(app: Any) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("live-page", LivePage)
    app.connect("builder-inited", export)
    return {"parallel_read_safe": True}
