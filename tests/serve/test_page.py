"""The page in a browser, with servers on loopback and the bundled models."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import cap2im
from cap2im.loading import bundled_models
from cap2im.rendering.drawing import Drawing
from cap2im.rendering.page import viewer_file
from cap2im.serve.settings import ServeSettings, default_models
from tests.pages import BOTTOM, TOP, drawn, status, tabs, wait_until
from tests.serve.conftest import Client, Gate, served

KEY = "open sesame"

QUEUE = 32  # pictures, of the server
GLIMPSES = 16  # of the default model
MODELS = ("aligndraw-mnist", *(name for name in default_models() if name != "aligndraw-mnist"))


def served_at(**settings: Any) -> Iterator[Client]:
    with served(ServeSettings.of({"shutdown_s": 5, "models": MODELS, **settings})) as client:
        yield client


@pytest.fixture(scope="module")
def server() -> Iterator[Client]:
    yield from served_at(queue=QUEUE)


def address_of(client: Client) -> str:
    return f"http://127.0.0.1:{client.port}/"


@pytest.fixture
def held(gate: Gate) -> Iterator[Callable[[int], Callable[[], None]]]:
    """Draw that many glimpses, and the others when released, to inspect the page during a drawing."""
    gone = threading.Event()

    def after(glimpses: int) -> Callable[[], None]:
        drawn = itertools.count(1)
        gate.glimpse = lambda: next(drawn) < glimpses or gone.wait(60)  # is called after each
        return gone.set

    yield after
    gone.set()


@pytest.fixture
def open_page(browser: Any, server: Client) -> Iterator[Callable[..., Any]]:
    """Open the page of `server`, or of another `url`; see `tabs`."""
    with tabs(browser) as opened:
        yield lambda address="", *, url=None, **more: opened((url or address_of(server)) + address, **more)


def pixels(tab: Any, viewer: str = "#first") -> list[int]:
    """Return the red channel of a canvas, row by row."""
    return tab.evaluate(
        f"() => {{ const c = document.querySelector('{viewer} .canvas');"
        " const copy = new OffscreenCanvas(c.width, c.height).getContext('2d', {willReadFrequently: true});"
        " copy.drawImage(c, 0, 0);"
        " return [...copy.getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 === 0); }"
    )


def is_canvas(tab: Any, drawing: Drawing, t: int, viewer: str = "#first") -> bool:
    """Whether a drawing's glimpse is on the screen, up to rounding."""
    shown = pixels(tab, viewer)
    wanted = drawing.canvases[t, :, :, 0].ravel().tolist()
    return len(shown) == len(wanted) and max(abs(a - b) for a, b in zip(shown, wanted, strict=True)) <= 1


def glimpse(tab: Any, viewer: str = "#first") -> int:
    return int(re.match(r"\d+", tab.text_content(f"{viewer} .count")).group())


def inside(tab: Any, name: str) -> bool:
    """Whether an element is completely in view."""
    area = tab.locator(name).bounding_box()
    return area is not None and area["y"] >= 0 and area["y"] + area["height"] <= tab.viewport_size["height"]


def options(tab: Any) -> list[str]:
    return tab.locator("#caption-list li").all_text_contents() if tab.is_visible("#caption-list") else []


def fetched(url: str, headers: dict[str, str] | None = None) -> tuple[int, Any, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {})) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


# What is served


def test_page_forbids_all_but_its_own_files(server: Client) -> None:
    code, headers, content = fetched(address_of(server))
    assert (code, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert (policy["default-src"], policy["script-src"], policy["style-src"], policy["connect-src"]) == (
        "'none'",
        "'self'",
        "'self'",
        "'self'",
    )
    text = content.decode()
    assert "http" not in text
    assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]*\ssrc=)", text)
    for name in re.findall(r'(?:src|href)="(page/[^"]+)"', text):
        assert fetched(address_of(server) + name)[0] == 200


def test_viewer_is_the_one_that_draw_writes(server: Client) -> None:
    for name in ("viewer.css", "viewer.js"):
        assert fetched(f"{address_of(server)}page/{name}")[2].decode() == viewer_file(name)


def test_page_files_are_revalidated(server: Client) -> None:
    _, headers, _ = fetched(address_of(server) + "page/page.js")
    assert headers["Cache-Control"] == "no-cache"
    assert fetched(address_of(server) + "page/page.js", {"If-None-Match": headers["ETag"]})[0] == 304
    assert fetched(address_of(server) + "page/page.js", {"If-None-Match": '"other"'})[0] == 200


@pytest.mark.parametrize("name", ["other.js", "..%2Fapp.py", "%2E%2E/app.py", "viewer.html", "%2Fetc%2Fpasswd"])
def test_no_path_reaches_other_files(server: Client, name: str) -> None:
    code, _, content = fetched(f"{address_of(server)}page/{name}")
    assert code == 404
    assert set(json.loads(content)) == {"detail"}


