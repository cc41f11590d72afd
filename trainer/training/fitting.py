"""Train the phases of a run in order, with one history, one best epoch and a state on disk to resume from."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

from trainer.runtime.stopping import Stop, raise_stopped
from trainer.training.checkpoint import Checkpoint
from trainer.training.devices import Devices
from trainer.training.loop import Epoch, Loop, best_epoch


class Training:
    """The training of one run, phase after phase.

    Attributes:
      history: all epochs so far.
    """

    def __init__(
        self,
        devices: Devices,
        checkpoint: Path | None,
        stop: Stop,
        *,
        checkpoint_seconds: float = 30.0,
        on_epoch: Callable[[Epoch, bool], None] = lambda epoch, is_best: None,
        on_images: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Load the state that an earlier process has saved, if there is one.

        Args:
          checkpoint: file of that state, which the chief writes; None: nothing is saved.
          checkpoint_seconds: a running epoch is saved this often.
          on_epoch: is called with each epoch, and whether it is the best so far.
          on_images: is called with the number of examples that each step has read, on all workers.
        """
        self._devices = devices
        self._path = checkpoint
        self._stop = stop
        self._seconds = checkpoint_seconds
        self._on_epoch = on_epoch
        self._on_images = on_images
        self._resumed = Checkpoint.load(checkpoint) if checkpoint else None
        saved = self._resumed.position["history"] if self._resumed else []
        self.history = [Epoch(**epoch) for epoch in saved]

    def run(self, loop: Loop) -> None:
        """Train a phase to its end, and leave its model with the weights of the best epoch.

        Raises:
          DivergedError: the loss is not finite.
          StoppedError: SIGTERM came; the state is saved.
        """
        phase = loop.phase
        if self._resumed and phase.name != self._resumed.position["phase"]:
            return  # an earlier process has finished it
        if self._resumed:
            loop.restore(self._resumed)
            self._resumed = None
        self._devices.wait_for_all(f"{phase.name} epoch {loop.epoch} step {loop.step}")
        self._save(loop)
        while loop.epoch <= phase.epochs:
            self._run_epoch(loop)
        loop.assign_best()

    def _run_epoch(self, loop: Loop) -> None:
        started = time.monotonic()
        for count, stopping in loop.steps(self._stop):
            self._on_images(count)
            if stopping:
                self._save(loop)
                raise_stopped()
            if self._is_due():
                self._save(loop)
        epoch = loop.finish_epoch(time.monotonic() - started)
        self.history.append(epoch)
        is_best = best_epoch(self.history) is epoch
        if is_best:
            loop.keep_best()
        self._on_epoch(epoch, is_best)
        if loop.epoch > loop.phase.epochs or self._is_due():
            self._save(loop)

    def _is_due(self) -> bool:
        return time.monotonic() - self._saved_at > self._seconds

    def _save(self, loop: Loop) -> None:
        self._saved_at = time.monotonic()
        if self._path and self._devices.is_chief:
            history = [dataclasses.asdict(epoch) for epoch in self.history]
            loop.checkpoint({"history": history}).save(self._path)
