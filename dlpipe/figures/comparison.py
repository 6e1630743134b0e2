"""A metric over the levels of an axis: mean and 95 % interval over seeds, and every single seed as a dot."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dlpipe.figures.canvas import legend, panels
from dlpipe.figures.curves import MOST_PANELS
from dlpipe.figures.data import FigureData, NothingToDraw, Picture, VariantData, is_number, level_text, line_axis
from dlpipe.figures.palette import series
from dlpipe.report.statistics import estimate
from dlpipe.report.units import list_text, metric_name, metric_unit

DODGE = 0.5
"""Share of the distance between two levels over which the lines at one level are spread, so that none hides another."""


def draw(
    *, data: FigureData, title: str | None, where: Mapping[str, str], metric: str, x: str | None, lines: str | None
) -> Picture:
    """Raises NothingToDraw where no variant has this metric, or an axis does not exist."""
    shown = data.slice(where)
    variants = [variant for variant in shown.variants if metric in variant.metrics]
    if not variants:
        raise NothingToDraw(f"no run has the metric {metric}; there are {list_text(shown.metric_names()) or 'none'}")
    for axis in (x, lines):
        if axis is not None and axis not in shown.axes:
            raise NothingToDraw(f"the experiment has no axis {axis}; it has {list_text(list(shown.axes))}")
    x = x or horizontal_axis(shown, lines)
    lines = lines or line_axis(shown, taken=[x] if x else [])
    groups: dict[str, list[VariantData]] = {}
    for variant in variants:
        name = shown.label(variant, without=[axis for axis in (x, lines) if axis])
        groups.setdefault(name, []).append(variant)
    groups, lonely = _comparable(groups, x)
    left_out = len(groups) - MOST_PANELS
    groups = dict(list(groups.items())[:MOST_PANELS])

    figure, places = panels(len(groups), columns=3, height=2.4)
    names = shown.axes[lines] if lines else [""]
    for place, (name, members) in zip(places, groups.items(), strict=True):
        place.set_title(name)
        for position, level in enumerate(names):
            line = [variant for variant in members if lines is None or variant.levels[lines] == level]
            _draw_line(place, shown, line, metric, x, position, len(names))
        levels = shown.axes[x] if x else [""]
        place.set_xticks(range(len(levels)), levels, rotation=30 if max(map(len, levels)) > 9 else 0)
        place.set_xlim(-0.5, len(levels) - 0.5)
    label, unit = metric_name(metric), metric_unit(metric)
    if lines and len(names) > 1:
        legend(figure, [level_text(lines, level) for level in names], line=_is_ordered(shown, x))
    figure.supxlabel(x.replace("_", " ") if x else "", size=9)
    figure.supylabel(f"{label} ({unit})" if unit else label, size=9)
    caption = "Large marks and bars: mean and 95 % interval over seeds. Small dots: the single seeds."
    if lonely:
        caption += f" Left out, with a single level of {x}: {'; '.join(lonely)}."
    if left_out > 0:
        caption += f" {left_out} more panels are left out."
    return Picture(figure, title or label.capitalize() + (f" by {x.replace('_', ' ')}" if x else ""), caption)


def _comparable(groups: dict[str, list[VariantData]], x: str | None) -> tuple[dict[str, list[VariantData]], list[str]]:
    """The panels with two levels of the horizontal axis or more, where there are any, and the names of the others."""
    kept = {name: v for name, v in groups.items() if x is None or len({variant.levels[x] for variant in v}) > 1}
    return (kept, [name for name in groups if name not in kept]) if kept else (groups, [])


def horizontal_axis(data: FigureData, taken: str | None) -> str | None:
    """An axis whose levels are numbers, else the one with the most levels; the first declared of equals."""
    candidates = [axis for axis in data.open_axes if axis != taken]
    return max(candidates, key=lambda axis: (all(map(is_number, data.axes[axis])), len(data.axes[axis])), default=None)


def _is_ordered(data: FigureData, x: str | None) -> bool:
    return x is not None and all(map(is_number, data.axes[x]))


def _draw_line(
    place: Any, data: FigureData, variants: list[VariantData], metric: str, x: str | None, position: int, of: int
) -> None:
    colour, marker = series(position)
    shift = (position - (of - 1) / 2) * DODGE / of
    places, means, below, above = [], [], [], []
    for variant in sorted(variants, key=lambda variant: data.axes[x].index(variant.levels[x]) if x else 0):
        values = [value for value in variant.metrics[metric].values() if math.isfinite(value)]
        if not values:
            continue
        at = (data.axes[x].index(variant.levels[x]) if x else 0) + shift
        result = estimate(values)
        half = result.half_width or 0.0
        places.append(at)
        means.append(result.mean)
        below.append(half)
        above.append(half)
        beside = at + min(0.32 * DODGE / of, 0.06)
        place.plot([beside] * len(values), values, ".", color=colour, alpha=0.7, markersize=4.5, markeredgewidth=0)
    line = "-" if _is_ordered(data, x) else "none"
    place.errorbar(
        places, means, yerr=[below, above], color=colour, marker=marker, linestyle=line, linewidth=1.2, elinewidth=1.2
    )
