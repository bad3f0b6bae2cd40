"""The exported page draws in a browser what the model draws: from a file, from a host, and without a network."""

# ruff: noqa: RUF001 - captions with look-alikes of ASCII

from __future__ import annotations

import base64
import functools
import http.server
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from onnx.numpy_helper import from_array
from PIL import Image

from cap2im.data.tokenizer import character_tables
from cap2im.data.vocabulary import Vocabulary
from cap2im.export import runtime
from cap2im.export.format import OnnxModel
from cap2im.export.noise import picture_noise
from cap2im.export.onnx_drawing import OnnxDrawer
from cap2im.export.page import export_page, own_file, write_page
from cap2im.files import file_sha256
from cap2im.pipeline import Pipeline
from cap2im.rendering.gif import gif
from cap2im.rendering.page import page_data
from tests.pages import BOTTOM, TOP, drawn, tabs, wait_until

FLOAT, INT64, BOOL = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.BOOL


# The runtime


@pytest.fixture(scope="module")
def runtime_files() -> dict[str, bytes]:
    """The files of onnxruntime-web in the cache. In CI they must be there: the README's command has downloaded them."""
    if not runtime.is_cached() and "CI" not in os.environ:
        pytest.skip("onnxruntime-web is not in the cache: `cap2im export aligndraw-mnist --format page --out site` downloads it")
    assert runtime.is_cached()
    return runtime.load_runtime()


def folder_of(files: dict[str, bytes], folder: Path) -> Path:
    """Write files as the unpacked npm package."""
    (folder / "dist").mkdir(parents=True)
    for name, content in files.items():
        (folder / "dist" / name).write_bytes(content)
    return folder


def test_runtime_of_a_folder_is_verified(tmp_path):
    with pytest.raises(ValueError, match=r"dist/ort\.wasm\.bundle\.min\.mjs: no such file; .* should be the unpacked npm package"):
        runtime.load_runtime(tmp_path)
    with pytest.raises(ValueError, match=r"min\.mjs: SHA-256 [0-9a-f]{64}, expected 11e64bd8[0-9a-f]{56}, that of onnxruntime-web@"):
        runtime.load_runtime(folder_of(dict.fromkeys(runtime.SHA256, b"another one"), tmp_path))


@pytest.fixture
def npm(monkeypatch, tmp_path) -> Callable[[dict[str, bytes]], None]:
    """Install a program `npm` that packs these files, and an empty cache."""
    monkeypatch.setenv("CAP2IM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    (tmp_path / "bin").mkdir()

    def install(files: dict[str, bytes]) -> None:
        with tarfile.open(tmp_path / "package.tgz", "w:gz", compresslevel=1) as archive:
            archive.add(folder_of(files, tmp_path / "packed"), "package")
        program = tmp_path / "bin" / "npm"
        program.write_text(f'#!/bin/sh\n[ "$1 $2 $3" = "pack {runtime.PACKAGE} --pack-destination" ] && cp {tmp_path}/package.tgz "$4"\n')
        program.chmod(0o755)

    return install


def test_runtime_is_downloaded_once(npm, runtime_files, caplog, monkeypatch):
    npm(runtime_files)
    with caplog.at_level("INFO"):
        assert runtime.load_runtime() == runtime_files
    assert "downloading onnxruntime-web@1.30.0 (33 MB) with npm to" in caplog.text
    monkeypatch.setenv("PATH", "")
    assert runtime.load_runtime() == runtime_files, "from the cache"


def test_other_downloads_are_refused(npm, monkeypatch):
    npm(dict.fromkeys(runtime.SHA256, b"another one"))
    with pytest.raises(ValueError, match="SHA-256"):
        runtime.load_runtime()
    assert not runtime.cached_runtime().exists()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="npm, which downloads it, is not installed; give the unpacked npm package"):
        runtime.load_runtime()


