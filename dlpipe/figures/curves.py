"""Learning curves: a metric against epochs, steps or seconds; the mean over seeds, with their range around it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from matplotlib.ticker import MaxNLocator

from dlpipe.figures.canvas import legend, panels
from dlpipe.figures.data import (
    MOST_LINES,
    FigureData,
    NothingToDraw,
    Picture,
    VariantData,
    level_text,
    line_axis,
)
from dlpipe.figures.palette import series
from dlpipe.report.units import list_text, metric_name, metric_unit, with_unit
from dlpipe.spec.claims import DIVERGED

MOST_PANELS = 12
LOG_FROM = 30.0
"""Ratio of the largest to the smallest value from which the vertical axis is logarithmic."""

HORIZONTAL = {"epochs": "epoch", "steps": "step", "seconds": "seconds"}
Against = Literal["epochs", "steps", "seconds"]
Points = list[tuple[float, float]]
Curve = tuple[list[float], list[float], list[float], list[float]]


def draw(
    *,
    data: FigureData,
    title: str | None,
    where: Mapping[str, str],
    metric: str,
    phase: str,
    lines: str | None,
    against: Against = "epochs",
) -> Picture:
    """Raises NothingToDraw where no variant has this metric in this phase."""
    shown = data.slice(where)
    key = (phase, metric)
    variants = [variant for variant in shown.variants if key in variant.history]
    if not variants:
        known = [f"{name} of {there}" for there, name in shown.history_names()]
        raise NothingToDraw(f"no run has {metric} in phase {phase}; there are {list_text(known) or 'none'}")
    axis = lines or line_axis(shown)
    levels = _levels(shown, axis, variants)
    groups = _distinct(_panels(shown, axis, variants), axis, key)
    left_out = len(groups) - MOST_PANELS
    groups = dict(list(groups.items())[:MOST_PANELS])

    figure, places = panels(len(groups))
    if len(groups) == 1:
        groups = {"": next(iter(groups.values()))}
    extremes: list[float] = []
    diverged = False
    for place, (name, members) in zip(places, groups.items(), strict=True):
        place.set_title(name)
        for variant in members:
            position = levels.index(variant.levels[axis]) if axis is not None else 0
            points, crosses = _points(variant, key, against)
            curve = mean_and_range(points)
            if curve[0]:
                extremes += [min(curve[2]), max(curve[3])]
            _draw_curve(place, curve, position)
            _draw_crosses(place, crosses, position)
            diverged |= bool(crosses)
    if len(levels) > 1:
        legend(figure, [level_text(str(axis), level) for level in levels])
    if extremes and min(extremes) > 0 and max(extremes) / min(extremes) > LOG_FROM:
        places[0].set_yscale("log")
        places[0].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    places[0].xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10]))
    figure.supxlabel(HORIZONTAL[against], size=9)
    label = metric_name(metric)
    unit = metric_unit(metric)
    figure.supylabel(f"{label} ({unit})" if unit else label, size=9)
    return Picture(figure, title or f"{label.capitalize()} during {phase_text(phase)}", _caption(left_out, diverged))


def phase_text(phase: str) -> str:
    """`finetune/1` as `fine-tuning`, `pretrain/2` as `pretraining of layer 2`."""
    name, _, number = phase.partition("/")
    if name == "pretrain":
        return f"pretraining of layer {number}"
    return "fine-tuning" if number in ("", "1") else f"fine-tuning, phase {number}"


def _points(variant: VariantData, key: tuple[str, str], against: Against) -> tuple[dict[int, Points], Points]:
    """Seed to its points, none where it diverged before the first; and where those end that diverged.

    Raises NothingToDraw where nothing is known of the seconds.
    """
    history = variant.history if against == "epochs" else variant.history_by_step
    unit: float | None = 1.0
    if against == "seconds":
        unit = variant.seconds_a_step(key[0])
    if unit is None:
        raise NothingToDraw(f"the results do not say how long a step of {key[0]} took; their dlpipe was older")
    ends = {seed: row[0][0] * unit for seed, row in history.get((key[0], DIVERGED), {}).items()}
    points = {seed: [(at * unit, value) for at, value in seen] for seed, seen in history[key].items()}
    crosses = [(end, points[seed][-1][1]) for seed, end in ends.items() if points.get(seed)]
    return {**{seed: [] for seed in ends}, **points}, crosses


def mean_and_range(seeds: Mapping[int, Points]) -> Curve:
    """Epochs, mean, lowest and highest, where every seed has a finite value: a mean over fewer would jump."""
    tables = [dict(points) for points in seeds.values()]
    epochs = sorted(set.intersection(*(set(table) for table in tables)))
    epochs = [epoch for epoch in epochs if all(math.isfinite(table[epoch]) for table in tables)]
    columns = [[table[epoch] for table in tables] for epoch in epochs]
    means = [math.fsum(column) / len(column) for column in columns]
    return epochs, means, [min(column) for column in columns], [max(column) for column in columns]


def _draw_curve(place: Any, curve: Curve, position: int) -> None:
    colour, marker = series(position)
    epochs, means, lowest, highest = curve
    place.fill_between(epochs, lowest, highest, color=colour, alpha=0.18, linewidth=0)
    every = max(1, len(epochs) // 5)
    place.plot(epochs, means, color=colour, marker=marker, markevery=(every // 2, every))


def _draw_crosses(place: Any, crosses: Points, position: int) -> None:
    if crosses:
        colour, _ = series(position)
        place.plot([at for at, _ in crosses], [value for _, value in crosses], "x", color=colour, markersize=7)


def _levels(data: FigureData, axis: str | None, variants: list[VariantData]) -> list[str]:
    """Levels with a line; each keeps its place in the declared order, so that its colour is the same in all figures."""
    if axis is None:
        return []
    if axis not in data.axes:
        raise NothingToDraw(f"the experiment has no axis {axis}; it has {list_text(list(data.axes))}")
    last = max(data.axes[axis].index(variant.levels[axis]) for variant in variants)
    return data.axes[axis][: last + 1]


def _panels(data: FigureData, axis: str | None, variants: list[VariantData]) -> dict[str, list[VariantData]]:
    """Panel heading to its variants: a panel a level of the other axes, and another for every six lines."""
    groups: dict[str, list[VariantData]] = {}
    for variant in variants:
        name = data.label(variant, without=[axis] if axis else [])
        if axis is not None and len(data.axes[axis]) > MOST_LINES:
            sixth = data.axes[axis].index(variant.levels[axis]) // MOST_LINES
            first, *_, last = data.axes[axis][sixth * MOST_LINES :][:MOST_LINES] * 2
            name = f"{name}, {first} to {last}".removeprefix(", ")
        groups.setdefault(name, []).append(variant)
    return groups


def _distinct(
    groups: Mapping[str, list[VariantData]], axis: str | None, key: tuple[str, str]
) -> dict[str, list[VariantData]]:
    """Less the panels that repeat earlier curves: variants that share a layer have the same numbers of its training."""
    seen: set[tuple[str, str]] = set()
    kept = {}
    for name, members in groups.items():
        curves = {(variant.levels[axis] if axis else "", repr(variant.history[key])) for variant in members}
        if not curves <= seen:
            kept[name] = members
        seen |= curves
    return kept


def _caption(left_out: int, diverged: bool) -> str:
    text = "Line: mean over seeds. Band: from the lowest to the highest seed, as long as all of them train."
    if diverged:
        text += " Cross: a training that diverged, at its last value."
    return with_unit(text, f"{left_out} more panels are left out." if left_out > 0 else "")