# The caption box


def test_words_are_completed_by_the_keyboard(open_page: Any) -> None:
    tab = open_page()
    assert tab.evaluate("document.activeElement.id") == "caption"
    tab.keyboard.type("The dig")
    wait_until(tab, lambda: options(tab) == ["digit"])
    tab.keyboard.press("Tab")
    assert tab.input_value("#caption") == "The digit "
    tab.keyboard.type("t")
    wait_until(tab, lambda: options(tab) == ["the", "top", "two", "three"])
    for key, marked in (("ArrowDown", 0), ("ArrowDown", 1), ("ArrowUp", 0), ("ArrowUp", None), ("ArrowUp", 3)):
        tab.keyboard.press(key)
        assert [o.get_attribute("aria-selected") == "true" for o in tab.locator("#caption-list li").all()] == [
            n == marked for n in range(4)
        ]
        assert tab.get_attribute("#caption", "aria-activedescendant") == (None if marked is None else f"caption-list-{marked}")
    tab.keyboard.press("Enter")
    assert tab.input_value("#caption") == "The digit three "
    tab.keyboard.type("i")
    wait_until(tab, lambda: options(tab) == ["is", "image"])
    tab.keyboard.press("Escape")
    assert options(tab) == []
    tab.keyboard.press("Tab")  # nothing is offered any more: on to the next control
    assert tab.input_value("#caption") == "The digit three i"
    assert tab.evaluate("document.activeElement.id") == "model-choice"


def test_late_suggestions_complete_the_typed_word(open_page: Any) -> None:
    tab = open_page()
    held = []
    tab.route("**/words", lambda route: held.append(route))
    tab.reload()
    wait_until(tab, lambda: len(held) == 1)
    tab.keyboard.type("the dig")
    assert options(tab) == []
    held[0].continue_()
    wait_until(tab, lambda: options(tab) == ["digit"])


def test_a_word_in_the_middle_is_completed_in_its_place(open_page: Any) -> None:
    tab = open_page()
    tab.fill("#caption", "the digit 3 is at the b of the image")
    tab.evaluate("document.getElementById('caption').setSelectionRange(23, 23)")
    tab.click("#caption", position={"x": 3, "y": 3})
    tab.evaluate("document.getElementById('caption').setSelectionRange(23, 23)")
    tab.keyboard.type("o")
    wait_until(tab, lambda: options(tab) == ["bottom"])
    tab.click("#caption-list li")
    assert tab.input_value("#caption") == "the digit 3 is at the bottom of the image"
    assert tab.evaluate("document.activeElement.id") == "caption"


def test_unknown_words_are_marked_and_fixed_by_a_click(open_page: Any) -> None:
    tab = open_page()
    tab.keyboard.type("the digt 3 is at the purple lft of the digt")
    wait_until(tab, lambda: tab.locator(".mirror .unknown").all_text_contents() == ["digt", "purple", "lft", "digt"])
    assert tab.get_attribute("#caption", "aria-invalid") == "true"
    assert [line.split(".")[0] for line in tab.locator(".unknown-words p").all_text_contents()] == [
        f"{word} is not a word that the model knows" for word in ("digt", "purple", "lft")
    ]
    tab.click(".unknown-words button:text-is('digit')")
    wait_until(tab, lambda: tab.locator(".mirror .unknown").all_text_contents() == ["purple", "lft"])
    assert tab.input_value("#caption") == "the digit 3 is at the purple lft of the digit"
    tab.click(".unknown-words p:has-text('purple') button:text-is('Leave it out')")
    tab.click(".unknown-words button:text-is('left')")
    wait_until(tab, lambda: tab.locator(".unknown, .unknown-words p").count() == 0)
    assert tab.input_value("#caption") == "the digit 3 is at the left of the digit"
    assert tab.get_attribute("#caption", "aria-invalid") == "false"


def test_unknown_words_are_marked_as_they_were_typed(open_page: Any) -> None:
    tab = open_page()
    tab.fill("#caption", "the cafe\u0301 of ca\u200bf\u00e9 \u2018dig\u00adt\u2019 at 赤")
    wait_until(tab, lambda: tab.locator(".unknown-words p").count() == 3)
    assert tab.locator(".mirror .unknown").all_text_contents() == ["cafe\u0301", "ca\u200bf\u00e9", "dig\u00adt", "赤"]
    tab.click(".unknown-words button:text-is('digit')")
    tab.click(".unknown-words p:has-text('café') button:text-is('Leave it out')")
    wait_until(tab, lambda: tab.locator(".unknown-words p").count() == 1)
    assert tab.input_value("#caption") == "the of \u2018digit\u2019 at 赤"


