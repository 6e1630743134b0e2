"""Variations of pictures that make them harder to classify.

Papers: larochelle2007 (which made the first ones, of MNIST), vincent2010 (the benchmark of its table 3).

    rotated              every picture is turned about its centre by an angle, uniform in [0, 2 pi)
    random_background    a pixel is the larger of the picture's and a background's, uniform over all shades

Rotation is bilinear, and what comes in from outside is 0. Both keep the source's shades: whole numbers stay whole.

Randomness: the words of `dlpipe.datasets.draws`, by the `split_seed` and the source's part. What an example gets
depends on its place in the source alone, not on how many examples are asked for, nor on who else is chosen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from dlpipe.datasets.draws import Draws
from dlpipe.datasets.examples import Examples
from dlpipe.datasets.sources import DataError
from dlpipe.datasets.splits import TEST_PART, TRAINING_PART

CHUNK = 1024
"""Pictures that are turned at a time, which bounds the memory."""


def vary(examples: Examples, variation: str, split_seed: int) -> Examples:
    """The same examples, with varied inputs. Raises DataError when they are not square pictures in grey."""
    shape = examples.inputs.shape[1:]
    if len(shape) != 2 or shape[0] != shape[1]:
        raise DataError(
            f"variation: {variation} is for square pictures in grey, [side, side]; an example here is {list(shape)}"
        )
    varied = _varied(examples.inputs, examples.scale, variation, Draws(split_seed, TRAINING_PART).words)
    if examples.test_inputs is None:
        return replace(examples, inputs=varied)
    test = _varied(examples.test_inputs, examples.scale, variation, Draws(split_seed, TEST_PART).words)
    return replace(examples, inputs=varied, test_inputs=test)


def _varied(pictures: np.ndarray, scale: float, variation: str, bits: np.random.Philox) -> np.ndarray:
    if variation == "random_background":
        return with_background(pictures, scale, bits)
    words = bits.random_raw(len(pictures))
    return rotate(pictures, (words >> np.uint64(11)) * (2 * np.pi / 2**53))


def rotate(pictures: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Pictures [N, side, side] turned counter-clockwise by `angles` [N], in radians; in the type that they have.

    The pixel at (y, x) from the centre takes the value at (y cos + x sin, x cos - y sin), interpolated linearly between
    the four pixels around it.
    """
    turned = np.empty_like(pictures)
    for part in _parts(len(pictures)):
        values = _interpolated(pictures[part], angles[part])
        turned[part] = np.rint(values) if pictures.dtype.kind == "u" else values
    return turned


def _interpolated(pictures: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """[n, side, side] float64."""
    side = pictures.shape[1]
    centred = np.arange(side) - (side - 1) / 2
    cos, sin = np.cos(angles)[:, None, None], np.sin(angles)[:, None, None]
    row = cos * centred[:, None] + sin * centred + (side - 1) / 2
    column = cos * centred - sin * centred[:, None] + (side - 1) / 2
    # With a frame of zeros, one before and two behind, all that lies further out is as good as on the frame.
    framed = np.pad(pictures, ((0, 0), (1, 2), (1, 2))).reshape(len(pictures), -1)
    row, column = (np.clip(each, -1, side) + 1 for each in (row, column))
    top, left = row.astype(np.int64), column.astype(np.int64)
    down, right = row - top, column - left
    corner = (top * (side + 3) + left).reshape(len(pictures), -1)

    def value(step: int) -> np.ndarray:
        return np.take_along_axis(framed, corner + step, axis=1).reshape(row.shape)

    above = (1 - right) * value(0) + right * value(1)
    below = (1 - right) * value(side + 3) + right * value(side + 4)
    return (1 - down) * above + down * below


def with_background(pictures: np.ndarray, scale: float, bits: np.random.Philox) -> np.ndarray:
    """Pictures [N, side, side] before backgrounds of noise; the shades are 0 ... `scale`, or [0, 1) if not whole."""
    pixels = pictures[0].size
    words = -(-pixels // 4)  # 16 bits a pixel
    varied = np.empty_like(pictures)
    for part in _parts(len(pictures)):
        n = len(pictures[part])
        drawn = bits.random_raw(n * words).astype("<u8").view("<u2").reshape(n, -1)[:, :pixels] / 2**16
        shades = np.floor(drawn * (scale + 1)) if pictures.dtype.kind == "u" else drawn
        varied[part] = np.maximum(pictures[part], shades.reshape(pictures[part].shape))
    return varied


def _parts(examples: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, examples, CHUNK))
