"""Responses of the routes: pictures, words, models, and one sentence for an invalid request."""

from __future__ import annotations

import base64
import io
import threading

import numpy as np
import pytest
from PIL import Image

from cap2im.pipeline import Pipeline
from cap2im.rendering.page import page_data
from tests.serve.conftest import CAPTION, wait_until

OTHERS = ["the digit 7 is at the bottom left of the image .", "the digit 2 is on the left of the digit 2"]


def picture(file) -> np.ndarray:
    assert file["media_type"] == "image/png"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(file["base64"]))))


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Compare up to rounding; see tests/test_pipeline.py."""
    return one.shape == other.shape and np.abs(one.astype(int) - other.astype(int)).max() <= 1


def test_a_request_gets_its_pictures(serve, tiny):
    answer = serve().draw([CAPTION, OTHERS[0]], samples=2, seed=7, steps=True)
    assert answer.status == 200
    expected = Pipeline.load(str(tiny)).draw([CAPTION, OTHERS[0]], samples=2, seed=7)
    assert answer.json["model"] == "tiny"
    assert [result["caption"] for result in answer.json["results"]] == [CAPTION, OTHERS[0]]
    assert answer.json["results"][0]["words"] == [*CAPTION.split(), "."]
    got = [drawing for result in answer.json["results"] for drawing in result["drawings"]]
    assert [drawing["seed"] for drawing in got] == [7, 8, 7, 8]
    for drawing, wanted in zip(got, expected, strict=True):
        assert (drawing["width"], drawing["height"]) == (60, 60)
        assert same(picture(drawing["image"]), wanted.canvases[-1, :, :, 0])
        steps = drawing["steps"]
        assert same(picture(steps["canvases"]), wanted.canvases[..., 0].reshape(-1, 60)), "one column"
        assert (steps["glimpses"], steps["columns"]) == (3, 1)
        np.testing.assert_allclose(steps["attention"], wanted.attention, atol=1e-4)
        np.testing.assert_allclose(steps["boxes"], wanted.boxes, atol=1e-2)


def test_formats(serve):
    client = serve()
    plain = client.draw().json["results"][0]
    assert plain["page"] is None
    assert plain["drawings"][0]["steps"] is None
    moving = client.draw(format="gif").json["results"][0]["drawings"][0]["image"]
    assert moving["media_type"] == "image/gif"
    assert Image.open(io.BytesIO(base64.b64decode(moving["base64"]))).n_frames == 3
    page = client.draw(format="html", samples=2).json["results"][0]
    assert page["page"]["media_type"].startswith("text/html")
    text = base64.b64decode(page["page"]["base64"]).decode()
    assert CAPTION in text
    assert text.startswith("<!doctype html>")
    assert picture(page["drawings"][1]["image"]).shape == (60, 60)


def test_enlarged_pictures_have_even_squares(serve):
    client = serve()
    (plain,) = client.draw(seed=7).json["results"][0]["drawings"]
    for more in ({}, {"steps": True}, {"format": "html"}):
        (large,) = client.draw(seed=7, enlarge=True, **more).json["results"][0]["drawings"]
        assert (large["width"], large["height"]) == (480, 480)
        assert same(picture(large["image"]), picture(plain["image"]).repeat(8, axis=0).repeat(8, axis=1))
    (moving,) = client.draw(format="gif", enlarge=True).json["results"][0]["drawings"]
    assert (moving["width"], moving["height"]) == (60, 60)


def test_models_words_and_reading(serve, tiny):
    client = serve(captions=3)
    told = client.get("/v1/models").json
    assert told["default"] == "tiny"
    assert told["limits"] == {"captions": 3, "samples": 16, "characters": 1000, "pictures": 48}
    (model,) = told["models"]
    vocabulary = Pipeline.load(str(tiny)).vocabulary
    assert (model["name"], model["kind"], model["side"], model["colours"], model["glimpses"]) == ("tiny", "draw", 60, 1, 3)
    assert model["words"] == len(vocabulary)
    assert client.draw(model["examples"][:3]).status == 200
    assert client.get("/v1/models/tiny/words").json == {"words": [*vocabulary.words, *vocabulary.aliases]}
    read = client.ask("POST", "/v1/read", {"caption": "the didgit three"}).json
    assert read == {"words": ["the", "didgit", "three", "."], "unknown": [{"word": "didgit", "nearest": ["digit", "right", "eight"]}]}


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"captions": []}, "captions: List should have at least 1 item"),
        ({"captions": [CAPTION] * 4}, "captions: List should have at most 3 items"),
        ({"captions": ["x" * 101]}, "captions.0: String should have at most 100 characters"),
        ({"captions": [""]}, "captions.0: String should have at least 1 character"),
        ({"samples": 0}, "samples: Input should be greater than or equal to 1"),
        ({"samples": 5}, "samples: Input should be less than or equal to 4"),
        ({"captions": [CAPTION] * 3, "samples": 4}, "captions: 3 with 4 samples exceed the 10 pictures"),
        ({"captions": [CAPTION], "samples": 2, "seed": 2**53 - 1}, "seed: 9007199254740991 with 2 samples exceeds the largest seed"),
        ({"samples": "2"}, "samples: Input should be a valid integer"),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0"),
        ({"seed": 2**53}, "seed: Input should be less than or equal to 9007199254740991"),
        ({"format": "svg"}, "format: Input should be 'png', 'gif' or 'html'"),
        ({"surprise": 1}, "surprise: Extra inputs are not permitted"),
        ({"captions": [" . "]}, "has no words"),
        ({"captions": ["the digit elven"]}, r"unknown word 'elven' (nearest known: seven, eleven"),
    ],
)
def test_wrong_requests_get_one_sentence(serve, gate, wanted, sentence):
    client = serve(captions=3, samples=4, characters=100, queue=10)
    for path in ("/v1/draw", "/v1/draw/stream"):
        answer = client.draw(wanted.get("captions", [CAPTION]), path, **{key: value for key, value in wanted.items() if key != "captions"})
        assert answer.status == 422
        assert sentence.split(" (")[0] in answer.detail
        assert "\n" not in answer.detail
    assert not gate.drawn


def test_unknown_words_get_suggestions_or_are_skipped(serve):
    client = serve()
    assert client.draw(["the didgit three"]).detail == (
        "caption 'the didgit three': unknown word 'didgit' (nearest known: digit, right, eight); "
        'tiny knows 22 words, for example "the digit 2 is on the left of the digit 8"'
    )
    many = client.draw([" ".join(f"w{n}" for n in range(150))]).detail
    assert "and 145 unknown words more; tiny knows 22 words, " in many
    assert client.draw(["the blue digit three"], unknown="skip").json["results"][0]["words"] == ["the", "digit", "three", "."]


def test_unknown_models(serve):
    client = serve()
    for answer in (client.draw(model="other"), client.get("/v1/models/other/words"), client.draw(path="/v1/draw/stream", model="other")):
        assert (answer.status, answer.detail) == (404, "unknown model 'other'; served: tiny")


def test_broken_json_and_other_types_are_refused(serve):
    client = serve()
    broken = client.ask("POST", "/v1/draw", b'{"captions": [the]}')
    assert (broken.status, broken.detail) == (422, "the body is not JSON: Expecting value at character 14")
    assert client.ask("POST", "/v1/draw", b"captions=x", Content_Type="application/x-www-form-urlencoded").status == 422
    assert client.ask("POST", "/v1/draw", b'{"captions": ["\\ud800"]}').status == 422
    assert client.ask("GET", "/v1/draw").status == 405
    assert client.get("/nothing").status == 404


def test_stream_sends_every_glimpse_and_the_viewer_data(serve, tiny):
    events = list(serve().events([CAPTION, OTHERS[0]], samples=2, seed=3))
    assert events[0] == (
        "start",
        {
            "model": "tiny",
            "results": [
                {"caption": caption, "words": [*caption.split(), "."][:12], "width": 60, "height": 60, "glimpses": 3, "seeds": [3, 4]}
                for caption in (CAPTION, OTHERS[0])
            ],
        },
    )
    assert events[-1] == ("end", {})
    pipeline = Pipeline.load(str(tiny))
    for result, caption in enumerate((CAPTION, OTHERS[0])):
        drawings = pipeline.draw(caption, samples=2, seed=3)
        mine = [(name, data) for name, data in events[1:-1] if data["result"] == result]
        assert [(name, data.get("glimpse")) for name, data in mine] == [("glimpse", 0), ("glimpse", 1), ("glimpse", 2), ("drawn", None)]
        for _, data in mine[:-1]:
            for k, sample in enumerate(data["samples"]):
                t, uri = data["glimpse"], sample["image"].removeprefix("data:image/png;base64,")
                assert same(picture({"media_type": "image/png", "base64": uri}), drawings[k].canvases[t, :, :, 0])
                np.testing.assert_allclose(sample["attention"], drawings[k].attention[t], atol=1e-3)
                np.testing.assert_allclose(sample["box"], drawings[k].boxes[t], atol=1e-1)
        told, wanted = mine[-1][1]["data"], page_data(drawings)
        assert told.keys() == wanted.keys()
        assert (told["caption"], told["words"], told["glimpses"]) == (caption, list(wanted["words"]), 3)
        assert [sample.keys() for sample in told["samples"]] == [sample.keys() for sample in wanted["samples"]]


def test_glimpses_come_while_the_drawing_is_going_on(serve, gate):
    client, seen, go_on, came = serve(), [], threading.Semaphore(0), []
    gate.glimpse = lambda: came.append(go_on.acquire(timeout=5))
    for name, data in client.events():
        if name == "glimpse":  # the next one is not drawn before this one has come
            seen.append(data["glimpse"])
            go_on.release()
    assert seen == [0, 1, 2]
    assert came == [True] * 3


def test_samples_of_several_batches_are_streamed_together(serve, gate):
    client = serve(batch=2)
    names = [(name, data.get("glimpse")) for name, data in client.events(samples=3)]
    assert [len(batch) for batch in gate.batches] == [2, 1]
    assert names == [("start", None), ("glimpse", 0), ("glimpse", 1), ("glimpse", 2), ("drawn", None), ("end", None)]


def test_model_failure_is_500_and_the_server_goes_on(serve, gate):
    client = serve()
    gate.fail = RuntimeError("secret of /root/models")
    answer = client.draw()
    assert (answer.status, answer.detail) == (500, "tiny failed to draw")
    assert list(client.events())[-1] == ("error", {"detail": "tiny failed to draw"})
    gate.fail = None
    assert client.draw().status == 200
    wait_until(lambda: client.count("cap2im_queued") == 0)


def test_a_failing_route_is_500_without_internals(serve, monkeypatch):
    client = serve()
    monkeypatch.setattr("cap2im.serve.api.render_response", lambda *_: 1 / 0)
    answer = client.draw()
    assert (answer.status, answer.detail) == (500, "the server failed; its log has the traceback")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.count("cap2im_requests_total") >= 1


def test_head_equals_get_without_the_body(serve):
    client = serve()
    for path in ("/", "/healthz", "/v1/models"):
        head, get = client.ask("HEAD", path), client.get(path)
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == get.headers["content-length"]
    assert client.ask("HEAD", "/v1/draw").status == 405
