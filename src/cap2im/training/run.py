"""The little that all training loops share: the run's folder, its log, progress, random states, and stopping on a broken loss."""

from __future__ import annotations

import ctypes
import json
import math
import platform
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from filelock import FileLock, Timeout
from pydantic import BaseModel, NonNegativeInt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter

from cap2im.config import ClassifierRecipe, DrawingRecipe, SkipThoughtsRecipe, to_toml
from cap2im.data.batch import Batch, Batches
from cap2im.data.workers import available_workers
from cap2im.files import atomic_path, check_regular_file, dump_json, naming, parse_json, split_lines, write_atomically
from cap2im.models.precision import BF16_UNSUPPORTED, usable_precision

NOTE_WIDTH = 36  # columns
LINE_EVERY = 30.0  # seconds between two lines of progress where there is no terminal
SOURCE = "run.json"  # in a run: where its data lies. The path is local, and goes into no card or config


def prepare_processor() -> None:
    """Narrow Gaussian filters make denormal numbers, with which processors are many times slower: treat them as zero."""
    torch.set_flush_denormal(True)


def keep_memory() -> None:
    """Memory that is freed stays with the process from here on; to fetch large tensors from the system again, page by page, takes time.

    It is for trainings whose steps are all alike, and does nothing where the C library is another than glibc.
    """
    if platform.libc_ver()[0] == "glibc":
        c_library, most_apart, least_given_back = ctypes.CDLL(None), -4, -1  # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
        c_library.mallopt(most_apart, 0)
        c_library.mallopt(least_given_back, -1)


