"""How many pictures a second `cap2im serve` answers, as a share of what the same model draws when it is called in Python.

    pip install -c constraints.txt ".[serve]"    # and wrk, as Debian and Homebrew have it
    python -m benchmarks.serve [--clients 32] [--requests 10000] [--rounds 5] [--seconds 10] [--threads 1] [OPTION OF cap2im serve]...

A real server process on loopback is driven by wrk, whose clients cost next to nothing of the processors that they share with the server.
They each ask for one picture, of a random caption and seed, and for the next one as soon as they have it. The direct figure is of batches
of as many random captions and seeds in this process, with the same encoding: base64 of PNG. Rounds of the two alternate, so that what else
the machine does falls on both, and the seconds that the processor spent on each process stand beside: a busy machine falsifies them less.
Then the clients go on until the server has answered `--requests`, and its memory is compared.
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
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from cap2im.data.mnist_captions import LAYOUTS, HeldOut
from cap2im.pipeline import Pipeline
from cap2im.randomness import generator

CLIENTS = Path(__file__).with_name("serve_clients.lua")
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
        p50: milliseconds within which half of the requests were answered.
        p99: the same of all but a hundredth.
    """

    pictures: int
    a_second: float
    processor: float
    tool: float = 0
    p50: float = 0
    p99: float = 0


@contextmanager
def serving(model: str, options: list[str], environment: dict[str, str]) -> Iterator[tuple[psutil.Process, str]]:
    """A server that is ready: its process and its address."""
    command = [sys.executable, "-m", "cap2im", "serve", "--model", model, "--port", "0", *options]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as said,
        subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=environment) as process,
    ):
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
        for drawing in pipeline.drawings(pipeline.prompts([captions[i] for i in chosen]), seeds):
            base64.b64encode(drawing.png())
        done += batch
    return Rate(done, done / (time.perf_counter() - start), (time.process_time() - before) / done)


def served(server: psutil.Process, url: str, clients: int, seconds: float, captions: Path) -> Rate:
    """Lets clients ask for so long.

    Raises:
        RuntimeError: a request failed, or none was answered.
    """
    before, tool = spent(server), children_spent()
    asking = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:.0f}s", "--timeout", "60s", "-s", str(CLIENTS), url, "--", str(captions)]
    done = subprocess.run(asking, capture_output=True, text=True, check=False)
    after = spent(server)
    told = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"failed": 1}
    if told["failed"] or not told["pictures"]:
        raise RuntimeError(f"wrk: {done.stdout[-1000:]} {done.stderr[-1000:]}")
    count = told["pictures"]
    return Rate(count, count / told["seconds"], (after - before) / count, (children_spent() - tool) / count, told["p50"], told["p99"])


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
        listed = Path(folder) / "captions.txt"
        listed.write_text("\n".join(captions))
        environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
        with serving(arguments.model, options, environment) as (server, url):
            ask = (server, url, arguments.clients, arguments.seconds, listed)
            direct(pipeline, captions, arguments.clients, 2)
            warm = served(server, url, arguments.clients, 2, listed)
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
    late = " | ".join(f"{statistics.median(times):.0f}" for times in ([each.p50 for each in ours], [each.p99 for each in ours]))
    print(f"| served to {arguments.clients} clients | {rate:.0f} | {1000 * processor[1]:.2f} | {late} |")
    print(f"| the load tool | | {1000 * statistics.median(each.tool for each in ours):.2f} | | |\n")
    print(f"Served, of called in Python: {statistics.median(shares):.0%} ({', '.join(f'{share:.0%}' for share in shares)}).")
    told = (f"{size:.0f} ({count:,})" for count, size in held.items())
    print(f"MiB in the server's memory (after so many requests): {', '.join(told)}.")


if __name__ == "__main__":
    main()