def test_a_word_that_is_being_typed_is_not_yet_unknown(open_page: Any) -> None:
    tab = open_page()
    with tab.expect_response("**/v1/read"):
        tab.keyboard.type("the dig")
    tab.wait_for_timeout(100)
    assert tab.locator(".unknown").count() == 0
    tab.keyboard.type(" ")
    wait_until(tab, lambda: tab.locator(".mirror .unknown").all_text_contents() == ["dig"])


@pytest.mark.parametrize("width", [390, 1400])
def test_suggestions_do_not_cover_unknown_word_messages(open_page: Any, width: int) -> None:
    tab = open_page(width=width)
    tab.keyboard.type("the digit thre is at the to")  # told while the list is open, and again when it opens later
    for more in ("", "p of th"):
        tab.keyboard.type(more)
        wait_until(tab, lambda: tab.locator(".unknown-words p").count() == 1 and options(tab) != [])
        told, suggested = (tab.locator(name).bounding_box() for name in ("#caption-unknown-words", "#caption-list"))
        assert told["y"] + told["height"] <= suggested["y"] < told["y"] + told["height"] + 20
    tab.click(".unknown-words button:text-is('Leave it out')")
    wait_until(tab, lambda: tab.locator(".unknown-words p").count() == 0)
    assert tab.input_value("#caption") == "the digit is at the top of th"


def test_pasted_lines_become_one(open_page: Any) -> None:
    tab = open_page()
    tab.fill("#caption", "the digit 3\n is at the top\r\nof the digit 1")
    assert tab.input_value("#caption") == "the digit 3 is at the top of the digit 1"


def test_refused_captions_have_a_reason(open_page: Any) -> None:
    tab = open_page(expects="422")
    tab.keyboard.type("a purple cat ")
    tab.keyboard.press("Enter")
    wait_until(tab, lambda: tab.is_visible("#told"))
    assert tab.text_content("#told") == "Nothing was drawn. Change the underlined words, or leave them out."
    assert tab.text_content("body").count("purple") == 2  # in the caption, and where it is told what is near to it
    assert tab.is_visible("#invitation")
    assert tab.is_visible("#ideas")
    assert not tab.is_visible("#again")  # it would be refused again
    assert tab.get_attribute("#told", "role") == "alert"
    tab.fill("#caption", TOP)
    tab.click("#draw")
    drawn(tab)
    assert not tab.is_visible("#trouble")


# Watching


def test_canvas_grows_while_the_stream_is_open(open_page: Any, held: Any) -> None:
    let_go = held(8)
    expected = cap2im.draw(TOP, seed=5)[0]
    tab = open_page(moving=True)
    tab.fill("#seed-choice", "5")
    tab.fill("#caption", TOP)
    tab.press("#caption", "Enter")
    wait_until(tab, lambda: tab.is_visible("#first .canvas") and 3 <= glimpse(tab) < 8)
    wait_until(tab, lambda: tab.is_visible("#stop"))
    assert status(tab) == f"Drawing, {GLIMPSES} glimpses"
    tab.click("#first .play")  # it stands still, while more arrives
    first = glimpse(tab)
    assert is_canvas(tab, expected, first - 1)
    assert expected.boxes is not None
    assert expected.attention is not None

    def window_is_there() -> bool:
        paper, window = (tab.locator(f"#first {name}").bounding_box() for name in (".paper", ".window"))
        return bool(abs(window["x"] - paper["x"] - expected.boxes[first - 1, 0] * paper["width"] / 60) <= 1)

    wait_until(tab, window_is_there, seconds=5)  # it moves there in a tenth of a second
    weights = tab.evaluate(
        "() => [...document.querySelectorAll('#first .caption .word')].map((w) => +w.style.getPropertyValue('--weight'))"
    )
    assert len(weights) == 11  # the full stop was not typed
    assert weights.index(max(weights)) == expected.attention[first - 1].argmax()
    assert tab.is_visible("#stop")
    let_go()
    tab.click("#first .play")
    wait_until(tab, lambda: glimpse(tab) > first)
    drawn(tab)
    wait_until(tab, lambda: glimpse(tab) == GLIMPSES)
    assert is_canvas(tab, expected, GLIMPSES - 1)
    assert tab.text_content("#first .seed") == "5"


def test_only_received_glimpses_can_be_scrubbed(open_page: Any, held: Any) -> None:
    let_go = held(10)
    tab = open_page()
    tab.fill("#caption", TOP)
    tab.press("#caption", "Enter")
    wait_until(tab, lambda: tab.is_visible("#stop") and glimpse(tab) >= 3)
    tab.fill("#first .glimpse", str(GLIMPSES))
    assert glimpse(tab) <= 10
    let_go()
    drawn(tab)
    assert glimpse(tab) == GLIMPSES


