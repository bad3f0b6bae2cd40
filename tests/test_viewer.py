"""The page in a real browser, opened from a file."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cap2im.rendering.drawing import Drawing, Drawings
from cap2im.rendering.page import page, page_data, viewer_file
from tests.rendering.samples import blobs, last_stage_alone, staged

Opener = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Opener]:
    """Open the page of drawings, with reduced motion unless `moving`.

    At the end there must be no requests, console messages, errors or dialogs.
    """
    problems: list[str] = []
    contexts = []

    def note_request(request: Any) -> None:
        if not request.url.startswith(("file:", "data:")):
            problems.append(f"requested {request.url}")

    def note_dialog(dialog: Any) -> None:
        problems.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def open_drawings(drawings: list[Drawing], *, moving: bool = False, width: int = 1100, scheme: str = "light") -> Any:
        path = tmp_path / "drawing.html"
        path.write_text(page(drawings), "utf-8")
        context = browser.new_context(
            viewport={"width": width, "height": 900}, reduced_motion="no-preference" if moving else "reduce", color_scheme=scheme
        )
        contexts.append(context)
        tab = context.new_page()
        tab.on("request", note_request)
        tab.on("dialog", note_dialog)
        tab.on("console", lambda message: problems.append(f"console: {message.text}"))
        tab.on("pageerror", lambda error: problems.append(f"error: {error}"))
        tab.goto(path.as_uri())
        tab.wait_for_selector("#viewer:not([hidden])", timeout=10_000)
        return tab

    yield open_drawings
    for context in contexts:
        context.close()
    assert problems == []


def pixels(tab: Any) -> list[int]:
    """Return the red level of every pixel of the canvas, row by row."""
    return tab.evaluate(
        "() => { const c = document.querySelector('.canvas');"
        " const copy = new OffscreenCanvas(c.width, c.height).getContext('2d', {willReadFrequently: true});"
        " copy.drawImage(c, 0, 0);"
        " return [...copy.getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 === 0); }"
    )


def word_weights(tab: Any) -> list[float]:
    return tab.evaluate("() => [...document.querySelectorAll('h1 .word')].map((w) => Number(w.style.getPropertyValue('--weight')))")


def glimpse(tab: Any) -> int:
    return int(tab.input_value(".glimpse"))


def playing(tab: Any) -> bool:
    return tab.evaluate("document.getElementById('viewer').classList.contains('playing')")


def wait_until(tab: Any, holds: Callable[[], bool]) -> None:
    for _ in range(300):
        if holds():
            return
        tab.wait_for_timeout(30)
    pytest.fail("the condition did not hold within nine seconds")


@pytest.mark.parametrize("name", ["viewer.css", "page.css"])
def test_underlines_are_written_for_safari(name: str) -> None:
    """WebKit ignores `text-decoration` with more than a line."""
    values = re.findall(r"text-decoration: *([^;}]*)", viewer_file(name))
    assert [value for value in values if " " in value] == []


def test_slider_moves_canvas_window_and_words(open_page: Opener) -> None:
    drawings = blobs(2)
    tab = open_page(drawings)
    assert glimpse(tab) == 12  # reduced motion shows the finished picture
    for t in (0, 5, 11):
        tab.fill(".glimpse", str(t + 1))
        assert pixels(tab) == drawings[0].canvases[t].ravel().tolist()
        assert drawings[0].attention is not None
        weights = word_weights(tab)
        assert weights.index(max(weights)) == drawings[0].attention[t].argmax()
        shares = tab.locator(".labels .share").all_text_contents()
        assert shares == [f"{int(100 * share + 0.5)} %" for share in drawings[0].attention[t].round(4)]
        assert tab.text_content(".count") == f"{t + 1} / 12"
        assert drawings[0].boxes is not None
        paper, window = (tab.locator(name).bounding_box() for name in (".paper", ".window"))
        scale = paper["width"] / 20
        assert window["x"] - paper["x"] == pytest.approx(drawings[0].boxes[t, 0] * scale, abs=1)
        assert window["width"] == pytest.approx((drawings[0].boxes[t, 2] - drawings[0].boxes[t, 0]) * scale, abs=1)


def test_notebook_shows_the_viewer_in_a_frame(browser: Any, tmp_path: Path) -> None:
    drawings = Drawings(blobs(2))
    for number, trusted in enumerate((True, False)):
        html = drawings._repr_html_()
        if not trusted:  # a site that removes frames
            html = re.sub(r"<iframe.*?</iframe>", "", html, flags=re.DOTALL)
        (tmp_path / f"{number}.html").write_text(f"<!doctype html><meta charset=utf-8><div style='width:800px'>{html}</div>", "utf-8")
    context = browser.new_context(reduced_motion="reduce")
    tab = context.new_page()
    problems: list[str] = []
    tab.on("console", lambda message: problems.append(message.text))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.goto((tmp_path / "0.html").as_uri())
    frame = tab.frame_locator("iframe")
    frame.locator("#viewer:not([hidden])").wait_for(timeout=10_000)
    frame.locator(".glimpse").fill("2")
    assert frame.locator(".count").text_content() == "2 / 12"
    frame.locator(".samples button:nth-child(2)").click()
    assert frame.locator(".seed").text_content() == "8"
    weights = [float(each.text_content().removesuffix(" %")) for each in frame.locator(".share").all()]
    assert drawings[1].attention is not None
    assert weights.index(max(weights)) == drawings[1].attention[1].argmax()
    outer = tab.locator("iframe").bounding_box()["height"]
    assert outer == pytest.approx(frame.locator("body").evaluate("body => body.scrollHeight"), abs=2), "the frame is as high as its page"
    tab.goto((tmp_path / "1.html").as_uri())
    assert tab.locator("img").evaluate("image => image.naturalWidth") == 2 * 20 + 6
    assert "seeds 7, 8" in tab.inner_text("figcaption")
    context.close()
    assert problems == []


def test_animation_plays_once_and_on_the_button(open_page: Opener) -> None:
    tab = open_page(blobs(1), moving=True)
    assert glimpse(tab) < 12
    wait_until(tab, lambda: glimpse(tab) == 12 and not playing(tab))
    tab.wait_for_timeout(500)
    assert glimpse(tab) == 12
    tab.click(".play")
    wait_until(tab, lambda: 4 <= glimpse(tab) < 12)
    assert tab.get_attribute(".play", "aria-label") == "Pause"
    tab.click(".play")
    stopped = glimpse(tab)
    assert 4 <= stopped < 12
    tab.wait_for_timeout(500)
    assert glimpse(tab) == stopped
    assert tab.get_attribute(".play", "aria-label") == "Play"


def test_reduced_motion_does_not_play_by_itself(open_page: Opener) -> None:
    tab = open_page(blobs(1))
    tab.wait_for_timeout(400)
    assert not playing(tab)


def test_keyboard_steps_and_plays(open_page: Opener) -> None:
    tab = open_page(blobs(2))
    for key, expected in (("ArrowLeft", 11), ("ArrowLeft", 10), ("ArrowRight", 11), ("ArrowRight", 12), ("ArrowRight", 12)):
        tab.keyboard.press(key)
        assert glimpse(tab) == expected
    tab.keyboard.press(" ")
    wait_until(tab, lambda: 3 <= glimpse(tab) < 12)
    tab.keyboard.press(" ")
    assert not playing(tab)
    # On a focused button, space presses the button and nothing else.
    tab.focus(".play")
    tab.keyboard.press(" ")
    assert playing(tab)
    tab.keyboard.press(" ")
    assert not playing(tab)
    tab.focus(".samples button:nth-child(2)")
    tab.keyboard.press(" ")
    assert tab.text_content(".seed") == "8"
    assert not playing(tab)


def test_heat_map_scrubs_and_shows_the_attention(open_page: Opener) -> None:
    drawings = blobs(1)
    tab = open_page(drawings)
    area = tab.locator(".plot").bounding_box()

    def column(t: int) -> float:
        return area["x"] + area["width"] * (t + 0.5) / 12

    tab.mouse.click(column(2), area["y"] + 5)
    assert glimpse(tab) == 3
    tab.mouse.down()
    tab.mouse.move(column(7), area["y"] + 40)
    assert glimpse(tab) == 8
    tab.mouse.up()
    tab.mouse.move(column(9), area["y"] + 40)
    assert glimpse(tab) == 8
    alphas = tab.evaluate(
        "() => { const c = document.querySelector('.weights'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        " return Array.from({length: 12}, (_, t) => Array.from({length: 6}, (_, word) => d[4 * (13 * word * c.width + t) + 3])); }"
    )
    assert drawings[0].attention is not None
    assert [row.index(max(row)) for row in alphas] == drawings[0].attention.argmax(axis=1).tolist()


def test_hovering_a_word_marks_its_row(open_page: Opener) -> None:
    tab = open_page(blobs(1))
    assert not tab.is_visible(".row")
    tab.hover("h1 .word:nth-of-type(3)")
    assert tab.locator(".lit").all_text_contents()[0] == "3"
    assert tab.locator(".row").bounding_box()["y"] == pytest.approx(tab.locator(".labels li").nth(2).bounding_box()["y"], abs=2)
    tab.hover("footer")
    assert not tab.is_visible(".row")


def test_samples_are_chosen_by_their_thumbnails(open_page: Opener) -> None:
    drawings = blobs(3, colours=3)
    tab = open_page(drawings)
    tab.click(".samples button:nth-child(2)")
    assert pixels(tab) == drawings[1].canvases[-1, :, :, 0].ravel().tolist()
    assert tab.text_content(".seed") == "8"
    assert [b.get_attribute("aria-pressed") for b in tab.locator(".samples button").all()] == ["false", "true", "false"]


def test_window_and_smoothing_can_be_switched(open_page: Opener) -> None:
    tab = open_page(blobs(1))
    rendering = "getComputedStyle(document.querySelector('.canvas')).imageRendering"
    assert tab.is_visible(".window")
    assert tab.evaluate(rendering) == "pixelated"
    tab.uncheck(".outline input")
    tab.check(".smoothing input")
    assert not tab.is_visible(".window")
    assert tab.evaluate(rendering) == "auto"


@pytest.mark.parametrize("hostile", ["</script><img src=x onerror=alert(1)>", "<b>bold</b> & <!-- <script>alert(2)</script>"])
def test_hostile_text_stays_text(open_page: Opener, hostile: str) -> None:
    drawings = [Drawing(d.caption, d.words, d.seed, hostile, d.canvases, d.attention, d.boxes) for d in blobs(2, caption=hostile)]
    tab = open_page(drawings)
    assert tab.text_content("h1") == hostile
    assert tab.text_content(".model") == hostile
    assert tab.locator("img, b b, h1 b").count() == 0


def test_words_that_differ_from_the_caption_are_listed_below(open_page: Opener) -> None:
    drawings = [
        Drawing("The digit three.", ("the", "digit", "3"), d.seed, d.model, d.canvases, d.canvases[:, :3, 5, 0] / 255.0) for d in blobs(1)
    ]
    tab = open_page(drawings)
    assert tab.text_content("h1") == "The digit three."
    assert tab.locator(".words .word").all_text_contents() == ["the", "digit", "3"]


def test_caption_keeps_its_case_and_punctuation(open_page: Opener) -> None:
    drawings = [
        Drawing("A Cat, asleep!", ("a", "cat", "asleep"), d.seed, d.model, d.canvases, d.canvases[:, :3, 5, 0] / 255.0) for d in blobs(1)
    ]
    tab = open_page(drawings)
    assert tab.text_content("h1") == "A Cat, asleep!"
    assert tab.locator("h1 .word").all_text_contents() == ["A", "Cat", "asleep"]
    assert not tab.is_visible(".words")


def test_added_full_stop_is_only_in_the_list(open_page: Opener) -> None:
    drawings = [Drawing("a cat", ("a", "cat", "."), d.seed, d.model, d.canvases, d.canvases[:, :3, 5, 0] / 255.0) for d in blobs(1)]
    tab = open_page(drawings)
    assert tab.locator("h1 .word").all_text_contents() == ["a", "cat"]
    assert not tab.is_visible(".words")
    assert tab.locator(".labels li > span:first-child").all_text_contents() == ["a", "cat", "."]


def data_uri(drawing: Drawing, t: int) -> str:
    stream = io.BytesIO()
    drawing.frames()[t].save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def send_glimpse(tab: Any, drawings: list[Drawing], t: int) -> None:
    """Send a glimpse to the viewer, as a server does."""
    samples = []
    for drawing in drawings:
        assert drawing.attention is not None
        assert drawing.boxes is not None
        samples.append({"image": data_uri(drawing, t), "attention": drawing.attention[t].tolist(), "box": drawing.boxes[t].tolist()})
    tab.evaluate(f"shown.glimpse({t}, {json.dumps(samples)})")


@pytest.mark.parametrize("moving", [False, True])
def test_glimpses_are_shown_as_they_arrive(open_page: Opener, moving: bool) -> None:
    tab = open_page(blobs(1, caption="something else"), moving=moving)
    later = blobs(2)
    data = page_data(later)
    start = {key: data[key] for key in ("caption", "words", "model", "width", "height", "glimpses")} | {"seeds": [7, 8]}
    tab.evaluate(f"shown.begin({json.dumps(start)})")
    assert tab.text_content("h1") == later[0].caption
    assert tab.text_content(".count") == "0 / 12"
    assert set(pixels(tab)) == {0}
    for t in range(4):
        send_glimpse(tab, later, t)
    wait_until(tab, lambda: tab.text_content(".count") == "4 / 12")
    assert pixels(tab) == later[0].canvases[3].ravel().tolist()
    weights = word_weights(tab)
    assert later[0].attention is not None
    assert weights.index(max(weights)) == later[0].attention[3].argmax()
    tab.fill(".glimpse", "12")  # four were received
    assert tab.text_content(".count") == "4 / 12"
    tab.fill(".glimpse", "2")
    assert pixels(tab) == later[0].canvases[1].ravel().tolist()
    tab.click(".samples button:nth-child(2)")
    assert pixels(tab) == later[1].canvases[1].ravel().tolist()
    for t in range(4, 12):
        send_glimpse(tab, later, t)
    tab.evaluate(f"shown.render({json.dumps(data)})")
    assert tab.text_content(".seed") == "8"  # the selected sample stays
    assert tab.text_content(".count") == ("2 / 12" if moving else "12 / 12")  # so does the glimpse, unless motion is reduced
    tab.fill(".glimpse", "12")
    assert pixels(tab) == later[1].canvases[11].ravel().tolist()


def test_stopped_drawing_shows_the_received_glimpses(open_page: Opener) -> None:
    tab = open_page(blobs(1))
    later = blobs(1, caption="another caption")
    data = page_data(later)
    start = {key: data[key] for key in ("caption", "words", "model", "width", "height", "glimpses")} | {"seeds": [7]}
    tab.evaluate(f"shown.begin({json.dumps(start)})")
    for t in range(3):
        send_glimpse(tab, later, t)
    tab.evaluate("shown.stop()")
    tab.click(".play")
    wait_until(tab, lambda: tab.text_content(".count") == "3 / 12" and not playing(tab))
    tab.evaluate(f"shown.begin({json.dumps(start)}); shown.stop()")
    assert not tab.is_visible("#viewer")  # nothing was received


def test_words_are_underlined_without_attention(open_page: Opener) -> None:
    tab = open_page([Drawing("a red cat", (), d.seed, d.model, d.canvases) for d in blobs(1)])
    assert tab.locator("h1 .word").count() == 0
    tab.evaluate("shown.mark(['a', 'red', 'cat', '.'], [1])")
    assert tab.locator("h1 .differs").all_text_contents() == ["red"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_screen_needs_no_sideways_scrolling(open_page: Opener, scheme: str) -> None:
    tab = open_page(blobs(9, caption="a caption with an extraordinarily-" + "long" * 20 + " word in it"), width=360, scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360


def test_dark_scheme_is_dark(open_page: Opener) -> None:
    background = "getComputedStyle(document.documentElement).backgroundColor"
    assert open_page(blobs(1)).evaluate(background) != open_page(blobs(1), scheme="dark").evaluate(background) == "rgb(16, 16, 20)"


def test_one_step_drawing_without_words(open_page: Opener) -> None:
    drawings = blobs(2, glimpses=1, colours=3, caption="", reads=False, writes=False)
    tab = open_page(drawings, moving=True)
    assert pixels(tab) == drawings[0].canvases[0, :, :, 0].ravel().tolist()
    assert tab.text_content("h1") == "No caption"
    for name in (".transport", ".reading", ".outline", ".window", ".keys"):
        assert not tab.is_visible(name)
    tab.keyboard.press(" ")
    tab.keyboard.press("ArrowLeft")


def test_render_can_be_called_again(open_page: Opener) -> None:
    tab = open_page(blobs(1))
    later = blobs(3, glimpses=5, caption="another caption", writes=False)
    tab.evaluate(f"cap2im.render({json.dumps(page_data(later))})")
    assert tab.text_content("h1") == "another caption"
    assert tab.text_content(".count") == "5 / 5"
    assert pixels(tab) == later[0].canvases[-1].ravel().tolist()
    assert tab.locator(".samples button").count() == 3
    assert tab.locator(".labels li").count() == 2


def map_alphas(tab: Any) -> list[int] | None:
    """Return the alpha of every pixel of the map over the canvas, row by row; None if the map is hidden."""
    if not tab.is_visible(".map"):
        return None
    return tab.evaluate(
        "() => { const c = document.querySelector('.map');"
        " const copy = new OffscreenCanvas(c.width, c.height).getContext('2d', {willReadFrequently: true});"
        " copy.drawImage(c, 0, 0);"
        " return [...copy.getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 === 3); }"
    )


def test_chosen_word_shows_its_map_at_each_size(open_page: Opener) -> None:
    drawings = [staged(seed=seed) for seed in (7, 8)]
    tab = open_page(drawings)
    assert map_alphas(tab) is None
    assert tab.text_content(".where") == "Choose a word to see where it is read."
    tab.click("h1 .word:nth-of-type(3)")
    for size, weights in ((2, drawings[0].maps[0]), (3, drawings[0].maps[1])):
        tab.fill(".glimpse", str(size))
        shown = map_alphas(tab)
        assert shown == pytest.approx((weights[2] / weights.max() * 255).ravel().tolist(), abs=1)
        assert tab.text_content(".where") == "“3” gets up to 60 % of the attention at a place; full colour is 90 %."
        assert tab.evaluate("getComputedStyle(document.querySelector('.canvas')).filter").startswith("grayscale(1)")
    paper, over = (tab.locator(name).bounding_box() for name in (".paper", ".map"))
    assert over == pytest.approx(paper, abs=1)
    tab.fill(".glimpse", "1")
    assert map_alphas(tab) is None
    assert tab.text_content(".where") == "At this size no words are read."
    tab.click(".labels li:nth-child(2)")  # another word; the first size with a map is shown
    assert glimpse(tab) == 2
    assert map_alphas(tab) == pytest.approx((drawings[0].maps[0][1] / drawings[0].maps[0].max() * 255).ravel().tolist(), abs=1)
    assert [word.get_attribute("aria-pressed") for word in tab.locator("h1 .word").all()] == ["false", "true", *["false"] * 4]
    tab.click("h1 .word:nth-of-type(2)")
    assert map_alphas(tab) is None
    assert tab.evaluate("getComputedStyle(document.querySelector('.canvas')).filter") == "none"


def test_words_are_chosen_by_the_keyboard(open_page: Opener) -> None:
    tab = open_page([staged()])
    tab.focus("h1 .word:nth-of-type(1)")
    tab.keyboard.press("Tab")
    tab.keyboard.press(" ")
    assert not playing(tab)
    assert tab.locator("h1 .chosen").all_text_contents() == ["digit"]
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    assert tab.locator("h1 .chosen").all_text_contents() == ["3"]
    tab.keyboard.press("Escape")
    assert tab.locator("h1 .chosen").count() == 0
    assert map_alphas(tab) is None


def test_last_of_two_maps_of_one_size_is_shown(open_page: Opener) -> None:
    drawing = last_stage_alone()
    tab = open_page([drawing])
    tab.focus("h1 .word:nth-of-type(4)")
    tab.keyboard.press("Enter")
    assert map_alphas(tab) == pytest.approx((drawing.maps[1][3] / drawing.maps[1].max() * 255).ravel().tolist(), abs=1)
    tab.keyboard.press("Escape")
    tab.keyboard.press("ArrowLeft")
    assert map_alphas(tab) is None


def test_axis_names_sizes_and_words_without_maps_are_no_buttons(open_page: Opener) -> None:
    tab = open_page([staged()])
    assert tab.locator(".axis span").all_text_contents() == ["8", "16", "32"]
    assert (tab.text_content(".steps"), tab.text_content(".glimpses")) == ("Sizes", "8, 16, 32")
    tab.click("h1 .word:nth-of-type(4)")
    tab.evaluate(f"cap2im.render({json.dumps(page_data(blobs(1)))})")
    assert (tab.text_content(".steps"), tab.text_content(".glimpses")) == ("Glimpses", "12")
    assert not tab.is_visible(".where")
    assert map_alphas(tab) is None
    tab.click("h1 .word:nth-of-type(3)")
    assert map_alphas(tab) is None
    assert tab.locator("[role=button], .chosen").count() == 0
