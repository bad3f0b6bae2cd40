"""Clients of `cap2im serve` for locust, which each ask for one picture after the other: see serve.py.

Captions come from the JSON file that CAP2IM_CAPTIONS names; every request has a seed of its own. Nothing of cap2im
is imported: clients have to be cheap.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

from locust import FastHttpUser, task

CAPTIONS = json.loads(Path(os.environ["CAP2IM_CAPTIONS"]).read_text("utf-8"))


class Client(FastHttpUser):
    """Draws a random caption, and another as soon as it has the picture."""

    @task
    def draw(self) -> None:
        asked = {"captions": [random.choice(CAPTIONS)], "seed": random.randrange(1_000_000)}
        with self.client.post("/v1/draw", json=asked, catch_response=True) as answer:
            if answer.status_code != 200 or b'"image/png"' not in answer.content:
                answer.failure(f"{answer.status_code}: {answer.text[:100]}")
