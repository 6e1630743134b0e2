"""Intervals against scipy.stats, and their coverage by simulation."""

from __future__ import annotations

import math
import random
import subprocess
import sys

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from dlpipe.report.statistics import estimate, t_quantile
from dlpipe.report.units import decimals, duration, list_text, metric_unit, number

finite = st.floats(-1e6, 1e6)


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_interval_is_scipys_paired_t_interval(n: int) -> None:
    draw = random.Random(n)
    ours = [draw.gauss(3, 1) for _ in range(n)]
    theirs = [draw.gauss(5, 2) for _ in range(n)]
    result = estimate([b - a for a, b in zip(ours, theirs, strict=True)])
    expected = scipy.stats.ttest_rel(theirs, ours).confidence_interval(0.95)
    # both are double precision; the sums are ordered differently
    assert result.low == pytest.approx(expected.low, rel=1e-9)
    assert result.high == pytest.approx(expected.high, rel=1e-9)


def test_quantile_is_the_closed_form_and_scipys() -> None:
    closed_form = (2 * 0.975 - 1) * math.sqrt(2 / (4 * 0.975 * 0.025))  # of the distribution with 2 degrees of freedom
    assert t_quantile(2, 0.975) == pytest.approx(closed_form, rel=1e-12)
    assert t_quantile(4, 0.975) == pytest.approx(scipy.stats.t.ppf(0.975, 4), rel=1e-12)


def test_95_per_cent_intervals_cover_95_times_in_100() -> None:
    draw = random.Random(0)
    trials = 4000
    hits = 0
    for _ in range(trials):
        result = estimate([draw.gauss(1.5, 0.7) for _ in range(5)])
        hits += result.low <= 1.5 <= result.high  # type: ignore[operator]
    # the share's own standard error is sqrt(0.95 * 0.05 / 4000) = 0.0034; four of them
    assert abs(hits / trials - 0.95) < 0.014


def test_one_value_has_no_interval() -> None:
    result = estimate([2.0])
    assert (result.n, result.mean, result.low, result.high, result.half_width) == (1, 2.0, None, None, None)


def test_equal_values_have_a_point_for_an_interval() -> None:
    result = estimate([0.1 + 0.2, 0.3, 0.3], magnitude=1.0)
    assert result.low == result.high == result.mean


@given(st.lists(finite, min_size=2, max_size=8), finite)
def test_interval_moves_with_the_values(values: list[float], shift: float) -> None:
    before, after = estimate(values), estimate([value + shift for value in values])
    scale = max(1.0, abs(shift), *map(abs, values))
    assert after.mean - before.mean == pytest.approx(shift, abs=1e-9 * scale)
    assert after.half_width == pytest.approx(before.half_width, abs=1e-8 * scale)


def test_statistics_leave_scipy_stats_and_torch_alone() -> None:
    code = (
        "import sys; from dlpipe.report.statistics import estimate; estimate([1.0, 2.0, 4.0]);"
        "print([m for m in ('torch', 'scipy.stats', 'matplotlib') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("value", "places", "text"),
    [
        (2.306, 2, "2.31"),
        (-0.5, 1, "−0.5"),
        (-0.001, 2, "0.00"),
        (None, 2, "–"),
        (math.nan, 2, "not a number"),
        (1234.5, 0, "1,234"),
    ],
)
def test_numbers_are_written_for_people(value: float | None, places: int, text: str) -> None:
    assert number(value, places) == text


def test_digits_suit_the_size() -> None:
    assert decimals(12.3, unit="%") == 2
    assert decimals(0.0123) == 4
    assert decimals(123456.0) == 0
    assert decimals(-142.4, half_width=1.13) == 1  # -142.4, -143.5 to -141.3
    assert decimals(-142.4, half_width=0.0113) == 3
    assert decimals(-142.4, half_width=113.0) == 0
    assert decimals(0.0, half_width=0.0) == 2
    assert decimals(-142.4, half_width=1e-13) == 0  # of equal values
    assert decimals(12.3, unit="%", half_width=0.001) == 2
    assert decimals(math.nan, None) == 2


def test_units_and_words() -> None:
    assert metric_unit("test_error") == "%"
    assert metric_unit("reconstruction_error") == ""
    assert metric_unit("valid_log_likelihood") == "nats"
    assert metric_unit("test_reverse_variational_bound") == metric_unit("valid_variational_free_energy") == "nats"
    assert metric_unit("log_partition_error") == "nats"
    assert duration(3.21) == "3.21 s"
    assert duration(75.04) == "75.0 s"
    assert duration(305) == "5 min 5 s"
    assert duration(7500) == "2 h 5 min"
    assert list_text(["a", "b", "c"]) == "a, b and c"
