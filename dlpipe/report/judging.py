"""Claims beside the evidence: paired comparisons, intervals, verdicts. The rules are in docs/judging.md."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from dlpipe.report.statistics import ROUNDING, Estimate, estimate
from dlpipe.report.units import (
    decimals,
    difference_unit,
    levels_text,
    list_text,
    metric_name,
    metric_unit,
    number,
    seeds_text,
    with_unit,
)
from dlpipe.spec.claims import DIVERGED, Claim

Verdict = Literal["reproduced", "not reproduced", "inconclusive", "not judged"]
VERDICTS: tuple[Verdict, ...] = ("reproduced", "not reproduced", "inconclusive", "not judged")
FEWEST_SEEDS = 3
Levels = Mapping[str, str]


@dataclass(frozen=True)
class Row:
    """One number: a metric of one seed of one variant."""

    levels: Levels
    seed: int
    metric: str
    value: float


class Results:
    """What an experiment declares (axes, variants, seeds) and what its runs gave."""

    def __init__(
        self, axes: Mapping[str, Sequence[str]], variants: Iterable[Levels], seeds: Iterable[int], rows: Iterable[Row]
    ) -> None:
        self.axes = {axis: tuple(levels) for axis, levels in axes.items()}
        self.variants = [self._key(levels) for levels in variants]
        self.seeds = sorted(seeds)
        self._values: dict[tuple[str, ...], dict[str, dict[int, float]]] = {}
        for row in rows:
            self._values.setdefault(self._key(row.levels), {}).setdefault(row.metric, {})[row.seed] = row.value

    def _key(self, levels: Levels) -> tuple[str, ...]:
        return tuple(levels[axis] for axis in self.axes)

    def exists(self, levels: Levels) -> bool:
        """Whether the experiment declares this variant; `skip` leaves some of the product out."""
        return self._key(levels) in self.variants

    def of(self, levels: Levels, metric: str) -> dict[int, float]:
        """Seed to value, for the seeds that have one."""
        return self._values.get(self._key(levels), {}).get(metric, {})

    def metrics(self) -> list[str]:
        return sorted({metric for metrics in self._values.values() for metric in metrics})


@dataclass(frozen=True)
class Part:
    """The judgement at one combination of the levels that a claim repeats over.

    `estimate` is of the gain (positive: `compare` is better), of the gain's growth, or of the metric itself for a value
    claim. `ours` and `theirs` are the means on the two sides of a comparison.
    """

    levels: Levels
    verdict: Verdict
    reason: str
    estimate: Estimate | None = None
    seeds: tuple[int, ...] = ()
    ours: float | None = None
    theirs: float | None = None


@dataclass(frozen=True)
class Judgement:
    claim: Claim
    verdict: Verdict
    reason: str
    parts: tuple[Part, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """What `dlpipe check` and other programs read; numbers are unrounded, in the metric's unit."""
        claim = self.claim
        return {
            "says": claim.says,
            "source": claim.source,
            "paper": claim.paper,
            "metric": claim.metric,
            "unit": metric_unit(claim.metric),
            "better": "lower" if claim.lower_is_better else "higher",
            "kind": "value" if claim.value is not None else "growth" if claim.grows is not None else "comparison",
            "where": dict(claim.where),
            "compare": None if claim.compare is None else dict(claim.compare),
            "with": None if claim.against is None else dict(claim.against),
            "better_than": claim.better_than,
            "margin": claim.margin,
            "value": claim.value,
            "tolerance": claim.tolerance,
            "verdict": self.verdict,
            "reason": self.reason,
            "parts": [_part_json(part) for part in self.parts],
        }


def _part_json(part: Part) -> dict[str, Any]:
    result = part.estimate
    return {
        "levels": dict(part.levels),
        "verdict": part.verdict,
        "reason": part.reason,
        "n": 0 if result is None else result.n,
        "seeds": list(part.seeds),
        "mean": None if result is None else result.mean,
        "interval": None if result is None or result.low is None else [result.low, result.high],
        "ours": part.ours,
        "theirs": part.theirs,
    }


class _CannotJudge(Exception):
    """Why there is nothing to compute; the text completes `inconclusive:`."""