def test_runtime_is_for_pages_only(run, tmp_path):
    status, _, error = run("export", "aligndraw-mnist", "--runtime", str(tmp_path), "--out", "site")
    assert (status, error.count("\n")) == (2, 1)
    assert f"--runtime {tmp_path}: only for --format page" in error


# Scripts of the worker, by themselves


@pytest.fixture
def scripts(browser) -> Iterator[Any]:
    """An empty tab with the scripts that need no model."""
    tab = browser.new_page()
    tab.add_script_tag(content="const cap2im = {};" + "".join(own_file(name) for name in ("noise.js", "vocabulary.js", "images.js")))
    yield tab
    tab.close()


def test_noise_is_that_of_python(scripts):
    rng = random.Random(0)
    seeds = [0, 1, 2**31, 2**32 - 1, 2**32, 2**40 + 3, 2**53 - 17, *(rng.randrange(2**53) for _ in range(60))]
    drawn = scripts.evaluate(
        "(seeds) => seeds.map((seed) => [16, 37, 150].map((count) => [...cap2im.pictureNoise(seed, count)]))", list(map(float, seeds))
    )
    for seed, arrays in zip(seeds, drawn, strict=True):
        for array in arrays:
            assert np.abs(np.array(array) - picture_noise(seed, [len(array)])).max() < 2e-6, seed


# of an earlier version, with words in several forms
ODD = "<end> a café cafe\u0301s don’t 赤い 赤 車 of UNK ﬁsh the naïve i\u0307x x-ray rock'n'roll <eos> สวัสดี bus abc cab at ta ."
TRICKY = [
    *(
        "",
        " ",
        "...",
        "?!",
        "The Digit THREE is at the top",
        "the digt thre is at the lft bottm tpo ofthe digit",
        "UNK <end> <eos>",
        "abcd a b ba",
    ),
    *(
        "the cafe\u0301 of ca\u200bf\u00e9 \u2018dig\u00adt\u2019 at 赤",
        "赤い車 の bus",
        "don't DON’T don`t x-ray x‑ray x−ray",
        "ﬁsh ﬂower ＴＨＥ　３",
    ),
    *(
        "İX ΣΊΣΥΦΟΣ ς ẞ ǅ",
        "a\u0301\u0301\u0301 e" + "\u0301" * 50,
        "the\x1cdigit\x85three\x07",
        "🚌 bus 👩‍👩‍👧",
        "สวัสดี\u200bสวัสดี",
        "foo_bar",
    ),
    *(
        "it's 5€ + 3£ © ™ ½ Ⅷ ² x²",
        "«the» „bus“ ʻa",
        "a·b א׳ב a״b",
        "a\ufe0f b\u180b \u115f\u3164",
        "word" * 20,
        "rock’n’roll naive nai\u0308ve",
    ),
]
LETTERS = "abcdeidgtohr zé\u0301\u0308'’-‑.,!<>UNK_ 赤車いカ\u200b\u00adกข\u0e48ﬁＡ\u0345\u0130ςΣ5²½🚌\u200d\n\t\x1c"
READ = """([fields, characters, captions]) => {
  const vocabulary = new cap2im.Vocabulary(fields, characters);
  return captions.map((caption) => {
    const words = vocabulary.split(caption), unknown = vocabulary.unknownWords(words);
    let numbers = null;
    try { ({ numbers } = vocabulary.encode(caption, 200, false)); } catch {}
    return [words, unknown, unknown.map((word) => vocabulary.nearest(word)), numbers];
  });
}"""


def numbers_of(vocabulary: Vocabulary, caption: str) -> list[int] | None:
    try:
        return list(vocabulary.encode([caption])[0].numbers)
    except ValueError:
        return None


