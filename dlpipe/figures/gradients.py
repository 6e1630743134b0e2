"""The norm of a gradient against the steps that it has gone back: the geometric mean over seeds, with their range."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dlpipe.figures.canvas import legend, panels
from dlpipe.figures.data import MOST_LINES, FigureData, NothingToDraw, Picture
from dlpipe.figures.palette import series

OUTPUT = "gradient_by_distance"


def draw(*, data: FigureData, title: str | None, where: Mapping[str, str]) -> Picture:
    """A line a variant. Raises NothingToDraw where no variant has what the measure gives."""
    shown = data.slice(where)
    variants = [variant for variant in shown.variants if OUTPUT in variant.output_names]
    if not variants:
        raise NothingToDraw(f"no run has norms by distance: add {{kind: {OUTPUT}}} to measures")
    figure, places = panels(1)
    for position, variant in enumerate(variants[:MOST_LINES]):
        norms = np.concatenate(variant.outputs(OUTPUT))  # [seeds, steps]
        norms = np.where(norms > 0, norms, np.nan)  # nothing is left: no place on a logarithmic axis
        colour, marker = series(position)
        distances = np.arange(1, norms.shape[1] + 1)
        places[0].fill_between(distances, norms.min(axis=0), norms.max(axis=0), color=colour, alpha=0.18, linewidth=0)
        every = max(1, len(distances) // 5)
        places[0].plot(
            distances, np.exp(np.log(norms).mean(axis=0)), color=colour, marker=marker, markevery=(every // 2, every)
        )
    if len(variants) > 1:
        legend(figure, [shown.label(variant) for variant in variants[:MOST_LINES]])
    places[0].set_yscale("log")
    places[0].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    figure.supxlabel("steps back", size=9)
    figure.supylabel("norm, relative to the first", size=9)
    left_out = len(variants) - MOST_LINES
    more = f" Not shown for want of room: {left_out} more." if left_out > 0 else ""
    caption = (
        "Norm of the gradient of the last output by the state so many steps before. Line: geometric mean over seeds. "
        f"Band: from the lowest to the highest seed.{more}"
    )
    return Picture(figure, title or "Gradient against distance", caption)
