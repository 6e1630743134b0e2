"""Integrals of exp(-E) over the line or the plane, on a grid: the oracle of models whose Z has no closed form.

Of a smooth density that a box holds altogether, the sum over equally spaced points is exact to rounding as soon as they
are closer to each other than the density's finest feature (the trapezoidal rule of a periodic function).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dlpipe.errors import NotMeasurable

MOST_DIMENSIONS = 2
POINTS = (128, 256, 512, 1024)
"""Along an axis; the first of these that give what half as many give."""
AGREES = 1e-6
"""Nats between the two."""
OUTSIDE, WIDER = 1e-9, 4.0
"""Share of the integral that may lie outside of a box, and how much wider the box is in which this is looked for."""
GROWTH, LARGEST = 1.5, 12
"""By how much a box is widened that does not hold the density, and how often: to 130 times its size."""
CHUNK = 16_384
"""Points at once, which bounds the memory; fixed, so that the sums are the same bytes."""

Energy = Callable[[Tensor], Tensor]
"""[N, d] -> [N], in nats."""


class NoIntegral(NotMeasurable):
    """exp(-E) that no box holds, or with features that no grid resolves: of a model that has diverged, say."""


class Box(NamedTuple):
    low: Tensor
    """[d]"""
    high: Tensor

    def widened(self, factor: float) -> Box:
        """About the same middle, `factor` times as wide along every axis."""
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        return Box(middle - factor * half, middle + factor * half)


class Grid(NamedTuple):
    points: Tensor
    """[n^d, d], the last coordinate fastest: the middles of n^d cells that fill a box."""
    log_cell: Tensor
    """log of a cell's size."""


def box_around(inputs: Tensor, margin: float = 0.5) -> Box:
    """The smallest box that holds `inputs` [N, d], widened by `margin` of its size on every side."""
    low, high = inputs.min(dim=0).values, inputs.max(dim=0).values
    return Box(low, high).widened(1 + 2 * margin)


def grid(box: Box, n: int) -> Grid:
    """n cells along each of the box's axes."""
    middles = (torch.arange(n, dtype=box.low.dtype, device=box.low.device) + 0.5) / n
    axes = [low + middles * (high - low) for low, high in zip(box.low, box.high, strict=True)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, len(axes))
    return Grid(points, ((box.high - box.low) / n).log().sum())


def log_integral(energy: Energy, cells: Grid) -> Tensor:
    """log of the integral of exp(-E) over the grid's box; a scalar, with its gradient."""
    return torch.logsumexp(-energy(cells.points), dim=0) + cells.log_cell


@torch.no_grad()
def log_partition(energy: Energy, box: Box) -> float:
    """log Z in nats of an energy in float64. The box is a first guess, and widened until it holds the density.

    Raises NoIntegral where none does, or where the finest grid is too coarse.
    """
    for _ in range(LARGEST):
        if _outside(energy, box) < OUTSIDE:
            return _refined(energy, box)
        box = box.widened(GROWTH)
    raise NoIntegral("log Z has no finite value: exp(-E) does not fade with the distance; training may have diverged")


def _outside(energy: Energy, box: Box) -> float:
    """Of what a wider box holds, the share that is not in this one."""
    cells = grid(box.widened(WIDER), POINTS[0] * 2)
    share = torch.softmax(-_in_chunks(energy, cells.points), dim=0)
    inside = ((cells.points > box.low) & (cells.points < box.high)).all(dim=1)
    return float(share[~inside].sum())


def _refined(energy: Energy, box: Box) -> float:
    last = math.inf
    for n in (POINTS[0] // 2, *POINTS):
        cells = grid(box, n)
        value = float(torch.logsumexp(-_in_chunks(energy, cells.points), dim=0) + cells.log_cell)
        if abs(value - last) < AGREES:
            return value
        last = value
    raise NoIntegral(f"log Z has no stable value on a grid of {POINTS[-1]} points an axis; training may have diverged")


def _in_chunks(energy: Energy, points: Tensor) -> Tensor:
    return torch.cat([energy(chunk) for chunk in points.split(CHUNK)])