def test_captions_are_read_as_in_python(scripts):
    rng = random.Random(0)
    captions = TRICKY + ["".join(rng.choices(LETTERS, k=rng.randrange(1, 25))) for _ in range(300)]
    odd = Vocabulary(words=tuple(ODD.split()), aliases={"auto": "bus"}, unknown="UNK")
    bundled = [Pipeline.load(name).vocabulary for name in ("aligndraw-mnist", "aligndraw-flickr8k")]
    characters = character_tables()
    for vocabulary in (*bundled, odd, odd.model_copy(update={"tokens": "attngan", "unknown": None})):
        read = scripts.evaluate(READ, [vocabulary.model_dump(), characters, captions])
        for caption, got in zip(captions, read, strict=True):
            unknown = vocabulary.unknown_words(caption)
            nearest = [vocabulary.nearest(word) for word in unknown]
            assert got == [vocabulary.split(caption), unknown, nearest, numbers_of(vocabulary, caption)], caption


def test_animations_in_colour_are_gifs(scripts):
    y, x = np.mgrid[:20, :20]
    frames = [np.stack([12 * x, 12 * y, np.full_like(x, level)], axis=-1).astype(np.uint8) for level in (0, 90, 200)]
    made = scripts.evaluate(
        """(frames) => {
          const pictures = frames.map((data) => ({ width: 20, height: 20, colours: 3, data: Uint8Array.from(data) }));
          return [...cap2im.gif(pictures, frames.map(() => [5, 5, 10, 30]), "a comment")];
        }""",
        [frame.ravel().tolist() for frame in frames],
    )
    animation = Image.open(io.BytesIO(bytes(made)))
    assert (animation.n_frames, animation.size, animation.info["comment"]) == (3, (240, 240), b"a comment")
    for t, frame in enumerate(frames):
        animation.seek(t)
        shown = np.asarray(animation.convert("RGB")).astype(int)
        outline = (shown == (240, 90, 40)).all(axis=-1)
        assert outline[60, 60:121].all() == outline[60:, 120].all() == (t < 2), "the finished picture has no outline"
        error = np.abs(shown - frame.repeat(12, axis=0).repeat(12, axis=1)).max(axis=-1)
        assert error[~outline].max() <= 12, "one colour of 254 for two neighbours"


# The page of the bundled model


@pytest.fixture(scope="module")
def model() -> Pipeline:
    return Pipeline.load("aligndraw-mnist")


