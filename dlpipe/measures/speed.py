"""How fast a training was: the first validation at which a metric of its history is as low as wanted."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dlpipe.tasks.base import Measured


class StepsUntil:
    """The arguments are the fields of its spec."""

    def __init__(self, *, metric: str, at_most: float, phase: str) -> None:
        self.metric, self.at_most, self.phase = metric, at_most, phase

    def __call__(self, history: Sequence[tuple[str, int, str, float]]) -> Measured:
        """`history`: phase, step, metric and value of one seed, in the order of steps. Infinite where it never was."""
        reached = (
            step
            for phase, step, metric, value in history
            if (phase, metric) == (self.phase, self.metric) and value <= self.at_most
        )
        return Measured({f"steps_until_{self.metric}": float(next(reached, math.inf))})