def judge(claim: Claim, results: Results, scale: str | None = None) -> Judgement:
    """The verdict on one claim, with a reason in a sentence; no claim makes it raise."""
    if scale is not None and scale not in claim.scales:
        return Judgement(claim, "not judged", _why_not_at(claim, scale))
    try:
        combinations = _combinations(claim, results)
    except _CannotJudge as error:
        return Judgement(claim, "inconclusive", str(error))
    parts = tuple(_judge_part(claim, results, levels) for levels in combinations)
    verdict = _all_together([part.verdict for part in parts])
    return Judgement(claim, verdict, _summary(claim, parts, verdict), parts)


def _why_not_at(claim: Claim, scale: str) -> str:
    text = f"not judged at scale {scale}, only at {list_text(list(claim.scales))}"
    return f"{text}: {claim.because}" if claim.because else text


def _all_together(verdicts: Sequence[Verdict]) -> Verdict:
    if "not reproduced" in verdicts:
        return "not reproduced"
    return "reproduced" if verdicts and all(verdict == "reproduced" for verdict in verdicts) else "inconclusive"


# Which cells a claim speaks of


def _sides(claim: Claim, levels: Levels) -> list[Levels]:
    """The slices a claim needs at one combination: compare and with; both at either end if it grows.

    One slice twice, if two metrics are compared.
    """
    base = {**claim.where, **levels}
    if claim.value is not None:
        return [base]
    compare, against = claim.compare or {}, claim.against or {}  # nothing besides, for two metrics
    if claim.grows is None:
        return [{**base, **compare}, {**base, **against}]
    return [
        {**base, claim.grows.axis: level, **side}
        for level in (claim.grows.end, claim.grows.start)
        for side in (compare, against)
    ]


def _complete(side: Levels, results: Results) -> dict[str, str]:
    """The one cell that a slice names, in the order of the axes. An axis with one level needs no naming."""
    cell: dict[str, str] = {}
    open_axes = []
    for axis, known in results.axes.items():
        if axis in side and side[axis] not in known:
            raise _CannotJudge(f"axis {axis} has no level {side[axis]}; it has {list_text(list(known))}")
        if axis in side:
            cell[axis] = side[axis]
        elif len(known) == 1:
            cell[axis] = known[0]
        else:
            open_axes.append(axis)
    unknown = [axis for axis in side if axis not in results.axes]
    if unknown:
        raise _CannotJudge(f"the experiment has no axis {list_text(unknown)}")
    if open_axes:
        raise _CannotJudge(
            f"the claim does not fix {'axis' if len(open_axes) == 1 else 'axes'} {list_text(open_axes)}: "
            "name a level in `where`, or use `for_each`"
        )
    return cell


def _combinations(claim: Claim, results: Results) -> list[dict[str, str]]:
    """The level combinations of `for_each`, less those that `skip` leaves out on every side."""
    unknown = [axis for axis in claim.axes_repeated if axis not in results.axes]
    if unknown:
        raise _CannotJudge(f"the experiment has no axis {list_text(unknown)}")
    product = itertools.product(*(results.axes[axis] for axis in claim.axes_repeated))
    combinations = [dict(zip(claim.axes_repeated, levels, strict=True)) for levels in product]
    kept = [
        levels
        for levels in combinations
        if any(results.exists(_complete(side, results)) for side in _sides(claim, levels))
    ]
    if not kept:
        raise _CannotJudge("the experiment leaves out every variant that the claim speaks of")
    return kept


def _values(cell: Levels, metric: str, results: Results) -> dict[int, float]:
    """Seed to value, one for every declared seed, all finite."""
    name = levels_text(cell)
    if not results.exists(cell):
        raise _CannotJudge(f"the experiment leaves out {name}")
    values = results.of(cell, metric)
    if not values and not results.of(cell, DIVERGED):
        known = results.metrics()
        if known and metric not in known:
            raise _CannotJudge(f"no run has the metric {metric}; there are {list_text(known)}")
        raise _CannotJudge(f"{name} has not been run")
    missing = [seed for seed in results.seeds if seed not in values]
    diverged = [seed for seed in missing if results.of(cell, DIVERGED).get(seed)]
    if diverged:
        raise _CannotJudge(f"the training of {name} diverged, {seeds_text(diverged)}")
    if missing:
        raise _CannotJudge(f"{name} lacks {seeds_text(missing)}")
    broken = [seed for seed in results.seeds if not math.isfinite(values[seed])]
    if broken:
        raise _CannotJudge(f"{name} has a {metric_name(metric)} that is not a finite number, {seeds_text(broken)}")
    return {seed: values[seed] for seed in results.seeds}