@pytest.fixture(scope="module")
def site(model, runtime_files, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    return export_page(model, folder / "site", words=12, runtime=folder_of(runtime_files, folder / "package"))


@pytest.fixture(scope="module")
def host(site) -> Iterator[str]:
    """A host that sends files and no headers of its own."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture
def open_page(browser) -> Iterator[Callable[..., Any]]:
    with tabs(browser) as opened:
        yield opened


def sheet_of(sample: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(sample["sheet"].partition(",")[2])))).astype(int)


def assert_same_drawings(got: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Compare data of the viewer: canvases within a grey level, attention and windows within rounding."""
    samples, expected = got.pop("samples"), json.loads(json.dumps(wanted)).pop("samples")
    assert got == {key: value for key, value in json.loads(json.dumps(wanted)).items() if key != "samples"}
    for one, other in zip(samples, expected, strict=True):
        assert [one[key] for key in ("seed", "columns", "maps")] == [other[key] for key in ("seed", "columns", "maps")]
        assert np.abs(sheet_of(one) - sheet_of(other)).max() <= 1, "grey level"
        for name, tolerance in (("attention", 2e-3), ("boxes", 0.05)):
            assert (one[name] is None) == (other[name] is None)
            assert one[name] is None or np.abs(np.array(one[name]) - other[name]).max() <= tolerance


DRAW = """async (request) => {
  const drawn = [], seen = [];
  for await (const { event, data } of cap2im.api.draw(request, new AbortController().signal)) {
    if (event === "drawn") drawn[data.result] = data.data;
    seen.push(event === "glimpse" ? [data.result, data.glimpse, data.samples.length] : event);
  }
  return [drawn, seen];
}"""
STOP = """async (request) => {
  const stopping = new AbortController();
  let glimpses = 0;
  try {
    for await (const { event } of cap2im.api.draw(request, stopping.signal)) if (event === "glimpse" && ++glimpses === 3) stopping.abort();
  } catch (error) {
    return [error.name, glimpses];
  }
}"""


def test_page_is_a_small_folder(site):
    files = [path for path in site.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 15_000_000
    assert "Copyright (c) Microsoft" in (site / "page" / "runtime.js").read_text("utf-8")
    with pytest.raises(ValueError, match="exists already; give a new or an empty folder"):
        export_page(Pipeline.load("aligndraw-mnist"), site)


def test_file_draws_what_python_draws(open_page, site, model):
    tab = open_page((site / "index.html").as_uri())
    for seed, captions in ((0, [TOP, "the digit 7 is at the bottom left of the image."]), (2**40 + 3, ["The digit zero"])):
        request = {"captions": captions, "seed": seed, "samples": 2}
        drawn, seen = tab.evaluate(DRAW, request)
        glimpses = [[result, t, 2] for t in range(model.glimpses) for result in range(len(captions))]
        assert seen == ["start", *glimpses, *["drawn"] * len(captions), "end"]
        for caption, got in zip(captions, drawn, strict=True):
            assert_same_drawings(got, page_data(model.draw(caption, samples=2, seed=seed)))
    assert tab.evaluate(STOP, request) == ["AbortError", 3]
    drawn, _ = tab.evaluate(DRAW, {**request, "captions": [BOTTOM]})
    assert_same_drawings(drawn[0], page_data(model.draw(BOTTOM, samples=2, seed=seed)))


def test_worker_reads_no_blobs(open_page, site, model, tmp_path):
    """WebKit lets the worker of a page that was opened from a file neither read nor import a Blob."""
    copy = shutil.copytree(site, tmp_path / "copy")
    assert "blob:" not in re.search(r"script-src [^;]*", (copy / "index.html").read_text("utf-8")).group()
    script, start = copy / "page" / "model.js", '"worker":"'
    text = script.read_text("utf-8")
    assert text.count(start) == 1
    script.write_text(text.replace(start, f"{start}Blob.prototype.stream = Blob.prototype.arrayBuffer = null; "), "utf-8")
    tab = open_page((copy / "index.html").as_uri())
    drawn, _ = tab.evaluate(DRAW, {"captions": [TOP], "seed": 0, "samples": 1})
    assert_same_drawings(drawn[0], page_data(model.draw(TOP, samples=1, seed=0)))


def test_benchmark_waits_for_the_page(site):
    command = [sys.executable, "-m", "benchmarks.exported_page", str(site), "--runs", "1", "--drawings", "2"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    name, *numbers = output.splitlines()[-1].strip("| ").split(" | ")
    loaded, first, later, slowest = map(float, numbers[1:])
    assert name == "site"
    assert loaded > 0
    assert 0 < later < first == slowest, "the first drawing waits for onnxruntime-web too"


def test_keyboard_and_screen_reader(open_page, site, model, tmp_path):
    tab = open_page((site / "index.html").as_uri())
    assert not tab.is_visible("#model-choice"), "there is one model"
    tab.evaluate(
        """() => {
          globalThis.heard = [];
          const status = document.getElementById("status");
          new MutationObserver(() => heard.push(status.textContent)).observe(status, { childList: true });
        }"""
    )
    tab.keyboard.type("the digt 3 is at the t")
    wait_until(tab, lambda: tab.locator(".unknown-words p b").all_text_contents() == ["digt"])
    assert tab.locator(".unknown-words button").all_text_contents() == [*model.vocabulary.nearest("digt"), "Leave it out"]
    assert tab.locator("#caption-list li").all_text_contents() == ["the", "top", "two", "three", "ten"][:4]
    tab.keyboard.press("Enter")
    wait_until(tab, lambda: tab.get_by_role("alert").text_content() != "")
    assert tab.text_content("#told") == "Nothing was drawn. Change the underlined words, or leave them out."
    tab.fill("#caption", "")
    tab.keyboard.type(f"{TOP} {TOP}")
    tab.keyboard.press("Enter")
    wait_until(tab, lambda: "has 23 words; this page reads 12" in tab.text_content("#told"))
    tab.fill("#caption", "")
    tab.keyboard.type(TOP)
    tab.keyboard.press("Enter")
    drawn(tab)
    heard = tab.evaluate("heard")
    assert heard[-3:-1] == ["Waiting for the model", "Drawing, 16 glimpses"]
    assert re.fullmatch(r"Drawn in \d+\.\d s", heard[-1])
    assert tab.get_attribute("#status", "role") == "status"
    assert tab.get_by_role("img", name="Canvas after glimpse 16 of 16").is_visible()
    expected, saved = model.draw(TOP, samples=1, seed=0), {}
    for name in ("PNG", "GIF", "Page"):
        tab.focus(f"#first .saving button:text-is('{name}')")
        with tab.expect_download() as download:
            tab.keyboard.press("Enter")
        saved[name] = tmp_path / download.value.suggested_filename
        download.value.save_as(saved[name])
    assert [path.name for path in saved.values()] == [f"{TOP.replace(' ', '-')}-0.{end}" for end in ("png", "gif", "html")]
    picture, animation = Image.open(saved["PNG"]), Image.open(saved["GIF"])
    assert picture.info == {"caption": TOP, "seed": "0", "model": "aligndraw-mnist"}
    assert np.abs(np.asarray(picture, int) - expected[0].canvases[-1, :, :, 0].repeat(8, axis=0).repeat(8, axis=1)).max() <= 1
    wanted = Image.open(io.BytesIO(gif(expected)))
    assert (animation.n_frames, json.loads(animation.info["comment"])) == (wanted.n_frames, expected[0].provenance)
    for t in range(wanted.n_frames):
        animation.seek(t)
        wanted.seek(t)
        assert animation.info["duration"] == wanted.info["duration"]
        far = np.abs(np.asarray(animation.convert("RGB"), int) - np.asarray(wanted.convert("RGB"))).max(axis=-1) > 2
        assert far.sum() <= 16, "pixels of the outline or of its level"
    content = re.search(r'id="drawings">(.*)</script>', saved["Page"].read_text("utf-8"))
    assert_same_drawings(json.loads(content.group(1)), page_data(expected))


def test_host_draws_a_link_on_a_phone(open_page, host, model):
    link = urllib.parse.urlencode({"caption": TOP, "seed": 4, "samples": 1, "model": "aligndraw-mnist", "second": BOTTOM})
    tab = open_page(f"{host}#{link}", width=375, has_touch=True)
    drawn(tab)
    assert tab.url == f"{host}#{link}"
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375
    assert [tab.locator(f"{viewer} .differs").text_content() for viewer in ("#first", "#second")] == ["top", "bottom"]
    for viewer, drawing in zip(("#first", "#second"), model.draw([TOP, BOTTOM], seed=4), strict=True):
        shown = tab.evaluate(
            """(name) => {
              const canvas = document.querySelector(`${name} .canvas`);
              return [...canvas.getContext("2d").getImageData(0, 0, 60, 60).data].filter((_, n) => n % 4 === 0);
            }""",
            viewer,
        )
        assert np.abs(np.array(shown) - drawing.canvases[-1].ravel()).max() <= 1


def test_a_missing_file_is_named(open_page, site, tmp_path):
    copy = shutil.copytree(site, tmp_path / "copy")
    (copy / "page" / "runtime.js").rename(tmp_path / "runtime.js")
    tab = open_page((copy / "index.html").as_uri(), expects="ERR_FILE_NOT_FOUND")
    tab.keyboard.type(TOP)
    tab.keyboard.press("Enter")
    wait_until(tab, lambda: tab.is_visible("#again"))
    assert re.fullmatch(r"The file file:.*/page/runtime\.js is missing or cannot be loaded\.", tab.text_content("#told"))
    (tmp_path / "runtime.js").rename(copy / "page" / "runtime.js")
    tab.click("#again")
    drawn(tab)


def picture_model(folder: Path, *, reads_words: bool) -> Path:
    """Write an exported model that draws two canvases of 4 x 4 pixels in colour at once, from noise and the mean number of its words."""
    side, glimpses, words = 4, 2, 5
    tokens, mask, sentence = ("tokens", INT64, ("B", words)), ("mask", BOOL, ("B", words)), ("sentence", FLOAT, ("B", 1, 1))
    noise, pictures = ("noise", FLOAT, ("B", glimpses, 3 * side**2)), ("pictures", FLOAT, ("B", glimpses, 3, side, side))
    shape, axes = from_array(np.array([-1, *pictures[2][1:]]), "shape"), from_array(np.array([1]), "axes")
    draw = [make_node("Sigmoid", ["brightness"], ["light"]), make_node("Reshape", ["light", "shape"], ["pictures"])]
    graphs = {"picture.onnx": ([make_node("Identity", ["noise"], ["brightness"]), *draw], [noise], [pictures], [shape])}
    if reads_words:
        encode = [
            make_node("Cast", ["tokens"], ["numbers"], to=FLOAT),
            make_node("ReduceMean", ["numbers", "axes"], ["mean"]),
            make_node("Unsqueeze", ["mean", "axes"], ["sentence"]),
        ]
        attend = [
            make_node("Cast", ["mask"], ["read"], to=FLOAT),
            make_node("Unsqueeze", ["read", "axes"], ["row"]),
            make_node("Concat", ["row"] * glimpses, ["weights"], axis=1),
        ]
        light = make_node("Add", ["noise", "sentence"], ["brightness"])
        weights = ("weights", FLOAT, ("B", glimpses, words))
        graphs = {
            "text.onnx": (encode, [tokens, mask], [sentence], [axes]),
            "picture.onnx": ([light, *draw, *attend], [noise, sentence, mask], [pictures, weights], [shape, axes]),
        }
    folder.mkdir()
    for name, (nodes, inputs, results, initializers) in graphs.items():
        declared = [[make_tensor_value_info(*each) for each in group] for group in (inputs, results)]
        graph = make_graph(nodes, "graph", *declared, initializer=initializers)
        onnx.save(make_model(graph, opset_imports=[make_opsetid("", 20)], ir_version=10), folder / name)
    about = OnnxModel(
        version="0",
        name="pictures",
        description="",
        kind="vae",
        side=side,
        colours=3,
        glimpses=glimpses,
        noise_shape=(glimpses, 3 * side**2),
        words=words,
        reads_words=reads_words,
        attends=reads_words,
        vocabulary=Vocabulary(words=("a", "red", "bus", ".")).model_dump(),
        examples=("a red bus",),
        sha256={name: file_sha256(folder / name) for name in graphs},
    )
    (folder / "model.json").write_text(about.model_dump_json(), "utf-8")
    return folder


@pytest.mark.parametrize("reads_words", [True, False])
def test_models_without_glimpses_draw(open_page, runtime_files, tmp_path, reads_words):
    folder = picture_model(tmp_path / "exported", reads_words=reads_words)
    tab = open_page((write_page(folder, tmp_path / "site", runtime_files) / "index.html").as_uri())
    drawn, _ = tab.evaluate(DRAW, {"captions": ["A red bus", "a bus."], "seed": 5, "samples": 2})
    drawer = OnnxDrawer.load(folder)
    for caption, got in zip(["A red bus", "a bus."], drawn, strict=True):
        assert_same_drawings(got, page_data([drawer.draw(caption, seed=seed)[0] for seed in (5, 6)]))
