"""Drawing and saving: one style, and the same bytes for the same figure."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dlpipe.figures.palette import series

STYLE = Path(__file__).with_name("dlpipe.mplstyle")
WIDTH = 7.6
"""Inches; text of 9 points is then as large as the report's."""
HANDLE_INCHES, CHARACTER_INCHES = 0.5, 0.075
"""What a name in a legend takes, about."""


def use_style() -> Any:
    """A context in which figures are made and saved. It starts from matplotlib's defaults, whatever the user's are."""
    parameters = matplotlib.rc_params_from_file(STYLE, use_default_template=True)
    return matplotlib.rc_context(rc={name: value for name, value in parameters.items() if name != "backend"})


def panels(count: int, *, columns: int = 4, height: float = 1.9, top: float = 0.3) -> tuple[Figure, list[Any]]:
    """A figure with `count` small multiples that share both axes; inches: `height` of each, `top` for a legend."""
    columns = best_columns(count, columns)
    rows = -(-count // columns)
    if count == 1:
        height = 2.9
    figure = Figure(figsize=(WIDTH if columns > 1 else 5.2, rows * height + top))
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    flat = list(grid.flat)
    for position, unused in enumerate(flat[count:], start=count):
        unused.remove()
        flat[position - columns].tick_params(labelbottom=True)
    return figure, flat[:count]


def best_columns(count: int, most: int) -> int:
    """Columns, at most `most`: the fewest rows, then the fewest empty places."""
    return min(range(1, min(count, most) + 1), key=lambda columns: (-(-count // columns), -count % columns))


def legend(figure: Figure, names: Sequence[str], title: str | None = None, *, line: bool = True) -> None:
    """One legend above all panels, in the order of the names, which is the order of the series."""
    handles = []
    for position, name in enumerate(names):
        colour, marker = series(position)
        handles.append(Line2D([], [], color=colour, marker=marker, linestyle="-" if line else "none", label=name))
    widest = HANDLE_INCHES + CHARACTER_INCHES * max(map(len, names))
    columns = min(len(names), 6, max(1, int(figure.get_figwidth() / widest)))
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, title=title, alignment="left")


def to_svg(figure: Figure) -> bytes:
    """The figure as SVG: no date, fixed ids, coordinates to a hundredth of a point."""
    FigureCanvasSVG(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue().decode()
    return re.sub(r'(?<= d=")[^"]+', _shorten, text).encode()


def _shorten(path: re.Match[str]) -> str:
    return re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), path[0])