def test_scrubbing_and_replay(open_page: Any) -> None:
    expected = cap2im.draw(TOP, seed=0)[0]
    tab = open_page()
    tab.fill("#caption", TOP)
    tab.click("#draw")
    drawn(tab)
    assert glimpse(tab) == GLIMPSES  # motion is reduced
    tab.fill("#first .glimpse", "7")
    assert is_canvas(tab, expected, 6)
    tab.focus("#first .play")
    tab.keyboard.press("ArrowRight")
    assert is_canvas(tab, expected, 7)
    tab.keyboard.press(" ")
    wait_until(tab, lambda: glimpse(tab) > 12)
    wait_until(tab, lambda: glimpse(tab) == GLIMPSES and tab.get_attribute("#first .play", "aria-label") == "Play")
    tab.focus("#caption")
    tab.keyboard.press("ArrowLeft")  # moves in the caption, not in the drawing
    assert glimpse(tab) == GLIMPSES


def test_samples_and_new_seed(open_page: Any) -> None:
    tab = open_page()
    tab.fill("#caption", TOP)
    tab.fill("#samples-choice", "3")
    tab.fill("#seed-choice", "11")
    tab.click("#draw")
    drawn(tab)
    assert tab.locator("#first .samples button").count() == 3
    tab.click("#first .samples button:nth-child(3)")
    assert tab.text_content("#first .seed") == "13"
    assert is_canvas(tab, cap2im.draw(TOP, seed=13)[0], GLIMPSES - 1)
    tab.click("#new-seed")
    seed = tab.input_value("#seed-choice")
    assert seed != "11"
    wait_until(tab, lambda: tab.text_content("#first .seed") == seed)
    drawn(tab)


def test_two_captions_with_one_seed_move_as_one(open_page: Any, held: Any) -> None:
    let_go = held(10)
    expected = [cap2im.draw(caption, seed=4)[0] for caption in (TOP, BOTTOM)]
    tab = open_page()
    tab.fill("#caption", TOP)
    tab.fill("#seed-choice", "4")
    tab.check("#pair-choice")
    assert tab.input_value("#second-caption") == TOP  # most of it will stay
    tab.fill("#second-caption", BOTTOM)
    tab.press("#second-caption", "Enter")
    wait_until(tab, lambda: tab.is_visible("#stop") and glimpse(tab, "#second") >= 3)  # both are alive
    let_go()
    drawn(tab)
    assert tab.locator("#first .differs").all_text_contents() == ["top"]
    assert tab.locator("#second .differs").all_text_contents() == ["bottom"]
    wait_until(tab, lambda: glimpse(tab) == GLIMPSES)
    for t in (GLIMPSES, 9):
        tab.fill("#first .glimpse", str(t))
        assert (glimpse(tab), glimpse(tab, "#second")) == (t, t)
        assert is_canvas(tab, expected[0], t - 1)
        assert is_canvas(tab, expected[1], t - 1, "#second")
    area = tab.locator("#second .plot").bounding_box()
    tab.locator("#second .plot").click(position={"x": area["width"] * 10.5 / GLIMPSES, "y": 5})
    assert (glimpse(tab), glimpse(tab, "#second")) == (11, 11)
    assert not tab.is_visible("#second .transport")
    tops = [tab.locator(f"{viewer} .mat").bounding_box() for viewer in ("#first", "#second")]
    assert tops[0]["y"] == tops[1]["y"]
    assert tops[0]["x"] < tops[1]["x"]
    tab.uncheck("#pair-choice")
    tab.click("#draw")
    drawn(tab)
    assert not tab.is_visible("#second")
    assert tab.locator(".differs").count() == 0


def test_enter_draws_and_closes_the_list_of_words(open_page: Any) -> None:
    tab = open_page()
    tab.fill("#caption", "the digit 7 is on")  # also the beginning of "one"
    tab.press("#caption", "End")
    tab.wait_for_selector("#caption-list li")
    tab.keyboard.press("Enter")
    assert not tab.is_visible("#caption-list")


def test_second_captions_are_offered_closest_first(open_page: Any) -> None:
    tab = open_page()
    tab.fill("#caption", "the digit 7 is at the top left of the image")
    tab.check("#pair-choice")
    tab.fill("#second-caption", "")
    tab.click("#second-caption")
    assert tab.locator("#second-caption-list li").first.text_content() == "the digit 9 is at the top right of the image"
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Enter")
    assert tab.input_value("#second-caption") == "the digit 9 is at the top right of the image"


