"""Random numbers by which data sets are generated, and given ones varied.

64-bit words of numpy's Philox counter generator, keyed by the `split_seed` through a SeedSequence: a stream that is
fixed for all versions of numpy, unlike those of `Generator.normal`.
"""

from __future__ import annotations

import math

import numpy as np

DATA, PIXELS = 2, 3
"""What is generated or varied, and which pixels are on; apart from those by which `dlpipe.datasets.splits` shuffles."""


class Draws:
    """Independent numbers in float64, for one part of a data set: TRAINING_PART or TEST_PART of `splits`."""

    def __init__(self, split_seed: int, part: int, stream: int = DATA) -> None:
        self.words = np.random.Philox(np.random.SeedSequence(split_seed, spawn_key=(stream, part)))

    def uniform(self, *shape: int) -> np.ndarray:
        """Between 0 and 1, never either: odd multiples of 2^-53."""
        words = self.words.random_raw(math.prod(shape)) >> np.uint64(12)
        return (2.0 * words + 1.0).reshape(shape) * 2.0**-53

    def below(self, n: int, *shape: int) -> np.ndarray:
        """Whole numbers 0 ... n - 1 as int64, equally likely but for n 2^-52; n is far below 2^52."""
        return (n * self.uniform(*shape)).astype(np.int64)

    def normal(self, *shape: int) -> np.ndarray:
        """Of mean 0 and variance 1 (Box and Muller)."""
        return np.sqrt(-2 * np.log(self.uniform(*shape))) * np.cos(2 * np.pi * self.uniform(*shape))

    def laplace(self, *shape: int) -> np.ndarray:
        """Of mean 0 and variance 1: the inverse of the distribution function."""
        centred = self.uniform(*shape) - 0.5
        return -np.sign(centred) * np.log1p(-2 * np.abs(centred)) / math.sqrt(2)
