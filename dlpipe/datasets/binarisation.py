"""Pixels that are on or off, for models of binary data.

Papers: salakhutdinov2008 (pixels on with the probability of their intensity).

    binary     on above the middle of the scale
    sampled    on with the probability that the value is of the scale, drawn once and for all

What is drawn has noise in it that no model can know, a threshold leaves none: the same model is likelier on `binary`
data, by some eighteen nats a digit of MNIST, and a likelihood is to be compared with one of the same kind alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dlpipe.datasets.draws import PIXELS, Draws
from dlpipe.datasets.examples import Examples
from dlpipe.datasets.splits import TEST_PART, TRAINING_PART

CHUNK = 1024
"""Examples that are drawn at a time, which bounds the memory."""


def threshold(examples: Examples) -> Examples:
    """The same examples with inputs 1 above half the scale, else 0, as uint8."""
    middle, test = examples.scale / 2, examples.test_inputs
    return replace(
        examples,
        inputs=(examples.inputs > middle).astype(np.uint8),
        test_inputs=None if test is None else (test > middle).astype(np.uint8),
        scale=1.0,
    )


def sample(examples: Examples, split_seed: int) -> Examples:
    """The same examples with inputs 1 or 0, as uint8, drawn by the `split_seed` and the source's part.

    What an example gets depends on its place in the source alone, not on how many examples are asked for.
    """
    inputs = _sampled(examples.inputs, examples.scale, Draws(split_seed, TRAINING_PART, PIXELS))
    if examples.test_inputs is None:
        return replace(examples, inputs=inputs, scale=1.0)
    test = _sampled(examples.test_inputs, examples.scale, Draws(split_seed, TEST_PART, PIXELS))
    return replace(examples, inputs=inputs, test_inputs=test, scale=1.0)


def _sampled(values: np.ndarray, scale: float, draws: Draws) -> np.ndarray:
    drawn = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), CHUNK):
        part = values[start : start + CHUNK]
        drawn[start : start + CHUNK] = draws.uniform(*part.shape) * scale < part
    return drawn
