"""Load and faults, with server processes on loopback."""

from __future__ import annotations

import base64
import io
import os
import shutil
import signal
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import psutil
import pytest
from PIL import Image

import cap2im
from tests.serve.conftest import process, together, wait_until

MODEL = ("--model", "aligndraw-mnist")
DIGITS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "0")
CAPTIONS = [f"the digit {a} is at the top of the digit {b}" for a in DIGITS for b in DIGITS]


def test_overload_gives_every_client_a_picture_or_503():
    """Each client draws its own caption and seed, so a picture of another client would be noticed."""
    places, clients = 8, 80
    pipeline = cap2im.load("aligndraw-mnist")
    alone = pipeline.drawings(pipeline.prompts(CAPTIONS[:clients]), list(range(clients)))
    with process(*MODEL, "--queue", str(places), "--batch", "4") as (_, client):
        answers = together(*(partial(client.draw, [CAPTIONS[n]], seed=n) for n in range(clients)))
        statuses = Counter(answer.status for answer in answers)
        assert set(statuses) == {200, 503}
        assert statuses[200] >= places
        assert statuses[503] >= clients / 2, "the queue took more than its slots"
        for n, answer in enumerate(answers):
            if answer.status == 503:
                assert 1 <= int(answer.headers["retry-after"]) <= 60
                assert "queue is full" in answer.detail
                continue
            (result,) = answer.json["results"]
            (drawn,) = result["drawings"]
            assert (result["caption"], drawn["seed"]) == (CAPTIONS[n], n)
            pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(drawn["image"]["base64"]))))
            gap = np.abs(pixels.astype(int) - alone[n].canvases[-1, :, :, 0])
            assert gap.max() <= 1, f"client {n} got another picture"
        assert client.count("cap2im_pictures_total") == statuses[200], "refused requests are not drawn"
        assert client.count("cap2im_refused_total") == statuses[503]
        assert client.count("cap2im_queued") == 0
        assert client.draw(CAPTIONS[:places]).status == 200, "all slots are free again"


@pytest.mark.slow
def test_killed_worker_is_restarted():
    with process(*MODEL, workers=2) as (server, client):
        main = psutil.Process(server.pid)
        first = {each.pid for each in main.children()}

        def busy() -> list[psutil.Process]:
            connections = {each: each.net_connections("tcp") for each in main.children()}
            return [each for each, those in connections.items() if any(c.status == psutil.CONN_ESTABLISHED for c in those)]

        with ThreadPoolExecutor(1) as pool:
            long = pool.submit(client.draw, CAPTIONS[:16], samples=8)
            wait_until(busy)
            (victim,) = busy()
            victim.kill()
            with pytest.raises(OSError, match=r"(?i)reset|closed|remote"):
                long.result(timeout=20)
        answers = together(*(partial(client.draw, [caption]) for caption in CAPTIONS[:8]))
        assert [answer.status for answer in answers] == [200] * 8, "the other worker continues"
        assert "ready on" in server.stdout.readline(), "a new worker replaces it"
        assert victim.pid not in {each.pid for each in main.children()}
        assert {each.pid for each in main.children()} - first
        assert client.draw(CAPTIONS[:16], samples=8).status == 200
        assert client.count("cap2im_queued") == 0, "slots of the killed worker are not counted"


def test_group_signals_let_accepted_requests_finish():
    """As service managers and terminals send them."""
    with process(*MODEL, "--batch", "16", before=["setsid"]) as (server, client), ThreadPoolExecutor(1) as pool:
        long = pool.submit(client.draw, CAPTIONS[:8], samples=8)
        wait_until(lambda: client.count("cap2im_queued") > 0)
        os.killpg(server.pid, signal.SIGTERM)
        assert long.result(60).status == 200


def test_full_disk_fails_requests_and_not_the_server(tmp_path):
    alone = ["unshare", "--mount", "--map-root-user"]  # what is mounted is seen by the server alone, and gone with it
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    small = f'mount -t tmpfs -o size=64k tmpfs {tmp_path} && exec "$@"'
    with process(*MODEL, "--store", str(tmp_path), before=[*alone, "sh", "-c", small, "sh"]) as (_, client):
        answers = [client.draw(CAPTIONS[:1], steps=True)]
        while answers[-1].status == 200 and len(answers) < 30:
            answers.append(client.draw(CAPTIONS[:1], seed=len(answers), steps=True))
        assert (answers[0].status, answers[-1].status) == (200, 507)
        assert answers[-1].detail == "the picture was drawn, but its store is full"
        kept = client.get(answers[0].json["results"][0]["drawings"][0]["image"]["url"])
        assert kept.body.startswith(b"\x89PNG"), "stored files stay"
        assert client.draw(CAPTIONS[:1], samples=16, steps=True).status == 507
        assert client.get("/readyz").status == 200
        assert client.count("cap2im_queued") == 0
