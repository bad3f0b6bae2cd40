"""Run of a training: device, resume, log, cadence of validation and checkpoints, stopping, saving.

    with Run(folder, trainer, ...) as run:
        for batch in run.batches():
            run.after_update(trainer.update(batch))
        model = run.finish()

Files of a run's folder:

- `recipe.toml`, `run.json`: the whole recipe, and where the data are (a local path, which goes into no model).
- `stats.jsonl`, `tensorboard/` or `wandb/`, `samples/`: the log.
- `checkpoints/step-N/`: the last checkpoints. A resumed run continues bit for bit.
- `best/`: the model with the best validation score, as a model folder without optimizer. `cap2im draw --model RUN/best` draws with it;
  a checkpoint would take three times the space, and is not needed: nobody resumes from before the last step.
- `model/`: the finished model.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Any, Self

import torch
from filelock import FileLock, Timeout
from pydantic import BaseModel
from torch import Tensor

from cap2im.checkpoint import read_config
from cap2im.config import to_toml
from cap2im.files import dump_json, read_json, validate, write_atomically
from cap2im.models.precision import BF16_UNSUPPORTED, usable_precision
from cap2im.training.accelerator import machine
from cap2im.training.log import RunLog
from cap2im.training.prefetch import Prefetcher
from cap2im.training.trainer import Losses, Trainer

FIRST_GRID = 50  # updates before the first sample grid, which does not wait for a validation
RUN_FILE = "run.json"


class RunFile(BaseModel):
    """Content of `run.json`; runs of version 0.1 lack some fields or the file.

    Attributes:
        data: where the data are.
        stream: whether the dataset is streamed.
        steps_per_epoch: updates of an epoch.
        wandb_id: of the run on Weights & Biases.
        compiled: whether the network is compiled, which changes results within rounding.
    """

    data: str | None = None
    stream: bool = False
    steps_per_epoch: int = 1
    wandb_id: str = ""
    compiled: bool = False

    @classmethod
    def read(cls, run: Path) -> RunFile:
        """Return the content of a run's file, or the defaults if it is missing.

        Raises:
            ValueError: the file is damaged.
        """
        return read_json(run / RUN_FILE, cls) if (run / RUN_FILE).exists() else cls()


class Best(BaseModel):
    """The best validation so far, as `best/config.json` holds it."""

    score: str
    value: float
    step: int


class Run:
    """A run in its folder; a context manager, in which SIGINT and SIGTERM end the training after the current update.

    Several processes would stop at different updates, so with `accelerate launch` signals are left to the launcher.

    Args:
        folder: of the run.
        trainer: restored or initialised.
        workers: processes that prepare batches.
        card: makes the model card of the finished model's figures.
        compiled: whether the network is compiled.

    Attributes:
        stopping: whether the training ends after the current update.
        best: the best validation so far, or None.

    Raises:
        ValueError: another training writes into the folder, or the run has made more updates than the recipe has.
    """

    def __init__(
        self,
        folder: Path,
        trainer: Trainer,
        *,
        workers: int = 2,
        card: Callable[[dict[str, Any]], str] = lambda _: "",
        compiled: bool = False,
    ) -> None:
        self.folder, self.trainer, self.accelerator, self.card, self.compiled = folder, trainer, trainer.accelerator, card, compiled
        self.settings, batches, step = trainer.recipe.train, trainer.data.batches, trainer.state.step
        self.total = self.settings.total(batches.steps_per_epoch)
        if step > self.total:
            raise ValueError(f"{folder}: has made {step:,} updates of {self.total:,}; --set train.updates={2 * step} extends the run")
        rows = slice(self.accelerator.process_index, None, self.accelerator.num_processes)
        pin_memory = self.accelerator.device.type == "cuda"
        self._prefetcher = Prefetcher(batches, rows, range(step, self.total), workers if trainer.data.slow else 0, pin_memory=pin_memory)
        self.log = RunLog(folder, self.accelerator, step, self.total)
        self.stopping, self.best = False, self._read_best()
        self._progress = ""  # text of the last losses that were read
        self._lock = FileLock(folder / ".lock", timeout=0)  # the system unlocks it when the process dies
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire()
            except Timeout:
                raise ValueError(f"{self.folder}: another training writes into this folder; choose another --run") from None
        try:
            wandb_id = self._write_files()
            self.log.open(self.trainer.recipe.model_dump(mode="json"), wandb_id)
        except BaseException:
            self._lock.release()
            raise
        if usable_precision(self.settings.precision, self.accelerator.device) != self.settings.precision:
            self.log.print(BF16_UNSUPPORTED)
        self.log.print(self._plan())
        if self.accelerator.num_processes == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:  # which a shell sets for background processes
                    self._handlers[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        self._restore_handlers()
        try:
            self.log.close()
        except OSError:  # a full disk, which `failure` reports already
            if failure is None:
                raise
        finally:
            self._lock.release()

    def batches(self) -> Iterator[Any]:
        """Yield this process's rows of the batches that are left, on the device.

        Raises:
            ValueError: a batch cannot be read.
            OSError: a batch cannot be read.
        """
        for batch in self._prefetcher:
            yield batch.to(self.accelerator.device)

    def after_update(self, losses: Losses) -> None:
        """Count an update, and log, validate and save if it is time to.

        Args:
            losses: by name, as `Trainer.update` returns them.

        Raises:
            KeyboardInterrupt: a signal has stopped the training; the checkpoint of this update is saved.
            OSError: the disk is full; the older checkpoints are kept.
        """
        state, settings, stopping = self.trainer.state, self.settings, self.stopping  # a signal may come at any line
        state.step += 1
        step, last = state.step, state.step == self.total
        logs, validates = step % settings.log_every == 0, last or step % settings.validate_every == 0
        saves = stopping or last or step % settings.checkpoint_every == 0
        if logs or validates or saves or not self.trainer.checks_late:
            self.trainer.finish_checks()
            values = self._means(losses)
            self._progress = self.trainer.progress(values)
        self.log.advance("stopping after this update" if stopping else self._progress)
        if logs:
            named = {f"train/{name}": value for name, value in values.items()}
            self.log.scalars(step, named | {"train/waiting": self._prefetcher.waiting_share()})
        if (validates or step == FIRST_GRID) and (grid := self.trainer.sample_grid()) is not None:
            self.log.grid(step, grid)
        if validates:
            self._keep_best(self._validate())
        if saves:
            state.save(self.folder, self.trainer.recipe, self.trainer.config(), self.accelerator)
        if stopping:
            raise KeyboardInterrupt

    def finish(self) -> Path:
        """Measure and save the finished model, and return its folder (a collective call)."""
        trainer, folder = self.trainer, self.folder / "model"
        trainer.state.round_weights(trainer.saved_dtype)
        scores = {f"validation/{name}": value for name, value in trainer.validate().items()}
        measures = trainer.measure()
        if self.accelerator.is_main_process:
            effort, config = self._effort(), trainer.config()
            known = {"parameters": config["parameters"], "data": config["data"]}
            card = self.card(scores | measures | trainer.state.origin | effort | known)
            trainer.save_model(folder, measures | {"trained": effort}, card)
        if self.best is not None:
            self.log.print(f"best {self.best.score}: {self.best.value:.4g} at step {self.best.step:,}, in {self.folder / 'best'}")
        self.accelerator.wait_for_everyone()
        return folder

    def _means(self, losses: Losses) -> dict[str, float]:
        """Return losses as numbers, tensors averaged over the processes (a collective call)."""
        tensors = {name: value for name, value in losses.items() if isinstance(value, Tensor)}
        stacked = torch.stack([value.detach().float() for value in tensors.values()])
        means = dict(zip(tensors, self.accelerator.reduce(stacked, "mean").tolist(), strict=True))
        return {name: means[name] if name in means else float(value) for name, value in losses.items()}

    def _validate(self) -> dict[str, float]:
        scores, step = self.trainer.validate(), self.trainer.state.step
        self.log.scalars(step, {f"validation/{name}": value for name, value in scores.items()})
        shown = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in scores.items()]
        self.log.print(f"step {step}: validation {', '.join(shown)}")
        return scores

    def _keep_best(self, scores: Mapping[str, float]) -> None:
        """Save the model if its score is better than all before."""
        value, sign = scores[self.trainer.score], 1 if self.trainer.higher_is_better else -1
        if not math.isfinite(value) or (self.best is not None and sign * value <= sign * self.best.value):
            return
        self.best = Best(score=f"validation/{self.trainer.score}", value=value, step=self.trainer.state.step)
        if self.accelerator.is_main_process:
            self.trainer.save_model(self.folder / "best", {"best": self.best.model_dump(), "trained": self._effort()})

    def _read_best(self) -> Best | None:
        """Return the best validation of a resumed run; one after its checkpoint does not count, because it will be repeated."""
        if self.trainer.state.step:
            with suppress(ValueError):
                best = validate(read_config(self.folder / "best").get("best"), Best, str(self.folder / "best"))
                return best if best.step <= self.trainer.state.step else None
        return None

    def _effort(self) -> dict[str, Any]:
        """Return what the training took; seconds include validating and saving."""
        state = self.trainer.state
        return {"steps": state.step, "batch_size": self.settings.batch_size, "seconds": round(state.seconds), "machine": machine()}

    def _write_files(self) -> str:
        """Write the recipe and the place of the data, and return the run's ID on Weights & Biases."""
        if not self.accelerator.is_main_process:
            return ""
        before, source = RunFile.read(self.folder), self.trainer.data.source
        data = source.path
        if data is not None and "://" not in str(data):
            data = Path(data).absolute()  # holds in any working folder
        now = RunFile(
            data=None if data is None else str(data),
            stream=source.stream,
            steps_per_epoch=self.trainer.data.batches.steps_per_epoch,
            wandb_id=before.wandb_id or token_hex(4),
            compiled=self.compiled,
        )
        write_atomically(self.folder / "recipe.toml", to_toml(self.trainer.recipe))
        write_atomically(self.folder / RUN_FILE, dump_json(now.model_dump()) + "\n")
        return now.wandb_id

    def _plan(self) -> str:
        """Return how long the training is and how often it validates and saves."""
        settings, total, step = self.settings, self.total, self.trainer.state.step
        if step == total:
            return f"{self.folder}: finished, all {total:,} updates are made; --set train.updates={2 * total} extends it"
        epochs = total / self.trainer.data.batches.steps_per_epoch
        length = f"{total:,} updates with batch size {settings.batch_size} ({epochs:,.1f} epochs)"
        done = f", {step:,} of them made" if step else ""
        return f"{length}{done}; validation every {settings.validate_every:,}, a checkpoint every {settings.checkpoint_every:,} updates"

    def _stop(self, *_: object) -> None:
        """End the training after the current update; a second signal ends it at once."""
        self.stopping = True
        self._restore_handlers()
        self.log.note("stopping after this update")

    def _restore_handlers(self) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())
