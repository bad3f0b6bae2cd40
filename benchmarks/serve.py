"""How many pictures a second `cap2im serve` answers, as a share of what the same model draws when it is called in Python.

    pip install -c constraints.txt ".[serve]" locust
    python -m benchmarks.serve [--clients 32] [--requests 10000] [--rounds 5] [--seconds 10] [--threads 1] [OPTION OF cap2im serve]...

A real server process on loopback is driven by locust. Its clients each ask for one picture, of a random caption and seed, and for the next
one as soon as they have it. The direct figure is of batches of as many random captions and seeds in this process, with the same encoding:
base64 of PNG. Rounds of the two alternate, so that what else the machine does falls on both, and the seconds that the processor spent on
each process stand beside: a busy machine falsifies them less. Those of the load tool are without its start. Then the clients go on until
the server has answered `--requests`, and its memory is compared.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import torch

from cap2im.data.mnist_captions import LAYOUTS, HeldOut
from cap2im.pipeline import Pipeline
from cap2im.randomness import generator

CLIENTS = Path(__file__).with_name("serve_clients.py")
STARTS_WITHIN = 120  # seconds
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Rate:
    """Of one round.

    Attributes:
        pictures: drawn.
        a_second: pictures a second.
        processor: seconds of the processor for each picture.
        tool: the same, that the load tool spent.
        times: how many requests took so many milliseconds, which locust rounds.
    """

    pictures: int
    a_second: float
    processor: float
    tool: float = 0
    times: dict[int, int] = field(default_factory=dict)


@contextmanager
def serving(model: str, options: list[str], environment: dict[str, str]) -> Iterator[tuple[psutil.Process, str]]:
    """A server that is ready: its process and its address."""
    command = [sys.executable, "-m", "cap2im", "serve", "--model", model, "--port", "0", *options]
    with tempfile.TemporaryFile("w+") as said, subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=environment) as process:
        try:
            end = time.monotonic() + STARTS_WITHIN
            while not (found := re.search(r"http://127\.0\.0\.1:\d+", (said.seek(0), said.read())[1])):
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"the server did not start: {(said.seek(0), said.read())[1]}")
                time.sleep(0.1)
            yield psutil.Process(process.pid), found[0]
        finally:
            process.terminate()


def whole(process: psutil.Process) -> list[psutil.Process]:
    """A process and all that it started."""
    return [process, *process.children(recursive=True)]


def spent(process: psutil.Process) -> float:
    """Seconds of the processor, so far."""
    return sum(sum(each.cpu_times()[:2]) for each in whole(process))


def memory(process: psutil.Process) -> float:
    """MiB that are in memory."""
    return sum(each.memory_info().rss for each in whole(process)) / MEBIBYTE


def children_spent() -> float:
    """Seconds of the processor of processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def direct(pipeline: Pipeline, captions: list[str], batch: int, seconds: float) -> Rate:
    """Draws batches for so long."""
    random = generator("direct")
    done, start, before = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        chosen = torch.randint(len(captions), (batch,), generator=random).tolist()
        seeds = torch.randint(1_000_000, (batch,), generator=random).tolist()
        for drawing in pipeline.drawings([captions[i] for i in chosen], seeds):
            base64.b64encode(drawing.png())
        done += batch
    return Rate(done, done / (time.perf_counter() - start), (time.process_time() - before) / done)


def locust(*arguments: str, environment: dict[str, str]) -> tuple[subprocess.CompletedProcess[str], float]:
    """Runs it, and tells which seconds of the processor it took."""
    before = children_spent()
    done = subprocess.run(["locust", "-f", str(CLIENTS), *arguments], capture_output=True, text=True, env=environment, check=False)
    return done, children_spent() - before


