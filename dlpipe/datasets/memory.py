"""Problems that are hard because of the distance between what is seen and what is asked.

    adding    at each step a number, uniform in (0, 1), and a marker, 1 at one step of each half and else 0; the target
              is the sum of the two numbers that are marked. To say 1 whatever was seen costs a squared error of 1/6.

Papers: hochreiter1997, which introduced the adding problem with numbers in [-1, 1]; le2015, in whose form it is here.
"""

from __future__ import annotations

import numpy as np

from dlpipe.datasets.draws import Draws
from dlpipe.datasets.sequences import Sequences


def adding(n: int, steps: int, draws: Draws) -> Sequences:
    """Inputs float32 [n * steps, 2]: number and marker; targets float32 [n]."""
    numbers = draws.uniform(n, steps).astype(np.float32)
    first, second = draws.below(steps // 2, n), steps // 2 + draws.below(steps - steps // 2, n)
    markers = np.zeros((n, steps), np.float32)
    everyone = np.arange(n)
    markers[everyone, first] = markers[everyone, second] = 1.0
    inputs = np.stack((numbers, markers), axis=2)
    targets = numbers[everyone, first] + numbers[everyone, second]
    return Sequences(inputs.reshape(-1, 2), np.full(n, steps, np.int64), targets)
