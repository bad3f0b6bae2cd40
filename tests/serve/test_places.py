"""Concurrent clients: batches, queue slots, disconnects and slow clients."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import socket
from functools import partial
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from cap2im.pipeline import Pipeline
from cap2im.serve.batching import BatchQueue, Picture
from cap2im.serve.engine import BusyError, DrawnEvent, Engine
from cap2im.serve.metrics import Metrics
from cap2im.serve.settings import ServeSettings
from tests.serve.conftest import CAPTION, together, wait_until

CAPTIONS = [f"the digit {n} is at the top left of the image" for n in range(10)]


def test_pictures_do_not_depend_on_the_batch_of_requests(serve, gate, tiny):
    client = serve()
    gate.close()
    first = partial(client.draw, [CAPTION], seed=99)
    rest = [partial(client.draw, [caption], seed=n) for n, caption in enumerate(CAPTIONS)]

    def open_when_all_wait():
        wait_until(lambda: client.count("cap2im_queued") == 11)
        gate.opened.set()

    def late(ask):
        gate.reached.wait(20)  # the first picture is being drawn
        return ask()

    answers = together(first, *(partial(late, ask) for ask in rest), open_when_all_wait)[:-1]
    assert [len(batch) for batch in gate.batches] == [1, 10]
    alone = Pipeline.load(str(tiny))
    for answer, caption, seed in zip(answers, [CAPTION, *CAPTIONS], [99, *range(10)], strict=True):
        (drawing,) = answer.json["results"][0]["drawings"]
        got = np.asarray(Image.open(io.BytesIO(base64.b64decode(drawing["image"]["base64"]))))
        wanted = alone.draw(caption, seed=seed)[0].canvases[-1, :, :, 0]
        assert np.abs(got.astype(int) - wanted.astype(int)).max() <= 1
    assert client.count("cap2im_pictures_total") == 11
    assert client.count("cap2im_batch_pictures_count") == 2


def test_a_request_that_does_not_fit_is_refused_whole(serve, gate):
    client = serve(queue=4)
    gate.close()
    accepted = partial(client.draw, [CAPTION], samples=2)

    def refused():
        wait_until(lambda: client.count("cap2im_queued") == 2)
        answers = client.draw(CAPTIONS[:3]), client.draw(CAPTIONS[:1], path="/v1/draw/stream", samples=3)
        gate.opened.set()
        return answers

    answer, (busy, busy_stream) = together(accepted, refused)
    assert answer.status == 200
    for each in (busy, busy_stream):
        assert each.status == 503
        assert each.detail == f"the queue is full; try again in {each.headers['retry-after']} s"
        assert 1 <= int(each.headers["retry-after"]) <= 60
    assert gate.drawn == [(CAPTION, 0), (CAPTION, 1)]
    assert client.count("cap2im_refused_total") == 2
    assert client.draw(CAPTIONS[:4]).status == 200, "it fits an empty queue"


def test_clients_that_leave_free_their_places_and_are_not_drawn(serve, gate):
    client = serve(queue=6, batch=2)
    gate.close()
    being_drawn = client.begin("/v1/draw", {"captions": [CAPTION], "samples": 2})
    gate.reached.wait(20)
    queued = client.begin("/v1/draw", {"captions": CAPTIONS[:2]})
    watching = client.begin("/v1/draw/stream", {"captions": CAPTIONS[2:4]})
    wait_until(lambda: client.count("cap2im_queued") == 6)
    assert client.draw().status == 503
    queued.close()
    wait_until(lambda: client.count("cap2im_queued") == 4)
    watching.close()
    wait_until(lambda: client.count("cap2im_queued") == 2)
    staying = client.begin("/v1/draw", {"captions": CAPTIONS[4:6]})
    wait_until(lambda: client.count("cap2im_queued") == 4)
    gate.opened.set()
    for each in (staying, being_drawn):
        assert each.recv(12) == b"HTTP/1.1 200"
        each.close()
    assert gate.batches == [[(CAPTION, 0), (CAPTION, 1)], [(CAPTIONS[4], 0), (CAPTIONS[5], 0)]]
    assert 'cap2im_requests_total{route="/v1/draw",status="499"} 1.0' in client.get("/metrics").body.decode()


def test_disconnected_streams_free_their_slots(serve, gate):
    client = serve(queue=2, batch=1)
    events = client.events([CAPTION], samples=2)
    assert next(events)[0] == "start"
    gate.close()
    assert client.count("cap2im_queued") == 2
    events.close()  # type: ignore[attr-defined]
    wait_until(lambda: client.count("cap2im_queued") == 0)
    gate.opened.set()
    assert client.draw(samples=2).status == 200


def test_timeouts_are_504_and_free_their_slots(serve, gate):
    client = serve(queue=2, timeout_s=0.3)
    gate.close()
    late, watched = together(client.draw, lambda: list(client.events()))
    assert (late.status, late.detail) == (504, "the drawing took longer than 0.3 s; ask for fewer pictures or try again later")
    assert watched[-1] == ("error", {"detail": "the drawing took longer than 0.3 s"})
    assert client.count("cap2im_queued") == 0
    gate.opened.set()
    wait_until(lambda: client.draw().status == 200)


def test_a_stream_that_waits_gives_signs_of_life(serve, gate, monkeypatch):
    monkeypatch.setattr("cap2im.serve.stream.KEEPALIVE_S", 0.1)
    client = serve()
    gate.close()
    connection = client.begin("/v1/draw/stream", {"captions": [CAPTION]})
    read = connection.makefile("rb")
    pings = 0
    while pings < 3:
        pings += read.readline() == b": ping\n"
    gate.opened.set()
    assert b"event: end" in read.read()


def test_a_slow_body_gets_408(serve):
    client = serve(body_timeout_s=0.3)
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as slow:
        slow.sendall(b"POST /v1/draw HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        answer = slow.makefile("rb").read()
    head, body = answer.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 408")
    assert json.loads(body) == {"detail": "the request's body did not arrive within 0.3 s"}
    assert client.draw().status == 200


def test_a_big_body_gets_413_before_it_is_read(serve):
    client = serve(body_bytes=1000)
    big = client.draw(["x" * 2000])
    assert (big.status, big.detail) == (413, "the request's body is larger than 1,000 bytes")
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as endless:
        endless.sendall(b"POST /v1/draw HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99999999\r\n\r\n")
        assert endless.recv(12) == b"HTTP/1.1 413"
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as chunked:
        chunked.sendall(b"POST /v1/draw HTTP/1.1\r\nHost: [::1]\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunked.sendall(b"400\r\n" + b" " * 1024 + b"\r\n")
        assert chunked.recv(12) == b"HTTP/1.1 413"


def test_two_devices_draw_side_by_side(serve, gate, monkeypatch):
    client = serve(devices=("cpu", "cpu"))
    gate.close()

    def both_then_open():
        wait_until(lambda: len(gate.batches) == 2)
        gate.opened.set()

    one, other, _ = together(partial(client.draw, seed=1), partial(client.draw, seed=2), both_then_open)
    assert (one.status, other.status) == (200, 200)
    assert sorted(gate.drawn) == [(CAPTION, 1), (CAPTION, 2)]


def test_an_idle_queue_sets_no_alarm():
    async def alarms() -> int:
        loop, queue = asyncio.get_running_loop(), BatchQueue(draw_at_once, size=2, wait_ms=5)
        await queue.draw([Picture(CAPTION, 0)])
        with mock.patch.object(loop, "call_at", wraps=loop.call_at) as call_at:
            for _ in range(100):
                await asyncio.sleep(0)
        return call_at.call_count

    assert asyncio.run(alarms()) == 0


def test_full_queue_estimates_the_wait_for_all_devices(tiny):
    engine = Engine(ServeSettings.of({"models": (str(tiny),), "devices": ("cpu", "cpu"), "queue": 12}), Metrics())
    engine.load()
    ((first, second),) = engine.models.values()
    first.speed, second.speed = 1.5, 2.5  # pictures a second
    asked = engine.accept(engine.default, CAPTIONS, 1, 0, "skip")
    with engine.slots(asked), pytest.raises(BusyError) as busy, engine.slots(asked):
        pass
    assert busy.value.headers == {"Retry-After": "3"}  # 10 pictures at 4 a second


def test_slow_clients_hold_up_only_their_streams(tiny):
    engine = Engine(ServeSettings.of({"models": (str(tiny),), "queue": 4}), Metrics())
    engine.load()
    asked = engine.accept(engine.default, CAPTIONS[:2], 2, 0, "skip")

    async def watched_slowly() -> None:
        with engine.slots(asked, stream=True) as slots:
            stream = engine.watch(asked, slots)
            await anext(stream)  # the client has the first glimpse, and reads no further
            while engine.queued:
                await asyncio.sleep(0.01)
            assert engine.unread == 4
            with pytest.raises(BusyError, match="slow stream clients"), engine.slots(asked, stream=True):
                pass
            with engine.slots(asked):
                assert len(await engine.draw(asked)) == 2
            assert len([told async for told in stream if isinstance(told, DrawnEvent)]) == 2, "it gets the rest when it reads on"
            await stream.aclose()
        slots.mark_drawn(2)  # by a batch that began before the client disconnected

    asyncio.run(asyncio.wait_for(watched_slowly(), 30))
    assert (engine.queued, engine.unread) == (0, 0)


async def draw_at_once(pictures: list[Picture]) -> list[int]:
    """Return the seeds instead of drawings."""
    return [picture.seed for picture in pictures]


def test_a_full_batch_does_not_wait():
    """Waiting would take ten minutes."""

    async def draw() -> list[int]:
        return await BatchQueue(draw_at_once, size=2, wait_ms=600_000).draw([Picture(CAPTION, seed) for seed in range(4)])

    assert asyncio.run(asyncio.wait_for(draw(), 30)) == [0, 1, 2, 3]


def batches_of_returning_clients(*, size: int, wait_ms: float) -> list[list[int]]:
    """Return the seeds of each batch for clients that are answered together and return one after the other."""
    batches = []

    async def draw(pictures: list[Picture]) -> list[int]:
        batches.append([picture.seed for picture in pictures])
        await asyncio.sleep(0.01)
        return batches[-1]

    async def client(queue: BatchQueue, seed: int) -> None:
        await asyncio.sleep(0.01 * seed)
        assert await queue.draw([Picture(CAPTION, seed)]) == [seed]

    async def crowds() -> None:
        queue = BatchQueue(draw, size=size, wait_ms=wait_ms)
        await queue.draw([Picture(CAPTION, seed) for seed in range(4)])
        await asyncio.gather(*(client(queue, seed) for seed in range(4)))

    asyncio.run(asyncio.wait_for(crowds(), 30))
    return batches


def test_concurrent_clients_share_a_batch(monkeypatch):
    monkeypatch.setattr("cap2im.serve.batching.RETURN_WAIT", 1000)  # ten seconds, of a batch of 10 ms
    assert batches_of_returning_clients(size=16, wait_ms=0) == [[0, 1, 2, 3]] * 2
    monkeypatch.setattr("cap2im.serve.batching.RETURN_WAIT", 0)
    assert len(batches_of_returning_clients(size=16, wait_ms=0)) > 2, "the wait makes the difference"


def test_clients_that_came_back_are_drawn_at_once():
    """Waiting for others would take ten minutes."""
    assert batches_of_returning_clients(size=4, wait_ms=600_000) == [[0, 1, 2, 3]] * 2


def test_pictures_that_were_given_up_are_not_drawn():
    async def leave() -> list[int]:
        queue = BatchQueue(draw_at_once, size=4, wait_ms=50)
        left = asyncio.create_task(queue.draw([Picture(CAPTION, 0), Picture(CAPTION, 1)]))
        await asyncio.sleep(0)
        left.cancel()
        return await queue.draw([Picture(CAPTION, 2)])

    assert asyncio.run(asyncio.wait_for(leave(), 30)) == [2]


def test_a_failed_batch_fails_its_own_pictures():
    calls = []

    async def draw(pictures: list[Picture]) -> list[int]:
        calls.append(len(pictures))
        if len(calls) == 1:
            raise RuntimeError("broken")
        return [picture.seed for picture in pictures]

    async def ask() -> list[int]:
        queue = BatchQueue(draw, size=2, wait_ms=1)
        with pytest.raises(RuntimeError, match="broken"):
            await queue.draw([Picture(CAPTION, seed) for seed in range(4)])
        return await queue.draw([Picture(CAPTION, 7)])

    assert asyncio.run(asyncio.wait_for(ask(), 30)) == [7]
