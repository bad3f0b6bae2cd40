"""Measure how long a browser waits for drawings of exported pages.

    python -m benchmarks.exported_page FOLDER... [--runs 5] [--drawings 4]

Each run opens a folder of `cap2im export MODEL --format page` from a local static server, in a new Chromium without a window and without
a cache. It draws an example caption of the page as soon as the page is loaded, and then the same caption with other seeds. The time of a
drawing is from the click to the last glimpse. Chromium must be on the path.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import shutil
import statistics
import threading
import time
from pathlib import Path

from playwright.sync_api import Page, Playwright, sync_playwright

LONGEST = 60_000  # milliseconds of waiting


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files without a line for each request."""

    def log_message(self, format: str, *arguments: object) -> None:
        """Write nothing."""


def drawing(tab: Page, seed: int) -> float:
    """Return the seconds from a click on "Draw" to the end of the drawing."""
    tab.fill("#seed-choice", str(seed))
    tab.evaluate("() => { document.querySelector('#status').textContent = ''; }")
    start = time.perf_counter()
    tab.click("#draw")
    tab.wait_for_function("() => document.querySelector('#status').textContent.startsWith('Drawn in')", timeout=LONGEST)
    return time.perf_counter() - start


def times(playwright: Playwright, url: str, drawings: int) -> tuple[float, float, list[float]]:
    """Return the seconds until the page can be used, of the first drawing and of later ones."""
    browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
    tab = browser.new_context(reduced_motion="reduce").new_page()
    start = time.perf_counter()
    tab.goto(url)
    tab.wait_for_selector("#model-choice option", state="attached", timeout=LONGEST)
    loaded = time.perf_counter() - start
    tab.fill("#caption", tab.text_content("#ideas button >> nth=0") or "")
    first, *later = [drawing(tab, seed) for seed in range(drawings)]
    browser.close()
    return loaded, first, later


def row(playwright: Playwright, folder: Path, runs: int, drawings: int) -> str:
    """Return a folder's row of the table."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    measured = [times(playwright, f"http://127.0.0.1:{server.server_port}/", drawings) for _ in range(runs)]
    server.shutdown()
    loaded, first, later = zip(*measured, strict=True)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    medians = [statistics.median(values) for values in (loaded, first, [second for seconds in later for second in seconds])]
    return f"| {folder.name} | {size:.1f} | " + " | ".join(f"{value:.2f}" for value in medians) + f" | {max(first):.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--drawings", type=int, default=4)
    arguments = parser.parse_args()
    print(f"medians of {arguments.runs} runs, seconds\n")
    print("| page | MB | loaded | first drawing | later drawings | slowest first drawing |\n| --- | --- | --- | --- | --- | --- |")
    with sync_playwright() as playwright:
        for folder in arguments.folders:
            print(row(playwright, folder, arguments.runs, arguments.drawings), flush=True)


if __name__ == "__main__":
    main()
