"""Export a model as a folder of static files: the web page, which draws in the browser.

The page is the one of `cap2im serve`, with an `api.js` that calls a worker instead of a server. It opens from any web host and from a file.
All of its files are scripts therefore: browsers let pages that were opened from a file load scripts, but no modules, workers or data.
"""

from __future__ import annotations

import base64
import gzip
import json
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cap2im.data.tokenizer import character_tables
from cap2im.export.format import MODEL, OnnxModel
from cap2im.export.onnx import check_new_folder, export_onnx
from cap2im.export.runtime import PACKAGE, SCRIPT, WASM, load_runtime
from cap2im.files import atomic_folder, read_json
from cap2im.pipeline import Pipeline
from cap2im.rendering.page import DATA_ELEMENT, PAGE_FILES, page_template, viewer_file

WORKER_FILES = ("noise.js", "vocabulary.js", "images.js", "worker.js")
MOST_EXAMPLES = 20  # captions
SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' data: 'wasm-unsafe-eval'",  # the script of onnxruntime-web is a data URI
        "worker-src blob:",
        "style-src 'self'",
        "img-src 'self' data:",  # glimpses are data URIs
        "base-uri 'none'",
        "form-action 'none'",
    )
)


def export_page(pipeline: Pipeline, out: Path, *, words: int = 32, runtime: Path | None = None) -> Path:
    """Write a page that draws with a model in the browser.

    Args:
        pipeline: a model without a sharpener.
        out: new folder; index.html is the page.
        words: L, the longest caption that the page reads.
        runtime: see `cap2im.export.runtime.load_runtime`.

    Returns:
        the folder.

    Raises:
        ValueError: see `cap2im.export.onnx.export_onnx` and `cap2im.export.runtime.load_runtime`; or the model's tokenizer is "treebank".
    """
    check_new_folder(out)
    if pipeline.vocabulary.tokens == "treebank":
        raise ValueError(f"{pipeline.name}: its vocabulary has the tokenizer treebank; a page has released and attngan")
    files = load_runtime(runtime)
    with TemporaryDirectory() as temporary:
        return write_page(export_onnx(pipeline, Path(temporary) / "onnx", words=words), out, files)


def write_page(exported: Path, out: Path, runtime: dict[str, bytes]) -> Path:
    """Write the page of a model that was exported as ONNX graphs.

    Args:
        exported: folder that `export_onnx` wrote.
        out: new folder.
        runtime: the files of onnxruntime-web.

    Returns:
        the folder.
    """
    about = read_json(exported / MODEL, OnnxModel)
    before, after = page_template().split(DATA_ELEMENT)
    opening, closing = DATA_ELEMENT.split("null")
    model = {
        "about": about.model_copy(update={"examples": about.examples[:MOST_EXAMPLES]}).model_dump(),
        "characters": character_tables(),
        "graphs": list(about.sha256),
        "template": {"before": before + opening, "after": closing + after},
        "worker": "const cap2im = {};\n" + "".join(own_file(name) for name in WORKER_FILES),
    }
    graphs = {name: _packed(_optimised(exported / name)) for name in about.sha256}
    licence = f"/* {PACKAGE}\n\n{own_file('onnxruntime-web.txt')}*/\n"
    page = {name: viewer_file(name) for name in PAGE_FILES}
    index = page.pop("index.html")
    page |= {
        "api.js": own_file("api.js"),
        "model.js": _adding("cap2im.exported", {"model": model}),
        "graphs.js": _adding("cap2im.exported.files", graphs),
        "runtime.js": licence + _adding("cap2im.exported.files", {"ort.mjs": _base64(runtime[SCRIPT]), "ort.wasm": _packed(runtime[WASM])}),
    }
    with atomic_folder(out) as folder:
        (folder / "page").mkdir()
        for name, text in page.items():
            (folder / "page" / name).write_text(text, "utf-8")
        (folder / "index.html").write_text(_with_policy(index), "utf-8")
    return out


def own_file(name: str) -> str:
    """Return the text of a file of the folder `page` beside this module."""
    return resources.files("cap2im.export").joinpath("page", name).read_text(encoding="utf-8")


def _optimised(graph: Path) -> bytes:
    """Return a graph with onnxruntime's basic optimisations, which would take a quarter of the page's loading time."""
    import onnxruntime

    with TemporaryDirectory() as temporary:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(temporary) / graph.name)
        options.log_severity_level = 3  # errors
        onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return Path(options.optimized_model_filepath).read_bytes()


def _packed(content: bytes) -> str:
    return _base64(gzip.compress(content, mtime=0))


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _adding(target: str, values: dict[str, Any]) -> str:
    """Return a script that adds values to an object."""
    return f"Object.assign({target}, {json.dumps(values, separators=(',', ':'))});\n"


def _with_policy(index: str) -> str:
    """Add the Content-Security-Policy, which forbids every other address, to the page."""
    first = '<meta charset="utf-8">\n'
    assert index.count(first) == 1
    return index.replace(first, f'{first}<meta http-equiv="Content-Security-Policy" content="{SECURITY_POLICY}">\n')
