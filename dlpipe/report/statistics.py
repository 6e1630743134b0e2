"""Means and intervals over seeds: Student's t, two-sided, without `scipy.stats` (it takes a second to import)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
ROUNDING = 1e-12
"""Relative size below which a difference of two numbers is rounding error: 3.3 - 3.0 is not less than 0.3."""


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` seeds and its confidence interval; `low` and `high` are None for n < 2."""

    n: int
    mean: float
    low: float | None
    high: float | None

    @property
    def half_width(self) -> float | None:
        """Half the interval's length, in the unit of the mean."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def estimate(values: Sequence[float], *, confidence: float = CONFIDENCE, magnitude: float = 0.0) -> Estimate:
    """Mean and t-interval of finite values, n >= 1.

    `magnitude` is the size of the numbers that `values` are differences of; a spread that is rounding error beside it
    (or beside the values themselves) counts as none, and the interval is then a point.
    """
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return Estimate(n, mean, None, None)
    slack = ROUNDING * max(magnitude, *(abs(value) for value in values))
    if max(values) - min(values) <= slack:
        return Estimate(n, mean, mean, mean)
    half = t_quantile(n - 1, (1 + confidence) / 2) * statistics.stdev(values) / math.sqrt(n)
    return Estimate(n, mean, mean - half, mean + half)


def t_quantile(degrees: int, probability: float) -> float:
    """The quantile of Student's t distribution with `degrees` degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))
