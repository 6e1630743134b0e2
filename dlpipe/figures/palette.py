"""Colours of the figures, on a light page and on a dark one; no matplotlib, so that the report may import it.

A figure is drawn in the light colours. Where it is shown in a page, each of these exact colours becomes a variable of
the page's style, so that it turns with the page.
"""

from __future__ import annotations

INK = ("#1b1f24", "#e6e9ed")
"""Text and ticks: on light, on dark."""
MUTED = ("#5b6470", "#a3adba")
GRID = ("#dfe3e8", "#363d47")
PAPER = ("#fefefe", "#15181d")
"""Not pure white, so that a picture's white is never taken for the page's background."""

SERIES = (
    ("#0067a5", "#5cb3ec"),  # blue
    ("#c8500a", "#ff9a5c"),  # vermilion
    ("#00805e", "#3fcda3"),  # green
    ("#a2428e", "#e59ad3"),  # purple
    ("#7a6a00", "#d8c34a"),  # olive
    ("#4d4d4d", "#c4c4c4"),  # grey
)
"""Told apart by lightness and by marker too, not by hue alone (after Okabe and Ito 2008)."""
MARKERS = ("o", "s", "^", "D", "v", "P")

VARIABLES = {
    INK[0]: "--ink",
    MUTED[0]: "--muted",
    GRID[0]: "--grid",
    PAPER[0]: "--paper",
    **{light: f"--series-{number}" for number, (light, _) in enumerate(SERIES, start=1)},
}
"""Light colour to the name of the style variable that stands for it."""


def series(position: int) -> tuple[str, str]:
    """Colour and marker of the line at `position`, from 0; they repeat after six."""
    return SERIES[position % len(SERIES)][0], MARKERS[position % len(MARKERS)]
