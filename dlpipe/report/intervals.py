"""A small drawing of an interval beside what decides: zero or the margin, or the paper's value and its tolerance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dlpipe.report.judging import Judgement, Part

Place = Callable[[float], float]
WIDTH, HEIGHT, PADDING = 180.0, 22.0, 8.0


@dataclass(frozen=True)
class IntervalMark:
    """Horizontal places, in the drawing's units, of what is drawn for one part; None where there is nothing."""

    mean: float
    low: float | None
    high: float | None
    reference: float
    """Zero for a gain, the paper's value for a value claim."""
    band: tuple[float, float] | None
    """From the reference to the margin, or the tolerance around the paper's value."""


def interval_marks(judgement: Judgement) -> list[IntervalMark | None]:
    """A mark a part, all on one scale, so that they can be compared down the column."""
    claim = judgement.claim
    if claim.value is not None and claim.tolerance is not None:
        reference = claim.value
        band: tuple[float, float] | None = (claim.value - claim.tolerance, claim.value + claim.tolerance)
    else:
        reference = 0.0
        band = (min(0.0, claim.margin), max(0.0, claim.margin)) if claim.margin else None
    ends = [end for part in judgement.parts for end in _ends(part)]
    if not ends:
        return [None] * len(judgement.parts)
    ends += [reference, *(band or ())]
    place = _scale(ends)
    return [_mark(part, reference, band, place) for part in judgement.parts]


def _ends(part: Part) -> list[float]:
    result = part.estimate
    return [] if result is None else [end for end in (result.low, result.high, result.mean) if end is not None]


def _scale(ends: Sequence[float]) -> Place:
    least, largest = min(ends), max(ends)
    unit = (WIDTH - 2 * PADDING) / ((largest - least) or 1.0)
    return lambda value: round(PADDING + (value - least) * unit, 1)


def _mark(part: Part, reference: float, band: tuple[float, float] | None, place: Place) -> IntervalMark | None:
    result = part.estimate
    if result is None:
        return None
    low, high = (None if end is None else place(end) for end in (result.low, result.high))
    return IntervalMark(
        place(result.mean), low, high, place(reference), None if band is None else (place(band[0]), place(band[1]))
    )
