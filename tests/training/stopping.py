"""Signals in the middle of a training."""

from __future__ import annotations

import signal

import pytest

from cap2im.training.trainer import Trainer


def stop_at(patch: pytest.MonkeyPatch, trainer: type[Trainer], step: int, *, kill: bool = False) -> None:
    """Send SIGTERM during the update that follows `step` updates, which is made and kept; or, to kill, raise KeyboardInterrupt there."""
    update = trainer.update

    def stopped(self, batch):
        losses = update(self, batch)
        if self.state.step == step:
            if kill:
                raise KeyboardInterrupt
            signal.raise_signal(signal.SIGTERM)
        return losses

    patch.setattr(trainer, "update", stopped)
