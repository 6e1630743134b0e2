"""Points in the plane, drawn from densities that can be seen, integrated and compared with.

    gaussian          mean 0, variances 1, correlation 0.8
    two_moons         (cos t, sin t) or (1 - cos t, 1/2 - sin t), t from 0 to pi, and noise of deviation 0.1
    eight_gaussians   deviation 1/4 around eight points of a circle of radius 2
    rings             circles of radius 1 and 2, and noise of deviation 0.1
    ica_mixture       two independent Laplace variables of variance 1, rotated by 30 degrees

The class of a point is its moon, Gaussian or ring; there are equally many of each, but for one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dlpipe.datasets.draws import Draws

CORRELATION = 0.8
MOON_NOISE = 0.1
CENTRES, CENTRE_RADIUS, CENTRE_DEVIATION = 8, 2.0, 0.25
RADII, RING_NOISE = (1.0, 2.0), 0.1
ANGLE = np.radians(30.0)

CLASSES = {"gaussian": 1, "two_moons": 2, "eight_gaussians": CENTRES, "rings": len(RADII), "ica_mixture": 1}


def points(shape: str, n: int, draws: Draws, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Inputs float32 [n, 2], `scale` times those of the shape, and classes int64 [n]."""
    classes = np.arange(n, dtype=np.int64) % CLASSES[shape]
    return (scale * SHAPES[shape](draws, classes)).astype(np.float32), classes


def log_density(shape: str, points: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """In nats, of float64 points [n, 2] that are `scale` times those of a shape in LOG_DENSITIES: [n]."""
    return LOG_DENSITIES[shape](points / scale) - 2 * np.log(scale)


def gaussian(draws: Draws, classes: np.ndarray) -> np.ndarray:
    first, second = draws.normal(2, len(classes))
    return np.stack((first, CORRELATION * first + np.sqrt(1 - CORRELATION**2) * second), axis=1)


def two_moons(draws: Draws, classes: np.ndarray) -> np.ndarray:
    upper = on_the_circle(np.pi * draws.uniform(len(classes)))
    return np.where(classes[:, None] == 0, upper, (1.0, 0.5) - upper) + MOON_NOISE * draws.normal(len(classes), 2)


def eight_gaussians(draws: Draws, classes: np.ndarray) -> np.ndarray:
    centres = CENTRE_RADIUS * on_the_circle(2 * np.pi * classes / CENTRES)
    return centres + CENTRE_DEVIATION * draws.normal(len(classes), 2)


def rings(draws: Draws, classes: np.ndarray) -> np.ndarray:
    circles = np.array(RADII)[classes, None] * on_the_circle(2 * np.pi * draws.uniform(len(classes)))
    return circles + RING_NOISE * draws.normal(len(classes), 2)


def ica_mixture(draws: Draws, classes: np.ndarray) -> np.ndarray:
    first, second = draws.laplace(2, len(classes))
    cos, sin = np.cos(ANGLE), np.sin(ANGLE)
    return np.stack((cos * first - sin * second, sin * first + cos * second), axis=1)


def gaussian_log_density(points: np.ndarray) -> np.ndarray:
    x, y = points.T
    determinant = 1 - CORRELATION**2
    square = (x**2 - 2 * CORRELATION * x * y + y**2) / determinant
    return -0.5 * (square + np.log(determinant)) - np.log(2 * np.pi)


def eight_gaussians_log_density(points: np.ndarray) -> np.ndarray:
    centres = CENTRE_RADIUS * on_the_circle(2 * np.pi * np.arange(CENTRES) / CENTRES)
    squares = np.square((points[:, None, :] - centres) / CENTRE_DEVIATION).sum(axis=2)  # [n, CENTRES]
    return np.logaddexp.reduce(-0.5 * squares, axis=1) - np.log(2 * np.pi * CENTRE_DEVIATION**2 * CENTRES)


def ica_mixture_log_density(points: np.ndarray) -> np.ndarray:
    """A Laplace variable s of variance 1 has the density exp(-sqrt(2) |s|) / sqrt(2)."""
    cos, sin = np.cos(ANGLE), np.sin(ANGLE)
    sources = points @ np.array([[cos, -sin], [sin, cos]])
    return -np.sqrt(2) * np.abs(sources).sum(axis=1) - np.log(2)


def on_the_circle(angle: np.ndarray) -> np.ndarray:
    """[n] -> [n, 2], of radius 1."""
    return np.stack((np.cos(angle), np.sin(angle)), axis=1)


SHAPES: dict[str, Callable[[Draws, np.ndarray], np.ndarray]] = {
    "gaussian": gaussian,
    "two_moons": two_moons,
    "eight_gaussians": eight_gaussians,
    "rings": rings,
    "ica_mixture": ica_mixture,
}

LOG_DENSITIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gaussian": gaussian_log_density,
    "eight_gaussians": eight_gaussians_log_density,
    "ica_mixture": ica_mixture_log_density,
}
"""Of the shapes whose density has a closed form: float64 points [n, 2] -> [n], in nats."""
