"""Pictures: filters, reconstructions, mistakes. Pixels are embedded as they are and scaled by the viewer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dlpipe.figures.canvas import WIDTH
from dlpipe.figures.data import FigureData, NothingToDraw, Picture, VariantData, showcase

MOST_FILTERS = 36
MOST_COLUMNS = 5
MOST_MISTAKES = 12
FANTASIES_A_ROW = 10
MAGNIFIED = 4
"""Pixels of a picture file for a pixel of what it shows."""
RECONSTRUCTIONS = {
    "reconstruction_inputs": "Above: test examples.",
    "reconstructions": "Below: the same, up through the pretrained layers and down again.",
    "reconstructions_finetuned": "Lowest: what the trained model gives back.",
}
"""Outputs, from the top row down, and what the caption says of each."""
GREYS = 65
"""Shades of grey that a filter is drawn with; odd, so that 0 is mid-grey; more look the same."""


def draw_filters(*, data: FigureData, title: str | None, where: Mapping[str, str]) -> Picture:
    """A row a variant, a column a layer. Raises NothingToDraw where no variant has filters."""
    shown = data.slice(where)
    rows = [
        (shown.label(variant), tiles)
        for variant in showcase(shown)
        if (tiles := {name: variant.first(name) for name in _filter_names(variant)})
    ]
    if not rows:
        raise NothingToDraw("no run has filters of a layer")
    names = sorted({name for _, tiles in rows for name in tiles}, key=_filter_order)[:MOST_COLUMNS]
    figure, grid = _grid(len(rows), len(names))
    for row, (label, tiles) in enumerate(rows):
        for column, name in enumerate(names):
            place = grid[row][column]
            if row == 0:
                place.set_title(_filter_title(name))
            if column == 0:
                _name_row(place, label)
            if name in tiles:
                _show(place, mosaic(signed(tiles[name][:MOST_FILTERS])))
    caption = (
        "Incoming weights of hidden units, first seed; mid-grey is 0, each unit on its own scale. "
        "Above the first layer, weights are projected down linearly."
    )
    return _picture(figure, title or "Learned filters", caption)


def draw_reconstructions(*, data: FigureData, title: str | None, where: Mapping[str, str]) -> Picture:
    """Raises NothingToDraw where no variant has reconstructions."""
    shown = data.slice(where)
    rows = [
        (shown.label(variant), [variant.first(name) for name in RECONSTRUCTIONS if name in variant.output_names])
        for variant in showcase(shown)
        if "reconstruction_inputs" in variant.output_names
    ]
    if not rows:
        raise NothingToDraw("no run has reconstructions")
    names = {name for variant in showcase(shown) for name in RECONSTRUCTIONS if name in variant.output_names}
    figure, grid = _grid(len(rows), 1, height=0.7 * len(names) + 0.05)
    for place, (label, pictures) in zip((line[0] for line in grid), rows, strict=True):
        below = np.concatenate([unsigned(each) for each in pictures])
        _show(place, mosaic(below, columns=len(pictures[0])))
        _name_row(place, label)
    caption = " ".join(text for name, text in RECONSTRUCTIONS.items() if name in names) + " First seed."
    return _picture(figure, title or "Reconstructions", caption)


def draw_fantasies(*, data: FigureData, title: str | None, where: Mapping[str, str]) -> Picture:
    """A panel a variant, ten fantasies a row, class after class. Raises NothingToDraw where none has any."""
    shown = data.slice(where)
    drawn = [variant for variant in showcase(shown) if "fantasies" in variant.output_names]
    if not drawn:
        raise NothingToDraw("no run has fantasies; declare `measures: [{kind: fantasies}]`")
    sheets = [mosaic(unsigned(variant.first("fantasies")), columns=FANTASIES_A_ROW) for variant in drawn]
    height = sum(sheet.shape[0] / sheet.shape[1] for sheet in sheets) / len(sheets)
    figure, grid = _grid(len(drawn), 1, height=min(0.9 * WIDTH * height, 4.0))
    for place, variant, sheet in zip((line[0] for line in grid), drawn, sheets, strict=True):
        _show(place, sheet)
        _name_row(place, shown.label(variant))
    caption = (
        "What the model takes for data: means of the visible units (samples of Gaussian ones) after Gibbs sampling, "
        "chains side by side."
    )
    return _picture(figure, title or "Fantasies", f"{caption} First seed.")


def draw_mistakes(*, data: FigureData, title: str | None, where: Mapping[str, str]) -> Picture:
    """Raises NothingToDraw where no variant has examples that it gets wrong."""
    shown = data.slice(where)
    rows = [
        (variant, variant.first("examples_wrong"), variant.first("examples_wrong_labels"))
        for variant in showcase(shown)
        if {"examples_wrong", "examples_wrong_labels"} <= set(variant.output_names)
        and len(variant.first("examples_wrong"))
    ]
    if not rows:
        raise NothingToDraw("no run has examples that are classified wrongly")
    figure, grid = _grid(len(rows), 1, height=0.95)
    for place, (variant, examples, labels) in zip((line[0] for line in grid), rows, strict=True):
        pictures = unsigned(examples[:MOST_MISTAKES])
        gap = max(1, pictures.shape[2] // 4)
        _show(place, mosaic(pictures, columns=MOST_MISTAKES, gap=gap))
        _name_row(place, shown.label(variant))
        for position, (true, taken) in enumerate(labels[:MOST_MISTAKES]):
            middle = position * (pictures.shape[2] + gap) + (pictures.shape[2] - 1) / 2
            text = f"{_class(variant, true)} → {_class(variant, taken)}"
            place.text(middle, -0.5 - pictures.shape[1] / 8, text, ha="center", va="bottom", size=8)
    caption = "Test examples that are classified wrongly, with their class and the one they are taken for. First seed."
    return _picture(figure, title or "Mistakes", caption)


def _class(variant: VariantData, index: int) -> str:
    return variant.classes[index] if 0 <= index < len(variant.classes) else str(int(index))


def _name_row(place: Any, label: str) -> None:
    place.set_ylabel(label.replace(", ", "\n"), rotation=0, ha="right", va="center")


def _filter_names(variant: VariantData) -> list[str]:
    return [name for name in variant.output_names if name.startswith(("filters/", "filters_finetuned/"))]


def _filter_order(name: str) -> tuple[bool, int]:
    kind, _, layer = name.partition("/")
    return kind != "filters", int(layer)


def _filter_title(name: str) -> str:
    kind, _, layer = name.partition("/")
    return f"layer {layer}, {'pretrained' if kind == 'filters' else 'fine-tuned'}"


def _grid(rows: int, columns: int, *, height: float | None = None) -> tuple[Figure, list[list[Any]]]:
    """Places without ticks or frames; a column is at most a third of the width."""
    width = WIDTH if columns >= 3 or columns == 1 else WIDTH * columns / 3
    # Compressed: the layout for places that keep their pictures' shape; any other cuts the longest of the rows' names.
    figure = Figure(figsize=(width, rows * (height or min(width / columns, 2.5)) + 0.25), layout="compressed")
    grid = figure.subplots(rows, columns, squeeze=False)
    for place in grid.flat:
        place.set_xticks([])
        place.set_yticks([])
        place.grid(False)
        place.spines[:].set_visible(False)
    return figure, grid.tolist()


def _picture(figure: Figure, title: str, caption: str) -> Picture:
    """Without the height that pictures which fill the width leave empty above and below them."""
    figure.draw_without_rendering()
    layout = figure.get_layout_engine()
    assert layout is not None
    drawn = figure.get_tightbbox().height + 2 * layout.get()["h_pad"]  # inches
    figure.set_figheight(min(figure.get_figheight(), drawn))
    return Picture(figure, title, caption)


def _show(place: Any, pixels: np.ndarray) -> None:
    place.imshow(pixels, interpolation="none")


def as_pictures(tensor: np.ndarray) -> np.ndarray:
    """[n, *shape] as [n, H, W] (grey) or [n, H, W, 3]; a flat shape becomes a square, or a strip if it is none.

    Colours are the last axis if it can be one, as in the data, or else the first.
    """
    n, shape = len(tensor), tensor.shape[1:]
    if len(shape) == 3 and shape[0] in (1, 3) and shape[-1] not in (1, 3):
        tensor, shape = np.moveaxis(tensor, 1, -1), (*shape[1:], shape[0])
    if len(shape) == 3 and shape[-1] == 1:
        return tensor[..., 0]
    if len(shape) == 2 or (len(shape) == 3 and shape[-1] == 3):
        return tensor
    size = math.prod(shape)
    side = math.isqrt(size)
    return tensor.reshape(n, side, side) if side * side == size else tensor.reshape(n, 1, size)


def signed(tensor: np.ndarray) -> np.ndarray:
    """Weights as pictures in [0, 1]: 0 is mid-grey, and the largest weight of each is white or black."""
    pictures = as_pictures(np.nan_to_num(tensor.astype(np.float32)))
    largest = np.abs(pictures).reshape(len(pictures), -1).max(axis=1)
    largest = np.where(largest > 0, largest, 1).reshape(-1, *[1] * (pictures.ndim - 1))
    levels = np.round((0.5 + 0.5 * pictures / largest) * (GREYS - 1))
    return levels / (GREYS - 1)


def unsigned(tensor: np.ndarray) -> np.ndarray:
    """Inputs as pictures in [0, 1]; inputs outside of it are scaled to it, all by the same rule."""
    pictures = as_pictures(np.nan_to_num(tensor.astype(np.float32)))
    low, high = (float(pictures.min()), float(pictures.max())) if pictures.size else (0.0, 1.0)
    if low >= 0 and high <= 1:
        return pictures
    return (pictures - low) / max(high - low, 1e-12)


def mosaic(pictures: np.ndarray, columns: int | None = None, gap: int = 1) -> np.ndarray:
    """[n, H, W(, 3)] in [0, 1] as one picture uint8 [.., .., 4] with transparent gaps, in pixels of the pictures."""
    n, height, width = pictures.shape[:3]
    columns = columns or math.ceil(math.sqrt(n))
    rows = -(-n // columns)
    sheet = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 4), np.uint8)
    for index, picture in enumerate(pictures):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        colours = picture[..., None] if picture.ndim == 2 else picture
        sheet[top : top + height, left : left + width, :3] = np.round(colours * 255)
        sheet[top : top + height, left : left + width, 3] = 255
    return sheet