def test_stop_ends_the_stream_and_frees_its_place(open_page: Any, server: Client, held: Any) -> None:
    let_go = held(5)
    tab = open_page()
    tab.fill("#caption", TOP)
    tab.press("#caption", "Enter")
    wait_until(tab, lambda: tab.is_visible("#first .canvas") and glimpse(tab) >= 3)
    tab.click("#stop")
    wait_until(tab, lambda: status(tab).startswith("Stopped after glimpse") and server.count("cap2im_queued") == 0)
    stopped = int(re.search(rf"glimpse (\d+) of {GLIMPSES}", status(tab)).group(1))
    assert 3 <= stopped <= 5
    assert not tab.is_visible("#stop")
    assert not tab.is_visible("#trouble")
    let_go()  # of the rest of the batch, which nobody waits for
    tab.wait_for_timeout(300)
    tab.fill("#first .glimpse", str(GLIMPSES))
    assert glimpse(tab) == stopped
    tab.fill("#first .glimpse", "2")
    assert is_canvas(tab, cap2im.draw(TOP, seed=0)[0], 1)


def test_stop_shows_the_announced_glimpse(open_page: Any, held: Any) -> None:
    let_go = held(10)
    tab = open_page(f"#caption={TOP}&second={BOTTOM}", moving=True)
    wait_until(tab, lambda: tab.is_visible("#stop"))
    wait_until(tab, lambda: glimpse(tab) >= 3)  # mostly while more has arrived than was shown
    tab.click("#stop")
    wait_until(tab, lambda: status(tab).startswith("Stopped"))
    told, *shown = tab.evaluate("['#status', '#first .count', '#second .count'].map((name) => document.querySelector(name).textContent)")
    assert told == f"Stopped after glimpse {shown[0].replace('/', 'of')}"
    assert shown[0] == shown[1]
    tab.wait_for_timeout(300)
    assert tab.text_content("#first .count") == shown[0]
    let_go()


def test_a_new_drawing_takes_the_place_of_one_that_is_watched(open_page: Any, held: Any) -> None:
    let_go = held(10)
    tab = open_page()
    tab.fill("#caption", TOP)
    tab.press("#caption", "Enter")
    wait_until(tab, lambda: tab.is_visible("#first .canvas") and glimpse(tab) >= 3)
    tab.fill("#caption", BOTTOM)
    tab.press("#caption", "Enter")
    let_go()
    wait_until(tab, lambda: tab.text_content("#first .caption") == BOTTOM)
    drawn(tab)
    assert is_canvas(tab, cap2im.draw(BOTTOM, seed=0)[0], GLIMPSES - 1)


def test_keyboard_draws_and_saves(open_page: Any) -> None:
    tab = open_page()
    tab.keyboard.type(TOP)
    tab.keyboard.press("Enter")
    drawn(tab)
    seen = []
    for _ in range(25):
        tab.keyboard.press("Tab")
        seen.append(tab.evaluate("document.activeElement.id || document.activeElement.className || document.activeElement.textContent"))
        if seen[-1] == "GIF":
            break
    assert seen[:6] == ["model-choice", "seed-choice", "new-seed", "samples-choice", "pair-choice", "draw"]
    assert "play" in seen
    assert "glimpse" in seen
    with tab.expect_download() as download:
        tab.keyboard.press("Enter")
    assert download.value.suggested_filename == f"{TOP.replace(' ', '-')}-0.gif"


# Files and links


def test_files_equal_the_drawings(open_page: Any, tmp_path: Path) -> None:
    tab = open_page(f"#caption={TOP}&seed=3&samples=2")
    drawn(tab)
    tab.click("#first .samples button:nth-child(2)")
    saved = {}
    for name in ("PNG", "GIF", "Page"):
        with tab.expect_download() as download:
            tab.click(f"#first .saving button:text-is('{name}')")
        saved[name] = tmp_path / download.value.suggested_filename
        download.value.save_as(saved[name])
    slug = TOP.replace(" ", "-")
    assert [path.name for path in saved.values()] == [f"{slug}-4.png", f"{slug}-4.gif", f"{slug}-3.html"]
    picture, moving = Image.open(saved["PNG"]), Image.open(saved["GIF"])
    assert (picture.size, picture.info["caption"], picture.info["seed"]) == ((480, 480), TOP, "4"), "large enough to be seen"
    small = picture.resize((60, 60), Image.Resampling.NEAREST)
    assert small.resize((480, 480), Image.Resampling.NEAREST).tobytes() == picture.tobytes(), "of even squares"
    assert max(abs(a - b) for a, b in zip(small.tobytes(), cap2im.draw(TOP, seed=4)[0].image.tobytes(), strict=True)) <= 1
    assert getattr(moving, "n_frames") == GLIMPSES  # noqa: B009
    page = tab.context.new_page()
    page.goto(saved["Page"].as_uri())
    wait_until_shown = page.locator("#viewer:not([hidden])")
    wait_until_shown.wait_for(timeout=10_000)
    assert page.text_content("h1") == TOP
    assert page.locator(".samples button").count() == 2
    assert page.text_content(".seed") == "3"


