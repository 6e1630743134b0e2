from __future__ import annotations

import math

import pytest

from dlpipe.runtime.schedules import schedule
from dlpipe.spec.schedules import Constant, Cosine, Duration, HalveOnPlateau, LinearWarmup, ScheduleSpec, Step

EXAMPLES, BATCH = 95, 10
"""10 steps an epoch, the last one of 5 examples."""


def factors(spec: ScheduleSpec, total: int, losses: tuple[float, ...] = ()) -> list[float]:
    made = schedule(spec, EXAMPLES, BATCH)
    return [made(step, total, losses) for step in range(total)]


def test_constant() -> None:
    assert factors(Constant(), 3) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("every", [Duration(epochs=0.2), Duration(steps=2), Duration(examples=19)])
def test_step_in_every_unit(every: Duration) -> None:
    assert factors(Step(every=every, factor=0.5), 6) == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


def test_step_that_waits_as_zaremba_has_it() -> None:
    """The first 2 epochs at the full rate, then half as much in each: 0.5 ** max(epoch + 1 - 2, 0) from epoch 0 on."""
    spec = Step(every=Duration(epochs=1.0), factor=0.5, after=Duration(epochs=2.0))
    assert factors(spec, 50) == [0.5 ** max(epoch + 1 - 2, 0) for epoch in range(5) for _ in range(10)]
    waits_as_long = Step(every=Duration(steps=3), factor=0.5, after=Duration(steps=3))
    assert factors(waits_as_long, 12) == factors(Step(every=Duration(steps=3), factor=0.5), 12)
    assert "after" not in Step(every=Duration(steps=3)).model_dump()


def test_cosine_by_its_values_at_the_quarters() -> None:
    result = factors(Cosine(floor=0.2), 4)
    expected = [1.0, 0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2, 0.6, 0.2 + 0.8 * (1 - math.sqrt(0.5)) / 2]
    assert result == pytest.approx(expected, rel=1e-14)  # float64


def test_linear_warmup() -> None:
    assert factors(LinearWarmup(warmup=Duration(steps=4)), 6) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ((), 1.0),
        ((5.0, 4.0, 3.0), 1.0),
        ((5.0, 6.0), 1.0),
        ((5.0, 6.0, 5.0), 0.5),  # equal is no improvement
        ((5.0, 6.0, 5.0, 5.0), 0.5),  # counting starts again after each halving
        ((5.0, 6.0, 5.0, 5.0, 5.0), 0.25),
        ((5.0, 6.0, 4.0, 6.0, 3.0), 1.0),  # in a row
        ((5.0, 6.0, 6.0, 1.0, 2.0, 2.0), 0.25),
    ],
)
def test_halve_on_plateau(losses: tuple[float, ...], expected: float) -> None:
    assert factors(HalveOnPlateau(patience=2), 1, losses) == [expected]


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        (Duration(epochs=1.0), 10),
        (Duration(epochs=2.5), 25),
        (Duration(epochs=0.001), 1),
        (Duration(steps=7), 7),
        (Duration(examples=95), 10),
        (Duration(examples=190), 20),
        (Duration(examples=1), 1),
    ],
)
def test_durations_in_steps(duration: Duration, steps: int) -> None:
    assert duration.in_steps(EXAMPLES, BATCH) == steps