def machine() -> str:
    """The processor or accelerator that this runs on, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    described = Path("/proc/cpuinfo")
    lines = split_lines(described.read_text("utf-8", "replace")) if described.is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    threads = torch.get_num_threads()
    return f"{threads} thread{'s' * (threads != 1)} of {name}"


def make_accelerator(device: Literal["auto", "cpu"], batch_size: int, *, skips: bool = False) -> Accelerator:
    """The engine: one process, or those of `accelerate launch`, which share every batch.

    "auto" is the accelerator where there is one. Where there is none, Accelerate has to be told to use the CPU: several processes would
    otherwise each believe that they are alone. Mixed precision stays off here, for the loops autocast by themselves.
    `skips` tells that some updates leave out a part of a network, for whose gradients the processes would otherwise wait.

    Raises:
        ValueError: a batch does not divide among the processes.
    """
    there = torch.accelerator.is_available()
    sharing = DistributedDataParallelKwargs(find_unused_parameters=skips)
    accelerator = Accelerator(cpu=device == "cpu" or not there, mixed_precision="no", kwargs_handlers=[sharing])
    if batch_size % accelerator.num_processes:
        raise ValueError(f"train.batch_size {batch_size} does not divide among {accelerator.num_processes} processes")
    return accelerator


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, accelerator: Accelerator) -> Tensor:
        ctx.accelerator, ctx.mine = accelerator, slice(accelerator.process_index * len(part), (accelerator.process_index + 1) * len(part))
        return cast(Tensor, accelerator.gather(part))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return cast(Tensor, ctx.accelerator.reduce(gradient, "sum"))[ctx.mine], None


def joined(part: Tensor, accelerator: Accelerator) -> Tensor:
    """The equally large parts [b, ...] of all processes, one behind the other [B, ...] (a collective call, and so is its gradient).

    A loss that every process computes of all parts has the right gradient when the processes' gradients are averaged: into a part flow the
    gradients of all their losses, which are the same one.
    """
    return part if accelerator.num_processes == 1 else cast(Tensor, _Joined.apply(part, accelerator))  # type: ignore[no-untyped-call]


def progress_bar(console: Console | None = None) -> Progress:
    """Return a bar of at most 80 columns: the count, times passed and left, and what the loop puts into `note`."""
    return Progress(
        MofNCompleteColumn(),
        BarColumn(bar_width=8),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", max_width=NOTE_WIDTH)),
        console=console,
    )


class RunLog:
    """What a training tells while it runs: `stats.jsonl`, TensorBoard, pictures and the bar, by the main process alone; a context manager.

    It also hears who wants the training to end: Ctrl-C, or SIGTERM of a machine that is taken away. The loop then ends its step and
    writes a checkpoint; a second one ends it at once. Several processes would stop at different steps, and are left to their launcher.

    Args:
        run: the run's folder; the recipe is written into it.
        recipe: what is trained.
        step: the step that training starts at; what an interrupted run logged after it is dropped, for it will be logged again.
        total: steps of the whole training.
        accelerator: knows whether this process is the main one.
        steps_per_epoch: updates of an epoch, to say how long the training is.
        source: JSON-ready; where the data lies, for going on without being told again.

    Attributes:
        stopping: whether the training is to end.

    Raises:
        ValueError: another training writes into the folder, or the run has made more updates than the recipe asks for.
    """

    def __init__(
        self,
        run: Path,
        recipe: DrawingRecipe | SkipThoughtsRecipe | ClassifierRecipe,
        step: int,
        total: int,
        accelerator: Accelerator,
        steps_per_epoch: int = 1,
        source: Mapping[str, Any] | None = None,
    ) -> None:
        if step > total:
            raise ValueError(
                f"{run}: has made {step:,} updates, more than the {total:,} that are asked for; --set train.updates={2 * step} goes on"
            )
        self.run, self.active = run, accelerator.is_main_process
        self._train, self._step, self._total, self._steps_per_epoch = recipe.train, step, total, steps_per_epoch
        self.stopping = False
        self._hears = accelerator.num_processes == 1 and threading.current_thread() is threading.main_thread()
        self._heard_before: dict[int, Any] = {}
        self._precision, self._device = recipe.train.precision, accelerator.device
        self._progress = progress_bar()
        self._interactive = self._progress.console.is_terminal or self._progress.console.is_jupyter
        self._progress.disable = not (self.active and self._interactive)
        self._task = self._progress.add_task("", total=total, completed=step, note="")
        self._began = self._told = time.monotonic()
        self._began_at, self._captions_told = step, set[str]()
        if not self.active:
            return
        run.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(run / ".lock", timeout=0)  # the system opens it when the process dies, however it dies
        try:
            self._lock.acquire()
        except Timeout:
            raise ValueError(f"{run}: another training writes into this folder; give this one another --run") from None
        self._stats, self._board_folder = run / "stats.jsonl", run / "tensorboard"
        damaged = _forget_later_steps(self._stats, step) if self._stats.exists() else 0
        if damaged:
            self.say(f"{self._stats}: {damaged} damaged line{'s' * (damaged != 1)} left out")
        write_atomically(run / "recipe.toml", to_toml(recipe))
        if source is not None:
            document = _located(source) | {"steps_per_epoch": steps_per_epoch}
            write_atomically(run / SOURCE, dump_json(document) + "\n")
        self._excepthook, threading.excepthook = threading.excepthook, self._thread_failed
        try:
            with naming(self._board_folder):
                self._board = SummaryWriter(str(self._board_folder), purge_step=step + 1 if step else None)
        except BaseException:
            threading.excepthook = self._excepthook
            self._lock.release()
            raise

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        """Print nothing of an OSError of TensorBoard's own thread, which the next call raises in ours."""
        if not issubclass(failure.exc_type, OSError):
            self._excepthook(failure)

    def __enter__(self) -> Self:
        self._progress.start()
        if usable_precision(self._precision, self._device) != self._precision:
            self.say(BF16_UNSUPPORTED)
        self.say(self._plan())
        if self._hears:
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as it is for what a shell put into the background
                    self._heard_before[number] = signal.signal(number, self._stop)
        return self

    def _stop(self, *_: object) -> None:
        self.stopping = True
        self._hear_no_more()
        self._progress.update(self._task, note="stopping after this step")

    def _hear_no_more(self) -> None:
        while self._heard_before:
            signal.signal(*self._heard_before.popitem())

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        self._hear_no_more()
        self._progress.stop()
        if not self.active:
            return
        try:
            with naming(self._board_folder):
                self._board.close()
        except OSError:  # of a full disk, which the failure tells already
            if failure is None:
                raise
        finally:
            threading.excepthook = self._excepthook
            self._lock.release()

    def _plan(self) -> str:
        """Return how long the training is and how often it validates and saves, in words."""
        train, total = self._train, self._total
        if self._step == total:
            return f"{self.run}: finished, all {total:,} updates are made; --set train.updates={2 * total} goes on"
        length = f"{total:,} updates of {train.batch_size} ({total / self._steps_per_epoch:,.1f} epochs)"
        begun = f", {self._step:,} of them made" if self._step else ""
        return f"{length}{begun}; validation every {train.validate_every:,}, a checkpoint every {train.checkpoint_every:,} updates"

    def advance(self, note: str) -> None:
        """Count one more step; the note stands beside the bar. Without a terminal, print a line now and then instead."""
        self._step += 1
        self._progress.update(self._task, advance=1, note="stopping after this step" if self.stopping else note)
        now = time.monotonic()
        if not self._interactive and now - self._told >= LINE_EVERY and self._step < self._total:
            self._told = now
            left = (now - self._began) / (self._step - self._began_at) * (self._total - self._step)
            self.say(f"step {self._step:,} of {self._total:,}, {timedelta(seconds=round(left))} left: {note}")

    def say(self, text: str) -> None:
        """Print a line, above the bar."""
        if self.active:
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=not self._interactive)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step, by their names."""
        if not self.active:
            return
        with naming(self._stats), self._stats.open("a", encoding="utf-8") as file:  # anew each time: someone may move the log away
            file.write(json.dumps({"step": step, **values}) + "\n")
        with naming(self._board_folder):
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def samples(self, step: int, name: str, pixels: np.ndarray, captions: Sequence[str]) -> None:
        """Write a sample grid [H, W, 3] uint8 as PNG, and show it with its captions on TensorBoard."""
        if not self.active:
            return
        from PIL import Image

        folder = self.run / "samples"
        folder.mkdir(exist_ok=True)
        with atomic_path(folder / f"{name}-{step:08d}.png") as draft:
            Image.fromarray(pixels).save(draft, "PNG")
        with naming(self._board_folder):
            self._board.add_image(name, pixels, step, dataformats="HWC")
            if name not in self._captions_told:  # they stay the same
                self._captions_told.add(name)
                self._board.add_text(f"{name}/captions", "\n".join(f"{row}. {text}" for row, text in enumerate(captions, 1)), step)


def _located(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return a source whose local path holds from any folder."""
    data = source.get("data")
    return {**source, "data": None if data is None else str(data) if "://" in str(data) else str(Path(data).absolute())}


