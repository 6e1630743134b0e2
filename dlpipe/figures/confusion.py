"""Confusion matrices, summed over the seeds, in per cent of the true class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from dlpipe.figures.canvas import WIDTH
from dlpipe.figures.data import FigureData, NothingToDraw, Picture, showcase

MOST_WRITTEN = 12
"""Classes up to which every cell has its number."""
WRONG = LinearSegmentedColormap.from_list("wrong", ["#fbf7f4", "#f2a77c", "#9c2f00"])


def draw(*, data: FigureData, title: str | None, where: Mapping[str, str]) -> Picture:
    """Raises NothingToDraw where no variant has a confusion matrix."""
    shown = data.slice(where)
    matrices = [
        (shown.label(variant), share(np.concatenate(blocks).sum(axis=0)), variant.classes)
        for variant in showcase(shown, most=3)
        if (blocks := variant.outputs("confusion"))
    ]
    if not matrices:
        raise NothingToDraw("no run has a confusion matrix")
    figure = Figure(figsize=(max(WIDTH * len(matrices) / 3, 4.2), 3.1 if len(matrices) > 1 else 4.0))
    places = figure.subplots(1, len(matrices), squeeze=False)[0]
    worst = max(float(_off_diagonal(matrix).max()) for _, matrix, _ in matrices)
    for place, (label, matrix, classes) in zip(places, matrices, strict=True):
        place.set_title(label)
        _draw_matrix(place, matrix, classes or [str(index) for index in range(len(matrix))], worst)
    places[0].set_ylabel("true class")
    figure.supxlabel("classified as", size=9)
    caption = "Per cent of each true class, over all seeds; empty where 0. Colour: mistakes, darker is more."
    return Picture(figure, title or "Confusion matrix", caption)


def share(counts: np.ndarray) -> np.ndarray:
    """Per cent of each row's sum; a row without examples is 0."""
    totals = counts.sum(axis=1, keepdims=True)
    return 100 * counts / np.maximum(totals, 1)


def _off_diagonal(matrix: np.ndarray) -> np.ndarray:
    return np.where(np.eye(len(matrix), dtype=bool), 0, matrix)


def _draw_matrix(place: Any, matrix: np.ndarray, classes: list[str], worst: float) -> None:
    wrong = _off_diagonal(matrix) / (worst or 1)
    pixels = (WRONG(wrong) * 255).round().astype(np.uint8)
    pixels[np.eye(len(matrix), dtype=bool)] = (226, 236, 243, 255)
    place.imshow(pixels, interpolation="none")
    place.grid(False)
    place.spines[:].set_visible(False)
    place.tick_params(length=0)
    if len(classes) > 2 * MOST_WRITTEN:
        place.set_xticks([])
        place.set_yticks([])
        return
    rotation = 90 if max(map(len, classes)) > 2 else 0
    place.set_xticks(range(len(classes)), classes, rotation=rotation)
    place.set_yticks(range(len(classes)), classes)
    if len(classes) > MOST_WRITTEN:
        return
    for row, column in np.argwhere(matrix >= 0.5):
        colour = "#ffffff" if wrong[row, column] > 0.6 else "#111111"
        place.text(column, row, f"{int(matrix[row, column] + 0.5)}", ha="center", va="center", size=6.5, color=colour)
