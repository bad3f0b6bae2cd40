"""Drawings in a notebook: the interactive viewer in a frame, over a picture.

The frame's document (`srcdoc`) decompresses the page of `cap2im.rendering.page`, which needs no network and no extension. The picture below
the frame is seen where frames or their scripts are removed: on GitHub, and in notebooks that are not trusted.
"""

from __future__ import annotations

import base64
import gzip
import html
from collections.abc import Sequence

from cap2im.rendering.drawing import Drawing, figure
from cap2im.rendering.images import enlarge, tile
from cap2im.rendering.page import page

FRAME_HEIGHT = 460  # pixels, until the viewer in the frame has set its own height

LOADER = """<script>(async () => {
const bytes = Uint8Array.from(atob("%s"), (c) => c.charCodeAt());
const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
document.open(); document.write(text); document.close();
})();</script>"""


def viewer_frame(drawings: Sequence[Drawing]) -> str:
    """Return HTML with the viewer of samples of one caption.

    Raises:
        ValueError: the drawings are not samples of one caption.
    """
    document = page(drawings).replace('<html lang="en">', '<html lang="en" class="notebook">')
    content = base64.b64encode(gzip.compress(document.encode(), mtime=0)).decode()
    picture = figure(tile([enlarge(drawing.image, 1) for drawing in drawings]), drawings[0], [drawing.seed for drawing in drawings])
    return (
        f'<div style="display:grid">{picture}<iframe srcdoc="{html.escape(LOADER % content)}" title="cap2im" loading="lazy" '
        f'style="grid-area:1/1;width:100%;height:{FRAME_HEIGHT}px;border:0;z-index:1"></iframe></div>'
    )