def test_files_of_a_store_are_saved_from_there(open_page: Any, tmp_path: Path) -> None:
    for server in served_at(store=str(tmp_path / "store")):
        tab = open_page(f"#caption={TOP}&seed=3", url=address_of(server))
        drawn(tab)
        with tab.expect_download() as download:
            tab.click("#first .saving button:text-is('PNG')")
        assert download.value.suggested_filename.endswith("-3.png")
        assert Image.open(download.value.path()).info["caption"] == TOP
        tab.close()


def test_saved_picture_is_the_visible_one(open_page: Any) -> None:
    tab = open_page(f"#caption={TOP}&seed=3", expects="422")
    drawn(tab)
    tab.fill("#caption", "a purple cat")
    tab.click("#draw")
    wait_until(tab, lambda: tab.is_visible("#told"))
    with tab.expect_download() as download:
        tab.click("#first .saving button:text-is('PNG')")
    assert Image.open(download.value.path()).info["caption"] == TOP


@pytest.mark.parametrize("name", bundled_models())
def test_examples_of_the_chosen_model_draw(open_page: Any, name: str) -> None:
    model = cap2im.load(name)
    tab = open_page()
    assert tab.locator("#model-choice option").all_text_contents() == list(MODELS)
    assert tab.input_value("#model-choice") == MODELS[0]
    tab.select_option("#model-choice", name)
    wait_until(tab, lambda: tab.locator("#ideas button").all_text_contents() == model.examples[:5])
    caption = model.examples[0]
    tab.click("#ideas button >> nth=0")
    wait_until(tab, lambda: tab.text_content("#first .caption") == caption)
    drawn(tab)
    assert not tab.is_visible("#ideas")
    assert is_canvas(tab, model.draw(caption, seed=0)[0], -1)


def test_examples_rotate_but_not_under_the_pointer(open_page: Any) -> None:
    examples = cap2im.load(MODELS[0]).examples
    assert len(examples) > 5
    tab = open_page(moving=True, clock=True)
    ideas = tab.locator("#ideas button")
    wait_until(tab, lambda: ideas.count() == 5)
    tab.clock.run_for(6100)
    assert ideas.all_text_contents() == examples[5:10]
    tab.hover("#ideas li >> nth=0")
    tab.clock.run_for(30_000)
    assert ideas.all_text_contents() == examples[5:10]
    tab.mouse.move(0, 0)
    tab.clock.run_for(6100)
    assert ideas.all_text_contents() == (examples[10:15] or examples[:5])


def test_second_of_a_pair_is_saved_by_itself(open_page: Any) -> None:
    tab = open_page(f"#caption={TOP}&second={BOTTOM}&seed=6")
    drawn(tab)
    with tab.expect_download() as download:
        tab.click("#second .saving button:text-is('PNG')")
    assert Image.open(io.BytesIO(Path(download.value.path()).read_bytes())).info["caption"] == BOTTOM


def test_address_draws_the_same_again(open_page: Any) -> None:
    tab = open_page()
    tab.fill("#caption", TOP)
    tab.fill("#seed-choice", "21")
    tab.fill("#samples-choice", "2")
    tab.click("#draw")
    drawn(tab)
    address = tab.url
    tab.fill("#caption", BOTTOM)
    tab.click("#draw")
    wait_until(tab, lambda: tab.text_content("#first .caption") == BOTTOM)
    drawn(tab)
    tab.go_back()
    wait_until(tab, lambda: tab.text_content("#first .caption") == TOP)
    drawn(tab)
    tab.go_back()
    wait_until(tab, lambda: not tab.is_visible("#first") and tab.is_visible("#ideas"))
    tab.go_forward()
    wait_until(tab, lambda: tab.text_content("#first .caption") == TOP)
    drawn(tab)
    other = open_page(address.split("/")[-1])
    drawn(other)
    assert other.input_value("#caption") == TOP
    assert [other.text_content("#first .seed"), other.locator("#first .samples button").count()] == ["21", 2]
    assert pixels(other) == pixels(tab)
    assert other.title() == f"{TOP} · cap2im"


@pytest.mark.parametrize("hostile", ["<img src=x onerror=alert(1)>", "</textarea><script>alert(2)</script>", '"><b>bold</b>'])
def test_hostile_addresses_stay_text(open_page: Any, hostile: str) -> None:
    tab = open_page("#" + urllib.parse.urlencode({"caption": hostile, "second": hostile, "seed": hostile}), expects="422")
    tab.on("dialog", lambda dialog: pytest.fail(dialog.message))
    wait_until(tab, lambda: tab.is_visible("#told"))
    assert tab.input_value("#caption") == hostile
    wait_until(tab, lambda: tab.locator(".unknown-words p").count() > 0)
    assert tab.locator("img, .box b b, .mirror b, .mirror script").count() == 0