# Judging one combination


def _judge_part(claim: Claim, results: Results, levels: Levels) -> Part:
    try:
        cells = [_complete(side, results) for side in _sides(claim, levels)]
        metrics = itertools.cycle((claim.metric, claim.other_metric))
        sides = [_values(cell, metric, results) for cell, metric in zip(cells, metrics, strict=False)]
    except _CannotJudge as error:
        return Part(levels, "inconclusive", str(error))
    if not results.seeds:
        return Part(levels, "inconclusive", "the experiment has no seeds")
    rule = _judge_value if claim.value is not None else _judge_gain
    return rule(claim, levels, sides)


def _judge_gain(claim: Claim, levels: Levels, sides: Sequence[Mapping[int, float]]) -> Part:
    """`sides` are compare and with; for a growth: both at its end, then both at its start."""
    seeds = tuple(sides[0])
    sign = -1.0 if claim.lower_is_better else 1.0
    signs = (sign, -sign, -sign, sign)
    gains = [math.fsum(s * side[seed] for s, side in zip(signs, sides, strict=False)) for seed in seeds]
    magnitude = max(abs(value) for side in sides for value in side.values())
    result = estimate(gains, magnitude=magnitude)
    slack = ROUNDING * max(magnitude, abs(claim.margin))
    verdict = _verdict_of_gain(result, claim.margin, slack)
    ours, theirs = (math.fsum(side.values()) / len(side) for side in sides[:2])
    reason = _with_caveat(_describe_gain(claim, result), result, claim, verdict)
    return Part(levels, verdict, reason, result, seeds, ours, theirs)


def _verdict_of_gain(gain: Estimate, margin: float, slack: float) -> Verdict:
    if gain.n < FEWEST_SEEDS or gain.low is None or gain.high is None:
        return "inconclusive"
    if gain.low > margin + slack:
        return "reproduced"
    return "not reproduced" if gain.high <= margin + slack else "inconclusive"


def _judge_value(claim: Claim, levels: Levels, sides: Sequence[Mapping[int, float]]) -> Part:
    values = sides[0]
    assert claim.value is not None
    assert claim.tolerance is not None
    result = estimate(list(values.values()))
    verdict = _verdict_of_value(result, claim.value, claim.tolerance, lower_is_better=claim.lower_is_better)
    unit = metric_unit(claim.metric)
    places = decimals(result.mean, unit=unit, half_width=result.half_width)
    text = (
        f"{with_unit(number(result.mean, places), unit)}{_interval(result, lambda value: number(value, places))}; "
        f"the paper has {with_unit(_plain(claim.value), unit)}, tolerance {_plain(claim.tolerance)}"
    )
    return Part(levels, verdict, _with_caveat(text, result, claim, verdict), result, tuple(values), result.mean)


def _verdict_of_value(ours: Estimate, value: float, tolerance: float, *, lower_is_better: bool) -> Verdict:
    """Worse than `value` by more than `tolerance` is outside; better never is."""
    if ours.n < FEWEST_SEEDS or ours.low is None or ours.high is None:
        return "inconclusive"
    slack = ROUNDING * max(abs(value), tolerance, abs(ours.mean))
    sign = 1.0 if lower_is_better else -1.0
    limit = sign * value + tolerance + slack
    best_end = min(sign * ours.low, sign * ours.high)
    if best_end > limit:
        return "not reproduced"
    half_width = (ours.high - ours.low) / 2
    return "reproduced" if sign * ours.mean <= limit and half_width <= tolerance + slack else "inconclusive"


# Sentences


