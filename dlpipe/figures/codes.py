"""Codes that are two wide: every test example where its code is, written as its class."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from dlpipe.figures.canvas import WIDTH
from dlpipe.figures.data import FigureData, NothingToDraw, Picture, showcase
from dlpipe.figures.palette import series

MOST_POINTS = 500
MARGIN = 0.04
"""Of the range, so that the outermost examples are inside."""


def draw(*, data: FigureData, title: str | None, where: Mapping[str, str]) -> Picture:
    """A panel a variant. Raises NothingToDraw where no variant has a code in the plane."""
    shown = data.slice(where)
    variants = [variant for variant in showcase(shown) if {"code", "code_classes"} <= set(variant.output_names)]
    if not variants:
        raise NothingToDraw("no run has a code that is two wide")
    figure = Figure(figsize=(WIDTH, WIDTH / max(2, len(variants)) + 0.3))
    places = figure.subplots(1, len(variants), squeeze=False)[0]
    for place, variant in zip(places, variants, strict=True):
        points, classes = variant.first("code")[:MOST_POINTS], variant.first("code_classes")[:MOST_POINTS]
        names = variant.classes or [str(index) for index in range(int(classes.max()) + 1)]
        for (x, y), index in zip(points.tolist(), classes.tolist(), strict=True):
            place.text(x, y, names[index], color=series(index)[0], size=6, ha="center", va="center")
        low, high = points.min(axis=0), points.max(axis=0)
        around = MARGIN * (high - low) + 1e-9
        place.set(xlim=(low[0] - around[0], high[0] + around[0]), ylim=(low[1] - around[1], high[1] + around[1]))
        place.set_title(shown.label(variant))
    caption = f"Test examples at their codes, each written as its class; at most {MOST_POINTS}. First seed."
    return Picture(figure, title or "Codes in the plane", caption)
