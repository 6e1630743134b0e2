"""Pixels that are on or off, for models of binary data.

Papers: salakhutdinov2008 (pixels on with the probability of their intensity).

    binary     on above the middle of the scale
    sampled    on with the probability that the value is of the scale, drawn once and for all

What is drawn has noise in it that no model can know, a threshold leaves none: the same model is likelier on `binary`
data, by some eighteen nats a digit of MNIST, and a likelihood is to be compared with one of the same kind alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from dlpipe.datasets.draws import PIXELS, Draws
from dlpipe.datasets.examples import Examples
from dlpipe.datasets.splits import TEST_PART, TRAINING_PART

CHUNK = 1024
"""Examples that are drawn at a time, which bounds the memory."""


def threshold(examples: Examples) -> Examples:
    """The same examples with inputs 1 above half the scale, else 0, as uint8."""
    return _each_part(examples, lambda values, _: (values > examples.scale / 2).astype(np.uint8))


def sample(examples: Examples, split_seed: int) -> Examples:
    """The same examples with inputs 1 or 0, as uint8, drawn by the `split_seed` and the source's part.

    What an example gets depends on its place in the source alone, not on how many examples are asked for.
    """

    def drawn(values: np.ndarray, part: int) -> np.ndarray:
        draws, result = Draws(split_seed, part, PIXELS), np.empty(values.shape, np.uint8)
        for start in range(0, len(values), CHUNK):
            chunk = values[start : start + CHUNK]
            result[start : start + CHUNK] = draws.uniform(*chunk.shape) * examples.scale < chunk
        return result

    return _each_part(examples, drawn)


def _each_part(examples: Examples, binary: Callable[[np.ndarray, int], np.ndarray]) -> Examples:
    """With what `binary(values, part)` makes of the inputs of each of the source's parts."""
    test = examples.test_inputs
    return replace(
        examples,
        inputs=binary(examples.inputs, TRAINING_PART),
        test_inputs=None if test is None else binary(test, TEST_PART),
        scale=1.0,
    )
