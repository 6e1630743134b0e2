"""Densities in the plane, as the model has them, with points over them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from dlpipe.figures.canvas import WIDTH, best_columns
from dlpipe.figures.data import FigureData, NothingToDraw, Picture, showcase
from dlpipe.figures.palette import series

MOST_PANELS = 8
COLUMNS = 4
LOUD = 0.995
"""Share of the pixels that the scale of colours reaches to: a spike takes it from no other panel."""
DENSE = LinearSegmentedColormap.from_list("dense", ["#fbf9f5", "#8fb8d8", "#12395c"])
OVER = {
    "test": ("density_points", "Dots: test examples."),
    "samples": ("density_samples", "Dots: the model's samples, where its Markov chains are at the end of training."),
}


def draw(
    *, data: FigureData, title: str | None, where: Mapping[str, str], points: Literal["test", "samples"]
) -> Picture:
    """A panel a variant, all on one scale. Raises NothingToDraw where no variant has such a density."""
    name, dots = OVER[points]
    shown = data.slice(where)
    needed = {"density", "density_box", name}
    variants = [v for v in showcase(shown, most=MOST_PANELS) if needed <= set(v.output_names)]
    if not variants:
        raise NothingToDraw(f"no run has a density in the plane with {name.replace('density_', '')} over it")
    densities = [variant.first("density") for variant in variants]
    highest = max(float(np.quantile(density, LOUD)) for density in densities) or 1.0
    for variant, density, place in zip(variants, densities, _places(len(variants)), strict=True):
        _draw_density(place, density, variant.first("density_box"), highest)
        x, y = variant.first(name).T
        place.plot(x, y, linestyle="none", marker=".", markersize=1.2, color=series(1)[0], alpha=0.6)
        place.set_title(shown.label(variant))
    caption = f"Shade: the model's density, darker is more, one scale for all panels. {dots} First seed."
    return Picture(place.figure, title or "Densities in the plane", caption)


def _places(count: int) -> list[Any]:
    columns = best_columns(count, COLUMNS)
    rows = -(-count // columns)
    side = min(WIDTH / columns, 3.2)
    figure = Figure(figsize=(side * columns, rows * (side + 0.15)))
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in grid[count:]:
        unused.remove()
    return grid[:count]


def _draw_density(place: Any, density: np.ndarray, box: np.ndarray, highest: float) -> None:
    """`density` [x, y] over `box`, its low and high corner."""
    pixels = (DENSE(np.clip(density.T / highest, 0, 1)) * 255).round().astype(np.uint8)
    (left, bottom), (right, top) = box.tolist()
    place.imshow(pixels, origin="lower", extent=(left, right, bottom, top), interpolation="none", aspect="auto")
    place.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
    place.grid(False)
