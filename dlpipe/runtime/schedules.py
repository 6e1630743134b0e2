"""Schedules by name: the factor on the learning rate as a pure function of the step and of the validations so far.

Each takes the step that is about to be done (from 0), the whole number of steps, and the validation losses seen so
far, oldest first; durations arrive already converted to steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from dlpipe.spec.schedules import Duration, ScheduleSpec

Schedule = Callable[[int, int, Sequence[float]], float]


def constant(step: int, total: int, losses: Sequence[float]) -> float:
    return 1.0


def step(
    step: int, total: int, losses: Sequence[float], *, every: int, factor: float, after: int | None = None
) -> float:
    """1 for `after` steps (as long as `every` if None), then a factor more for each `every`."""
    waited = every if after is None else after
    return 1.0 if step < waited else factor ** (1 + (step - waited) // every)


def cosine(step: int, total: int, losses: Sequence[float], *, floor: float) -> float:
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * step / total))


def linear_warmup(step: int, total: int, losses: Sequence[float], *, warmup: int) -> float:
    """1/warmup at the first step, 1 from the last step of the warm-up on."""
    return min(1.0, (step + 1) / warmup)


def halve_on_plateau(step: int, total: int, losses: Sequence[float], *, patience: int, factor: float) -> float:
    best, waited, result = math.inf, 0, 1.0
    for loss in losses:
        best, waited = (loss, 0) if loss < best else (best, waited + 1)
        if waited == patience:
            waited, result = 0, result * factor
    return result


def schedule(spec: ScheduleSpec, examples: int, batch_size: int) -> Schedule:
    """The declared schedule for a training set of `examples` in batches of `batch_size`."""
    arguments = {
        name: value.in_steps(examples, batch_size) if isinstance(value, Duration) else value
        for name, value in spec.arguments().items()
    }
    return partial(spec.load(), **arguments)