def test_links_beyond_the_limits_are_clamped(open_page: Any) -> None:
    tab = open_page(f"#caption={TOP}&samples=900&seed={10**20}")
    drawn(tab)
    assert tab.input_value("#samples-choice") == "16"
    assert tab.locator("#first .samples button").count() == 16
    assert int(tab.input_value("#seed-choice")) == 2**53 - 1 - 16
    assert "samples=16&" in tab.url
    assert tab.evaluate("history.length") == 2  # the empty tab and this page, which can be left with one step back


def test_link_to_a_model_that_is_not_here(open_page: Any) -> None:
    tab = open_page(f"#caption={TOP}&model=elsewhere")
    wait_until(tab, lambda: tab.is_visible("#told"))
    assert "elsewhere" in tab.text_content("#told")
    assert tab.input_value("#caption") == TOP


# Trouble


def test_page_retries_a_busy_server(open_page: Any, server: Client, gate: Gate) -> None:
    tab = open_page(expects="503")
    tab.fill("#caption", TOP)
    gate.close()
    others = threading.Thread(target=server.draw, args=([TOP, BOTTOM],), kwargs={"samples": QUEUE // 2})
    others.start()
    assert gate.reached.wait(20)
    tab.click("#draw")
    wait_until(tab, lambda: tab.is_visible("#again"))
    assert re.fullmatch(r"Try again in \d+ s", tab.text_content("#again"))
    assert tab.is_disabled("#again")
    assert "queue is full" in tab.text_content("#told")
    gate.opened.set()
    others.join()
    wait_until(tab, lambda: tab.text_content("#again") == "Try again" and tab.is_enabled("#again"))
    tab.click("#again")
    drawn(tab)
    assert not tab.is_visible("#trouble")


def test_failing_model_is_reported(open_page: Any, gate: Gate) -> None:
    tab = open_page()
    gate.fail = RuntimeError("broken on purpose")
    tab.fill("#caption", TOP)
    tab.click("#draw")
    wait_until(tab, lambda: tab.is_visible("#told"))
    assert "failed to draw" in tab.text_content("#told")
    assert not tab.is_visible("#stop")
    gate.fail = None
    tab.click("#again")
    drawn(tab)


SLOW_SERVER = """
import time
from cap2im.pipeline import Pipeline
from cap2im.serve.app import serve
from cap2im.serve.settings import ServeSettings
drawings = Pipeline.drawings
def slowed(self, prompts, seeds, *, watch=None):
    return drawings(self, prompts, seeds, watch=lambda glimpses: (time.sleep(0.1), watch(glimpses)))
Pipeline.drawings = slowed
serve(ServeSettings(models=("aligndraw-mnist",), port=0))
"""


def test_server_that_dies_in_the_middle(open_page: Any) -> None:
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", SLOW_SERVER], stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        assert process.stdout is not None
        url = re.search(r"http://\S+", process.stdout.readline()).group() + "/"  # type: ignore[union-attr]
        tab = open_page(url=url, expects="ERR_")
        tab.fill("#caption", TOP)
        tab.click("#draw")
        wait_until(tab, lambda: tab.is_visible("#first .canvas") and glimpse(tab) >= 3)
        process.kill()
        wait_until(tab, lambda: tab.is_visible("#told"))
        assert re.fullmatch(rf"The connection was lost after glimpse \d+ of {GLIMPSES}\.", tab.text_content("#told"))
        assert tab.is_visible("#first .canvas")  # what there was stays
        tab.click("#again")
        wait_until(tab, lambda: tab.text_content("#told").startswith("The server does not respond."))
        assert tab.is_enabled("#again")
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def locked() -> Iterator[Client]:
    yield from served_at(api_key=KEY)


def test_api_key_prompt_is_kept_for_the_tab(open_page: Any, locked: Client) -> None:
    tab = open_page(url=address_of(locked), expects="401")
    tab.fill("#caption", TOP)
    tab.press("#caption", "Enter")
    wait_until(tab, lambda: tab.is_visible("#key"))
    assert tab.text_content("#told") == "This server requires an API key."
    assert tab.get_attribute("#key", "type") == "password"
    tab.keyboard.type("wrong")
    tab.keyboard.press("Enter")
    wait_until(tab, lambda: tab.is_visible("#key") and "wrong" in tab.text_content("#told"))
    tab.keyboard.type(KEY)
    tab.keyboard.press("Enter")
    drawn(tab)
    tab.reload()
    drawn(tab)
    assert not tab.is_visible("#trouble")
    assert KEY not in tab.evaluate("location.href + JSON.stringify(localStorage) + document.cookie + document.body.outerHTML")


# Screens


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_needs_no_sideways_scrolling(open_page: Any, scheme: str) -> None:
    tab = open_page(width=390, scheme=scheme, has_touch=True)
    width = "document.documentElement.scrollWidth"
    assert tab.evaluate(width) <= 390
    tab.fill("#caption", "the extraordinarily" + "long" * 20 + " word and the digit")
    wait_until(tab, lambda: tab.locator(".unknown-words p").count() > 0)
    assert tab.evaluate(width) <= 390
    tab.fill("#caption", TOP)
    tab.tap("#draw")
    drawn(tab)
    assert tab.evaluate(width) <= 390
    tab.check("#pair-choice")
    tab.fill("#second-caption", BOTTOM)
    tab.fill("#samples-choice", "3")
    tab.tap("#draw")
    wait_until(tab, lambda: tab.is_visible("#second .canvas"))
    drawn(tab)
    assert tab.evaluate(width) <= 390
    ground = tab.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (ground == "rgb(16, 16, 20)") == (scheme == "dark")


@pytest.mark.parametrize("moving", [False, True])
def test_phone_shows_the_canvas_while_it_is_drawn(open_page: Any, held: Any, moving: bool) -> None:
    let_go = held(5)
    tab = open_page(width=360, height=640, has_touch=True, moving=moving)
    tab.fill("#caption", TOP)
    tab.check("#pair-choice")
    tab.fill("#second-caption", BOTTOM)
    tab.tap("#draw")
    wait_until(tab, lambda: tab.is_visible("#stop") and glimpse(tab) >= 3)
    for part in ("#first .mat", "#second .mat", "#first .transport", "#stop"):  # all that is wanted while it is drawn
        wait_until(tab, lambda part=part: inside(tab, part), seconds=5)
    let_go()
    drawn(tab)


@pytest.mark.parametrize("width", [390, 820, 1400])
def test_brand_stands_on_the_edge_of_its_column(open_page: Any, width: int) -> None:
    tab = open_page(width=width)
    left = lambda name: tab.locator(name).bounding_box()["x"]  # noqa: E731
    assert left(".brand") == left("#invitation") == left("#ideas")


def test_frames_of_a_pair_fill_their_columns(open_page: Any) -> None:
    tab = open_page(f"#caption={TOP}&second={BOTTOM}", width=1400)
    drawn(tab)
    for viewer, field in (("#first", "#first-box"), ("#second", "#second-box")):
        frame, column = (tab.locator(name).bounding_box() for name in (f"{viewer} .mat", field))
        assert (frame["x"], frame["width"]) == (column["x"], column["width"])
    assert inside(tab, "#first .transport")


def test_phone_shows_trouble_and_examples_of_a_refused_link(open_page: Any) -> None:
    tab = open_page("#caption=a purple cat", width=360, height=640, expects="422")
    wait_until(tab, lambda: tab.is_visible("#told") and inside(tab, "#trouble"))
    assert tab.is_visible("#ideas")


def test_trouble_keeps_away_from_the_drawing_below_it(open_page: Any) -> None:
    tab = open_page(f"#caption={TOP}", expects="422")
    drawn(tab)
    tab.fill("#caption", "a purple cat")
    tab.click("#draw")
    wait_until(tab, lambda: tab.is_visible("#told"))
    trouble, headline = (tab.locator(name).bounding_box() for name in ("#trouble", "#first .caption"))
    assert headline["y"] - trouble["y"] - trouble["height"] >= 20


def test_nothing_moves_where_the_canvas_is_in_view(open_page: Any) -> None:
    tab = open_page(f"#caption={TOP}")
    drawn(tab)
    tab.evaluate("scrollTo(0, 20)")
    tab.click("#draw")
    drawn(tab)
    assert tab.evaluate("scrollY") == 20


# The stream's parser

PARSE = """async ([pieces]) => {
  const { events } = cap2im.api;
  const bytes = new TextEncoder().encode(pieces.join(""));
  const all = [];
  for (let cut = 0; cut <= bytes.length; cut++) {
    const stream = new ReadableStream({ start(to) { to.enqueue(bytes.slice(0, cut)); to.enqueue(bytes.slice(cut)); to.close(); } });
    const read = [];
    for await (const event of events(new Response(stream), new AbortController().signal)) read.push(event);
    all.push(JSON.stringify(read));
  }
  return [...new Set(all)].map((text) => JSON.parse(text));
}"""


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_events_are_read_however_they_are_cut(open_page: Any, end: str) -> None:
    lines = [
        ": alive",
        "",
        "event: start",
        'data: {"caption":',
        'data: "drei Bücher 📚"}',
        "",
        "event:end",
        "id: 7",
        "data:{}",
        "",
        "data: 1",
    ]
    read = open_page().evaluate(PARSE, [[line + end for line in lines]])
    assert read == [[{"event": "start", "data": {"caption": "drei Bücher 📚"}}, {"event": "end", "data": {}}]]
