"""Training from phase to phase: one history, one best epoch, and a state on disk from which it goes on."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

from trainer.runtime.stopping import Stop, raise_stopped
from trainer.training.checkpoint import Checkpoint
from trainer.training.distribution import Devices
from trainer.training.loop import Epoch, Loop


class Training:
    """The phases of one run, one after the other, with one history and one best epoch.

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
        """Take up the state that an earlier process has left, if there is one.

        Args:
          checkpoint: file of that state; the chief writes it. None: nothing is kept.
          checkpoint_seconds: a running epoch is saved that often.
          on_epoch: told of each epoch and whether it is the best so far (the model then holds its weights).
          on_images: told how many examples each step has read, on all workers.
        """
        self._devices = devices
        self._path = checkpoint
        self._stop = stop
        self._seconds = checkpoint_seconds
        self._on_epoch = on_epoch
        self._on_images = on_images
        self._resumed = Checkpoint.load(checkpoint) if checkpoint else None
        position = self._resumed.position if self._resumed else {"history": [], "best": None}
        self.history = [Epoch(**epoch) for epoch in position["history"]]
        self._best = Epoch(**position["best"]) if position["best"] else None

    def run(self, loop: Loop) -> None:
        """Train a phase to its end and leave its model with the weights of the best epoch.

        Raises:
          DivergedError: the loss is not a number any more.
          StoppedError: SIGTERM came; the state is saved.
        """
        phase = loop.phase
        if self._resumed and phase.name != self._resumed.position["phase"]:
            return  # an earlier process had finished it
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
        is_best = epoch.is_better_than(self._best)
        if is_best:
            self._best = epoch
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
            best = dataclasses.asdict(self._best) if self._best else None
            loop.checkpoint({"history": history, "best": best}).save(self._path)
