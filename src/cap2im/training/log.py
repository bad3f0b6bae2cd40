"""Log of a run: progress on the terminal, `stats.jsonl`, sample grids, and TensorBoard or Weights & Biases."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator
from pydantic import BaseModel, NonNegativeInt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

from cap2im.extras import require
from cap2im.files import atomic_path, check_regular_file, naming, parse_json
from cap2im.training.samples import SampleGrid

Tracker = Literal["tensorboard", "wandb"]
NOTE_WIDTH = 36  # columns
UNKNOWN_TIME = "-:--:--"
LINE_EVERY = 30.0  # seconds between two lines of progress without a terminal


def check_tracker(tracker: Tracker) -> None:
    """Check that the package of a tracker is installed.

    Raises:
        ValueError: the package is missing.
    """
    require(f"--log {tracker}", "train" if tracker == "tensorboard" else tracker, tracker)


def progress_bar(console: Console | None = None) -> Progress:
    """Return a bar of at most 80 columns: count, elapsed time, and the fields `left` (time) and `note` of the task."""
    return Progress(
        MofNCompleteColumn(),
        BarColumn(bar_width=8),
        TimeElapsedColumn(),
        TextColumn("left {task.fields[left]}"),
        TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", max_width=NOTE_WIDTH)),
        console=console,
    )


class RunLog:
    """Writes the log of a run, in the main process only.

    Args:
        run: the run's folder.
        accelerator: of the run, made for a tracker or for none.
        step: updates made before.
        total: updates of the whole training.
    """

    def __init__(self, run: Path, accelerator: Accelerator, step: int, total: int) -> None:
        self.run, self.accelerator, self.active = run, accelerator, accelerator.is_main_process
        self._total, self._first, self._step = total, step, step
        self._stats, self._captioned = run / "stats.jsonl", set[str]()
        self._progress = progress_bar()
        self._interactive = self._progress.console.is_terminal or self._progress.console.is_jupyter
        self._progress.disable = not (self.active and self._interactive)
        self._task = self._progress.add_task("", total=total, completed=step, left=UNKNOWN_TIME, note="")
        self._printed = time.monotonic()
        self._first_update = 0.0  # when it ended
        self._excepthook: Any = None

    def open(self, config: Mapping[str, Any], wandb_id: str) -> None:
        """Remove log entries after the resumed step, and start the tracker.

        Args:
            config: the recipe as a table, for the tracker.
            wandb_id: of the run on Weights & Biases.

        Raises:
            ValueError: Weights & Biases refuses the run.
            OSError: the disk is full, or the folder cannot be written.
        """
        if not self.active:
            return
        damaged = _remove_later_steps(self._stats, self._first) if self._stats.exists() else 0
        if damaged:
            self.print(f"{self._stats}: removed {damaged} damaged line{'s' * (damaged != 1)}")
        self._excepthook, threading.excepthook = threading.excepthook, self._thread_failed
        tensorboard = {"purge_step": self._first + 1 if self._first else None}
        wandb = {"name": self.run.name, "dir": str(self.run), "id": wandb_id, "resume": "allow", "config": dict(config)}
        names = [str(tracker) for tracker in self.accelerator.log_with]
        try:
            with self._tracker_errors():  # TensorBoard's project is the name of its folder
                self.accelerator.init_trackers(
                    "cap2im" if "wandb" in names else "tensorboard", init_kwargs={"tensorboard": tensorboard, "wandb": wandb}
                )
        except BaseException:
            threading.excepthook = self._excepthook
            raise
        self._progress.start()

    def close(self) -> None:
        """Stop the bar and the tracker.

        Raises:
            OSError: the disk is full.
        """
        self._progress.stop()
        if not self.active:
            return
        try:
            with self._tracker_errors():
                for tracker in self.accelerator.trackers:
                    tracker.finish()
        finally:
            self.accelerator.trackers.clear()
            threading.excepthook = self._excepthook

    def advance(self, note: str) -> None:
        """Count an update. The bar shows `note` and the time left; without a terminal, a line does at the first update and at times.

        The time left is estimated from the updates after the first, which compiles or warms up.
        """
        self._step += 1
        now, updates = time.monotonic(), self._step - self._first - 1  # after the first
        if updates == 0:
            self._first_update, left = now, UNKNOWN_TIME
        else:
            left = str(timedelta(seconds=round((now - self._first_update) / updates * (self._total - self._step))))
        self._progress.update(self._task, advance=1, left=left, note=note)
        due = self._step == self._first + 1 or now - self._printed >= LINE_EVERY
        if not self._interactive and due and self._step < self._total:
            self._printed = now
            self.print(f"step {self._step:,} of {self._total:,}, {left} left: {note}")

    def print(self, text: str) -> None:
        """Print a line, above the bar."""
        if self.active:
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=not self._interactive)

    def note(self, text: str) -> None:
        """Show a text beside the bar."""
        self._progress.update(self._task, note=text)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers of an update, by name.

        Raises:
            OSError: the disk is full, or the folder is gone.
        """
        if not self.active:
            return
        with naming(self._stats), self._stats.open("a", encoding="utf-8") as file:  # opened each time: the log may have been moved away
            file.write(json.dumps({"step": step, **values}) + "\n")
        with self._tracker_errors():
            self.accelerator.log(dict(values), step=step)

    def grid(self, step: int, grid: SampleGrid) -> None:
        """Write a sample grid as PNG and to the tracker, the first time with its captions.

        Raises:
            OSError: the disk is full, or the folder is gone.
        """
        if not self.active:
            return
        from PIL import Image

        folder = self.run / "samples"
        folder.mkdir(exist_ok=True)
        with atomic_path(folder / f"{grid.name}-{step:08d}.png") as draft:
            Image.fromarray(grid.pixels).save(draft, "PNG")
        with self._tracker_errors():
            for tracker in self.accelerator.trackers:
                layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({grid.name: grid.pixels[None]}, step=step, **layout)
            if grid.name not in self._captioned:  # they stay the same
                self._captioned.add(grid.name)
                captions = "\n".join(f"{row}. {text}" for row, text in enumerate(grid.captions, 1))
                self.accelerator.log({f"{grid.name}/captions": captions}, step=step)

    @contextmanager
    def _tracker_errors(self) -> Iterator[None]:
        """Name the folder in OSErrors of the tracker, and raise ValueError for those of Weights & Biases."""
        try:
            with naming(self.run / "tensorboard"):
                yield
        except Exception as error:
            if not type(error).__module__.startswith("wandb"):
                raise
            raise ValueError(f"--log wandb: {' '.join(str(error).split())[:300]}") from None

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        """Ignore an OSError in TensorBoard's thread, because the next call raises it in this one."""
        if not issubclass(failure.exc_type, OSError):
            self._excepthook(failure)


class _Line(BaseModel):
    """A line of `stats.jsonl`."""

    step: NonNegativeInt


def _remove_later_steps(path: Path, step: int) -> int:
    """Remove lines of a log that an interrupted run wrote after a step, and return how many damaged lines were removed too.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    damaged = 0
    check_regular_file(path)
    with atomic_path(path) as draft, path.open("rb") as before, draft.open("wb") as after:
        for line in before:
            try:
                if parse_json(line, _Line, str(path)).step <= step:
                    after.write(line.rstrip(b"\r\n") + b"\n")
            except ValueError:
                damaged += line.endswith(b"\n")  # a process that is killed leaves half a line
    return damaged
