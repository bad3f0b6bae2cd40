"""Pictures per second of `cap2im serve`, as a share of the same model called in Python.

    pip install -c constraints.txt ".[serve]"    # and wrk, as Debian and Homebrew have it
    python -m benchmarks.serve [--clients 32] [--requests 10000] [--rounds 5] [--seconds 10] [--threads 1] [OPTION OF cap2im serve]...

wrk drives a server process on loopback. Each client draws one picture of a random caption and seed after the other. The direct call draws
batches of as many random captions and seeds in this process, with the same encoding: base64 of PNG. Rounds of both alternate, so that other
work on the machine affects both; processor seconds per picture are less affected. Then the clients go on until the server has drawn
`--requests` pictures, and its memory is compared.
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
WARM_SECONDS = 2.0  # drawn before the first round
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Rate:
    """The result of one round.

    Attributes:
        pictures: number of drawn pictures.
        a_second: pictures a second.
        processor: processor seconds per picture.
        tool: processor seconds of the load tool per picture.
        p50: median latency in milliseconds.
        p99: 99th percentile of the latency in milliseconds.
    """

    pictures: int
    a_second: float
    processor: float
    tool: float = 0
    p50: float = 0
    p99: float = 0


@contextmanager
def serving(model: str, options: list[str], environment: dict[str, str]) -> Iterator[tuple[psutil.Process, str]]:
    """Yield the process and the URL of a server that is ready."""
    command = [sys.executable, "-m", "cap2im", "serve", "--model", model, "--port", "0", *options]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment) as process,
    ):
        try:
            end = time.monotonic() + STARTS_WITHIN
            while not (match := re.search(r"http://127\.0\.0\.1:\d+", (output.seek(0), output.read())[1])):
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"the server did not start: {(output.seek(0), output.read())[1]}")
                time.sleep(0.1)
            yield psutil.Process(process.pid), match[0]
        finally:
            process.terminate()


def whole(process: psutil.Process) -> list[psutil.Process]:
    """Return a process and its children."""
    return [process, *process.children(recursive=True)]


def spent(process: psutil.Process) -> float:
    """Return the processor seconds of a process and its children."""
    return sum(sum(each.cpu_times()[:2]) for each in whole(process))


def memory(process: psutil.Process) -> float:
    """Return the resident memory of a process and its children in MiB."""
    return sum(each.memory_info().rss for each in whole(process)) / MEBIBYTE


def children_spent() -> float:
    """Return the processor seconds of ended child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def direct(pipeline: Pipeline, captions: list[str], batch: int, seconds: float) -> Rate:
    """Draw batches for `seconds`."""
    random = generator("direct")
    done, start, before = 0, time.perf_counter(), time.process_time()
    while not done or time.perf_counter() - start < seconds:
        chosen = torch.randint(len(captions), (batch,), generator=random).tolist()
        seeds = torch.randint(1_000_000, (batch,), generator=random).tolist()
        for drawing in pipeline.drawings(pipeline.prompts([captions[i] for i in chosen]), seeds):
            base64.b64encode(drawing.png())
        done += batch
    return Rate(done, done / (time.perf_counter() - start), (time.process_time() - before) / done)


def served(server: psutil.Process, url: str, clients: int, seconds: float, captions: Path) -> Rate:
    """Run clients for `seconds`.

    Raises:
        RuntimeError: a request failed, or none succeeded.
    """
    before, tool = spent(server), children_spent()
    asking = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:.0f}s", "--timeout", "60s", "-s", str(CLIENTS), url, "--", str(captions)]
    done = subprocess.run(asking, capture_output=True, text=True, check=False)
    after = spent(server)
    result = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"failed": 1}
    if result["failed"] or not result["pictures"]:
        raise RuntimeError(f"wrk: {done.stdout[-1000:]} {done.stderr[-1000:]}")
    count = result["pictures"]
    return Rate(count, count / result["seconds"], (after - before) / count, (children_spent() - tool) / count, result["p50"], result["p99"])


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
            direct(pipeline, captions, arguments.clients, WARM_SECONDS)
            warm = served(server, url, arguments.clients, WARM_SECONDS, listed)
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
    served_rates, direct_rates = [pair[1] for pair in rounds], [pair[0] for pair in rounds]
    shares = [a.a_second / b.a_second for b, a in rounds]
    processor = [statistics.median(each.processor for each in rates) for rates in (direct_rates, served_rates)]
    print(f"{arguments.threads} thread(s) for torch, {platform.machine()}, torch {torch.__version__}; median of {len(rounds)} rounds\n")
    print("| what | pictures a second | ms of the processor a picture | p50, ms | p99, ms |")
    print("| --- | --- | --- | --- | --- |")
    rate = statistics.median(each.a_second for each in direct_rates)
    print(f"| called in Python, batches of {arguments.clients} | {rate:.0f} | {1000 * processor[0]:.2f} | | |")
    rate = statistics.median(each.a_second for each in served_rates)
    late = " | ".join(
        f"{statistics.median(times):.0f}" for times in ([each.p50 for each in served_rates], [each.p99 for each in served_rates])
    )
    print(f"| served to {arguments.clients} clients | {rate:.0f} | {1000 * processor[1]:.2f} | {late} |")
    print(f"| the load tool | | {1000 * statistics.median(each.tool for each in served_rates):.2f} | | |\n")
    print(f"Served, of called in Python: {statistics.median(shares):.0%} ({', '.join(f'{share:.0%}' for share in shares)}).")
    sizes = (f"{size:.0f} ({count:,})" for count, size in held.items())
    print(f"MiB in the server's memory (after so many requests): {', '.join(sizes)}.")


if __name__ == "__main__":
    main()
