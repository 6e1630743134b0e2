"""How metrics and numbers are written for a reader: names, units, digits."""

from __future__ import annotations

import math
from collections.abc import Mapping

MINUS = "−"
WORDS = {"grad": "gradient", "valid": "validation", "train": "training"}
"""How the first part of a metric's name is written out."""
NOISE = 1e-6
"""Share of the values themselves below which an interval's half-width is noise."""


def metric_name(metric: str) -> str:
    """`valid_error` as `validation error`."""
    first, _, rest = metric.partition("_")
    return " ".join([WORDS.get(first, first), *rest.split("_")]).strip()


def metric_unit(metric: str) -> str:
    """The unit of a metric's values, by its name; empty if it has none that we know."""
    if metric.startswith("steps_"):
        return "steps"
    if metric == "log_partition_error":
        return "nats"
    if metric.endswith(("error", "accuracy")) and not metric.endswith("reconstruction_error"):
        return "%"
    if metric.endswith("bits_per_token"):
        return "bits"
    if metric.endswith("seconds"):
        return "s"
    if metric.endswith(("loss", "likelihood", "bound", "free_energy", "kl_divergence", "partition")):
        return "nats"
    return ""


def difference_unit(metric: str) -> str:
    """The unit of a difference of two values: percentage points for percentages."""
    unit = metric_unit(metric)
    return "points" if unit == "%" else unit


def with_unit(text: str, unit: str) -> str:
    return f"{text} {unit}" if unit else text


def decimals(*values: float | None, unit: str = "", half_width: float | None = None) -> int:
    """Digits after the point that suit all the values: two for percentages, else three digits of the largest, and more
    where it takes more to show two digits of the half-width of an interval."""
    if unit in ("%", "points"):
        return 2
    largest = max((abs(value) for value in values if value is not None and math.isfinite(value)), default=0.0)
    places = _places(largest, 3) if largest else 2
    if half_width is not None and math.isfinite(half_width) and half_width > largest * NOISE:
        places = max(places, _places(half_width, 2))
    return min(8, max(0, places))


def _places(value: float, digits: int) -> int:
    return digits - 1 - math.floor(math.log10(value))


def number(value: float | None, places: int = 2) -> str:
    """A number with a true minus sign; never `-0.00`; a dash for what is absent."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else ("∞" if value > 0 else f"{MINUS}∞")
    text = f"{abs(value):,.{places}f}"
    negative = value < 0 and any(digit in "123456789" for digit in text)
    return f"{MINUS}{text}" if negative else text


def duration(seconds: float | None) -> str:
    """Seconds in words that fit their size."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{round(seconds) // 60} min {round(seconds) % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def levels_text(levels: Mapping[str, str]) -> str:
    """`pretraining rbm, depth 3`; for a variant without axes, `the experiment`."""
    return ", ".join(f"{axis} {level}" for axis, level in levels.items()) or "the experiment"


def seeds_text(seeds: list[int]) -> str:
    """`seed 2` or `seeds 0, 3`."""
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def list_text(words: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
