"""Train several heads on the same examples in parallel: a batch is read once, and one call trains them all.

The step of a small head takes longer to call than to compute, and a step of many keeps all cores busy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import keras

from trainer.errors import DivergedError
from trainer.runtime.stopping import Stop, raise_stopped
from trainer.training.devices import Devices
from trainer.training.forward import Forward, compute_logits
from trainer.training.loop import Epoch, Loop, Phase, make_feed
from trainer.training.step import StepOptions, compile_steps


def train_in_parallel(
    phases: Sequence[Phase],
    options: StepOptions,
    devices: Devices,
    stop: Stop,
    on_images: Callable[[int], None],
) -> list[list[Epoch] | DivergedError]:
    """Train each phase to its end, with the history that it has when it is trained alone.

    Args:
      phases: with the same examples, inputs and number of epochs.
      on_images: is called with the number of examples that each step has read, once for each phase.
    Returns:
      The history of each phase, or its error if it has diverged, which does not affect the others.
    Raises:
      StoppedError: SIGTERM came.
    """
    first = phases[0]
    loops = [Loop(phase, options, devices) for phase in phases]
    step = compile_steps([loop.replica_step for loop in loops], devices)
    with devices.strategy.scope():
        inputs = keras.Input(first.model.input_shape[1:])
        together = keras.Model(inputs, [phase.model(inputs) for phase in phases])
    forward = Forward(together, devices, xla=options.xla)
    feed = make_feed(first, options, devices)
    histories: list[list[Epoch]] = [[] for _ in phases]
    diverged: dict[int, DivergedError] = {}
    for epoch in range(1, first.epochs + 1):
        started = time.monotonic()
        for batch in feed.steps(epoch, 0, stop):
            count, stopping = 0, False
            for loop, sums in zip(loops, step(batch).numpy(), strict=True):
                count, stopping = loop.count(sums)
            on_images(count * len(loops))
            if stopping:
                raise_stopped()
        batch_size = options.batch_size * devices.local_replicas
        logits = compute_logits(forward, first.validation, batch_size, devices)
        seconds = time.monotonic() - started
        for place, (loop, its_logits) in enumerate(zip(loops, logits, strict=True)):
            try:
                histories[place].append(loop.measure_epoch(its_logits, seconds))
            except DivergedError as error:
                diverged.setdefault(place, error)
    return [diverged.get(place, history) for place, history in enumerate(histories)]