class _Logged(BaseModel):
    """A line of `stats.jsonl`."""

    step: NonNegativeInt


def _forget_later_steps(path: Path, step: int) -> int:
    """Remove what an interrupted run logged after a step, and return how many other lines were damaged and removed.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    damaged = 0
    check_regular_file(path)
    with atomic_path(path) as draft, path.open("rb") as before, draft.open("wb") as after:
        for line in before:
            try:
                if parse_json(line, _Logged, str(path)).step <= step:
                    after.write(line.rstrip(b"\r\n") + b"\n")
            except ValueError:
                damaged += line.endswith(b"\n")  # a process that is killed leaves half a line
    return damaged


def stop_if_not_finite(what: str, value: float, step: int) -> None:
    """Stops a run before an update that would ruin its weights.

    Raises:
        ValueError: the value, a loss or a gradient's norm, is infinite or not a number.
    """
    if not math.isfinite(value):
        raise ValueError(f"{what} is {value} at step {step}; stopped before the update (a lower learning rate may help)")


class _Steps(Dataset[Batch | Exception]):
    """A step's batch by its number, as torch's loaders want it; an error is answered, for a loader would raise it as a long story."""

    def __init__(self, batches: Batches, rows: slice) -> None:
        self.batches, self.rows = batches, rows

    def __getitem__(self, step: int) -> Batch | Exception:
        try:
            return self.batches.at(step, self.rows)
        except (ValueError, OSError) as error:
            return error


def _leave_stopping_to_parent(_: int) -> None:
    """Ignore SIGINT and SIGTERM: a terminal and a service manager send them to all processes, and the training ends its step first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torch ends its workers by an event


class BatchesAhead:
    """The batches of steps in their order, made by other processes while the network computes.

    Args:
        batches: answers a step's batch.
        rows: this process's share of a batch.
        steps: numbers of the steps to come.
        workers: processes that make batches, no more than there are processors; 0 makes each when it is asked for.
    """

    def __init__(self, batches: Batches, rows: slice, steps: range, workers: int) -> None:
        # a generator of its own: the loader would take its seed from the global one, and a resumed run would differ
        workers = min(workers, available_workers())
        loader = DataLoader(
            _Steps(batches, rows),
            None,
            sampler=steps,
            num_workers=workers,
            generator=torch.Generator(),
            worker_init_fn=_leave_stopping_to_parent,
        )
        self._batches = iter(loader)
        self._waited, self._asked = 0.0, time.perf_counter()

    def next(self) -> Batch:
        start = time.perf_counter()
        batch: Batch | Exception = next(self._batches)
        self._waited += time.perf_counter() - start
        if isinstance(batch, Exception):
            raise batch
        return batch

    @property
    def waiting(self) -> float:
        """The share of time, since it was last asked for, that went by in waiting for batches."""
        now = time.perf_counter()
        share = self._waited / (now - self._asked)
        self._waited, self._asked = 0.0, now
        return share


def random_states(accelerator: Accelerator) -> dict[str, Tensor]:
    """The states of torch's global random generators, of every process (a collective call)."""
    mine = {f"random.{accelerator.process_index}.cpu": torch.get_rng_state()}
    if accelerator.device.type == "cuda":
        mine[f"random.{accelerator.process_index}.cuda"] = torch.cuda.get_rng_state(accelerator.device)
    states: dict[str, Tensor] = {}
    for part in gather_object([mine]):
        states |= part
    return states


def restore_random_states(tensors: Mapping[str, Tensor], accelerator: Accelerator) -> None:
    """Undoes what happened since `random_states`; a process that did not exist then keeps its own."""
    if (state := tensors.get(f"random.{accelerator.process_index}.cpu")) is not None:
        torch.set_rng_state(state)
    if accelerator.device.type == "cuda" and (state := tensors.get(f"random.{accelerator.process_index}.cuda")) is not None:
        torch.cuda.set_rng_state(state, accelerator.device)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as named tensors (`optimizer.INDEX.NAME`) and the JSON-ready rest (its groups)."""
    state = optimizer.state_dict()
    tensors = {f"optimizer.{index}.{name}": value for index, entry in state["state"].items() for name, value in entry.items()}
    return tensors, {"groups": state["param_groups"]}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """Undoes `optimizer_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": numbers["groups"]})