def _directions(claim: Claim) -> tuple[str, str]:
    """What is good, and what is not."""
    if claim.grows is not None:
        return "larger", "smaller"
    return ("lower", "higher") if claim.lower_is_better else ("higher", "lower")


def _describe_gain(claim: Claim, gain: Estimate) -> str:
    text = _describe(gain, difference_unit(claim.metric), *_directions(claim))
    return text if claim.grows is None else f"the gain is {text}"


def _describe(gain: Estimate, unit: str, better: str, worse: str) -> str:
    """`2.31 points lower, 95 % interval 1.90 to 2.72, n = 5`; each end says its direction where they differ."""
    places = decimals(gain.mean, gain.low, gain.high, unit=unit, half_width=gain.half_width)
    word = better if gain.mean >= 0 else worse
    crosses = gain.low is not None and gain.high is not None and gain.low < 0 < gain.high

    def end(value: float) -> str:
        size = number(abs(value), places)
        return f"{size} {better if value >= 0 else worse}" if crosses else size

    size = with_unit(number(abs(gain.mean), places), unit)
    return f"{size} {word}{_interval(gain, end, smallest_first=gain.mean >= 0 or crosses)}"


def _interval(result: Estimate, text: Callable[[float], str], *, smallest_first: bool = True) -> str:
    if result.low is None or result.high is None:
        return f", n = {result.n}"
    ends = (result.low, result.high) if smallest_first else (result.high, result.low)
    return f", 95 % interval {text(ends[0])} to {text(ends[1])}, n = {result.n}"


def _with_caveat(text: str, result: Estimate, claim: Claim, verdict: Verdict) -> str:
    """Adds why an inconclusive result is none, and the margin where it decides."""
    if result.n < FEWEST_SEEDS:
        return f"{text}; a verdict needs at least {FEWEST_SEEDS} seeds"
    if claim.value is None and claim.margin:
        unit = difference_unit(claim.metric)
        unit = unit.removesuffix("s") if abs(claim.margin) == 1 else unit  # 1 point, 1 nat
        size = with_unit(_plain(abs(claim.margin)), unit)
        text += f"; the claim {'asks for more' if claim.margin > 0 else 'allows less'} than {size}"
        text += "" if claim.margin > 0 else f" {_directions(claim)[1]}"
    if claim.value is not None and verdict == "inconclusive" and claim.tolerance is not None:
        half = result.half_width
        if half is not None and half > claim.tolerance:
            text += f"; the interval's half-width of {number(half, decimals(half))} is wider than the tolerance"
        else:
            text += "; the interval reaches both sides of the tolerance"
    return text


def _plain(value: float) -> str:
    """A number as the claim's author wrote it."""
    return number(value, max(0, len(f"{value:.10g}".partition(".")[2]))) if abs(value) < 1e9 else f"{value:.10g}"


def _summary(claim: Claim, parts: Sequence[Part], verdict: Verdict) -> str:
    """One sentence for the claim; with several parts, how many have which verdict, and the part that decides."""
    if len(parts) == 1:
        return parts[0].reason
    verdicts = [part.verdict for part in parts]
    where = f"{'levels' if len(claim.axes_repeated) == 1 else 'combinations'} of {list_text(list(claim.axes_repeated))}"
    deciding = [part for part in parts if part.verdict == verdict] or parts
    shown = min(deciding, key=lambda part: _support(claim, part)) if verdict == "reproduced" else deciding[0]
    if len(set(verdicts)) == 1:
        counts = f"{verdict} at all {len(parts)} {where}"
    else:
        others = [f"{other} at {verdicts.count(other)}" for other in VERDICTS if other != verdict and other in verdicts]
        counts = f"{verdict} at {verdicts.count(verdict)} of {len(parts)} {where}, {list_text(others)}"
    return f"{counts}; {'least ' if verdict == 'reproduced' else ''}at {levels_text(shown.levels)}: {shown.reason}"


def _support(claim: Claim, part: Part) -> float:
    """Larger is stronger: a gain as it is, a value by its better direction."""
    if part.estimate is None:
        return -math.inf
    return -part.estimate.mean if claim.value is not None and claim.lower_is_better else part.estimate.mean