def served(server: psutil.Process, url: str, clients: int, seconds: float, environment: dict[str, str]) -> Rate:
    """Lets clients ask for so long.

    Raises:
        RuntimeError: a request failed.
    """
    _, start = locust("--list", environment=environment)
    before, many = spent(server), str(clients)
    asking = ("--headless", "-u", many, "-r", many, "-t", f"{seconds:.0f}s", "--host", url, "--json", "--skip-log")
    done, tool = locust(*asking, environment=environment)
    after = spent(server)
    if done.returncode != 0:
        raise RuntimeError(f"locust: {done.stdout[-1000:]} {done.stderr[-1000:]}")
    (told,) = json.loads(done.stdout)
    count, lasted = told["num_requests"], told["last_request_timestamp"] - told["start_time"]
    times = {int(milliseconds): number for milliseconds, number in told["response_times"].items()}
    return Rate(count, count / lasted, (after - before) / count, (tool - start) / count, times)


def percentile(rates: list[Rate], share: float) -> int:
    """Milliseconds within which that share of all requests was answered."""
    every = np.array(sorted(pair for rate in rates for pair in rate.times.items()))  # [N, 2] milliseconds, requests
    return int(np.quantile(every[:, 0], share, method="inverted_cdf", weights=every[:, 1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="aligndraw-mnist")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10, help="of a round")
    parser.add_argument("--threads", type=int, default=1, help="of torch, in the server and here")
    arguments, options = parser.parse_known_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    pipeline = Pipeline.load(arguments.model)
    captions = [LAYOUTS[each.layout].caption(each.digits) for each in HeldOut.from_seed(0).configurations()]
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "captions.json"
        listed.write_text(json.dumps(captions))
        environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "CAP2IM_CAPTIONS": str(listed)}
        with serving(arguments.model, options, environment) as (server, url):
            ask = (server, url, arguments.clients, arguments.seconds, environment)
            direct(pipeline, captions, arguments.clients, 2)
            warm = served(server, url, arguments.clients, 2, environment)
            total = warm.pictures
            rounds, held = [], {}
            for _ in range(arguments.rounds):
                rounds.append((direct(pipeline, captions, arguments.clients, arguments.seconds), served(*ask)))
                total += rounds[-1][1].pictures
                held[total] = memory(server)
                print(f"round {len(rounds)}: {rounds[-1][0].a_second:.0f} direct, {rounds[-1][1].a_second:.0f} served", file=sys.stderr)
            while total - min(held) < arguments.requests:
                total += served(*ask).pictures
                held[total] = memory(server)
            urllib.request.urlopen(f"{url}/healthz").close()
    ours, theirs = [pair[1] for pair in rounds], [pair[0] for pair in rounds]
    shares = [a.a_second / b.a_second for b, a in rounds]
    processor = [statistics.median(each.processor for each in rates) for rates in (theirs, ours)]
    print(f"{arguments.threads} thread(s) for torch, {platform.machine()}, torch {torch.__version__}; median of {len(rounds)} rounds\n")
    print("| what | pictures a second | ms of the processor a picture | p50, ms | p99, ms |")
    print("| --- | --- | --- | --- | --- |")
    rate = statistics.median(each.a_second for each in theirs)
    print(f"| called in Python, batches of {arguments.clients} | {rate:.0f} | {1000 * processor[0]:.2f} | | |")
    rate = statistics.median(each.a_second for each in ours)
    late = f"{percentile(ours, 0.5)} | {percentile(ours, 0.99)}"
    print(f"| served to {arguments.clients} clients | {rate:.0f} | {1000 * processor[1]:.2f} | {late} |")
    print(f"| the load tool | | {1000 * statistics.median(each.tool for each in ours):.2f} | | |\n")
    print(f"Served, of called in Python: {statistics.median(shares):.0%} ({', '.join(f'{share:.0%}' for share in shares)}).")
    told = (f"{size:.0f} ({count:,})" for count, size in held.items())
    print(f"MiB in the server's memory (after so many requests): {', '.join(told)}.")


if __name__ == "__main__":
    main()
