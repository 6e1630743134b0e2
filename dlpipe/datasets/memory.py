"""Problems that are hard because of the distance between what is seen and what is asked.

    adding       at each step a number, uniform in (0, 1), and a marker, 1 at one step of each half and else 0; the
                 target is the sum of the two that are marked. To say 1 whatever was seen costs a squared error of 1/6.
    copying      some symbols, then blanks, the last of them a sign to begin, then as many steps again, at which the
                 symbols are to be told in their order. Guessing costs log(symbols) nats a symbol asked for.
    look_ahead   symbols; at each step the larger of two is to be told, one seen `distance` steps before and one that
                 comes `distance` steps later. Who sees only what was is right (symbols + 1) times of 2 symbols.

Papers: hochreiter1997, which introduced the adding problem with numbers in [-1, 1]; le2015, in whose form it is here;
arjovsky2016 for copying (both forms from memory). The third is ours: a stand-in for the tagging of speech by Graves and
Schmidhuber (2005), whose data are not free, that a linear readout of both directions can solve.
"""

from __future__ import annotations

import numpy as np

from dlpipe.datasets.draws import Draws
from dlpipe.datasets.sequences import IGNORE_INDEX, Sequences


def adding(n: int, steps: int, draws: Draws) -> Sequences:
    """Inputs float32 [n * steps, 2]: number and marker; targets float32 [n]."""
    numbers = draws.uniform(n, steps).astype(np.float32)
    first, second = draws.below(steps // 2, n), steps // 2 + draws.below(steps - steps // 2, n)
    markers = np.zeros((n, steps), np.float32)
    everyone = np.arange(n)
    markers[everyone, first] = markers[everyone, second] = 1.0
    inputs = np.stack((numbers, markers), axis=2)
    targets = numbers[everyone, first] + numbers[everyone, second]
    return Sequences(inputs.reshape(-1, 2), _lengths(n, steps), targets)


def copying(n: int, symbols: int, length: int, delay: int, draws: Draws) -> Sequences:
    """Tokens 0 ... symbols - 1, then the blank and the sign to begin; delay + 2 length steps a sequence.

    The last `length` steps have the symbols, 0 ... symbols - 1, as their targets; nothing is asked before.
    """
    blank, sign = symbols, symbols + 1
    steps = delay + 2 * length
    symbol = draws.below(symbols, n, length)
    tokens = np.full((n, steps), blank, np.int32)
    tokens[:, :length] = symbol
    tokens[:, length + delay - 1] = sign
    targets = np.full((n, steps), IGNORE_INDEX, np.int64)
    targets[:, length + delay :] = symbol
    return Sequences(tokens.ravel(), _lengths(n, steps), targets.ravel())


def look_ahead(n: int, symbols: int, steps: int, distance: int, draws: Draws) -> Sequences:
    """Tokens 0 ... symbols - 1 and as many classes; the first and the last `distance` steps are not asked about."""
    tokens = draws.below(symbols, n, steps)
    targets = np.full((n, steps), IGNORE_INDEX, np.int64)
    targets[:, distance : steps - distance] = np.maximum(tokens[:, : -2 * distance], tokens[:, 2 * distance :])
    return Sequences(tokens.astype(np.int32).ravel(), _lengths(n, steps), targets.ravel())


def _lengths(n: int, steps: int) -> np.ndarray:
    return np.full(n, steps, np.int64)
